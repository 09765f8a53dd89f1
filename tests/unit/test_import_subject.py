"""A subject of one's own files: right to the pixel and the value, or refused with nothing made."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mine_core.artifacts import canonical_json
from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom import describe_import, import_subject, read_images
from mine_core.subjects.store import load_subject, save_subject
from mine_core.types import Splits

N_STIMULI, N_VOXELS, SIDE = 60, 5, 16


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(SubjectError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (N_STIMULI, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def images(pictures: np.ndarray) -> bytes:
    return zipped({f"im{i:02d}.png": encoded(picture) for i, picture in enumerate(pictures)})


@pytest.fixture
def responses(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N_STIMULI, N_VOXELS)).astype(np.float32)


def test_a_whole_subject_goes_to_disk_and_back(tmp_path: Path, rng: np.random.Generator, images: bytes, pictures: np.ndarray) -> None:
    repeats = rng.normal(size=(N_VOXELS, N_STIMULI, 4)).astype(np.float32)
    repeats[rng.random(repeats.shape) < 0.2] = np.nan
    repeats[..., 0] = 1 + rng.normal(size=(N_VOXELS, N_STIMULI))
    captions = {
        "images": [{"id": i, "file_name": f"im{i:02d}.png"} for i in range(70)],
        "annotations": [{"image_id": i, "caption": f"scene {i}"} for i in range(1, 70)],
    }
    steps: list[int] = []
    subject = import_subject(
        "lab-1",
        images,
        npy(repeats),
        ("voxel", "stimulus", "repeat"),
        seed=5,
        regions=b"voxel,region\n0,V4\n1,V4\n1,IT\n",
        noise_ceiling=npy(np.linspace(0, 1, N_VOXELS)),
        captions=json.dumps(captions).encode(),
        units="spikes",
        on_progress=lambda done, total, _: steps.append(done),
    )
    np.testing.assert_array_equal(subject.stimuli.images, pictures)
    np.testing.assert_allclose(subject.responses.values, np.nanmean(repeats.astype(float), axis=2).T, rtol=1e-6)
    np.testing.assert_array_equal(subject.responses.repeats, np.moveaxis(repeats, (0, 1, 2), (2, 1, 0)))
    assert subject.stimuli.captions[0] == () and subject.stimuli.captions[7] == ("scene 7",)
    assert subject.kind == "custom" and subject.cortex == "" and subject.responses.units == "spikes"
    assert subject.responses.voxels.grid_shape == () and (subject.responses.voxels.flat_index == -1).all()
    assert subject.responses.voxels.region_names(1) == ("V4", "IT")
    assert steps == list(range(1, N_STIMULI + 1))
    lines = describe_import(subject)
    assert "Subject 'lab-1': 60 stimuli of 16 x 16 pixels, 5 voxels, no cortex." in lines
    shown = (~np.isnan(repeats)).sum(axis=2)
    assert (
        f"Repeats: {shown.min()} to 4 a stimulus and voxel, median {np.median(shown):g}; averaged over those that were shown." in lines
    )
    assert {"3 voxels in no region.", "1 stimulus without a caption.", "Captions of 10 other images passed over."} <= set(lines)
    assert lines[-1] == "Dropped: nothing."
    save_subject(tmp_path, subject)
    again = load_subject(tmp_path)
    for name in ("values", "repeats"):
        np.testing.assert_array_equal(getattr(again.responses, name), getattr(subject.responses, name))
    np.testing.assert_array_equal(again.stimuli.images, pictures)
    np.testing.assert_array_equal(again.noise_ceiling, subject.noise_ceiling)
    np.testing.assert_array_equal(again.splits.test, subject.splits.test)
    assert describe_import(again) == lines and again.provenance == subject.provenance


def test_nothing_given_can_be_changed(images: bytes, responses: np.ndarray) -> None:
    subject = import_subject("a", images, npy(responses), ("stimulus", "voxel"))
    index = subject.responses.voxels
    for array in (subject.stimuli.images, subject.responses.values, index.membership, index.flat_index, subject.splits.train):
        assert not array.flags.writeable


def test_the_same_files_and_seed_give_the_same_subject(images: bytes, responses: np.ndarray) -> None:
    first, again, other = (import_subject("a", images, npy(responses), ("stimulus", "voxel"), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.splits.test, again.splits.test)
    assert first.provenance == again.provenance != other.provenance
    assert not np.array_equal(first.splits.test, other.splits.test)


def test_whatever_changes_the_subject_changes_its_provenance(images: bytes, responses: np.ndarray) -> None:
    """The store keeps a subject under its provenance: a difference that it did not name would give a stale subject."""
    ids = "\n".join(f"im{i:02d}" for i in range(N_STIMULI)).encode()
    parts = [
        Splits(np.arange(40), np.arange(40, 50), np.arange(50, 60)),
        Splits(np.arange(20, 60), np.arange(10), np.arange(10, 20)),
    ]
    variants: list[dict[str, object]] = [
        {},
        {"seed": 1},
        {"size": 20},
        {"units": "spikes"},
        {"stimulus_ids": ids},
        {"splits": parts[0]},
        {"splits": parts[1]},
        {"regions": b"voxel,region\n0,V1\n"},
        {"regions": b"voxel,region\n1,V1\n"},
        {"noise_ceiling": npy(np.full(N_VOXELS, 0.5))},
        {"noise_ceiling": npy(np.full(N_VOXELS, 0.6))},
        {"captions": b"stimulus,caption\nim00,A.\n"},
        {"captions": b"stimulus,caption\nim00,B.\n"},
    ]
    made = [import_subject("a", images, npy(responses), ("stimulus", "voxel"), **options) for options in variants]
    made.append(import_subject("a", images, npy(responses + 1), ("stimulus", "voxel")))
    assert len({canonical_json(dict(subject.provenance)) for subject in made}) == len(made)


def test_responses_with_ids_stay_in_their_order(
    rng: np.random.Generator, images: bytes, pictures: np.ndarray, responses: np.ndarray
) -> None:
    order = rng.permutation(N_STIMULI)
    rows = [f"im{i:02d}," + ",".join(map(repr, responses[i].tolist())) for i in order]
    header = "id," + ",".join(f"u{i}" for i in range(N_VOXELS))
    subject = import_subject("a", images, "\n".join([header, *rows]).encode(), ("stimulus", "voxel"))
    assert subject.stimuli.ids == tuple(f"im{i:02d}.png" for i in order)
    np.testing.assert_array_equal(subject.stimuli.images, pictures[order])
    np.testing.assert_array_equal(subject.responses.values, responses[order])
    assert subject.provenance["import"]["voxel_names"] == ["u0", "u1", "u2", "u3", "u4"]
    assert "Matched by id (file name without suffix): 60 images." in describe_import(subject)


def test_images_and_responses_in_one_hdf5(tmp_path: Path, pictures: np.ndarray, responses: np.ndarray) -> None:
    path = tmp_path / "session.h5"
    with h5py.File(path, "w") as file:
        file["images"], file["betas"] = pictures, responses
    subject = import_subject(
        "a", path, path, ("stimulus", "voxel"), image_dataset="images", response_dataset="betas", stimulus_ids=None
    )
    np.testing.assert_array_equal(subject.stimuli.images, pictures)
    np.testing.assert_array_equal(subject.responses.values, responses)


def test_swapped_axes_are_named(images: bytes, responses: np.ndarray) -> None:
    message = refusal(import_subject, "a", images, npy(responses.T), ("stimulus", "voxel"))
    assert "(5 x 60, read as stimulus,voxel) have 5 stimuli, images 60; did you mean the axes voxel,stimulus?" in message
    square = np.random.default_rng(0).normal(size=(N_STIMULI, N_STIMULI))
    assert any("as many voxels" in line for line in describe_import(import_subject("a", images, npy(square), ("stimulus", "voxel"))))


def test_a_missing_image_or_response(images: bytes, pictures: np.ndarray, responses: np.ndarray) -> None:
    fewer = zipped({f"im{i:02d}.png": encoded(picture) for i, picture in enumerate(pictures) if i != 30})
    assert "have 60 stimuli, images 59; give one image" in refusal(import_subject, "a", fewer, npy(responses), ("stimulus", "voxel"))
    ids = "\n".join(f"im{i:02d}.png" for i in range(N_STIMULI)).encode()
    message = refusal(import_subject, "a", fewer, npy(responses), ("stimulus", "voxel"), stimulus_ids=ids)
    assert "1 of 60 stimuli in the responses have no image (im30.png), 0 of 59 images have no response (none)" in message
    subject = import_subject("a", fewer, npy(responses), ("stimulus", "voxel"), stimulus_ids=ids, drop_incomplete=True)
    np.testing.assert_array_equal(subject.responses.values, np.delete(responses, 30, axis=0))
    assert describe_import(subject)[-1] == "Dropped 1 stimulus (no image): im30.png."


def test_missing_responses(images: bytes, pictures: np.ndarray, responses: np.ndarray) -> None:
    responses[4, 2] = responses[9, 2] = np.nan
    responses[7, 1:] = np.nan
    message = refusal(import_subject, "a", images, npy(responses), ("stimulus", "voxel"))
    assert "6 of 300 responses are NaN, in 3 of 60 stimuli and 4 of 5 voxels (first: stimulus 4, im04.png, voxel 2" in message
    ceiling = np.array([0.1, 0.2, np.nan, 0.4, 0.5])
    options = {"noise_ceiling": npy(ceiling), "regions": b"voxel,region\n2,V1\n3,V2\n"}
    subject = import_subject("a", images, npy(responses), ("stimulus", "voxel"), drop_incomplete=True, **options)
    np.testing.assert_array_equal(subject.responses.values, np.delete(np.delete(responses, 7, 0), 2, 1))
    np.testing.assert_array_equal(subject.stimuli.images, np.delete(pictures, 7, 0))
    assert subject.noise_ceiling.tolist() == [0.1, 0.2, 0.4, 0.5]
    np.testing.assert_array_equal(subject.responses.voxels.membership, [[0, 0, 0, 0], [0, 0, 1, 0]])
    assert subject.provenance["import"]["voxel_positions"] == [0, 1, 3, 4]
    assert describe_import(subject)[-2:] == (
        "Dropped 1 stimulus (not shown to more than half of the voxels): im07.png.",
        "Dropped 1 voxel (no response to some stimulus): 2.",
    )


def test_given_splits_follow_what_is_dropped(images: bytes, responses: np.ndarray) -> None:
    responses[7] = np.nan
    splits = Splits(np.arange(0, 40), np.arange(40, 50), np.arange(50, 60))
    subject = import_subject("a", images, npy(responses), ("stimulus", "voxel"), splits=splits, drop_incomplete=True)
    assert subject.splits.train.tolist() == list(range(39)) and subject.splits.test.tolist() == list(range(49, 59))
    assert subject.stimuli.ids[49] == "im50.png"


def test_a_stimulus_without_any_repeat(images: bytes, rng: np.random.Generator) -> None:
    repeats = rng.normal(size=(3, N_STIMULI, N_VOXELS))
    repeats[:, 11, 3] = np.nan
    message = refusal(import_subject, "a", images, npy(repeats), ("repeat", "stimulus", "voxel"))
    assert "1 of 300 responses have no repeat at all, in 1 of 60 stimuli and 1 of 5 voxels (first: stimulus 11, im11.png" in message
    one = import_subject("a", images, npy(rng.normal(size=(1, N_STIMULI, 2))), ("repeat", "stimulus", "voxel"))
    assert one.responses.repeats is None and "The repeat axis has length 1: kept as single responses." in describe_import(one)


def test_voxels_that_never_vary(images: bytes, responses: np.ndarray) -> None:
    responses[:, 3] = 2.5
    message = refusal(import_subject, "a", images, npy(responses), ("stimulus", "voxel"))
    assert "1 of 5 voxels do not vary over the 48 training stimuli (first: voxel 3, counted from 0, always 2.5)" in message
    subject = import_subject("a", images, npy(responses), ("stimulus", "voxel"), drop_incomplete=True)
    np.testing.assert_array_equal(subject.responses.values, np.delete(responses, 3, 1))
    assert describe_import(subject)[-1] == "Dropped 1 voxel (does not vary over the training stimuli): 3."
    assert "No voxel is left: 5 voxels dropped" in refusal(
        import_subject, "a", images, npy(np.ones_like(responses)), ("stimulus", "voxel"), drop_incomplete=True
    )


def test_identical_images_share_a_split(pictures: np.ndarray, responses: np.ndarray) -> None:
    for i in range(0, 30, 2):
        pictures[i + 1] = pictures[i]
    subject = import_subject("a", npy(pictures), npy(responses), ("stimulus", "voxel"))
    held_out = set(np.concatenate([subject.splits.validation, subject.splits.test]).tolist())
    assert all((i in held_out) == (i + 1 in held_out) for i in range(0, 30, 2))
    assert "15 images pixel for pixel like another; they share its split." in describe_import(subject)
    leaky = Splits(np.arange(0, 60, 2), np.arange(1, 20, 2), np.arange(21, 60, 2))
    message = refusal(import_subject, "a", npy(pictures), npy(responses), ("stimulus", "voxel"), splits=leaky)
    assert "15 held-out images are pixel for pixel in the training split" in message


def test_too_few_stimuli_and_names_that_are_none(pictures: np.ndarray, responses: np.ndarray) -> None:
    message = refusal(import_subject, "a", npy(pictures[:49]), npy(responses[:49]), ("stimulus", "voxel"))
    assert "There are 49 stimuli; expected at least 50" in message
    for name in ("", "a b", "../a", "-a", "a" * 65, "ü"):
        assert "expected 1 to 64 letters" in refusal(import_subject, name, b"", b"", ("stimulus", "voxel"))
    assert "built-in subject" in refusal(import_subject, "Phantom", b"", b"", ("stimulus", "voxel"))


def test_captions_of_other_images(images: bytes, responses: np.ndarray) -> None:
    message = refusal(
        import_subject, "a", images, npy(responses), ("stimulus", "voxel"), captions=b"stimulus,caption\nzebra,A zebra.\n"
    )
    assert "are of 1 images (zebra), none of them among the 60 stimuli" in message


def test_only_an_import_is_described(images: bytes, responses: np.ndarray) -> None:
    subject = import_subject("a", images, npy(responses), ("stimulus", "voxel"))
    stripped = type(subject)(**{**vars(subject), "provenance": {}})
    assert "expected an imported one" in refusal(describe_import, stripped)


def test_a_stopped_import(images: bytes, responses: np.ndarray) -> None:
    with pytest.raises(Cancelled, match="stopped after 0 of 60 images"):
        import_subject("a", images, npy(responses), ("stimulus", "voxel"), cancelled=lambda: True)


# --- recordings of others --------------------------------------------------------------------------------------------


def test_a_recording_of_macaque_v4(real: Path, tmp_path: Path) -> None:
    folder = real / "v4_201025"
    archive, given = folder / "images_201025.zip", np.load(folder / "responses_201025.npy")
    subject = import_subject("v4", archive, folder / "responses_201025.npy", ("voxel", "stimulus"))
    assert subject.stimuli.images.shape == (1200, 112, 112, 3) and subject.responses.values.shape == (1200, 89)
    with zipfile.ZipFile(archive) as files:
        names = sorted(files.namelist())
        assert subject.stimuli.ids == tuple(names)
        for i in (0, 1, 617, 1199):
            pixels = np.array(Image.open(io.BytesIO(files.read(names[i]))))
            np.testing.assert_array_equal(subject.stimuli.images[i], pixels)
            np.testing.assert_array_equal(subject.responses.values[i], given[:, i].astype(np.float32))
    assert [len(part) for part in vars(subject.splits).values()] == [960, 120, 120]
    save_subject(tmp_path, subject)
    np.testing.assert_array_equal(load_subject(tmp_path).responses.values, subject.responses.values)
    message = refusal(import_subject, "v4", archive, folder / "responses_201025.npy", ("stimulus", "voxel"))
    assert "have 89 stimuli, images 1,200; did you mean the axes voxel,stimulus?" in message
    other = real / "v4_210325_repeats" / "images_210325.zip"
    assert "1,200 stimuli, images 640" in refusal(import_subject, "v4", other, folder / "responses_201025.npy", ("voxel", "stimulus"))


def test_a_recording_with_uneven_repeats(real: Path) -> None:
    folder = real / "v4_210325_repeats"
    given = np.load(folder / "responses_210325.npy")
    subject = import_subject("v4r", folder / "images_210325.zip", folder / "responses_210325.npy", ("voxel", "stimulus", "repeat"))
    np.testing.assert_allclose(subject.responses.values, np.nanmean(given, axis=2).T, rtol=1e-6)
    assert subject.responses.repeats.shape == (10, 640, 50)
    assert np.isnan(subject.responses.repeats).sum() == np.isnan(given).sum() == 78_000
    assert any("Repeats: 6 to 10 a stimulus and voxel, median 8" in line for line in describe_import(subject))
    message = refusal(
        import_subject,
        "v4r",
        folder / "images_210325.zip",
        folder / "responses_210325.npy",
        ("voxel", "repeat", "stimulus"),
    )
    assert "did you mean the axes voxel,stimulus,repeat?" in message


def test_photographs_of_many_sizes(real: Path) -> None:
    folder = real / "coco_val128" / "images"
    assert "122 of 128 images are not square" in refusal(read_images, folder)
    read = read_images(folder, size=64)
    assert read.images.shape == (128, 64, 64, 3) and read.notes[0] == "122 images cropped to the centred square."
    path = folder / read.ids[5]
    seen = np.array(Image.open(path).convert("RGB").resize((1, 1), Image.Resampling.BOX, box=centred(path)))
    assert np.abs(read.images[5].mean(axis=(0, 1)) - seen[0, 0]).max() < 1.5


def centred(path: Path) -> tuple[int, int, int, int]:
    width, height = Image.open(path).size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
