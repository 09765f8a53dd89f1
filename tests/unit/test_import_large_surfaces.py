"""Surfaces are read a column at a time: what nibabel reads of the whole file, to the last bit, in little memory."""

import gzip
import io
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from brain_files import N_STIMULI, gifti, mgh, refusal
from nibabel.gifti import GiftiDataArray, GiftiImage

from mine_core.errors import Cancelled
from mine_core.subjects.custom import large
from mine_core.subjects.custom.large import Scratch
from mine_core.subjects.custom.recording import read_recording

N_LEFT, N_RIGHT = 37, 41
ENCODINGS = ["GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ"]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """A folder for arrays of which none is so small that it would stay in memory."""
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    return Scratch(tmp_path)


def arrays(values: np.ndarray, form: str, encoding: str) -> bytes:
    """GIFTI of one array of all, in rows or in columns, or of one for each column, of one type or of two."""
    if form in ("rows", "columns"):
        order = "RowMajorOrder" if form == "rows" else "ColumnMajorOrder"
        data = [GiftiDataArray(np.array(values, order="C" if form == "rows" else "F"), encoding=encoding, ordering=order)]
        return GiftiImage(darrays=data).to_bytes()
    columns = [np.ascontiguousarray(column) for column in values.T]
    if form == "two types":
        columns[1] = np.round(columns[1] * 100).astype(np.int32)
    return GiftiImage(darrays=[GiftiDataArray(column, encoding=encoding) for column in columns]).to_bytes()


def by_nibabel(content: bytes) -> np.ndarray:
    """[stimulus, vertex] as the library reads a whole file."""
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if b"<GIFTI" not in content[:200]:
        image: Any = nibabel.freesurfer.MGHImage.from_bytes(content)
        return np.asarray(image.dataobj).reshape(image.shape[0], -1).T
    read = GiftiImage.from_stream(io.BytesIO(content))
    return np.stack([array.data for array in read.darrays]) if len(read.darrays) > 1 else read.darrays[0].data.T


def same(files: tuple[bytes, bytes], scratch: Scratch, folder: Path) -> None:
    paths = (folder / "left.surface", folder / "right.surface")
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    expected = np.concatenate([by_nibabel(content) for content in files], axis=1)
    kept, whole = read_recording(paths, scratch=scratch), read_recording(files)
    assert isinstance(kept.repeats, np.memmap) and kept.repeats.dtype == whole.repeats.dtype
    assert kept.repeats.dtype == (np.float64 if expected.dtype.kind in "iu" or expected.dtype.itemsize > 4 else np.float32)
    np.testing.assert_array_equal(kept.repeats[0], expected)
    np.testing.assert_array_equal(whole.repeats[0], expected)
    assert kept.given_shape == whole.given_shape == expected.shape[::-1] and kept.given_dtype == expected.dtype.newbyteorder("=").name


def hemispheres(rng: np.random.Generator, dtype: str = "f4") -> list[np.ndarray]:
    return [(300 + 100 * rng.normal(size=(n, N_STIMULI))).astype(dtype) for n in (N_LEFT, N_RIGHT)]


@pytest.mark.parametrize("form", ["rows", "columns", "one for each", "two types"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_giftis_are_what_nibabel_reads(tmp_path, rng, scratch, form, encoding):
    same(tuple(arrays(side, form, encoding) for side in hemispheres(rng)), scratch, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", "i4"])
def test_mghs_are_what_nibabel_reads(tmp_path, rng, scratch, dtype, packed):
    sides = [np.clip(side, 0, 250).astype(dtype) for side in hemispheres(rng)]
    same(tuple(mgh(side, packed=packed) for side in sides), scratch, tmp_path)


def test_a_mask_picks_vertices_of_each_hemisphere(rng, scratch):
    sides = hemispheres(rng)
    masks = [rng.random((n, 1)) < 0.3 for n in (N_LEFT, N_RIGHT)]
    inside = np.concatenate(masks)[:, 0]
    for write in (gifti, mgh):
        table = read_recording(tuple(map(write, sides)), mask=tuple(gifti(mask.astype(np.float32)) for mask in masks), scratch=scratch)
        np.testing.assert_array_equal(table.repeats[0], np.concatenate(sides)[inside].T)
        np.testing.assert_array_equal(table.places.flat_index, np.flatnonzero(inside))
    right = [0 * masks[0], masks[1]]
    table = read_recording(tuple(map(mgh, sides)), mask=tuple(mgh(mask.astype(np.float32)) for mask in right))
    np.testing.assert_array_equal(table.repeats[0], sides[1][masks[1][:, 0]].T)


@pytest.mark.parametrize("write", [gifti, mgh], ids=["gifti", "mgh"])
def test_the_memory_is_that_of_a_few_columns(tmp_path, rng, scratch, write):
    values = rng.normal(size=(4000, 300)).astype(np.float32)
    paths = (tmp_path / "a", tmp_path / "b")
    for path in paths:
        path.write_bytes(write(values))
    tracemalloc.start()
    try:
        read_recording(paths, scratch=scratch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < values.nbytes / 2, f"{peak:,} bytes for two files of {values.nbytes:,} bytes of values"


@pytest.mark.parametrize("write", [gifti, mgh], ids=["gifti", "mgh"])
def test_reading_surfaces_is_told_and_can_be_stopped(rng, write):
    files = tuple(map(write, hemispheres(rng)))
    steps: list[tuple[int, int]] = []
    read_recording(files, on_progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(i, 2 * N_STIMULI) for i in range(1, 2 * N_STIMULI + 1)]
    answers = iter([False] * (N_STIMULI + 5) + [True])
    with pytest.raises(Cancelled, match="stopped after 65 of 120 columns of surfaces"):
        read_recording(files, cancelled=lambda: next(answers))


def test_giftis_that_claim_another_size(rng):
    left, right = hemispheres(rng)
    other = gifti(right)
    raw = arrays(left, "one for each", "GIFTI_ENCODING_B64BIN")
    message = refusal(read_recording, (raw.replace(b'Dim0="37"', b'Dim0="36"', 1), other))
    assert "array 1 claims 36, 144 bytes, and unpacks to more" in message
    vast = arrays(left, "one for each", "GIFTI_ENCODING_ASCII").replace(b'Dim0="37"', b'Dim0="37000000"', 1)
    assert "array 1 claims 37,000,000, 148,000,000 bytes, and unpacks to" in refusal(read_recording, (vast, other))
    vast = vast.replace(b"37000000", b"3700000000")
    assert "claim 13.8 GiB; at most 8 GiB are read" in refusal(read_recording, (vast, other))
    uneven = GiftiImage(darrays=[GiftiDataArray(left[:, 0]), GiftiDataArray(left[:-1, 1])]).to_bytes()
    assert "hold 2 arrays (36, 37); expected one of all vertices" in refusal(read_recording, (uneven, other))
    twice = raw.replace(b"<Data>", b"<Data>AAAA</Data><Data>", 1)
    assert "claims 37, 148 bytes, and unpacks to 3" in refusal(read_recording, (twice, other))
    bare = raw[: raw.index(b"<Data>")] + raw[raw.index(b"</Data>") + 7 :]
    assert "have 60 arrays and the values of 59" in refusal(read_recording, (bare, other))
