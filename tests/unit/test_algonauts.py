"""A miniature of the Algonauts 2023 layout imports to exactly what was planted; what does not fit is refused in one line."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mine_core.artifacts import ArtifactStore
from mine_core.cli import main
from mine_core.errors import Cancelled, MineError
from mine_core.instrument.subjects import custom_artifact, import_algonauts_into, known_subjects, subject_of
from mine_core.subjects.algonauts import read_mapping

N_IMAGES, N_VERTICES, SIDE = 60, 90, 20
FMRI, PICTURES, MASKS = "subj01/training_split/training_fmri", "subj01/training_split/training_images", "subj01/roi_masks"
NAMES = {"floc-faces": {0: "Unknown", 1: "OFA", 2: "FFA-1", 3: "FFA-2"}, "streams": {0: "Unknown", 1: "early", 5: "ventral"}}


def write(root: Path) -> dict:
    rng = np.random.default_rng(4)
    for part in (FMRI, PICTURES, MASKS):
        (root / part).mkdir(parents=True)
    numbers = rng.choice(73000, N_IMAGES, replace=False)
    bricks = rng.integers(0, 256, (N_IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    for row, (number, pixels) in enumerate(zip(numbers, bricks, strict=True)):
        Image.fromarray(pixels).save(root / PICTURES / f"train-{row + 1:04d}_nsd-{number:05d}.png")
    planted = {"numbers": numbers, "bricks": bricks, "values": [], "inside": [], "labels": {name: [] for name in NAMES}}
    for side in ("lh", "rh"):
        inside = rng.random(N_VERTICES) < 0.6
        values = rng.normal(size=(N_IMAGES, inside.sum())).astype(np.float32)
        np.save(root / FMRI / f"{side}_training_fmri.npy", values)
        np.save(root / MASKS / f"{side}.all-vertices_fsaverage_space.npy", inside.astype(np.int32))
        for name, names in NAMES.items():
            whole = rng.choice(list(names), N_VERTICES).astype(np.int32)
            np.save(root / MASKS / f"{side}.{name}_fsaverage_space.npy", whole)
            np.save(root / MASKS / f"{side}.{name}_challenge_space.npy", whole[inside])
            planted["labels"][name].append(whole[inside])
        planted["values"].append(values)
        planted["inside"].append(inside)
    for name, names in NAMES.items():
        np.save(root / MASKS / f"mapping_{name}.npy", names)
    return planted


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("algonauts")
    return root, write(root)


@pytest.fixture(scope="module")
def imported(tree, tmp_path_factory):
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    report = import_algonauts_into(store, root=tree[0], subject=1, size=SIDE)
    return subject_of(custom_artifact(report["subject"], store)), report


def test_images_responses_and_vertices_are_the_planted_ones(tree, imported):
    planted, subject = tree[1], imported[0]
    assert subject.stimuli.ids == tuple(f"nsd-{number:05d}" for number in planted["numbers"])
    np.testing.assert_array_equal(subject.stimuli.images, planted["bricks"])
    np.testing.assert_array_equal(subject.responses.values, np.concatenate(planted["values"], axis=1))
    index = subject.responses.voxels
    np.testing.assert_array_equal(index.flat_index, np.flatnonzero(np.stack(planted["inside"])))
    assert index.grid_shape == (2, N_VERTICES)
    assert (subject.kind, subject.noise_ceiling) == ("algonauts", None)


def test_regions_are_the_planted_ones_by_the_names_of_the_mapping(tree, imported):
    planted, index = tree[1], imported[0].responses.voxels
    expected = {
        name: np.concatenate(planted["labels"][group]) == label for group in NAMES for label, name in NAMES[group].items() if label
    }
    assert set(index.regions) == set(expected)
    for name, inside in expected.items():
        np.testing.assert_array_equal(index.membership[index.regions.index(name)], inside)


def test_the_report_says_what_is_there_and_what_is_not(imported):
    text = "\n".join(imported[1]["report"])
    assert "60 training images" in text
    assert "Sets that are not there: prf-visualrois, floc-bodies, floc-places, floc-words" in text
    assert "no published responses" in text


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_mapping_is_read_whatever_its_protocol_and_never_executed(tmp_path, protocol, capsys):
    path = tmp_path / "mapping_x.npy"
    names = {0: "Unknown", 1: "V1v", 300: "far", 70000: "farther"}
    array = np.empty((), object)
    array[()] = names
    with path.open("wb") as stream:
        stream.write(b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n")
        pickle.dump(array, stream, protocol=protocol)
    assert read_mapping(path) == names


class Shout:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("held", [{0: Shout()}, {0: 1.5}, {"a": "b"}, [1, "a"], {}])
def test_a_mapping_that_holds_something_else_is_refused_and_not_executed(tmp_path, held, capsys):
    path = tmp_path / "mapping_x.npy"
    np.save(path, np.array(held, object), allow_pickle=True)
    with pytest.raises(MineError):
        read_mapping(path)
    assert capsys.readouterr().out == ""


def resave(path: Path, change) -> None:
    np.save(path, change(np.load(path)))


DAMAGE = {
    "no such subject": (lambda r: shutil.rmtree(r / "subj01"), "no subj01"),
    "no responses": (lambda r: (r / FMRI / "rh_training_fmri.npy").unlink(), "no rh_training_fmri.npy"),
    "responses cut off": (lambda r: (r / FMRI / "lh_training_fmri.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
    "responses turned": (lambda r: resave(r / FMRI / "lh_training_fmri.npy", np.transpose), "training images by vertices"),
    "responses of fewer images": (lambda r: resave(r / FMRI / "lh_training_fmri.npy", lambda v: v[1:]), r"shape \(59, "),
    "responses are whole numbers": (
        lambda r: resave(r / FMRI / "lh_training_fmri.npy", lambda v: v.astype(int)),
        "expected numbers, images",
    ),
    "a response is NaN": (lambda r: resave(r / FMRI / "rh_training_fmri.npy", lambda v: np.where(v == v[3, 5], np.nan, v)), "is nan"),
    "an image is missing": (lambda r: next((r / PICTURES).glob("train-0007*")).unlink(), "Training image 7 is missing"),
    "an image has another name": (lambda r: (r / PICTURES / "me.png").write_bytes(b"x"), "'me.png' has another name"),
    "two images of one number": (
        lambda r: shutil.copy(next((r / PICTURES).glob("train-0001*")), r / PICTURES / "train-01_nsd-1.png"),
        "number 1",
    ),
    "an image twice": (lambda r: twice(r), "training images are of an image that another is of"),
    "an image is damaged": (lambda r: next((r / PICTURES).glob("train-0009*")).write_bytes(b"\x89PNG\r\n\x1a\n"), "damaged|cannot"),
    "an image is not square": (lambda r: oblong(r), "expected a square"),
    "few images": (lambda r: [p.unlink() for p in sorted((r / PICTURES).glob("*"))[20:]], "There are 20 training images"),
    "no mask": (lambda r: (r / MASKS / "lh.all-vertices_fsaverage_space.npy").unlink(), "no lh.all-vertices"),
    "mask of other numbers": (lambda r: resave(r / MASKS / "lh.all-vertices_fsaverage_space.npy", lambda v: 2 * v), "of 0 and 1"),
    "mask of another surface": (
        lambda r: resave(r / MASKS / "lh.all-vertices_fsaverage_space.npy", lambda v: v[:-1]),
        "89 and 90 vertices",
    ),
    "mask shifted": (
        lambda r: resave(r / MASKS / "lh.all-vertices_fsaverage_space.npy", lambda v: np.roll(v, 1)),
        "cannot be shown to be the mask's",
    ),
    "regions of fewer vertices": (lambda r: resave(r / MASKS / "lh.streams_challenge_space.npy", lambda v: v[:-1]), "Copy both again"),
    "labels are fractions": (
        lambda r: resave(r / MASKS / "lh.streams_challenge_space.npy", lambda v: v + 0.5),
        "expected whole numbers",
    ),
    "labels without names": (lambda r: (r / MASKS / "mapping_streams.npy").unlink(), "no mapping_streams.npy"),
    "a nameless label": (lambda r: np.save(r / MASKS / "mapping_streams.npy", {0: "Unknown", 1: "early"}), "holds the label 5"),
}


def twice(root: Path) -> None:
    first, second = sorted((root / PICTURES).glob("*"))[:2]
    second.rename(second.with_name(f"train-0002_nsd-{first.name[-9:]}"))


def oblong(root: Path) -> None:
    Image.new("RGB", (20, 24)).save(next((root / PICTURES).glob("train-0009*")))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_copy_is_refused_in_one_line_and_nothing_is_kept(tree, tmp_path, name):
    damage, expected = DAMAGE[name]
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    damage(root)
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(MineError, match=expected) as refusal:
        import_algonauts_into(store, root=root, subject=1, size=SIDE)
    assert "\n" not in str(refusal.value)
    assert known_subjects(store) == ("phantom",)


def test_nothing_is_kept_of_an_import_that_was_stopped(tree, tmp_path):
    store, calls = ArtifactStore(tmp_path), iter(range(1000))
    with pytest.raises(Cancelled):
        import_algonauts_into(store, root=tree[0], subject=1, size=SIDE, cancelled=lambda: next(calls) > 59)
    assert known_subjects(store) == ("phantom",)


def test_the_command_imports(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINE_CACHE", str(tmp_path))
    assert main(["import", "algonauts", "--root", str(tree[0]), "--size", "20"]) == 0
    assert "subject: algonauts-subj01" in capsys.readouterr().out
    assert main(["import", "algonauts", "--root", str(tree[0]), "--subject", "2"]) == 2
    assert capsys.readouterr().err.startswith("mine: There is no subj02")
