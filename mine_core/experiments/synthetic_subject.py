"""A made-up subject of any size, to time what a click costs where real ones are large. Its numbers mean nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mine_core.config import InstrumentConfig
from mine_core.description.vocabulary import Vocabulary
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import Prepared
from mine_core.types import BackboneSpec, EncodingModel, Features, Responses, Splits, StimulusSet, Subject, VoxelIndex

COPIES, N_WORDS, N_STRONG, STRENGTH, TRAIN_SHARE = 2, 500, 500, 3.0, 0.8


@dataclass(frozen=True)
class Size:
    """How large: voxels, images, rows and columns of the grid, features."""

    voxels: int = 20_000
    images: int = 10_000
    grid: tuple[int, int] = (14, 14)
    features: int = 512


@contextmanager
def synthetic_subject(size: Size, root: Path, rng: np.random.Generator) -> Iterator[tuple[Instrument, Prepared]]:
    """Arrays of an instrument of that size on disk, as a store keeps them, deleted at the end.

    The first 500 images are predicted to drive voxels most, and only their parts are drawn; those of the others are empty,
    which no click reads.
    """
    with TemporaryDirectory(dir=root) as folder:
        yield _instrument(size, Path(folder), rng)


def _instrument(size: Size, folder: Path, rng: np.random.Generator) -> tuple[Instrument, Prepared]:
    ids, n_patches = tuple(map(str, range(size.images))), size.grid[0] * size.grid[1]
    spec = BackboneSpec("synthetic", size.grid, size.features, "0" * 64, "none")
    voxels = VoxelIndex("synthetic", np.arange(size.voxels), (size.voxels,), (), np.zeros((0, size.voxels), bool))
    pooled = rng.normal(size=(size.images, size.features)).astype(np.float32)
    pooled[:N_STRONG] *= STRENGTH
    shapes = {"patches": (n_patches, size.features), "traced": (COPIES, n_patches, size.features), "responses": (size.voxels,)}
    stored = {name: _stored(folder / name, (size.images, *shape), rng) for name, shape in shapes.items()}
    n_train = round(TRAIN_SHARE * size.images)
    splits = Splits(*np.split(np.arange(size.images), [n_train, (n_train + size.images) // 2]))
    words = tuple(f"word {i}" for i in range(N_WORDS))
    embeddings = rng.normal(size=(N_WORDS, size.features)).astype(np.float32)
    vocabulary = Vocabulary(words, ("none",) * N_WORDS, tuple((word,) for word in words), (), embeddings, np.ones(N_WORDS, np.float32))
    coef = rng.normal(size=(size.features, size.voxels)).astype(np.float32)
    ones = np.ones(size.voxels, np.float32)
    images = np.broadcast_to(np.zeros((1, 8, 8, 3), np.uint8), (size.images, 8, 8, 3))
    subject = Subject(
        "synthetic",
        "synthetic",
        StimulusSet(ids, images, ((),) * size.images, "none"),
        Responses(stored["responses"], None, ids, voxels, "none"),
        splits,
        "none",
        None,
    )
    instrument = _partial(
        config=InstrumentConfig("synthetic"),
        subject=subject,
        features=Features(pooled, stored["patches"], np.zeros_like(pooled), ids, spec),
        mean_patches=np.zeros((n_patches, size.features), np.float32),
        model=EncodingModel("ridge", coef, ones, ones, ones, voxels, spec),
        vocabulary=vocabulary,
        captions=("",) * size.images,
    )
    return instrument, Prepared("traced", stored["traced"])


def _partial(**parts: Any) -> Instrument:
    """An instrument of which only what a click reads is there: to read anything else is an error, not a made-up value."""
    instrument = object.__new__(Instrument)
    for name, value in parts.items():
        object.__setattr__(instrument, name, value)
    return instrument


def _stored(path: Path, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """An array on disk, opened as a store opens it; responses are drawn whole, parts of images where they are read."""
    narrow = np.float16 if len(shape) > 2 else np.float32
    array = np.lib.format.open_memmap(path, mode="w+", dtype=narrow, shape=shape)
    for first in range(0, N_STRONG if len(shape) > 2 else shape[0], 50):
        rows = array[first : first + 50]
        rows[...] = rng.standard_normal(rows.shape, dtype=np.float32)
    array.flush()
    del array
    return np.load(path, mmap_mode="r", allow_pickle=False)
