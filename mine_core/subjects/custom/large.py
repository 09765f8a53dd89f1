"""Responses larger than memory should hold: looked at a block of voxels at a time, and kept in files while an import runs."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


def blocks_along(length: int, bytes_of_one: int, whole: int = 1) -> list[slice]:
    """Slices of about 32 MiB that cover an axis, each but the last a multiple of `whole`; `bytes_of_one` is one place's share."""
    step = max(BLOCK_BYTES // max(bytes_of_one, 1) // whole, 1) * whole
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def voxel_blocks(repeats: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of voxels of [repeat, stimulus, voxel] and their places, none larger than 32 MiB as float64 unless one voxel is."""
    for voxels in blocks_along(repeats.shape[2], 8 * repeats.shape[0] * repeats.shape[1]):
        yield voxels, repeats[:, :, voxels]
