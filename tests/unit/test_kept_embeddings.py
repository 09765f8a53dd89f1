"""An extraction that is killed goes on with the batches that are done, and ends in the same bytes."""

import multiprocessing
import os
import signal
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mine_core.artifacts import Artifact, ArtifactStore, Recipe
from mine_core.backbones.base import Backbone, Embedding
from mine_core.backbones.kept import KeptEmbeddings
from mine_core.config import InstrumentConfig
from mine_core.errors import BackboneError, Cancelled
from mine_core.features import extract_features
from mine_core.instrument import feature_makers
from mine_core.types import BackboneSpec, StimulusSet

BATCH, N_BATCHES = 32, 5
N_IMAGES = BATCH * (N_BATCHES - 1) + 7
RECIPE = Recipe("features", {"backbone": "random"}, (), "code")


class RandomBackbone(Backbone):
    """Random parts of each image's colours; counts the images it embeds, and may end its process at a batch."""

    device = torch.device("cpu")
    image_size = 12

    def __init__(self, weights: str = "0" * 64, ends_at: int | None = None, scale: float = 1.0, width: int = 10) -> None:
        self.spec = BackboneSpec("random", (3, 4), width, weights, "none")
        self.tokenizer = lambda texts: torch.zeros(len(texts), 1)
        rng = np.random.default_rng(int(weights[0], 16))
        self.colours, self.constant = scale * rng.normal(size=(3, width)), rng.normal(size=width)
        self.n_embedded, self.ends_at = 0, ends_at

    def embed(self, images, batch_size=32, on_progress=None, cancelled=None):
        if self.ends_at is not None and self.n_embedded >= self.ends_at * BATCH:
            os.kill(os.getpid(), signal.SIGKILL)
        self.n_embedded += len(images)
        cells = images.reshape(len(images), 3, 4, 4, 3, 3).mean(axis=(2, 4)).reshape(len(images), 12, 3) / 255
        patches = (cells @ self.colours).astype(np.float32)
        remainder = np.repeat(self.constant[None], len(images), 0).astype(np.float32)
        return Embedding(remainder + patches.sum(1), patches, remainder)


def stimuli(n: int = N_IMAGES) -> StimulusSet:
    images = np.random.default_rng(0).integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)
    return StimulusSet(tuple(f"s{index}" for index in range(n)), images, ((),) * n, "none")


def extract(
    store: ArtifactStore, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, given: StimulusSet, **asked: Any
) -> tuple[Artifact, list[str]]:
    """Make features in the store as a build does; also what was told."""
    monkeypatch.setattr(feature_makers, "load_backbone", lambda name: backbone)
    monkeypatch.setattr(feature_makers, "subject_of", lambda artifact: SimpleNamespace(stimuli=given))
    told: list[str] = []
    make = feature_makers.kept_features((InstrumentConfig(), scratch(store)))

    def work(directory: Path) -> None:
        from mine_core.instrument.makers import Work

        subject = {"subject": Artifact(directory, {})}
        make(Work(directory, subject, lambda _d, _t, said="": told.append(said), asked.get("cancelled", lambda: False)))

    return store.build(RECIPE, work), told


def scratch(store: ArtifactStore) -> Path:
    return store.root / "unfinished" / RECIPE.key


def hashes(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def unbroken(directory: Path, backbone: Backbone, given: StimulusSet) -> dict[str, bytes]:
    extract_features(given, backbone, directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_killed_extraction_goes_on_and_ends_in_the_bytes_of_an_unbroken_one(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path / "cache")
    process = multiprocessing.get_context("fork").Process(
        target=extract, args=(store, RandomBackbone(ends_at=3), monkeypatch, stimuli())
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert store.find(RECIPE) is None
    assert len(list(scratch(store).rglob("*.npz"))) == 3

    backbone = RandomBackbone()
    made, told = extract(store, backbone, monkeypatch, stimuli())
    assert backbone.n_embedded == N_IMAGES - 3 * BATCH
    assert told[-1] == f"{N_IMAGES} of {N_IMAGES} images, 96 of them before"
    expected = unbroken(tmp_path / "plain", RandomBackbone(), stimuli())
    assert {path.name: path.read_bytes() for path in made.path.iterdir() if path.name in expected} == expected
    assert not scratch(store).exists() and not list(made.path.parent.glob(".*"))


def test_a_stopped_extraction_says_that_it_goes_on(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path)
    answers = iter([False, False, True])
    first = RandomBackbone()
    with pytest.raises(Cancelled, match="those that are done are kept"):
        extract(store, first, monkeypatch, stimuli(), cancelled=lambda: next(answers))
    second = RandomBackbone()
    extract(store, second, monkeypatch, stimuli())
    assert (first.n_embedded, second.n_embedded) == (2 * BATCH, N_IMAGES - 2 * BATCH)


def embedded_after(directory: Path, backbone: RandomBackbone, given: StimulusSet) -> int:
    """How many images a backbone has to embed beside what is kept in `directory`, after checking the features."""
    kept = KeptEmbeddings(backbone, directory / "kept")
    made = extract_features(given, kept, directory / "made")
    exact = backbone.embed(given.images)
    np.testing.assert_array_equal(made.pooled, exact.pooled)
    np.testing.assert_array_equal(made.patches, exact.patches.astype(np.float16))
    return backbone.n_embedded - len(given)


def test_another_backbone_device_library_or_image_finds_nothing_that_was_kept(tmp_path, monkeypatch):
    given = stimuli()
    assert embedded_after(tmp_path, RandomBackbone(), given) == N_IMAGES
    assert embedded_after(tmp_path, RandomBackbone(), given) == 0
    assert embedded_after(tmp_path, RandomBackbone(weights="1" * 64), given) == N_IMAGES
    elsewhere = RandomBackbone()
    elsewhere.device = torch.device("meta")
    assert embedded_after(tmp_path, elsewhere, given) == N_IMAGES
    images = given.images.copy()
    images[40, 0, 0, 0] ^= 1
    changed = StimulusSet(given.ids, images, given.captions, "none")
    assert embedded_after(tmp_path, RandomBackbone(), changed) == BATCH
    monkeypatch.setattr("mine_core.backbones.kept.library_versions", lambda names: {"torch": "0"})
    assert embedded_after(tmp_path, RandomBackbone(), given) == N_IMAGES


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_batch_is_embedded_again(tmp_path, damage):
    given = stimuli()
    embedded_after(tmp_path, RandomBackbone(), given)
    path = sorted((tmp_path / "kept").rglob("*.npz"))[1]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flipped": content, "empty": b"", "other": b"\x93NUMPY"}[damage])
    assert embedded_after(tmp_path, RandomBackbone(), given) in (BATCH, 7)
    assert embedded_after(tmp_path, RandomBackbone(), given) == 0


def test_what_float16_cannot_hold_is_refused_as_before_and_not_kept(tmp_path):
    backbone = KeptEmbeddings(RandomBackbone(scale=1e6), tmp_path / "kept")
    with pytest.raises(BackboneError, match="`patches`.*beyond what float16 holds"):
        extract_features(stimuli(), backbone, tmp_path / "made")
    assert not list((tmp_path / "kept").rglob("*.npz"))


def peak_memory(given: StimulusSet, backbone: Backbone, directory: Path) -> int:
    tracemalloc.start()
    extract_features(given, backbone, directory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_keeping_takes_no_more_memory(tmp_path):
    given = stimuli(64)
    plain = peak_memory(given, RandomBackbone(width=4096), tmp_path / "plain")
    kept = KeptEmbeddings(RandomBackbone(width=4096), tmp_path / "kept")
    first, again = (peak_memory(given, kept, tmp_path / name) for name in ("first", "again"))
    assert max(first, again) <= 1.01 * plain
    assert plain > 2 * 32 * 12 * 4096 * 4
