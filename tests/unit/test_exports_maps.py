"""Exported maps are read back to the last bit, lie where the reference says, and are refused once they are damaged."""

from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
from exports_case import AFFINE, GRID, SURFACE, awkward, data_files, exported, placed, record_of
from nilearn.surface import load_surf_data
from nsd_tree import write as write_nsd

from mine_core.artifacts import ArtifactStore
from mine_core.config import cache_directory
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet
from mine_core.cortex.s1 import s1_voxels
from mine_core.description.search import parse_query
from mine_core.errors import ConfigError, SubjectError
from mine_core.exports.derivative import check_folder, read_map, write_map
from mine_core.exports.files import DATA_FORMATS, Sources, exact, fitting_formats, voxel_table, write_data
from mine_core.exports.records import WITHHELD, group_record, image_record, offered_scores, score_record, search_record
from mine_core.exports.space import Space, in_mm, pycortex_of, space_of
from mine_core.instrument.search import search_text
from mine_core.instrument.subjects import custom_artifact, import_nsd_into, subject_of
from mine_core.types import EncodingScore


@pytest.mark.parametrize("place", ["volume", "surface"])
def test_every_format_is_read_back_to_the_last_bit(place, request, small, rng, tmp_path):
    instrument = request.getfixturevalue(place)
    space, voxels = space_of(instrument, tmp_path), instrument.subject.responses.voxels
    values = awkward(rng, len(voxels))
    formats = fitting_formats(space)
    assert set(DATA_FORMATS) - set(formats) == {"gifti" if place == "volume" else "nifti"}
    write_map(instrument, small.store, space, record_of(values), tmp_path / "out", formats)
    read = [path for path in (tmp_path / "out").glob("sub-*/*") if path.suffix != ".json"]
    assert len(read) == (4 if place == "volume" else 5)
    for path in read:
        np.testing.assert_array_equal(read_map(path, voxels).view(np.uint32), values.view(np.uint32), err_msg=path.name)


def test_100_000_numbers_survive_as_text(rng):
    values = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    np.testing.assert_array_equal(np.array([np.float32(text) for text in exact(values)]).view(np.uint32), values.view(np.uint32))


def test_the_volume_lies_where_the_affine_says(volume, small, tmp_path):
    """An asymmetric plant: the value at [i, j, k] is a function of i, j and k, each with a weight of its own."""
    space, voxels = space_of(volume, tmp_path), volume.subject.responses.voxels
    k, j, i = (axis.astype(np.float32) for axis in np.unravel_index(voxels.flat_index, GRID))
    write_map(volume, small.store, space, record_of(100 * i + 10 * j + k), tmp_path / "out", ("nifti", "tsv"))
    image = nibabel.load(next((tmp_path / "out").glob("sub-*/*.nii.gz")))
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.shape == GRID[::-1] and image.get_data_dtype() == np.float32
    found = image.get_fdata()
    for place in np.argwhere(np.isfinite(found)):
        assert found[tuple(place)] == 100 * place[0] + 10 * place[1] + place[2]
    assert np.isfinite(found).sum() == len(voxels)
    table = pd.read_csv(next((tmp_path / "out").glob("sub-*/*.tsv")), sep="\t")
    by_nibabel = nibabel.affines.apply_affine(image.affine, table[["i", "j", "k"]])
    np.testing.assert_allclose(table[["x", "y", "z"]], by_nibabel, rtol=1e-6)
    np.testing.assert_array_equal(found[table["i"], table["j"], table["k"]], table["value"])


@pytest.fixture(scope="module")
def phantom_places():
    """S1 as the cache of this machine holds it, built there first if need be, and pycortex's own word on its volume."""
    cache = cache_directory()
    return s1_voxels(cache), open_pycortex(cache)


def test_the_phantom_lies_where_pycortex_puts_it(phantom_places, small, rng, tmp_path):
    """pycortex's own writer of NIfTI, and the anatomy: what is called left lies left in the scanner's coordinates."""
    place, cortex = phantom_places
    n = len(small.instrument.score.r)
    chosen = np.sort(rng.choice(len(place.index), n, replace=False))
    instrument = placed(small.instrument, place.index.grid_shape, place.index.flat_index[chosen])
    with PYCORTEX_LOCK, quiet():
        reference = cortex.db.get_xfm("S1", "fullhead").reference
    sides = tuple("L" if side < 0 else "R" for side in place.hemisphere[chosen])
    space = Space("volume", "S1fullhead", np.array(reference.affine), sides, "S1")
    values = rng.normal(size=n).astype(np.float32)
    write_map(instrument, small.store, space, record_of(values), tmp_path / "out", ("nifti",))
    ours = nibabel.load(next((tmp_path / "out").glob("sub-*/*.nii.gz")))
    volume = np.full(place.index.grid_shape, np.nan, np.float32)
    volume.reshape(-1)[place.index.flat_index[chosen]] = values
    with PYCORTEX_LOCK, quiet():
        cortex.Volume(volume, "S1", "fullhead").save_nii(str(tmp_path / "theirs.nii"))
    theirs = nibabel.load(tmp_path / "theirs.nii")
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata()[..., 0])  # they keep an axis of time
    with PYCORTEX_LOCK, quiet():
        read = cortex.Volume(ours.get_filename(), "S1", "fullhead").volume[0]
    np.testing.assert_array_equal(read, volume)
    np.testing.assert_array_equal(ours.affine, reference.affine)
    assert ours.shape == reference.shape
    x = in_mm(space, instrument.subject.responses.voxels)[:, 0]
    left = np.array(sides) == "L"
    assert np.median(x[left]) < -5 and np.median(x[~left]) > 5


def test_the_space_of_the_phantom_is_that_of_the_reference(phantom_places, small):
    place, cortex = phantom_places
    responses = small.instrument.subject.responses
    subject = replace(small.instrument.subject, kind="phantom", responses=replace(responses, voxels=place.index))
    space = space_of(replace(small.instrument, subject=subject), cache_directory())
    with PYCORTEX_LOCK, quiet():
        np.testing.assert_array_equal(space.affine, cortex.db.get_xfm("S1", "fullhead").reference.affine)
    assert (space.kind, space.label, len(space.hemisphere)) == ("volume", "S1fullhead", len(place.index))
    # anatomy, in the coordinates of NIfTI (right, anterior, superior): V1 is behind FFA, IPS above it, left is left
    mm, left = in_mm(space, place.index), np.array(space.hemisphere) == "L"
    median = {name: np.median(mm[place.index.in_region(name)], axis=0) for name in ("V1", "FFA", "IPS")}
    assert median["V1"][1] < median["FFA"][1] - 10 and median["IPS"][2] > median["FFA"][2] + 20
    assert (mm[left, 0][:, None] < mm[~left, 0]).mean() > 0.95
    shuffled = replace(place.index, flat_index=place.index.flat_index[::-1])
    moved = replace(subject, responses=replace(responses, voxels=shuffled))
    with pytest.raises(SubjectError, match="not those of the cortex S1"):
        space_of(replace(small.instrument, subject=moved), cache_directory())


def test_an_nsd_subject_keeps_the_affine_of_its_volumes(small, tmp_path):
    """From published files to an exported one: it has values exactly where the published mask and ratios do, and their affine."""
    tree = write_nsd(tmp_path / "nsd")
    for path in (tmp_path / "nsd").rglob("*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), AFFINE), path)
    report = import_nsd_into(ArtifactStore(tmp_path / "store"), root=tree.root, subject=1, size=24)
    subject = subject_of(custom_artifact(report["subject"], ArtifactStore(tmp_path / "store")))
    n = len(subject.responses.voxels)
    kept = np.linspace(0.1, 0.9, n)
    instrument = replace(small.instrument, subject=subject, score=EncodingScore(kept, kept, kept, kept, kept, 20, 99))
    space = space_of(instrument, tmp_path)
    write_map(instrument, small.store, space, score_record(instrument, "accuracy"), tmp_path / "out", ("nifti",))
    ours = nibabel.load(next((tmp_path / "out").glob("sub-*/*.nii.gz")))
    folder = tmp_path / "nsd/nsddata/ppdata/subj01/func1pt8mm/roi"
    mask = nibabel.load(folder / "nsdgeneral.nii.gz")
    ratio = nibabel.load(next((tmp_path / "nsd").rglob("ncsnr.nii.gz")))
    np.testing.assert_array_equal(np.isfinite(ours.get_fdata()), (mask.get_fdata() == 1) & np.isfinite(ratio.get_fdata()))
    np.testing.assert_array_equal(ours.affine, mask.affine)
    np.testing.assert_allclose(ours.affine, AFFINE, rtol=1e-6)


def test_a_surface_has_a_number_where_a_vertex_is_and_none_elsewhere(surface, small, rng, tmp_path):
    space, voxels = space_of(surface, tmp_path), surface.subject.responses.voxels
    values = rng.normal(size=len(voxels)).astype(np.float32)
    write_map(surface, small.store, space, record_of(values), tmp_path / "out", ("gifti", "tsv"))
    for number, side in enumerate("LR"):
        path = next((tmp_path / "out").glob(f"sub-*/*_hemi-{side}_space-fsaverage_*.func.gii"))
        image = nibabel.load(path)
        assert image.meta["AnatomicalStructurePrimary"] == {"L": "CortexLeft", "R": "CortexRight"}[side]
        array = image.darrays[0].data
        assert array.shape == (SURFACE[1],) and array.dtype == np.float32
        here = voxels.flat_index // SURFACE[1] == number
        vertices = voxels.flat_index[here] % SURFACE[1]
        np.testing.assert_array_equal(array[vertices], values[here])
        np.testing.assert_array_equal(load_surf_data(path), array)  # as nilearn reads it
        assert np.isfinite(array).sum() == here.sum()
    table = pd.read_csv(next((tmp_path / "out").glob("sub-*/*.tsv")), sep="\t")
    assert table["hemisphere"].map({"L": 0, "R": 1}).to_numpy().tolist() == (voxels.flat_index // SURFACE[1]).tolist()
    assert table["vertex"].tolist() == (voxels.flat_index % SURFACE[1]).tolist()


def test_a_table_has_a_row_for_every_voxel_and_says_which_are_withheld(volume, rng, tmp_path):
    values = awkward(rng, len(volume.score.r))
    table = voxel_table(Sources.of(volume, space_of(volume, tmp_path), record_of(values)))
    assert table["voxel"].tolist() == list(range(len(values)))
    assert ((table["value"] == "n/a") == np.isnan(values)).all() and ((table["withheld"] == WITHHELD) == np.isnan(values)).all()
    assert ((table["reliable"] == "yes") == volume.reliable).all()
    np.testing.assert_allclose(table["r"].astype(float), volume.score.r, rtol=1e-6)
    regions = volume.subject.responses.voxels
    assert table["regions"].tolist() == [" | ".join(regions.region_names(v)) or "n/a" for v in range(len(values))]


def test_maps_of_accuracy_are_the_instruments_own(small):
    instrument = small.instrument
    score = instrument.score
    np.testing.assert_array_equal(score_record(instrument, "accuracy").values, np.float32(score.r))
    np.testing.assert_array_equal(score_record(instrument, "q").values, np.float32(score.q))
    known = score.noise_ceiling >= 0.1
    normalised = score_record(instrument, "normalised").values
    np.testing.assert_allclose(normalised[known], score.r2[known] / score.noise_ceiling[known], rtol=1e-6)
    assert np.isnan(normalised[~known]).all()
    with pytest.raises(ConfigError, match="no map 'fame'.*accuracy"):
        score_record(instrument, "fame")
    blind = replace(instrument, score=replace(score, noise_ceiling=np.full(len(score.r), np.nan)))
    assert offered_scores(blind) == ("accuracy", "q")


def test_what_is_withheld_on_a_page_is_withheld_in_a_file(small):
    instrument = small.instrument
    found = search_text(instrument, parse_query("a dog"))
    for record in (image_record(instrument, 3), group_record(instrument), search_record(instrument, found)):
        silent = np.isnan(record.values)
        assert silent[~instrument.reliable].all()
        assert [bool(reason) for reason in record.withheld] == silent.tolist()
        assert record.name.isalnum() and record.null and record.definition and record.nature
    assert search_record(instrument, found).n_images == found.n_held_out
    with pytest.raises(SubjectError, match="images 0 to 109"):
        image_record(instrument, 110)


@pytest.mark.parametrize(
    ("grid", "cortex", "label", "pycortex"),
    [
        (GRID, {"kind": "slices", "subject": "", "transform": ""}, "native", None),
        (GRID, {"kind": "pycortex", "subject": "S1", "transform": "full-head"}, "S1fullhead", ("S1", "full-head")),
        ((2, 10242), {"kind": "fsaverage", "subject": "", "transform": ""}, "fsaverage5", None),
        ((2, 10242), {"kind": "mapper", "subject": "", "transform": ""}, "native", None),
    ],
)
def test_a_users_own_cortex_is_named_as_it_was_imported(grid, cortex, label, pycortex, small, tmp_path):
    flat_index = np.arange(len(small.instrument.score.r))
    record = {"cortex": cortex, "affine": AFFINE.tolist() if len(grid) == 3 else None}
    instrument = placed(small.instrument, grid, flat_index, kind="custom", provenance={"import": record})
    space = space_of(instrument, tmp_path)
    assert (space.label, pycortex_of(instrument)) == (label, pycortex)
    folder = exported(instrument, small, tmp_path)
    assert any(path.name.endswith(".nii.gz" if len(grid) == 3 else ".func.gii") for path in data_files(folder))
    check_folder(folder, instrument.subject.responses.voxels)


@pytest.mark.parametrize("name", ["nifti", "gifti"])
def test_a_subject_without_a_place_is_told_what_else_can_be_written(name, small, tmp_path):
    space = space_of(small.instrument, tmp_path)
    assert space.kind == "units" and fitting_formats(space) == ("npz", "tsv", "csv")
    with pytest.raises(SubjectError, match="no place in a volume or on a surface; write npz, tsv or csv"):
        write_map(small.instrument, small.store, space, score_record(small.instrument, "accuracy"), tmp_path / "out", (name,))
    assert not list(tmp_path.glob("out/sub-*/*"))


def test_a_volume_without_an_affine_is_not_guessed(volume, tmp_path):
    old = replace(volume, subject=replace(volume.subject, provenance={"import": {}}))
    space = space_of(old, tmp_path)
    assert space.affine is None and "nifti" not in fitting_formats(space)
    with pytest.raises(SubjectError, match="affine of its volume was not kept.*Import it again"):
        write_data(Sources.of(old, space, score_record(old, "accuracy")), "sub-x_desc-y", tmp_path, "nifti")
