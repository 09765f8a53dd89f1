"""A subject survives the store unchanged, and one that contradicts itself is refused in one line."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mine_core.errors import SubjectError
from mine_core.subjects.store import load_subject, save_subject
from mine_core.types import Responses, Splits, StimulusSet, Subject, VoxelIndex


@pytest.fixture
def subject(rng: np.random.Generator) -> Subject:
    ids = tuple(f"image-{i}" for i in range(6))
    repeats = rng.normal(size=(3, 6, 4)).astype(np.float16)
    repeats[2, 1] = np.nan
    voxels = VoxelIndex("S1", np.array([3, 5, -1, 0]), (2, 3, 4), ("V1", "FFA"), rng.random((2, 4)) < 0.5)
    captions = tuple(("a dog", "a dog at the beach")[: i % 3] for i in range(6))
    values = np.nanmean(repeats.astype(np.float32), axis=0)
    return Subject(
        name="tiny",
        kind="custom",
        stimuli=StimulusSet(ids, rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), captions, "by hand"),
        responses=Responses(values, repeats, ids, voxels, "z"),
        splits=Splits(np.array([4, 0, 2]), np.array([1]), np.array([3, 5])),
        cortex="S1",
        noise_ceiling=np.array([0.1, 0.0, 0.5, 0.9], dtype=np.float32),
        provenance={"source": "a test", "seed": 3},
    )


def assert_same(found: Subject, expected: Subject) -> None:
    for name in ("name", "kind", "cortex", "provenance"):
        assert getattr(found, name) == getattr(expected, name)
    assert (found.stimuli.ids, found.stimuli.captions, found.stimuli.caption_source) == (
        expected.stimuli.ids,
        expected.stimuli.captions,
        expected.stimuli.caption_source,
    )
    np.testing.assert_array_equal(found.stimuli.images, expected.stimuli.images)
    for name in ("values", "repeats"):
        here, there = getattr(found.responses, name), getattr(expected.responses, name)
        assert here is there is None or here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)
    assert found.responses.units == expected.responses.units
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found.splits, name), getattr(expected.splits, name))
    here, there = found.responses.voxels, expected.responses.voxels
    assert (here.subject, here.grid_shape, here.regions) == (there.subject, there.grid_shape, there.regions)
    np.testing.assert_array_equal(here.flat_index, there.flat_index)
    np.testing.assert_array_equal(here.membership, there.membership)


def test_round_trip_keeps_everything(subject: Subject, tmp_path: Path) -> None:
    save_subject(tmp_path, subject)
    found = load_subject(tmp_path)
    assert_same(found, subject)
    np.testing.assert_array_equal(found.noise_ceiling, subject.noise_ceiling)


def test_round_trip_without_repeats_and_ceiling(subject: Subject, tmp_path: Path) -> None:
    bare = replace(subject, responses=replace(subject.responses, repeats=None), noise_ceiling=None)
    save_subject(tmp_path, bare)
    found = load_subject(tmp_path)
    assert found.responses.repeats is None
    assert found.noise_ceiling is None
    assert not (tmp_path / "repeats.npy").exists()


def test_loaded_arrays_are_read_only_maps_of_their_files(subject: Subject, tmp_path: Path) -> None:
    save_subject(tmp_path, subject)
    found = load_subject(tmp_path)
    for array in (found.stimuli.images, found.responses.values, found.responses.repeats, found.splits.train):
        assert not array.flags.writeable
    assert Path(found.responses.values.filename) == tmp_path / "values.npy"


def test_array_made_in_place_is_left_in_place(subject: Subject, tmp_path: Path) -> None:
    shape = subject.stimuli.images.shape
    images = np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    images[:] = subject.stimuli.images
    inode = (tmp_path / "images.npy").stat().st_ino
    save_subject(tmp_path, replace(subject, stimuli=replace(subject.stimuli, images=images)))
    assert (tmp_path / "images.npy").stat().st_ino == inode
    np.testing.assert_array_equal(load_subject(tmp_path).stimuli.images, subject.stimuli.images)


def force(record: object, **changes: object) -> object:
    """A copy with other fields, past the type checks of the test run, as a caller in production could make it."""
    forced = copy.copy(record)
    for name, value in changes.items():
        object.__setattr__(forced, name, value)
    return forced


def with_stimuli(subject: Subject, **changes: object) -> Subject:
    return force(subject, stimuli=force(subject.stimuli, **changes))


def with_responses(subject: Subject, **changes: object) -> Subject:
    return force(subject, responses=force(subject.responses, **changes))


CONTRADICTIONS = {
    "occur twice .first: 'image-0'": lambda s: with_responses(
        with_stimuli(s, ids=("image-0", *s.stimuli.ids[:5])), stimulus_ids=("image-0", *s.stimuli.ids[:5])
    ),
    "orders differ": lambda s: with_responses(s, stimulus_ids=s.stimuli.ids[::-1]),
    "1 ids have only one": lambda s: with_responses(s, stimulus_ids=s.stimuli.ids[:5]),
    "5 sets of captions for 6": lambda s: with_stimuli(s, captions=s.stimuli.captions[:5]),
    "square and RGB": lambda s: with_stimuli(s, images=s.stimuli.images[:, :7]),
    "5 images for 6": lambda s: with_stimuli(s, images=s.stimuli.images[:5]),
    "Responses are float64": lambda s: with_responses(s, values=s.responses.values.astype(np.float64)),
    r"Responses are float32 of shape \(4, 6\)": lambda s: with_responses(s, values=s.responses.values.T),
    r"Repeats are float16 of shape \(3, 6, 3\)": lambda s: with_responses(s, repeats=s.responses.repeats[..., :3]),
    "train and the test split": lambda s: force(s, splits=Splits(np.array([0, 1]), np.array([2]), np.array([1, 3]))),
    "train and the train split": lambda s: force(s, splits=Splits(np.array([0, 0]), np.array([2]), np.array([3]))),
    "positions 2 to 6; stimuli are 0 to 5": lambda s: force(s, splits=Splits(np.array([0]), np.array([1]), np.array([2, 6]))),
    "Noise ceilings have shape": lambda s: force(s, noise_ceiling=s.noise_ceiling[:3]),
    "run from 0 to 90": lambda s: force(s, noise_ceiling=s.noise_ceiling * 100),
    "distinct": lambda s: with_responses(s, voxels=force(s.responses.voxels, flat_index=np.array([3, 3, -1, 0]))),
    "inside the volume": lambda s: with_responses(s, voxels=force(s.responses.voxels, flat_index=np.array([3, 24, -1, 0]))),
    "Region membership": lambda s: with_responses(s, voxels=force(s.responses.voxels, regions=("V1", "FFA", "EBA"))),
    "Region names": lambda s: with_responses(s, voxels=force(s.responses.voxels, regions=("V1", "V1"))),
}


@pytest.mark.parametrize("message", CONTRADICTIONS, ids=str)
def test_contradiction_is_refused_before_anything_is_written(subject: Subject, tmp_path: Path, message: str) -> None:
    wrong = CONTRADICTIONS[message](subject)
    with pytest.raises(SubjectError, match=message) as refusal:
        save_subject(tmp_path, wrong)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_missing_response_is_refused_with_its_place(subject: Subject, tmp_path: Path) -> None:
    values = subject.responses.values.copy()
    values[4, 2] = np.nan
    with pytest.raises(SubjectError, match="voxel 2 to stimulus 'image-4' is nan"):
        save_subject(tmp_path, with_responses(subject, values=values))


def test_damaged_directory_is_refused(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="No readable subject"):
        load_subject(tmp_path)
    save_subject(tmp_path, subject)
    (tmp_path / "values.npy").write_bytes((tmp_path / "values.npy").read_bytes()[:-8])
    with pytest.raises(SubjectError, match=r"values\.npy cannot be read"):
        load_subject(tmp_path)


def test_pickled_array_is_never_opened(subject: Subject, tmp_path: Path) -> None:
    save_subject(tmp_path, subject)
    np.save(tmp_path / "flat_index.npy", np.array([{}, 1, 2, 3], dtype=object), allow_pickle=True)
    with pytest.raises(SubjectError, match=r"flat_index\.npy cannot be read"):
        load_subject(tmp_path)


def test_record_that_no_longer_fits_its_arrays_is_refused(subject: Subject, tmp_path: Path) -> None:
    save_subject(tmp_path, subject)
    record = json.loads((tmp_path / "subject.json").read_text())
    record["captions"] = record["captions"][:-1]
    (tmp_path / "subject.json").write_text(json.dumps(record))
    with pytest.raises(SubjectError, match="5 sets of captions for 6"):
        load_subject(tmp_path)
    (tmp_path / "subject.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(SubjectError, match="has format 99"):
        load_subject(tmp_path)
