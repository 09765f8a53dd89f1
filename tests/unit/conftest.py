"""A small instrument that is built once for all tests which need one: scenes answered by voxels whose rule is known."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from exports_case import in_volume, on_surface

from mine_core.artifacts import ArtifactStore, Recipe
from mine_core.backbones.presets import backbone_available
from mine_core.config import InstrumentConfig
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.subjects import import_into
from mine_core.subjects.phantom.scenes import CONCEPTS, GROUPS, Scene, render, sample_scene

FIRST_SCENE, N_STIMULI, SIDE, N_TRAIN, N_VALIDATION = 5000, 110, 96, 76, 10
N_NOISE_VOXELS = 8
NOISE_SD = 0.5


class WatchedStore(ArtifactStore):
    """A store that remembers what kinds of artifacts it had to make."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.made: list[str] = []

    def _make(self, recipe: Recipe, make):
        self.made.append(recipe.kind)
        return super()._make(recipe, make)


@dataclass(frozen=True)
class Small:
    """The instrument, where it is kept, and the rule behind its voxels: `signal[stimulus, voxel]` (0 where there is none)."""

    store: WatchedStore
    config: InstrumentConfig
    instrument: Instrument
    first_made: tuple[str, ...]
    scenes: tuple[Scene, ...]
    signal: np.ndarray


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def planted_signal(scenes: tuple[Scene, ...], images: np.ndarray) -> np.ndarray:
    """z-scored, per voxel: is a group of concepts there (one voxel a group), how red and green is each half, and nothing."""
    group_of = {concept.name: concept.group for concept in CONCEPTS}
    present = [[any(group_of[item.concept] == group for item in scene.objects) for group in GROUPS] for scene in scenes]
    halves = [images[:, :, half, channel].mean(axis=(1, 2)) for half in (slice(0, 48), slice(48, 96)) for channel in (0, 1)]
    columns = np.concatenate([np.array(present, float), np.stack(halves, axis=1)], axis=1)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return np.concatenate([columns, columns, np.zeros((len(scenes), N_NOISE_VOXELS))], axis=1)


def parts(n_stimuli: int) -> bytes:
    names = ["train"] * N_TRAIN + ["validation"] * N_VALIDATION
    names += ["test"] * (n_stimuli - len(names))
    return "\n".join(["stimulus,split", *(f"s{i:03d},{name}" for i, name in enumerate(names))]).encode()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The instrument of a custom subject of 32 voxels and 110 scenes, seen through the phantom's backbone."""
    if not backbone_available("phantom").ready:
        pytest.skip("the weights of the phantom's backbone are not in assets/backbones")
    rng = np.random.default_rng(816)
    scenes = tuple(sample_scene(FIRST_SCENE + i) for i in range(N_STIMULI))
    images = np.stack([render(scene, SIDE).image for scene in scenes])
    signal = planted_signal(scenes, images)
    repeats = signal[..., None] + NOISE_SD * rng.normal(size=(*signal.shape, 2))
    store = WatchedStore(tmp_path_factory.mktemp("cache"))
    import_into(
        store,
        name="small",
        images=npy(images),
        responses=npy(repeats.astype(np.float32)),
        response_axes=("stimulus", "voxel", "repeat"),
        stimulus_ids="\n".join(f"s{i:03d}" for i in range(N_STIMULI)).encode(),
        splits=parts(N_STIMULI),
        regions=b"voxel,region\n" + b"\n".join(b"%d,%s" % (v, b"what" if v < 8 else b"colour") for v in range(12)),
    )
    config = InstrumentConfig("small")
    instrument = build_instrument(config, store)
    first = tuple(store.made)
    store.made.clear()
    return Small(store, config, instrument, first, scenes, signal)


@pytest.fixture
def apart(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A copy of the small instrument's store, and the cache of this process: what a test makes there reaches no other test."""
    shutil.copytree(small.store.root, tmp_path / "apart")
    monkeypatch.setenv("MINE_CACHE", str(tmp_path / "apart"))
    return ArtifactStore(tmp_path / "apart")


@pytest.fixture
def volume(small: Small, rng: np.random.Generator) -> Instrument:
    """The small instrument with its voxels in a volume whose affine an import kept."""
    return in_volume(small.instrument, rng)


@pytest.fixture
def surface(small: Small, rng: np.random.Generator) -> Instrument:
    """The small instrument with its voxels on two hemispheres."""
    return on_surface(small.instrument, rng)
