"""Responses larger than memory should hold: looked at a block of voxels at a time, and kept in files while an import runs."""

import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.subjects.custom.limits import MIB

BLOCK_BYTES = 32 * MIB
LARGE_BYTES = 64 * MIB


@dataclass(frozen=True)
class Scratch:
    """Where large arrays are put for as long as they are needed: files of a folder that someone else removes, or memory (None)."""

    directory: Path | None = None

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Array to be written: a mapped file if it has 64 MiB or more and there is a folder."""
        if self.directory is None or math.prod(shape) * np.dtype(dtype).itemsize < LARGE_BYTES:
            return np.empty(shape, dtype)
        with tempfile.NamedTemporaryFile(dir=self.directory, suffix=".array", delete=False) as stream:
            return np.memmap(stream.name, dtype, "w+", shape=shape)


IN_MEMORY = Scratch()


class Rows:
    """Rows of float64 that come one after the other, no one knows how many: a buffer that grows, or a file from 64 MiB on."""

    def __init__(self, scratch: Scratch) -> None:
        self._directory = scratch.directory
        self._stream: Any = io.BytesIO()

    def append(self, row: np.ndarray) -> None:
        """Put a row after those that are there."""
        self._stream.write(np.asarray(row, np.float64).tobytes())
        if self._directory is not None and isinstance(self._stream, io.BytesIO) and self._stream.tell() >= LARGE_BYTES:
            before = self._stream
            self._stream = tempfile.NamedTemporaryFile(dir=self._directory, suffix=".array", delete=False)  # noqa: SIM115
            self._stream.write(before.getbuffer())

    def array(self, width: int) -> np.ndarray:
        """All rows as an array [row, column], without a copy; none can be put after them."""
        shape = (self._stream.tell() // (8 * width), width)
        if isinstance(self._stream, io.BytesIO):
            return np.frombuffer(self._stream.getbuffer(), np.float64).reshape(shape)
        self._stream.close()
        return np.memmap(self._stream.name, np.float64, "r+", shape=shape)


def blocks_along(length: int, bytes_of_one: int, whole: int = 1) -> list[slice]:
    """Slices of about 32 MiB that cover an axis, each but the last a multiple of `whole`; `bytes_of_one` is one place's share."""
    step = max(BLOCK_BYTES // max(bytes_of_one, 1) // whole, 1) * whole
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def voxel_blocks(repeats: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of voxels of [repeat, stimulus, voxel] and their places, none larger than 32 MiB as float64 unless one voxel is."""
    for voxels in blocks_along(repeats.shape[2], 8 * repeats.shape[0] * repeats.shape[1]):
        yield voxels, repeats[:, :, voxels]
