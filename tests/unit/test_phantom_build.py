"""A built phantom: the same bytes from the same seed, noise as planted, and a truth that answers for any scene."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_cortex import toy_cortex

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.phantom.build import build_phantom
from mine_core.subjects.phantom.scenes import sample_scene
from mine_core.subjects.phantom.truth import PlantedTruth, causes, drive, load_truth, object_masks, scene_of
from mine_core.subjects.store import load_subject
from mine_core.types import Subject

SMALL = {"n_train": 700, "n_validation": 50, "n_test": 50, "image_size": 64}
CORTEX = toy_cortex(900)


def build(root: Path, seed: int, **settings: object) -> Path:
    (root / "truth").mkdir(parents=True)
    build_phantom(root, root / "truth", seed=seed, cortex=CORTEX, **{**SMALL, **settings})
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("phantom") / "seed-2", 2)


@pytest.fixture(scope="module")
def subject(built: Path) -> Subject:
    return load_subject(built)


@pytest.fixture(scope="module")
def truth(built: Path) -> PlantedTruth:
    return load_truth(built / "truth")


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_and_another_seed_other_bytes(tmp_path: Path) -> None:
    small = {"n_train": 300, "n_validation": 10, "n_test": 10, "image_size": 48}
    first, again, other = (digests(build(tmp_path / name, seed, **small)) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first == again
    differing = {name for name in first if first[name] != other[name]}
    assert {"images.npy", "values.npy", "repeats.npy", "subject.json", "truth/kind.npy", "truth/truth.json"} <= differing


def test_subject_has_its_splits_and_three_repeats(subject: Subject) -> None:
    assert subject.stimuli.images.shape == (800, 64, 64, 3)
    assert subject.responses.values.shape == (800, 900)
    assert subject.responses.repeats.shape == (3, 800, 900)
    assert [len(split) for split in (subject.splits.train, subject.splits.validation, subject.splits.test)] == [700, 50, 50]
    assert subject.noise_ceiling is None
    assert all(len(sentences) == 3 and all(sentences) for sentences in subject.stimuli.captions)
    means = np.asarray(subject.responses.repeats, dtype=np.float32).mean(axis=0)
    np.testing.assert_allclose(subject.responses.values, means, atol=1e-6)


def test_stimuli_are_the_scenes_that_their_names_say(subject: Subject) -> None:
    assert subject.stimuli.ids[17] == "scene-00020017"
    scene = scene_of("scene-00020017")
    assert scene == sample_scene(20017)
    masks = object_masks("scene-00020017", 64)
    assert masks.shape == (len(scene.objects), 64, 64) and masks.any(axis=(1, 2)).all()
    assert masks.sum(axis=0).max() == 1
    for wrong in ("scene-", "scene-12x", "photo-00000001"):
        with pytest.raises(SubjectError, match="no scene of a phantom"):
            scene_of(wrong)


def test_responses_are_truth_plus_noise(subject: Subject, truth: PlantedTruth) -> None:
    """Residuals about the truth's own answer, asked scene by scene, have the SD that ncsnr says and no mean."""
    rows = subject.splits.test
    signal = np.stack([drive(scene_of(subject.stimuli.ids[row]), truth) for row in rows])
    residual = subject.responses.values[rows] - signal
    expected = np.sqrt(1 / 3) / np.sqrt(truth.ncsnr**2 + 1 / 3)
    z = residual / expected
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert abs((z**2).mean(axis=0).max() - 1) < 1.2  # no single voxel is off


def test_drive_without_an_object_is_the_response_to_the_scene_without_it(subject: Subject, truth: PlantedTruth) -> None:
    row = next(row for row, name in enumerate(subject.stimuli.ids) if any(o.concept == "ball" for o in scene_of(name).objects))
    scene = scene_of(subject.stimuli.ids[row])
    bare = replace(scene, objects=tuple(item for item in scene.objects if item.concept != "ball"))
    ball = np.flatnonzero(truth.company_concept >= 0)
    fall = drive(scene, truth, ball) - drive(bare, truth, ball)
    assert (fall > 0).all()
    index = [item.concept for item in scene.objects].index("ball")
    parts = causes(scene, truth, ball)
    assert (parts[index] > 0).all() and not np.delete(parts, index, axis=0).any()


def test_asking_for_some_voxels_gives_the_same_numbers(truth: PlantedTruth) -> None:
    scene = sample_scene(123456)
    chosen = np.array([700, 3, 44])
    np.testing.assert_allclose(drive(scene, truth, chosen), drive(scene, truth)[chosen], atol=1e-5)


def test_signal_has_unit_variance_over_training_stimuli(subject: Subject, truth: PlantedTruth) -> None:
    """Var(values) = signal share + noise share = 1 in every voxel, null ones included."""
    values = np.asarray(subject.responses.values[subject.splits.train], dtype=float)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.17)
    assert abs(values.std(axis=0).mean() - 1) < 0.01


def measured_ceiling(subject: Subject) -> np.ndarray:
    repeats = np.asarray(subject.responses.repeats[:, subject.splits.train], dtype=float)
    noise = repeats.var(axis=0, ddof=1).mean(axis=0)
    signal = np.maximum(repeats.mean(axis=0).var(axis=0, ddof=1) - noise / 3, 0)
    return signal / (signal + noise / 3)


def test_measured_noise_ceilings_recover_the_planted_ones(subject: Subject, truth: PlantedTruth) -> None:
    planted = truth.ncsnr**2 / (truth.ncsnr**2 + 1 / 3)
    found = measured_ceiling(subject)
    assert np.corrcoef(found, planted)[0, 1] > 0.95
    assert abs((found - planted)[planted > 0.1].mean()) < 0.01
    assert np.abs(found - planted).max() < 0.2
    assert 0.24 < np.median(found) < 0.32


def test_repeats_of_null_voxels_are_uncorrelated(subject: Subject, truth: PlantedTruth) -> None:
    null = truth.of_kind("null")
    one, two = np.asarray(subject.responses.repeats[:2, :, null], dtype=float)
    r = [np.corrcoef(one[:, i], two[:, i])[0, 1] for i in range(len(null))]
    n_stimuli = len(one)
    assert abs(np.mean(r)) < 4 / np.sqrt(n_stimuli * len(null))
    assert np.mean(np.abs(r) < 1.96 / np.sqrt(n_stimuli)) > 0.85
    strong = np.flatnonzero(truth.ncsnr > 0.7)[0]
    assert np.corrcoef(*np.asarray(subject.responses.repeats[:2, :, strong], dtype=float))[0, 1] > 0.2


def test_noise_differs_between_blocks_and_voxels(subject: Subject, truth: PlantedTruth) -> None:
    null = np.asarray(subject.responses.values[:, truth.of_kind("null")], dtype=float)
    assert len(np.unique(null[:, 0])) > 700
    assert np.abs(np.corrcoef(null.T) - np.eye(null.shape[1])).max() < 0.25
    assert abs(np.corrcoef(null[:50].ravel(), null[50:100].ravel())[0, 1]) < 0.1


def test_subjects_share_no_scene_with_each_other_or_with_training(subject: Subject) -> None:
    seeds = {int(name.removeprefix("scene-")) for name in subject.stimuli.ids}
    assert seeds <= set(range(20_000, 30_000))
    assert 89 * 10_000 + 10_000 <= 1_000_000


def test_progress_ends_at_the_total_and_never_goes_back(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    build(tmp_path / "a", 1, n_train=280, n_validation=10, n_test=10, image_size=48, on_progress=lambda d, t, _: told.append((d, t)))
    assert told[-1] == (600, 600)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_cancelling_stops_within_a_block(tmp_path: Path) -> None:
    asked = iter((False, False, True))
    with pytest.raises(Cancelled, match="after 100 of 1600"):
        build(tmp_path / "a", 1, cancelled=lambda: next(asked))
    assert not (tmp_path / "a" / "subject.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 90}, "seed 90 is out of range; choose 0 to 89"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 1, "n_train": 9_990}, "at most 10000 together"),
        ({"seed": 1, "n_test": 0}, "at least one of each"),
        ({"seed": 1, "image_size": 32}, "32 pixels is too small"),
        ({"seed": 1, "n_train": 3}, "is the same for all 3 training stimuli"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        build(tmp_path / "a", **settings)


def test_a_truth_that_is_missing_or_of_other_concepts_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="No readable planted truth"):
        load_truth(tmp_path)
    for file in (built / "truth").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "truth.json").read_text()
    (tmp_path / "truth.json").write_text(text.replace('"scissors"', '"shears"'))
    with pytest.raises(SubjectError, match="other concepts than this version"):
        load_truth(tmp_path)
