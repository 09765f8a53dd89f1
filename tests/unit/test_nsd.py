"""A miniature of the Natural Scenes Dataset imports to exactly what was planted; what does not fit is refused in one line."""

import re
import shutil
from pathlib import Path

import h5py
import nibabel
import nsd_tree
import numpy as np
import pytest
from nsd_tree import AFFINE, PRESENT, VERSION, save_volume, write
from scipy.io import loadmat, savemat

from mine_core.artifacts import ArtifactStore
from mine_core.cli import main
from mine_core.errors import Cancelled, MineError
from mine_core.instrument.subjects import custom_artifact, import_nsd_into, known_subjects, subject_of
from mine_core.subjects.nsd.alignment import prove_alignment
from mine_core.subjects.nsd.betas import standardise
from mine_core.subjects.nsd.labels import Places

DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
BETAS = f"nsddata_betas/ppdata/subj01/func1pt8mm/{VERSION}"
ROI = "nsddata/ppdata/subj01/func1pt8mm/roi"
LABELS = "nsddata/freesurfer/fsaverage/label"
BOTH = pytest.mark.parametrize("space", ["func1pt8mm", "fsaverage"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    return {space: write(tmp_path_factory.mktemp(space), space) for space in ("func1pt8mm", "fsaverage")}


@pytest.fixture(scope="module")
def imported(trees, tmp_path_factory):
    """Subject and report of each space."""
    found = {}
    for space, tree in trees.items():
        store = ArtifactStore(tmp_path_factory.mktemp("store"))
        report = import_nsd_into(store, root=tree.root, subject=1, space=space, size=24)
        found[space] = subject_of(custom_artifact(report["subject"], store)), report
    return found


def z_scored(tree):
    """The whole recording at once, by the textbook: z-score each session, then collect the showings of each image."""
    showings: dict[int, list[np.ndarray]] = {}
    for session in PRESENT:
        raw = tree.betas[session].astype(np.float64)
        raw = np.round(raw * 300) / 300 if tree.space == "func1pt8mm" else raw
        z = ((raw - raw.mean(0)) / raw.std(0))[:, tree.mask]
        for image, row in zip(tree.shown[session - 1], z, strict=True):
            showings.setdefault(int(image), []).append(row)
    return showings


@BOTH
def test_responses_are_the_planted_ones_image_by_image(trees, imported, space):
    tree, (subject, _) = trees[space], imported[space]
    expected = z_scored(tree)
    assert subject.stimuli.ids == tuple(f"nsd-{image:05d}" for image in sorted(expected))
    values, repeats = subject.responses.values, subject.responses.repeats
    for row, image in enumerate(sorted(expected)):
        np.testing.assert_allclose(values[row], np.mean(expected[image], axis=0), atol=2e-5)
        shown = np.array(expected[image])
        np.testing.assert_allclose(repeats[: len(shown), row], shown, atol=4e-3)
        assert np.isnan(repeats[len(shown) :, row]).all()


@BOTH
def test_voxels_regions_and_ceilings_are_the_planted_ones(trees, imported, space):
    tree, (subject, _) = trees[space], imported[space]
    index = subject.responses.voxels
    np.testing.assert_array_equal(index.flat_index, np.flatnonzero(tree.mask))
    assert index.grid_shape == tree.mask.shape
    assert set(index.regions) == set(tree.regions)
    for name, inside in tree.regions.items():
        np.testing.assert_array_equal(index.membership[index.regions.index(name)], inside[tree.mask])
    counts = np.bincount(tree.shown[np.array(PRESENT) - 1].ravel(), minlength=nsd_tree.N_BRICK)
    tested = [image for image in tree.shared if counts[image]]
    square = tree.ncsnr[tree.mask] ** 2
    np.testing.assert_allclose(subject.noise_ceiling, square / (square + np.mean(1 / counts[tested])), rtol=1e-5)


@BOTH
def test_images_and_splits_are_the_planted_ones(trees, imported, space):
    tree, (subject, _) = trees[space], imported[space]
    numbers = np.array([int(name[4:]) for name in subject.stimuli.ids])
    np.testing.assert_array_equal(subject.stimuli.images, tree.bricks[numbers])
    splits = subject.splits
    assert set(numbers[splits.test]) == set(tree.shared) & set(numbers)
    assert not set(numbers[np.concatenate([splits.train, splits.validation])]) & set(tree.shared)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == len(numbers)


def test_the_report_says_what_was_found_dropped_and_proved(imported):
    subject, report = imported["func1pt8mm"]
    text = "\n".join(report["report"])
    assert "3 sessions, the last is 4; not there: 3" in text
    assert "dropped 2 whose signal to noise is not published" in text
    assert "Sets that are not there: prf-visualrois, floc-bodies, floc-places, floc-words" in text
    assert float(re.search(r"rank correlation of ([0-9.]+)", text).group(1)) > 0.7
    assert subject.kind == "nsd"


def test_images_are_resized_and_another_size_is_another_subject(trees, tmp_path):
    store = ArtifactStore(tmp_path)
    for size in (24, 16):
        import_nsd_into(store, root=trees["func1pt8mm"].root, subject=1, size=size, name=f"of-{size}")
    small, large = (subject_of(custom_artifact(f"of-{size}", store)) for size in (16, 24))
    assert small.stimuli.images.shape[1:] == (16, 16, 3)
    np.testing.assert_allclose(small.stimuli.images.mean((1, 2)), large.stimuli.images.mean((1, 2)), atol=1.5)
    np.testing.assert_array_equal(small.responses.values, large.responses.values)


def test_hemispheres_in_files_of_their_own_are_the_whole(trees, imported, tmp_path):
    tree = trees["func1pt8mm"]
    root = tmp_path / "copy"
    shutil.copytree(tree.root, root)
    whole = np.asarray(nibabel.load(root / ROI / "streams.nii.gz").dataobj).T
    left = np.arange(whole.shape[2]) < 3
    save_volume(root / ROI / "lh.streams.nii.gz", np.where(left, whole, -1).astype(np.int16))
    save_volume(root / ROI / "rh.streams.nii.gz", np.where(left, -1, whole).astype(np.int16))
    (root / ROI / "streams.nii.gz").unlink()
    store = ArtifactStore(tmp_path / "store")
    found = subject_of(custom_artifact(import_nsd_into(store, root=root, subject=1, size=24)["subject"], store))
    expected = imported["func1pt8mm"][0].responses.voxels
    assert found.responses.voxels.regions == expected.regions
    np.testing.assert_array_equal(found.responses.voxels.membership, expected.membership)


def test_a_session_that_does_not_vary_is_nothing_and_is_counted():
    values = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    z, flat = standardise(values)
    np.testing.assert_allclose(z, [[-1, 0], [1, 0]])
    assert flat == 1


def test_a_map_that_could_lie_two_ways_proves_nothing(rng):
    half = rng.random((4, 6, 6))
    mirrored = np.concatenate([half, half[::-1]])
    places = Places(mirrored.shape, np.arange(mirrored.size))
    with pytest.raises(MineError, match="rank correlation of 1.00, and 1.00 where"):
        prove_alignment(mirrored.ravel(), mirrored, places)
    own, rival = prove_alignment(half.ravel(), half, Places(half.shape, np.arange(half.size)))
    assert own == pytest.approx(1)
    assert rival < 0.5


def test_turned_axes_of_equal_length_are_found_out(rng):
    cube = rng.random((6, 6, 6))
    places = Places(cube.shape, np.arange(cube.size))
    for turned in (cube.transpose(0, 2, 1), cube[:, ::-1], cube.T):
        with pytest.raises(MineError, match="cannot be shown to agree"):
            prove_alignment(np.ascontiguousarray(turned).ravel(), cube, places)


def test_nothing_is_kept_of_an_import_that_was_stopped(trees, tmp_path):
    store, calls = ArtifactStore(tmp_path), iter(range(1000))
    with pytest.raises(Cancelled):
        import_nsd_into(store, root=trees["func1pt8mm"].root, subject=1, size=24, cancelled=lambda: next(calls) > 4)
    assert known_subjects(store) == ("phantom",)
    assert not [path for path in (tmp_path / "subject").rglob("*") if path.is_file()]


def test_the_command_imports_and_refuses_in_one_line(trees, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINE_CACHE", str(tmp_path))
    assert main(["import", "nsd", "--root", str(trees["func1pt8mm"].root), "--size", "24", "--name", "mini"]) == 0
    assert "subject: mini" in capsys.readouterr().out
    assert main(["import", "nsd"]) == 2
    assert main(["import", "--name", "x"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("mine: import nsd needs --root")
    assert said[1].startswith("mine: import custom needs --images, --responses")


def rewrite(path: Path, **changed) -> None:
    tables = {name: value for name, value in loadmat(path).items() if not name.startswith("__")} | changed
    savemat(path, {name: value for name, value in tables.items() if value is not None})


def betas(root: Path, change) -> None:
    path = root / BETAS / "betas_session02.hdf5"
    with h5py.File(path) as stream:
        values = stream["betas"][:]
    with h5py.File(path, "w") as stream:
        name, made = change(values)
        stream[name] = made


def volume(root: Path, name: str, change, affine=AFFINE) -> None:
    path = root / name
    values = np.asarray(nibabel.load(path).dataobj).T
    save_volume(path, change(values), affine)


def bricks(root: Path, name: str, change) -> None:
    path = root / STIMULI
    with h5py.File(path) as stream:
        values = stream["imgBrick"][:]
    with h5py.File(path, "w") as stream:
        stream[name] = change(values)


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def all_sessions(root: Path, change) -> None:
    for path in (root / BETAS).glob("betas_session*.hdf5"):
        with h5py.File(path) as stream:
            values = stream["betas"][:]
        with h5py.File(path, "w") as stream:
            stream["betas"] = change(values)


DAMAGE = {
    "no design": (lambda r: (r / DESIGN).unlink(), "no nsddata/experiments/nsd/nsd_expdesign.mat"),
    "no images": (lambda r: (r / STIMULI).unlink(), "no nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"),
    "no ratios": (lambda r: (r / BETAS / "ncsnr.nii.gz").unlink(), "no nsddata_betas/.*/ncsnr.nii.gz"),
    "no mask": (lambda r: (r / ROI / "nsdgeneral.nii.gz").unlink(), "no nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz"),
    "no session": (lambda r: [p.unlink() for p in (r / BETAS).glob("betas_s*")], "No session's responses .* betas_session01.hdf5"),
    "design cut off": (lambda r: cut(r / DESIGN), "cannot be read as a MATLAB file"),
    "design is text": (lambda r: (r / DESIGN).write_text("no"), "cannot be read as a MATLAB file"),
    "design lacks a table": (lambda r: rewrite(r / DESIGN, sharedix=None), "has no sharedix"),
    "orders out of range": (
        lambda r: rewrite(r / DESIGN, masterordering=np.full((1, 400), 131)),
        "131 to 131; subjectim has",
    ),
    "orders count from 0": (lambda r: rewrite(r / DESIGN, masterordering=np.zeros((1, 400))), "from 0 to 0"),
    "odd number of trials": (lambda r: rewrite(r / DESIGN, masterordering=np.ones((1, 401))), "has 401 trials; expected 40 sessions"),
    "seven subjects": (lambda r: rewrite(r / DESIGN, subjectim=np.ones((7, 130))), r"shape \(7, 130\); expected one row"),
    "images count from 0": (
        lambda r: rewrite(r / DESIGN, subjectim=np.tile(np.arange(130), (8, 1))),
        "holds 0; it counts",
    ),
    "images twice": (lambda r: rewrite(r / DESIGN, subjectim=np.ones((8, 130))), "names 129 images of subject 1 twice"),
    "strangers are shared": (lambda r: rewrite(r / DESIGN, sharedix=np.array([[4000]])), "1 of 1 images of sharedix are not among"),
    "orders are fractions": (lambda r: rewrite(r / DESIGN, masterordering=np.full((1, 400), 0.5)), "expected whole numbers"),
    "mask has other labels": (lambda r: volume(r, f"{ROI}/nsdgeneral.nii.gz", lambda v: v + 2), "labels 1, 2, 3; expected -1, 0 and 1"),
    "mask is empty": (lambda r: volume(r, f"{ROI}/nsdgeneral.nii.gz", lambda v: 0 * v), "no place with the label 1"),
    "mask on another grid": (lambda r: volume(r, f"{ROI}/nsdgeneral.nii.gz", lambda v: v[:-1]), r"a volume of \(7, 9, 7\)"),
    "mask placed otherwise": (lambda r: volume(r, f"{ROI}/nsdgeneral.nii.gz", lambda v: v, 2 * AFFINE), "placed otherwise"),
    "regions without names": (lambda r: (r / LABELS / "streams.mgz.ctab").unlink(), "no .*streams.mgz.ctab, which names"),
    "regions with a nameless label": (lambda r: (r / LABELS / "streams.mgz.ctab").write_text("1 early\n"), "holds the label 2"),
    "a table of prose": (lambda r: (r / LABELS / "streams.mgz.ctab").write_text("early is 1\n"), "line 1: 'early is 1'"),
    "labels are fractions": (lambda r: volume(r, f"{ROI}/streams.nii.gz", lambda v: v + 0.5), "not whole numbers"),
    "regions cut off": (lambda r: cut(r / ROI / "streams.nii.gz"), "streams.nii.gz cannot be read"),
    "ratios cut off": (lambda r: cut(r / BETAS / "ncsnr.nii.gz"), "ncsnr.nii.gz cannot be read"),
    "ratios below 0": (lambda r: volume(r, f"{BETAS}/ncsnr.nii.gz", lambda v: -v), "a ratio of signal to noise is 0 or more"),
    "ratios unknown": (lambda r: volume(r, f"{BETAS}/ncsnr.nii.gz", lambda v: np.nan * v), "is NaN at every place"),
    "ratios of another brain": (lambda r: volume(r, f"{BETAS}/ncsnr.nii.gz", lambda v: v[::-1, :, ::-1]), "cannot be shown to agree"),
    "responses cut off": (lambda r: cut(r / BETAS / "betas_session02.hdf5"), "betas_session02.hdf5 cannot be read"),
    "responses of another name": (lambda r: betas(r, lambda v: ("beta", v)), "no dataset 'betas', but beta"),
    "responses with turned axes": (lambda r: betas(r, lambda v: ("betas", v.transpose(0, 3, 2, 1))), "its axes are those of the NIfTI"),
    "responses are float": (lambda r: betas(r, lambda v: ("betas", v.astype(np.float32))), "holds float32; expected int16"),
    "a trial is missing": (lambda r: betas(r, lambda v: ("betas", v[:-1])), "has 89 trials, the design 90"),
    "responses flipped": (lambda r: all_sessions(r, lambda v: v[:, :, ::-1]), "cannot be shown to agree"),
    "too few images": (lambda r: bricks(r, "imgBrick", lambda v: v[:100]), "has 100 images, the design shows image"),
    "images of another name": (lambda r: bricks(r, "images", lambda v: v), "no dataset 'imgBrick'"),
    "grey images": (lambda r: bricks(r, "imgBrick", lambda v: v[..., :1]), "expected uint8 images x side x side x 3"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_copy_is_refused_in_one_line_and_nothing_is_kept(trees, tmp_path, name):
    damage, expected = DAMAGE[name]
    root = tmp_path / "copy"
    shutil.copytree(trees["func1pt8mm"].root, root)
    damage(root)
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(MineError, match=expected) as refusal:
        import_nsd_into(store, root=root, subject=1, size=24)
    assert "\n" not in str(refusal.value)
    assert known_subjects(store) == ("phantom",)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"subject": 9}, "has 1 to 8"),
        ({"space": "func2mm"}, "expected one of func1pt8mm, fsaverage"),
        ({"size": 5}, "5 pixels were asked for"),
        ({"name": "a b"}, "The name 'a b'"),
        ({"subject": 2}, "no nsddata_betas/ppdata/subj02"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(trees, tmp_path, asked, expected):
    with pytest.raises(MineError, match=expected):
        import_nsd_into(ArtifactStore(tmp_path), **{"root": trees["func1pt8mm"].root, "subject": 1, "size": 24} | asked)


def test_a_hemisphere_that_is_missing_is_named(trees, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(trees["fsaverage"].root, root)
    (root / f"nsddata_betas/ppdata/subj01/fsaverage/{VERSION}/rh.betas_session02.mgh").unlink()
    with pytest.raises(MineError, match="Session 2 lacks .*rh.betas_session02.mgh"):
        import_nsd_into(ArtifactStore(tmp_path / "store"), root=root, subject=1, space="fsaverage", size=24)
