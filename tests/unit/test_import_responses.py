"""Responses, and the tables beside them: read as the user says, never guessed, refused with numbers."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mine_core.errors import SubjectError
from mine_core.subjects.custom import read_responses
from mine_core.subjects.custom.matching import match, number_key
from mine_core.subjects.custom.responses import average_repeats, choose_dropped, count_holes, find_constant, refuse_infinite, to_float32
from mine_core.subjects.custom.splits import check_leaks, check_splits, draw_splits, keep_stimuli, read_splits
from mine_core.subjects.custom.tables import read_captions, read_ids
from mine_core.subjects.custom.voxels import check_ceiling, read_noise_ceiling, read_regions
from mine_core.types import Splits


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(SubjectError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(
    "axes",
    [
        ("stimulus", "voxel", "repeat"),
        ("voxel", "stimulus", "repeat"),
        ("repeat", "stimulus", "voxel"),
        ("voxel", "repeat", "stimulus"),
        ("repeat", "voxel", "stimulus"),
        ("stimulus", "repeat", "voxel"),
    ],
)
def test_every_order_of_axes_gives_the_same_responses(rng: np.random.Generator, axes: tuple[str, ...]) -> None:
    lengths = {"stimulus": 5, "voxel": 3, "repeat": 4}
    array = rng.normal(size=[lengths[axis] for axis in axes])
    table = read_responses(npy(array), axes=axes)
    for repeat, stimulus, voxel in ((0, 1, 2), (3, 4, 0), (2, 0, 1)):
        place = {"repeat": repeat, "stimulus": stimulus, "voxel": voxel}
        assert table.repeats[repeat, stimulus, voxel] == array[tuple(place[axis] for axis in axes)]
    assert table.repeats.shape == (4, 5, 3)


@pytest.mark.parametrize("dtype", ["int8", "uint16", ">i4", "float16", "float32", ">f8", "float64"])
def test_numbers_of_every_kind_come_in_unchanged(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    array = np.asfortranarray(rng.integers(0, 100, (5, 3)).astype(dtype))
    np.save(tmp_path / "r.npy", array)
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["group/betas"] = array
    for source in (tmp_path / "r.npy", (tmp_path / "r.npy").read_bytes(), tmp_path / "r.h5"):
        table = read_responses(source, axes=("stimulus", "voxel"))
        np.testing.assert_array_equal(table.repeats[0], array.astype(float))
        assert table.repeats.dtype in (np.float32, np.float64)


def test_dtypes_that_are_no_responses(rng: np.random.Generator) -> None:
    def read(array: np.ndarray) -> str:
        return refusal(read_responses, npy(array), axes=("stimulus", "voxel"))

    assert "complex numbers (dtype complex128)" in read(np.ones((4, 3), complex))
    assert "True and False" in read(np.ones((4, 3), bool))
    assert "text or dates" in read(np.full((4, 3), "a"))
    assert "more than 64 bits" in read(np.ones((4, 3), np.longdouble))
    assert "records" in read(np.zeros((4, 3), [("a", float), ("b", int)]))
    assert "integers up to 9007199254740993" in read(np.full((4, 3), 2**53 + 1))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "opened"),)

    trapped = np.empty((4, 3), object)
    trapped[:] = Trap()
    message = refusal(read_responses, npy(trapped, allow_pickle=True), axes=("stimulus", "voxel"))
    assert "pickled Python objects (dtype object), which are never read" in message
    assert "pickle" in refusal(read_responses, pickle.dumps([[Trap()]]), axes=("stimulus", "voxel"))
    assert not (tmp_path / "opened").exists()


def test_an_npy_that_claims_another_size() -> None:
    whole = npy(np.ones((40, 30)))
    message = refusal(read_responses, whole[:-80], axes=("stimulus", "voxel"))
    assert "claims shape (40, 30), 9,600 bytes; the file holds 9,520" in message
    assert "the file holds 9,601" in refusal(read_responses, whole + b"x", axes=("stimulus", "voxel"))
    vast = whole.replace(b"(40, 30), }      ", b"(40, 30000000), }")
    assert len(vast) == len(whole) and "8.9 GiB; at most 8 GiB are read" in refusal(read_responses, vast, axes=("stimulus", "voxel"))
    empty = npy(np.ones((0, 30)))
    assert "shape (0, 30)" in refusal(read_responses, empty, axes=("stimulus", "voxel"))
    broken = whole.replace(b"'descr'", b"'desc\xff'")
    assert "npy header cannot be read" in refusal(read_responses, broken, axes=("stimulus", "voxel"))


def test_hdf5_that_leads_elsewhere_or_claims_too_much(tmp_path: Path) -> None:
    axes = ("stimulus", "voxel")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b/c"] = np.ones((4, 3)), np.zeros((4, 3))
        file["out"] = h5py.ExternalLink("other.h5", "secret")
    assert "holds 2 datasets (a, b/c); name one" in refusal(read_responses, tmp_path / "two.h5", axes=axes)
    assert "no dataset 'out'; it has a, b/c" in refusal(read_responses, tmp_path / "two.h5", axes=axes, dataset="out")
    assert read_responses(tmp_path / "two.h5", axes=axes, dataset="/b/c").repeats.sum() == 0
    (tmp_path / "secret").write_bytes(bytes(96))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("a", (4, 3), "f8", external=[(str(tmp_path / "secret"), 0, 96)])
    assert "in other files" in refusal(read_responses, tmp_path / "raw.h5", axes=axes)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 3), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "two.h5", "a", (4, 3))
        file.create_virtual_dataset("a", layout)
    assert "in other files" in refusal(read_responses, tmp_path / "virtual.h5", axes=axes)
    with h5py.File(tmp_path / "hollow.h5", "w") as file:
        file.create_dataset("a", (10_000, 10_000), "f4", chunks=(100, 100))
    assert "381.5 MiB, and the file holds 0 bytes" in refusal(read_responses, tmp_path / "hollow.h5", axes=axes)
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["a"] = ["x", "y"]
    assert "pickled Python objects" in refusal(read_responses, tmp_path / "text.h5", axes=axes)
    cut = (tmp_path / "two.h5").read_bytes()[:900]
    assert "no readable HDF5" in refusal(read_responses, cut, axes=axes)


def test_axes_that_cannot_be(rng: np.random.Generator) -> None:
    source = npy(rng.normal(size=(4, 3)))
    assert "name 'unit'; expected stimulus, voxel" in refusal(read_responses, source, axes=("unit", "stimulus"))
    assert "are stimulus,stimulus; expected" in refusal(read_responses, source, axes=("stimulus", "stimulus"))
    assert "are voxel; expected" in refusal(read_responses, source, axes=("voxel",))
    message = refusal(read_responses, source, axes=("stimulus", "voxel", "repeat"))
    assert "have 2 axes of length 4 x 3, the axes of the responses name 3" in message


CSV = {
    "plain": ("1,2\n3,4\n", None, None),
    "header": ("a,b\n1,2\n3,4\n", None, ("a", "b")),
    "ids": ("im1,1,2\nim2,3,4\n", ("im1", "im2"), None),
    "both": ("stimulus,a,b\nim1,1,2\nim2,3,4\n", ("im1", "im2"), ("a", "b")),
    "numeric ids": ("id;0;1\n17;1;2\n18;3;4\n", ("17", "18"), ("0", "1")),
    "pandas": (",0,1\n0,1,2\n1,3,4\n", ("0", "1"), ("0", "1")),
    "tabs, marks and no last line end": ("\ufeff1\t2\r\n3\t4", None, None),
}


@pytest.mark.parametrize("kind", CSV)
def test_csv_with_and_without_names(kind: str) -> None:
    text, rows, columns = CSV[kind]
    table = read_responses(text.encode(), axes=("stimulus", "voxel"))
    np.testing.assert_array_equal(table.repeats[0], [[1, 2], [3, 4]])
    assert (table.stimulus_ids, table.voxel_names) == (rows, columns)
    turned = read_responses(text.encode(), axes=("voxel", "stimulus"))
    np.testing.assert_array_equal(turned.repeats[0], [[1, 3], [2, 4]])
    assert (turned.stimulus_ids, turned.voxel_names) == (columns, rows)


def test_csv_keeps_every_digit(rng: np.random.Generator) -> None:
    array = rng.normal(size=(20, 7)) * 10.0 ** rng.integers(-20, 20, (20, 7))
    text = "\n".join(",".join(repr(float(x)) for x in row) for row in array)
    np.testing.assert_array_equal(read_responses(text.encode(), axes=("stimulus", "voxel")).repeats[0], array)


def test_csv_that_is_no_table() -> None:
    def read(text: str) -> str:
        return refusal(read_responses, text.encode(), axes=("stimulus", "voxel"))

    assert "row 2 has 2 cells, row 1 has 3" in read("1,2,3\n4,5\n")
    assert "row 3, column 2 is 'x'" in read("id,a\nim1,2\nim2,x\n")
    assert "row 2, column 2 is '1_000'" in read("1,2\n1,1_000\n")
    assert "row 2, column 2 is '2,5'" in read("1;2\n1;2,5\n")
    assert "line 2 is empty" in read("1,2\n\n3,4\n")
    assert "1 id given more than once (first: 'im1', 2 times)" in read("im1,1\nim1,2\n")
    assert "hold no row of numbers" in read("id,a,b\n")
    assert "one column, of ids" in read("im1\nim2\n")
    assert "no readable CSV" in read('1,2\n3,"4\n')
    assert "begins with ff fe" in refusal(read_responses, "1,2\n".encode("utf-16"), axes=("stimulus", "voxel"))
    late = b"1,2\n" * 2000 + b"\xff,2\n"
    assert "no readable CSV" in refusal(read_responses, late, axes=("stimulus", "voxel"))


def test_average_is_over_the_repeats_that_were_shown(rng: np.random.Generator) -> None:
    repeats = rng.normal(size=(4, 6, 5))
    repeats[rng.random(repeats.shape) < 0.3] = np.nan
    repeats[0] = rng.normal(size=(6, 5))
    np.testing.assert_allclose(average_repeats(repeats), np.nanmean(repeats, axis=0), rtol=1e-14)
    repeats[:, 2, 3] = np.nan
    assert np.argwhere(np.isnan(average_repeats(repeats))).tolist() == [[2, 3]]


def test_infinity_is_refused_where_it_is() -> None:
    array = np.ones((4, 3))
    array[2, 1], array[3, 2] = np.inf, -1e31
    message = refusal(refuse_infinite, read_responses(npy(array), axes=("stimulus", "voxel")))
    assert "2 values that are infinite or beyond 1e+30 (first: stimulus 2, voxel 1, repeat 0, counted from 0)" in message


def test_what_is_dropped_leaves_nothing_missing(rng: np.random.Generator) -> None:
    missing = rng.random((30, 20)) < 0.02
    missing[7] = rng.random(20) < 0.8
    stimuli, voxels = choose_dropped(count_holes([missing[:, :2], missing[:, 2:]]), [missing[:, :2], missing[:, 2:]])
    assert np.flatnonzero(stimuli).tolist() == [7]
    assert not missing[~stimuli][:, ~voxels].any()
    assert missing[~stimuli][:, voxels].any(axis=0).all()


def test_constant_but_for_rounding(rng: np.random.Generator) -> None:
    values = rng.normal(size=(20, 4)) * 1e-9 + 1
    values[:, 1] = 0
    values[:, 2] = 0.1 * (1 + np.finfo(float).eps * rng.integers(-2, 3, 20))
    assert find_constant(values).tolist() == [False, True, True, False]


def test_float32_that_would_lose_the_responses(rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 2))
    stored = to_float32(values, values.std(axis=0), "The response")
    assert stored.dtype == np.float32 and np.abs(stored - values).max() < 1e-6
    values[:, 1] += 1e9
    assert "voxel 1 (counted from 0) would move by" in refusal(to_float32, values, values.std(axis=0), "The response")


def test_splits_are_by_image(rng: np.random.Generator) -> None:
    groups = np.arange(200)
    splits = draw_splits(groups, 3)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [160, 20, 20]
    check_splits(splits, 200)
    for part in (splits.train, splits.validation, splits.test):
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(splits.test, draw_splits(groups, 3).test)
    assert not np.array_equal(splits.test, draw_splits(groups, 4).test)
    for seed in range(20):
        twins = rng.integers(0, 90, 200)
        _, twins = np.unique(twins, return_inverse=True)
        parts = draw_splits(twins, seed)
        check_splits(parts, 200)
        check_leaks(parts, twins, tuple(map(str, range(200))))


def test_every_image_is_as_likely_to_be_tested() -> None:
    times = np.zeros(50)
    for seed in range(400):
        times[draw_splits(np.arange(50), seed).test] += 1
    # Binomial(400, 0.1): mean 40, SD 6; five SD for the most extreme of fifty.
    assert times.mean() == 40 and np.abs(times - 40).max() < 30


def test_splits_given(rng: np.random.Generator) -> None:
    ids = tuple(f"i{n}" for n in range(30))
    words = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
    rows = [f"{name},{word}" for name, word in zip(ids, words, strict=True)]
    order = rng.permutation(30)
    splits = read_splits("\n".join(["stimulus,split", *(rows[i] for i in order)]).encode(), ids)
    assert splits.train.tolist() == list(range(20)) and splits.test.tolist() == list(range(25, 30))
    kept = np.ones(30, bool)
    kept[[0, 26]] = False
    less = keep_stimuli(splits, kept)
    assert less.train.tolist() == list(range(19)) and less.test.tolist() == [24, 25, 26, 27]
    assert "in split 'dev'" in refusal(read_splits, b"stimulus,split\ni0,dev\n", ids)
    message = refusal(read_splits, b"stimulus,split\ni0,train\nj,test\n", ids)
    assert "1 stimulus that do not exist (j) and leave out 29 of 30 (i1, i2, i3 and 26 more)" in message
    assert "'i0' is given twice" in refusal(read_splits, b"stimulus,split\ni0,train\ni0,test\n", ids)
    assert "begins with 'i0,train'; expected the header stimulus,split" in refusal(read_splits, b"i0,train\n", ids)
    assert "2 stimuli are in more than one split and 1 in none" in refusal(
        check_splits, Splits(np.array([0, 1, 2]), np.array([1]), np.array([2])), 4
    )
    assert "positions 0 to 9; stimuli are 0 to 3" in refusal(check_splits, Splits(np.array([0]), np.array([1]), np.array([9])), 4)
    groups = np.arange(30)
    groups[28] = 3
    message = refusal(check_leaks, splits, groups, ids)
    assert "1 held-out images are pixel for pixel in the training split" in message and "first: i28" in message
    assert "test split holds 4 stimuli; expected at least 5" in refusal(check_leaks, less, np.arange(28), ids)


def test_ids_and_names() -> None:
    assert read_ids("\ufeffa.png\r\ncafe\u0301\n\n".encode()) == ("a.png", "caf\u00e9")
    assert "line 2 is empty" in refusal(read_ids, b"a\n\nb\n")
    assert "1 id given more than once (first: 'a', 3 times)" in refusal(read_ids, b"a\na\nb\na\n")
    assert sorted(["b10", "b9", "B1"], key=number_key) == ["B1", "b9", "b10"]


def table_of(n_stimuli: int, ids: tuple[str, ...] = ()) -> object:
    rows = "\n".join(f"{ids[i] + ',' if ids else ''}{i},{i + 1}" for i in range(n_stimuli))
    return read_responses(rows.encode(), axes=("stimulus", "voxel"))


def test_matching_by_name_says_so_and_refuses_two_orders() -> None:
    found = match(("a01.png", "a02.png", "a10.png"), True, table_of(3), None, None, False)
    assert found.ids == ("a01.png", "a02.png", "a10.png")
    assert "sorted name: image i is stimulus i of the responses (first: a01.png, last: a10.png)" in found.note
    loose = ("a1.png", "a10.png", "a2.png")
    message = refusal(match, loose, True, table_of(3), None, None, False)
    assert "Image 1 is 'a10.png' when names are sorted as text and 'a2.png' when sorted by the numbers" in message
    assert match(loose, True, table_of(3), None, "text", False).ids == loose
    by_number = match(loose, True, table_of(3), None, "number", False)
    assert by_number.ids == ("a1.png", "a2.png", "a10.png") and by_number.image_rows.tolist() == [0, 2, 1]


def test_matching_by_id() -> None:
    images = ("a.png", "b.png", "c.png")
    found = match(images, True, table_of(3, ("c", "a", "b")), None, None, False)
    assert found.ids == ("c.png", "a.png", "b.png")
    assert found.image_rows.tolist() == [2, 0, 1] and found.response_rows.tolist() == [0, 1, 2]
    same = match(images, True, table_of(3), ("c.png", "a.png", "b.png"), None, False)
    assert same.image_rows.tolist() == [2, 0, 1]
    message = refusal(match, images, True, table_of(3, ("c", "a", "z")), None, None, False)
    assert "1 of 3 stimuli in the responses have no image (z), 1 of 3 images have no response (b.png)" in message
    some = match(images, True, table_of(3, ("c", "a", "z")), None, None, True)
    assert some.ids == ("c.png", "a.png") and [entry.which for entry in some.dropped] == [("z",), ("b.png",)]
    assert "correct them" in refusal(match, images, True, table_of(3, ("x", "y", "z")), None, None, True)
    assert "2 stimulus ids and 3 stimuli" in refusal(match, images, True, table_of(3), ("a", "b"), None, False)
    message = refusal(match, images, True, table_of(3, ("c", "a", "b")), ("c", "b", "a"), None, False)
    assert "Stimulus 1 is 'b' in the file of ids and 'a' in the responses" in message
    message = refusal(match, ("a.jpg", "a.png", "b.png"), True, table_of(2, ("a", "b")), None, None, False)
    assert "1 image share the name of another" in message


def test_regions(rng: np.random.Generator) -> None:
    names, membership = read_regions(b"voxel,region\n0,V1\n2,V1\n2,FFA\n", 4, None)
    assert names == ("V1", "FFA")
    np.testing.assert_array_equal(membership, [[1, 0, 1, 0], [0, 0, 1, 0]])
    by_name = read_regions(b"voxel,region\nu7,V4\n", 2, ("u3", "u7"))[1]
    np.testing.assert_array_equal(by_name, [[0, 1]])
    message = refusal(read_regions, b"voxel,region\n1,V1\n4,V1\n", 4, None)
    assert "1 voxels that do not exist (first: 4); expected 0 to 3" in message and "counted from 1" in message
    assert "in 'V1' twice" in refusal(read_regions, b"voxel,region\n1,V1\n1,V1\n", 4, None)
    assert "row 3 is '2,'" in refusal(read_regions, b"voxel,region\n1,V1\n2,\n", 4, None)


def test_noise_ceilings() -> None:
    np.testing.assert_array_equal(read_noise_ceiling(npy(np.array([0.5, 0.25])), 2), [0.5, 0.25])
    assert "shape (2,); expected (3,)" in refusal(read_noise_ceiling, npy(np.ones(2)), 3)
    assert "2 of 3 noise ceilings are not between 0 and 1 (first: voxel 1, 60); divide" in refusal(
        check_ceiling, np.array([0.0, 60.0, 40.0])
    )
    assert "(first: voxel 0, nan); correct them" in refusal(check_ceiling, np.array([np.nan, 0.4]))


def test_captions() -> None:
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 2, "caption": " A dog\n runs. "}, {"image_id": 2, "caption": "Dog"}],
    }
    assert read_captions(json.dumps(coco).encode()) == {"b.jpg": ["A dog runs.", "Dog"]}
    assert read_captions(b'stimulus,caption\na.jpg,"A dog, running"\n') == {"a.jpg": ["A dog, running"]}
    lost = {**coco, "images": coco["images"][:1]}
    assert "2 captions belong to no image" in refusal(read_captions, json.dumps(lost).encode())
    assert "another layout" in refusal(read_captions, b'{"images": 3}')
    assert "another layout" in refusal(read_captions, b'[{"image": {"id": []}}]')
    assert "no readable JSON" in refusal(read_captions, b'{"images": ')
    assert "no readable JSON" in refusal(read_captions, b"[" * 100_000)
    assert "has 2,000 characters" in refusal(read_captions, f"stimulus,caption\na,{'x' * 2000}\n".encode())
