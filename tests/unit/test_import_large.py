"""Responses taken a block at a time and kept in files are those of an import in memory, to the last bit and word."""

import io
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from brain_files import nifti

from mine_core.artifacts import ArtifactStore
from mine_core.errors import Cancelled, SubjectError
from mine_core.instrument import subjects
from mine_core.instrument.subjects import custom_artifact, import_into, subject_of
from mine_core.subjects.custom import describe_import, import_subject, large
from mine_core.subjects.custom.large import Scratch, blocks_along
from mine_core.subjects.custom.responses import AXES, read_responses

N, N_VOXELS, N_REPEATS, SIDE = 61, 23, 3, 16
ORDERS = [("repeat", "stimulus", "voxel"), ("voxel", "stimulus", "repeat"), ("stimulus", "voxel", "repeat")]


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few voxels, and nothing so small that it would stay in memory."""
    monkeypatch.setattr(large, "BLOCK_BYTES", 5 * 8 * N * N_REPEATS)
    monkeypatch.setattr(large, "LARGE_BYTES", 1)


def images(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rng.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8))
    return stream.getvalue()


def recording(rng: np.random.Generator, dtype: Any) -> np.ndarray:
    """[repeat, stimulus, voxel] with showings that did not take place, a hole, a constant voxel, and a stimulus few saw."""
    values = 40 * rng.normal(size=(N_REPEATS, N, N_VOXELS)) + 300
    if np.dtype(dtype).kind == "i":
        return np.round(values).astype(dtype)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[0] = np.where(np.isnan(values).all(axis=0), 300, values[0])
    values[:, 8, 17] = np.nan
    values[:, 30, 2:] = np.nan
    values[:, :, 11] = 2.5
    return values.astype(dtype)


def saved(path: Path, array: np.ndarray, kind: str, chunks: tuple[int, ...] | None = None) -> Path:
    if kind == "npy":
        np.save(path, array)
    else:
        with h5py.File(path, "w") as stream:
            stream.create_dataset("responses", data=array, chunks=chunks)
    return path


def equal(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(first.responses.values, second.responses.values)
    assert (first.responses.repeats is None) == (second.responses.repeats is None)
    if first.responses.repeats is not None:
        np.testing.assert_array_equal(first.responses.repeats, second.responses.repeats)
    assert first.provenance == second.provenance and describe_import(first) == describe_import(second)


@pytest.mark.parametrize("axes", ORDERS, ids="-".join)
@pytest.mark.parametrize(("kind", "dtype"), [("npy", "<f4"), ("npy", ">f8"), ("hdf5", "<f8"), ("hdf5", "<f2"), ("npy", "<i2")])
def test_blocks_in_files_give_the_same_subject_as_memory(tmp_path, rng, monkeypatch, kind, dtype, axes):
    array = recording(rng, dtype)
    moved = np.transpose(array, [AXES.index(axis) for axis in axes])
    chunks = tuple(max(1, length // 4) for length in moved.shape) if kind == "hdf5" else None
    path = saved(tmp_path / "responses.npy", np.ascontiguousarray(moved), kind, chunks)
    given = {"images": images(rng), "responses": path, "response_axes": axes, "drop_incomplete": True}
    whole = import_subject("mine", **given)
    if np.dtype(dtype).kind == "f":
        reasons = {entry["why"] for entry in whole.provenance["import"]["dropped"]}
        assert len(reasons) == 3, "the recording is to exercise every reason to drop"
        shown = array[:, [row for row in range(N) if row != 30]][:, :, [v for v in range(N_VOXELS) if v not in (11, 17)]]
        expected = np.nanmean(shown.astype(np.float64), axis=0)
        np.testing.assert_allclose(whole.responses.values, expected, rtol=1e-6)
    monkeypatch.setattr(large, "BLOCK_BYTES", 5 * 8 * N * N_REPEATS)
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    blocked = import_subject("mine", **given, scratch=Scratch(scratch))
    assert isinstance(blocked.responses.values, np.memmap) and list(scratch.iterdir())
    equal(whole, blocked)


def test_volumes_are_picked_into_a_file(tmp_path, rng, monkeypatch):
    mask = rng.random((4, 5, 3)) < 0.6
    volumes = rng.normal(size=(4, 5, 3, N)).astype(np.float32)
    given = {"images": images(rng), "responses": nifti(volumes), "mask": nifti(mask.astype(np.uint8)), "cortex": "slices"}
    whole = import_subject("mine", **given)
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    equal(whole, import_subject("mine", **given, scratch=Scratch(tmp_path)))


@pytest.mark.parametrize("damage", ["hole", "infinite", "constant", "far from float32"])
def test_what_is_refused_in_memory_is_refused_in_blocks_with_the_same_words(tmp_path, rng, monkeypatch, damage):
    array = rng.normal(size=(N, N_VOXELS))
    if damage == "hole":
        array[[40, 12], [3, 20]] = np.nan
    elif damage == "infinite":
        array[[40, 12], [3, 20]] = np.inf
    elif damage == "constant":
        array[:, [19, 9]] = 4.0
    else:
        array[:, 14] += 1e9
    path = saved(tmp_path / "responses.npy", array, "npy")
    given = {"images": images(rng), "responses": path, "response_axes": ("stimulus", "voxel")}
    with pytest.raises(SubjectError) as whole:
        import_subject("mine", **given)
    monkeypatch.setattr(large, "BLOCK_BYTES", 5 * 8 * N)
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    with pytest.raises(SubjectError) as blocked:
        import_subject("mine", **given, scratch=Scratch(tmp_path))
    assert str(blocked.value) == str(whole.value)


def test_a_file_of_floats_is_mapped_and_never_copied(tmp_path, rng, tiny_blocks):
    path = saved(tmp_path / "responses.npy", rng.normal(size=(N_VOXELS, N)).astype(np.float32), "npy")
    table = read_responses(path, axes=("voxel", "stimulus"), scratch=Scratch(tmp_path / "none"))
    assert isinstance(table.repeats, np.memmap) and table.repeats.shape == (1, N, N_VOXELS)


@pytest.mark.parametrize(("ids", "header"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_csv_goes_to_a_file_row_by_row(tmp_path, rng, tiny_blocks, ids, header):
    table = pd.DataFrame(rng.normal(size=(N, N_VOXELS)) * 10.0 ** rng.integers(-9, 9, (N, N_VOXELS)))
    table.index = [f"i{row}" for row in range(N)]
    table.columns = [f"v{column}" for column in range(N_VOXELS)]
    table.iloc[3, 5] = table.iloc[1, 0] = np.nan
    path = tmp_path / "r.csv"
    table.to_csv(path, index=ids, header=header, sep="\t")
    expected = table.to_numpy()  # pandas writes every digit
    given = {"axes": ("stimulus", "voxel")}
    kept, whole = read_responses(path, **given, scratch=Scratch(tmp_path)), read_responses(path.read_bytes(), **given)
    np.testing.assert_array_equal(kept.repeats[0], expected)
    np.testing.assert_array_equal(whole.repeats[0], expected)
    assert isinstance(kept.repeats, np.memmap) and kept.repeats.dtype == whole.repeats.dtype == np.float64
    assert kept.stimulus_ids == whole.stimulus_ids == (tuple(table.index) if ids else None)
    assert kept.voxel_names == whole.voxel_names == (tuple(table.columns) if header else None)


def test_a_csv_takes_the_memory_of_a_few_rows(tmp_path, rng, tiny_blocks):
    values = rng.normal(size=(400, 500)).round(3)
    np.savetxt(tmp_path / "r.csv", values, delimiter=",", fmt="%.3f")
    tracemalloc.start()
    try:
        read_responses(tmp_path / "r.csv", axes=("stimulus", "voxel"), scratch=Scratch(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < values.nbytes / 2, f"{peak:,} bytes for {values.nbytes:,} bytes of values"


def test_nothing_is_left_of_an_import_beside_its_subject(tmp_path, rng, tiny_blocks, monkeypatch):
    store = ArtifactStore(tmp_path / "cache")
    array = recording(rng, "<f8")
    path = saved(tmp_path / "responses.h5", array, "hdf5")
    given = {"images": images(rng), "responses": path, "response_axes": AXES, "name": "mine"}
    report = import_into(store, **given, drop_incomplete=True)
    assert list((store.root / "unfinished").iterdir()) == []
    kept = subject_of(custom_artifact("mine", store))
    whole = import_subject(**given, drop_incomplete=True)
    np.testing.assert_array_equal(kept.responses.values, whole.responses.values)
    np.testing.assert_array_equal(kept.responses.repeats, whole.responses.repeats)
    assert report["report"] == list(describe_import(whole))
    with pytest.raises(SubjectError):
        import_into(store, **given)
    monkeypatch.setattr(subjects, "save_subject", lambda *_: (_ for _ in ()).throw(Cancelled("stopped")))
    with pytest.raises(Cancelled):
        import_into(store, **{**given, "name": "other"}, drop_incomplete=True)
    assert list((store.root / "unfinished").iterdir()) == []


@pytest.mark.parametrize(("length", "one", "whole"), [(10, 1, 1), (1000, 10**6, 1), (7, 10**9, 1), (100, 10**6, 48), (1, 1, 5)])
def test_blocks_cover_an_axis_once(length, one, whole):
    blocks = blocks_along(length, one, whole)
    assert np.concatenate([np.arange(length)[block] for block in blocks]).tolist() == list(range(length))
    assert all((block.stop - block.start) % whole == 0 for block in blocks[:-1])
    assert all((block.stop - block.start) * one <= large.BLOCK_BYTES or block.stop - block.start <= whole for block in blocks)
