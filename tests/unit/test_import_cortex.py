"""What an imported recording is drawn on: the phantom's own responses as files give the phantom's own flatmap and voxels."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from brain_files import N_STIMULI, mapper, nifti, npy, pictures, refusal
from scipy import sparse
from scipy.ndimage import distance_transform_edt

from mine_core.artifacts import ArtifactStore
from mine_core.backbones.presets import backbone_available
from mine_core.config import InstrumentConfig
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex
from mine_core.cortex.flatmap import FlatMap, load_flatmap, voxel_at
from mine_core.cortex.projection import project
from mine_core.cortex.s1 import HEIGHT as MAP_HEIGHT
from mine_core.cortex.s1 import CortexVoxels, retinotopic_coordinates, s1_artifact
from mine_core.instrument import build_instrument
from mine_core.instrument.explain import explain_voxel
from mine_core.instrument.own_cortex import check_pycortex
from mine_core.instrument.stages import Run, stages_of
from mine_core.instrument.subjects import custom_artifact, import_into, subject_of
from mine_core.subjects.custom import describe_import, import_subject
from mine_core.subjects.custom.cortices import CortexChoice
from mine_core.subjects.custom.mapper import read_mapper
from mine_core.subjects.custom.responses import Places
from mine_core.subjects.phantom.build import PhantomCortex, build_phantom
from mine_core.subjects.store import load_subject
from mine_core.types import Subject

S1 = {"pycortex_subject": "S1", "pycortex_transform": "fullhead"}
AXES = ("stimulus", "voxel")


@dataclass(frozen=True)
class Planted:
    """A phantom of few stimuli, its flatmap, and the same thing as a laboratory would hand it over."""

    store: ArtifactStore
    subject: Subject
    flatmap: FlatMap
    mask: np.ndarray
    affine: np.ndarray
    betas: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    store = ArtifactStore(tmp_path_factory.mktemp("cache"))
    cortex = s1_artifact(store.root)
    voxels = CortexVoxels.load(cortex.path)
    folder = tmp_path_factory.mktemp("phantom")
    (folder / "truth").mkdir()
    lying = PhantomCortex(voxels.index, voxels.hemisphere < 0, retinotopic_coordinates(voxels), voxels.mm)
    build_phantom(folder, folder / "truth", seed=1, cortex=lying, n_train=300, n_validation=10, n_test=10, image_size=48)
    subject = load_subject(folder)
    index = subject.responses.voxels
    shape = index.grid_shape
    volume = np.zeros((N_STIMULI, *shape), np.float32)
    volume.reshape(N_STIMULI, -1)[:, index.flat_index] = subject.responses.values[:N_STIMULI]
    mask, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.int16)
    mask.reshape(-1)[index.flat_index] = 1
    # labels of voxels in two regions would not be whole: the first region of each
    of_voxel = np.where(index.membership.any(axis=0), index.membership.argmax(axis=0) + 1, 0)
    labels.reshape(-1)[index.flat_index] = of_voxel
    with PYCORTEX_LOCK:
        reference = open_pycortex(store.root).db.get_xfm("S1", "fullhead").reference
    betas = np.moveaxis(volume, 0, -1).transpose(2, 1, 0, 3)
    return Planted(store, subject, load_flatmap(cortex.path), mask.T, np.array(reference.affine), betas, labels.T)


def drawn(store: ArtifactStore, name: str) -> FlatMap:
    return load_flatmap(Run(store, None, None).make(stages_of(InstrumentConfig(name), store)[:1], {})["cortex"].path)


def images_of(planted: Planted) -> bytes:
    return npy(np.array(planted.subject.stimuli.images[:N_STIMULI]))


def test_the_phantom_as_nifti_and_mask_is_the_phantom(planted: Planted) -> None:
    names = planted.subject.responses.voxels.regions
    report = import_into(
        planted.store,
        name="as-files",
        images=images_of(planted),
        responses=nifti(planted.betas, planted.affine, packed=True),
        mask=nifti(planted.mask, planted.affine),
        regions=nifti(planted.labels, planted.affine),
        region_names="\n".join(["value,name", *(f"{i},{name}" for i, name in enumerate(names, 1))]).encode(),
        **S1,
    )
    assert any(line.startswith("Placed on the cortex by the affine of transform 'fullhead'") for line in report["report"])
    found, own = subject_of(custom_artifact("as-files", planted.store)), planted.subject.responses
    index = found.responses.voxels
    assert found.cortex == "S1" and index.grid_shape == own.voxels.grid_shape and index.regions == own.voxels.regions
    np.testing.assert_array_equal(index.flat_index, own.voxels.flat_index)
    np.testing.assert_array_equal(found.responses.values, own.values[:N_STIMULI])
    alone = own.voxels.membership.sum(axis=0) <= 1
    np.testing.assert_array_equal(index.membership[:, alone], own.voxels.membership[:, alone])
    theirs, ours = planted.flatmap, drawn(planted.store, "as-files")
    for name in ("pixel_voxel", "curvature", "centres"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.px_per_mm == theirs.px_per_mm
    assert [outline.name for outline in ours.outlines] == [outline.name for outline in theirs.outlines]
    for one, other in zip(ours.outlines, theirs.outlines, strict=True):
        for polygon, same in zip(one.polygons, other.polygons, strict=True):
            np.testing.assert_array_equal(polygon, same)


def test_a_table_in_pycortex_order_is_the_phantom_too(planted: Planted) -> None:
    given = {"mask": nifti(planted.mask, planted.affine), "mask_order": "zyx", **S1}
    values = np.array(planted.subject.responses.values[:N_STIMULI])
    import_into(planted.store, name="as-table", images=images_of(planted), responses=npy(values), response_axes=AXES, **given)
    np.testing.assert_array_equal(drawn(planted.store, "as-table").pixel_voxel, planted.flatmap.pixel_voxel)
    outlined = {outline.name for outline in drawn(planted.store, "as-table").outlines}
    assert outlined >= {outline.name for outline in planted.flatmap.outlines}
    found, own = subject_of(custom_artifact("as-table", planted.store)).responses.voxels, planted.subject.responses.voxels
    assert set(own.regions) < set(found.regions)
    for name, inside in zip(own.regions, own.membership, strict=True):
        np.testing.assert_array_equal(found.membership[found.regions.index(name)], inside)


def test_the_whole_instrument_stands_on_a_cortex_of_ones_own(planted: Planted) -> None:
    if not backbone_available("phantom").ready:
        pytest.skip("the weights of the phantom's backbone are not in assets/backbones")
    few = np.zeros(planted.mask.size, np.uint8)
    few[np.flatnonzero(planted.mask)[::40]] = 1
    few = few.reshape(planted.mask.shape)
    given = {"responses": nifti(planted.betas, planted.affine), "mask": nifti(few, planted.affine), **S1}
    import_into(planted.store, name="few", images=images_of(planted), **given)
    instrument = build_instrument(InstrumentConfig("few"), planted.store)
    flatmap, voxels = instrument.flatmap, instrument.subject.responses.voxels
    assert len(voxels) == few.sum()
    shown = int(np.flatnonzero(flatmap.centres[:, 0] >= 0)[7])
    assert voxel_at(flatmap, *flatmap.centres[shown].tolist()) == shown
    assert len(explain_voxel(instrument, shown, n=2)) == 2
    place = planted.subject.responses.voxels.flat_index.tolist().index(int(voxels.flat_index[shown]))
    np.testing.assert_array_equal(instrument.subject.responses.values[:, shown], planted.subject.responses.values[:N_STIMULI, place])


def test_without_the_affine_the_place_is_proved_by_the_cortex(planted: Planted) -> None:
    other = np.diag([2.24, 2.24, 4.13, 1])
    given = {"images": images_of(planted), "responses": nifti(planted.betas, other), **S1}
    report = import_into(planted.store, name="moved", mask=nifti(planted.mask, other), **given)
    assert any("by where voxels lie" in line and "100% of voxels lie within 2 mm" in line for line in report["report"])
    turned, betas = planted.mask[::-1], planted.betas[::-1]
    given |= {"responses": nifti(betas, other)}
    message = refusal(import_into, planted.store, name="x", mask=nifti(turned, other), **given)
    own, rival = (float(number) for number in re.findall(r"correlation of (-?\d\.\d+), (\d\.\d+) if it is flipped", message)[0])
    assert own < rival


def test_a_thick_mask_is_placed_and_one_that_is_alike_both_ways_is_not(planted: Planted) -> None:
    """As pycortex makes masks for responses: more than half of the voxels lie away from the surface."""
    near = np.zeros(planted.subject.responses.voxels.grid_shape, bool)
    projection = project(planted.store.root, "S1", "fullhead", MAP_HEIGHT)
    near.reshape(-1)[projection.surface_voxels.flat_index] = True
    thick = distance_transform_edt(~near, sampling=(4.13, 2.24, 2.24)) < 8
    assert near.sum() < thick.sum() / 2
    choice = CortexChoice("pycortex", "S1", "fullhead")

    def said(mask: np.ndarray) -> str:
        return check_pycortex(planted.store.root, choice, Places(mask.shape, np.flatnonzero(mask), np.eye(4)))[0]

    assert "by where voxels lie" in said(thick)
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        assert "if it is flipped or turned" in refusal(said, np.flip(thick, axes))
    assert "if it is flipped or turned" in refusal(said, np.ones_like(thick))
    assert "if it is flipped or turned" in refusal(said, thick | thick[:, :, ::-1])


def test_cortices_that_are_not_there_or_of_another_shape(planted: Planted, rng: np.random.Generator) -> None:
    def said(**named: str) -> str:
        few = planted.betas[..., :N_STIMULI]
        given = {"responses": nifti(few, planted.affine), "mask": nifti(planted.mask, planted.affine)}
        return refusal(import_into, planted.store, name="x", images=b"never read", **given, **named)

    message = said(pycortex_subject="S1", pycortex_transform="retinotopy")
    assert "The mask is 31 x 100 x 100 (z, y, x)" in message and "22 x 72 x 72; expected the same grid" in message
    assert "Cortex 'S7' was asked for" in said(pycortex_subject="S7", pycortex_transform="fullhead")
    assert "Transform 'half' was asked for; cortex 'S1' has fullhead, retinotopy" in said(
        pycortex_subject="S1", pycortex_transform="half"
    )
    assert "the pycortex subject 'S1', its transform ''" in said(pycortex_subject="S1")
    assert "The cortex is slices, the pycortex subject 'S1'" in said(cortex="slices", **S1)
    table = {"images": pictures(rng), "responses": npy(rng.normal(size=(N_STIMULI, 9))), "response_axes": AXES}
    assert "the 9 voxels have no place in a volume" in refusal(import_into, planted.store, name="x", **table, **S1)
    assert "the 9 voxels have no place" in refusal(import_into, planted.store, name="x", **table, cortex="slices")
    assert "no mapper was given" in refusal(import_into, planted.store, name="x", **table, cortex="mapper")


def test_more_voxels_than_can_be_laid_out_without_a_cortex(tmp_path: Path, rng: np.random.Generator) -> None:
    given = {"images": pictures(rng), "responses": npy(rng.normal(size=(N_STIMULI, 5001))), "response_axes": AXES}
    message = refusal(import_into, ArtifactStore(tmp_path), name="x", **given)
    assert "5,001 voxels and no cortex; at most 5,000" in message


# --- mapper ----------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, N_VOXELS = 40, 24, 30


@pytest.fixture
def flat(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, sparse.csr_matrix, np.ndarray]:
    """A mapper whose pixels hold several voxels each, none of them alike, and the matrix and mask in it."""
    mask = rng.random((WIDTH, HEIGHT)) < 0.6
    weights = rng.random((int(mask.sum()), N_VOXELS)) * (rng.random((int(mask.sum()), N_VOXELS)) < 0.1)
    matrix = sparse.csr_matrix(weights)
    folds = np.where(rng.random((WIDTH, HEIGHT)) < 0.5, 0.25, 0.75)
    regions = {"roi_mask_V1": np.arange(N_VOXELS) < 11, "roi_mask_FFA": (np.arange(N_VOXELS) > 20).astype(np.uint8)}
    return mapper(tmp_path / "mapper.hdf", matrix, mask, flatmap_curvature=folds, **regions), matrix, mask


def as_its_authors_show(matrix: sparse.csr_matrix, mask: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """The picture of one value per voxel, as the tutorials of the mapper's authors make it (written from their documentation)."""
    picture = np.full(mask.shape, np.nan)
    weight = np.asarray(matrix.sum(axis=1)).ravel()
    picture[mask] = np.where(weight > 0, matrix @ voxels, np.nan)
    return picture.T[::-1]


def test_a_pixel_shows_the_voxel_that_its_authors_weigh_most(flat: tuple[Path, sparse.csr_matrix, np.ndarray]) -> None:
    path, matrix, mask = flat
    found = read_mapper(path)
    assert found.pixel_voxel.shape == (HEIGHT, WIDTH) and found.n_voxels == N_VOXELS and found.regions == ("FFA", "V1")
    shares = np.stack([as_its_authors_show(matrix, mask, np.eye(N_VOXELS)[voxel]) for voxel in range(N_VOXELS)])
    shown = np.isfinite(shares[0])
    np.testing.assert_array_equal(found.pixel_voxel >= 0, shown)
    np.testing.assert_array_equal(found.pixel_voxel[shown], shares[:, shown].argmax(axis=0))
    np.testing.assert_array_equal(np.isfinite(found.curvature), mask.T[::-1])


def test_a_mapper_draws_the_voxels_that_are_kept(tmp_path: Path, rng: np.random.Generator, flat: tuple) -> None:
    path, matrix, mask = flat
    values = rng.normal(size=(N_STIMULI, N_VOXELS)).astype(np.float32)
    values[:, 4] = 1.0
    store = ArtifactStore(tmp_path / "store")
    given = {"images": pictures(rng), "responses": npy(values), "response_axes": AXES, "mapper": path, "drop_incomplete": True}
    import_into(store, name="lab", **given)
    subject = subject_of(custom_artifact("lab", store))
    kept = np.delete(np.arange(N_VOXELS), 4)
    assert subject.cortex == "mapper" and subject.responses.voxels.regions == ("FFA", "V1")
    np.testing.assert_array_equal(subject.responses.voxels.membership[1], kept < 11)
    path.unlink()
    flatmap = drawn(store, "lab")
    shares = np.stack([as_its_authors_show(matrix, mask, np.eye(N_VOXELS)[voxel]) for voxel in range(N_VOXELS)])
    expected = np.where(np.isfinite(shares[0]), shares.argmax(axis=0), -1)
    on = flatmap.pixel_voxel >= 0
    np.testing.assert_array_equal(kept[flatmap.pixel_voxel[on]], expected[on])
    np.testing.assert_array_equal(~on, (expected == -1) | (expected == 4))
    np.testing.assert_array_equal(subject.responses.values, np.delete(values, 4, axis=1))
    assert any("the flatmap of the mapper" in line for line in describe_import(subject))


def test_mappers_that_do_not_fit(tmp_path: Path, rng: np.random.Generator, flat: tuple) -> None:
    path, matrix, mask = flat
    values = npy(rng.normal(size=(N_STIMULI, N_VOXELS + 3)))
    message = refusal(import_subject, "a", pictures(rng), values, AXES, mapper=path)
    assert "mapper is of 30 voxels, the responses have 33" in message
    assert "Expected a mapper as HDF5" in refusal(read_mapper, npy(np.ones(3)))
    fewer = mapper(tmp_path / "fewer.hdf", matrix, np.ones_like(mask))
    assert f"has {mask.sum():,} rows, its flatmap_mask 960 pixels" in refusal(read_mapper, fewer)
    other = mapper(tmp_path / "other.hdf", matrix, mask, flatmap_curvature=np.zeros((3, 3)))
    assert "flatmap_curvature is 3 x 3" in refusal(read_mapper, other)
    short = mapper(tmp_path / "short.hdf", matrix, mask, roi_mask_V1=np.ones(4))
    assert "roi_mask_V1 has shape (4,); expected (30,)" in refusal(read_mapper, short)
    broken = matrix.copy()
    broken.indices = broken.indices + N_VOXELS
    assert "which its indices do not fit" in refusal(read_mapper, mapper(tmp_path / "broken.hdf", broken, mask))
    import h5py

    with h5py.File(tmp_path / "empty.hdf", "w") as file:
        file["flatmap_mask"] = mask
    assert "no dataset voxel_to_flatmap_data" in refusal(read_mapper, tmp_path / "empty.hdf")
