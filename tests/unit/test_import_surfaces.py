"""Responses as GIFTI or MGH, left and right: every vertex in its place, and refused in one line otherwise."""

import base64
import gzip
import zlib

import nibabel
import numpy as np
import pytest
from brain_files import N_STIMULI, gifti, mgh, nifti, npy, pictures, refusal
from nilearn.datasets import fetch_surf_fsaverage

from mine_core.artifacts import ArtifactStore
from mine_core.backbones.presets import backbone_available
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import load_flatmap, voxel_at
from mine_core.cortex.fsaverage import N_VERTICES, flat_fsaverage
from mine_core.instrument import build_instrument
from mine_core.instrument.explain import explain_voxel
from mine_core.instrument.stages import Run, stages_of
from mine_core.instrument.subjects import import_into
from mine_core.subjects.custom import describe_import, import_subject
from mine_core.subjects.custom.recording import read_recording

N = 40


@pytest.fixture
def sides(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(N, N_STIMULI)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("write", [gifti, mgh], ids=["gifti", "mgh"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_vertex_is_in_its_place_left_first(sides, write, packed):
    files = tuple(gzip.compress(write(side)) if packed else write(side) for side in sides)
    table = read_recording(files)
    assert table.places.shape == (2, N) and table.places.affine is None and table.axes == ("vertex", "stimulus")
    hemisphere, vertex = np.unravel_index(table.places.flat_index, table.places.shape)
    for voxel in (0, 17, N - 1, N, 2 * N - 1):
        np.testing.assert_array_equal(table.repeats[0, :, voxel], sides[hemisphere[voxel]][vertex[voxel]])


@pytest.mark.parametrize("encoding", ["GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ"])
def test_every_encoding_of_a_gifti_and_one_array_for_all(sides, encoding):
    files = tuple(gifti(side, encoding=encoding) for side in sides)
    np.testing.assert_allclose(read_recording(files).repeats, read_recording(tuple(mgh(side) for side in sides)).repeats, atol=1e-5)
    whole = [nibabel.GiftiImage(darrays=[nibabel.gifti.GiftiDataArray(side)]).to_bytes() for side in sides]
    np.testing.assert_array_equal(read_recording(tuple(whole)).repeats[0], np.concatenate(sides).T)


def test_a_mask_of_both_hemispheres(sides, rng):
    mask = [(rng.random((N, 1)) < 0.4).astype(np.float32) for _ in range(2)]
    table = read_recording(tuple(map(gifti, sides)), mask=tuple(map(mgh, mask)))
    inside = np.concatenate(mask)[:, 0] == 1
    np.testing.assert_array_equal(table.places.flat_index, np.flatnonzero(inside))
    np.testing.assert_array_equal(table.repeats[0], np.concatenate(sides)[inside].T)
    short = tuple(gifti(side[:-1]) for side in mask)
    assert "array of 2 x 39, the responses in one of 2 x 40" in refusal(read_recording, tuple(map(gifti, sides)), mask=short)
    nothing = tuple(gifti(0 * side) for side in mask)
    assert "is 0 at all 80 places" in refusal(read_recording, tuple(map(gifti, sides)), mask=nothing)


def test_hemispheres_that_do_not_fit(sides):
    left, right = sides
    message = refusal(read_recording, (gifti(left), gifti(right[:, :-2])))
    assert "60 columns on the left" in message and "58 on the right" in message
    assert "1 surface file; expected two" in refusal(read_recording, gifti(left))
    message = refusal(read_recording, (gifti(left, "CortexRight"), gifti(right, "CortexLeft")))
    assert "is of the right hemisphere and was given where the left is expected" in message


@pytest.mark.parametrize("names", [("rh.betas.mgh", "lh.betas.mgh"), ("sub-1_hemi-R_func.gii", "sub-1_hemi-L_func.gii")])
def test_names_that_say_the_other_hemisphere(tmp_path, sides, names):
    for name, side in zip(names, sides, strict=True):
        (tmp_path / name).write_bytes(gifti(side))
    assert "is of the right hemisphere" in refusal(read_recording, tuple(tmp_path / name for name in names))
    read_recording(tuple(tmp_path / name for name in names[::-1]))


def test_a_surface_is_no_data():
    shape = fetch_surf_fsaverage("fsaverage5")
    content = tuple(gzip.decompress(open(shape[f"pial_{side}"], "rb").read()) for side in ("left", "right"))  # noqa: PTH123, SIM115
    assert "hold the shape of a surface (points and triangles)" in refusal(read_recording, content)


def test_a_gifti_that_leads_elsewhere_or_unpacks_to_more(sides):
    whole = gifti(sides[0])
    outside = whole.replace(b'Encoding="GZipBase64Binary"', b'Encoding="ExternalFileBinary"', 1)
    assert "in another file" in refusal(read_recording, (outside, whole))
    start = whole.index(b"<!DOCTYPE")
    entity = whole[:start] + b'<!DOCTYPE GIFTI [<!ENTITY a "b">]>' + whole[whole.index(b">", start) + 1 :]
    assert "define XML entities" in refusal(read_recording, (entity, whole))
    start = whole.index(b"<Data>") + 6
    bomb = whole[:start] + base64.b64encode(zlib.compress(bytes(10**7))) + whole[whole.index(b"</Data>") :]
    assert "array 1 claims 40, 160 bytes, and unpacks to more" in refusal(read_recording, (bomb, whole))
    assert "no readable GIFTI" in refusal(read_recording, (whole[:-300], whole))
    uneven = gifti(sides[0]).replace(b'Dim0="40"', b'Dim0="39"', 1)
    assert "claims 39" in refusal(read_recording, (uneven, whole))


def test_an_mgh_that_is_cut_off_or_a_volume(sides):
    whole = mgh(sides[0])
    assert "end in column 60 of 60 of 40 vertices" in refusal(read_recording, (whole[: 284 + 4 * 40 * 60 - 8], mgh(sides[1])))
    assert "damaged or cut off" in refusal(read_recording, (gzip.compress(whole)[:-60], mgh(sides[1])))
    volume = nibabel.freesurfer.MGHImage(np.zeros((4, 5, 6), np.float32), np.eye(4)).to_bytes()
    assert "are 4 x 5 x 6 x 1; expected vertices x 1 x 1 x stimuli" in refusal(read_recording, (volume, volume))


def test_vertices_that_are_of_no_fsaverage(rng, sides):
    message = refusal(import_subject, "a", pictures(rng), tuple(map(mgh, sides)))
    assert "array of 2 x 40" in message and "10,242 (fsaverage5), 40,962 (fsaverage6), 163,842 (fsaverage)" in message
    native = import_subject("a", pictures(rng), tuple(map(mgh, sides)), cortex="none")
    assert native.responses.voxels.grid_shape == (2, N) and native.cortex == ""
    uneven = import_subject("a", pictures(rng), (mgh(sides[0]), mgh(sides[1][:-3])), cortex="none")
    assert uneven.responses.voxels.grid_shape == (2 * N - 3,)


def test_a_table_of_all_vertices_lies_on_fsaverage(rng):
    values = rng.normal(size=(N_STIMULI, 2 * N_VERTICES)).astype(np.float32)
    subject = import_subject("a", pictures(rng), npy(values), ("stimulus", "voxel"), cortex="fsaverage")
    assert subject.responses.voxels.grid_shape == (2, N_VERTICES) and subject.cortex == "fsaverage"
    np.testing.assert_array_equal(subject.responses.voxels.flat_index, np.arange(2 * N_VERTICES))
    message = refusal(import_subject, "a", pictures(rng), npy(values[:, 1:]), ("stimulus", "voxel"), cortex="fsaverage")
    assert "have 20,483 voxels; expected twice the vertices" in message


def test_ceilings_and_labels_on_the_same_vertices(rng, sides):
    ceiling = [rng.uniform(0, 1, (N, 1)).astype(np.float32) for _ in range(2)]
    labelled = [rng.integers(0, 3, (N, 1)).astype(np.int32) for _ in range(2)]
    given = {"cortex": "none", "noise_ceiling": tuple(map(gifti, ceiling)), "regions": tuple(map(mgh, labelled))}
    subject = import_subject("a", pictures(rng), tuple(map(gifti, sides)), **given, region_names=b"value,name\n1,V1\n2,V2\n")
    np.testing.assert_allclose(subject.noise_ceiling, np.concatenate(ceiling)[:, 0])
    np.testing.assert_array_equal(subject.responses.voxels.membership[1], np.concatenate(labelled)[:, 0] == 2)
    volume = nifti(np.ones((2, 2, 2), np.float32))
    message = refusal(import_subject, "a", pictures(rng), tuple(map(gifti, sides)), cortex="none", noise_ceiling=volume)
    assert "are a volume, the responses vertices" in message
    message = refusal(
        import_subject, "a", pictures(rng), tuple(map(gifti, sides)), cortex="none", noise_ceiling=tuple(map(gifti, sides))
    )
    assert "are 40 x 60 and 40 x 60, the responses lie in an array of 2 x 40" in message


def test_names_of_labels_may_come_with_a_gifti(rng, sides):
    labels = nibabel.gifti.GiftiLabelTable()
    for key, name in ((0, "???"), (3, "V1")):
        entry = nibabel.gifti.GiftiLabel(key)
        entry.label = name
        labels.labels.append(entry)
    array = nibabel.gifti.GiftiDataArray(np.where(np.arange(N) < 9, 3, 0).astype(np.int32), intent="NIFTI_INTENT_LABEL")
    content = nibabel.GiftiImage(darrays=[array], labeltable=labels).to_bytes()
    subject = import_subject("a", pictures(rng), tuple(map(gifti, sides)), cortex="none", regions=(content, content))
    assert subject.responses.voxels.regions == ("V1",) and subject.responses.voxels.membership.sum() == 18


def test_fsaverage5_goes_through_the_whole_instrument_without_a_download(tmp_path, rng, monkeypatch):
    """Vertices of the flat map's rim and of everywhere are found where nilearn's flat surface has them."""
    if not backbone_available("phantom").ready:
        pytest.skip("the weights of the phantom's backbone are not in assets/backbones")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a network was asked"))
    flat = flat_fsaverage().pixel_vertex
    seen = np.unique(flat[flat >= 0])
    chosen = np.zeros(2 * N_VERTICES, np.float32)
    chosen[rng.choice(seen, 300, replace=False)] = 1
    values = rng.normal(size=(2, N_VERTICES, N_STIMULI)).astype(np.float32)
    store = ArtifactStore(tmp_path)
    report = import_into(
        store,
        name="surface",
        images=npy(rng.integers(0, 256, (N_STIMULI, 96, 96, 3), dtype=np.uint8)),
        responses=tuple(gifti(side) for side in values),
        mask=tuple(mgh(side[:, None]) for side in chosen.reshape(2, -1)),
    )
    assert report["n_voxels"] == 300 and "average surface" in report["report"][0]
    config = InstrumentConfig("surface")
    drawn = load_flatmap(Run(store, None, None).make(stages_of(config, store)[:1], {})["cortex"].path)
    vertices = np.flatnonzero(chosen)
    y, x = np.nonzero(np.isin(flat, vertices))
    np.testing.assert_array_equal(vertices[drawn.pixel_voxel[y, x]], flat[y, x])
    assert len(drawn.hidden_voxels) == 0
    instrument = build_instrument(config, store)
    clicked = voxel_at(instrument.flatmap, *instrument.flatmap.centres[123].tolist())
    assert clicked == 123 and len(explain_voxel(instrument, clicked, n=3)) == 3
    np.testing.assert_array_equal(instrument.subject.responses.values, values.reshape(-1, N_STIMULI)[vertices].T)


def test_a_report_says_what_voxels_are_drawn_on(rng, sides):
    subject = import_subject("a", pictures(rng), tuple(map(mgh, sides)), cortex="none")
    assert any("80 x 60 float32, read as vertex,stimulus" in line for line in describe_import(subject))
