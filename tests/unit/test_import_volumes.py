"""Responses as NIfTI: every voxel where the mask has it, every number as nibabel reads it, and refused in one line otherwise."""

import gzip
import io

import nibabel
import numpy as np
import pytest
from brain_files import AFFINE, N_STIMULI, gifti, nifti, npy, pictures, refusal

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import load_flatmap, voxel_at
from mine_core.errors import Cancelled
from mine_core.instrument.stages import Run, stages_of
from mine_core.instrument.subjects import custom_artifact, import_into, subject_of
from mine_core.subjects.custom import describe_import, import_subject
from mine_core.subjects.custom.limits import MAX_FRAME_BYTES
from mine_core.subjects.custom.recording import read_recording
from mine_core.subjects.custom.volumes import distance_between, frames, read_header

GRID = (5, 7, 4)


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return (rng.random(GRID) < 0.3).astype(np.uint8)


@pytest.fixture
def betas(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(*GRID, N_STIMULI)).astype(np.float32)


def as_nibabel_reads(content: bytes) -> np.ndarray:
    data = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    kind = nibabel.Nifti2Image if data[4:6] == b"n+" else nibabel.Nifti1Image
    return np.asarray(kind.from_bytes(data).dataobj, np.float64)


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"second": True}, {"second": True, "packed": True}], ids=str)
def test_every_voxel_is_the_one_of_its_index(rng, mask, betas, options):
    subject = import_subject("a", pictures(rng), nifti(betas, **options), mask=nifti(mask))
    index = subject.responses.voxels
    assert index.grid_shape == GRID[::-1] and len(index) == mask.sum()
    z, y, x = np.unravel_index(index.flat_index, index.grid_shape)
    assert mask[x, y, z].all() and (np.diff(index.flat_index) > 0).all()
    np.testing.assert_array_equal(subject.responses.values, betas[x, y, z].T)
    record = subject.provenance["import"]
    np.testing.assert_allclose(record["affine"], AFFINE)
    assert record["cortex"]["kind"] == "slices"
    assert any("5 x 7 x 4 x 60 float32, read as x,y,z,stimulus" in line for line in describe_import(subject))


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint8", "int32", ">f4", "float64"])
def test_numbers_are_those_that_nibabel_reads(rng, mask, dtype):
    stored = rng.integers(0, 120, (*GRID, N_STIMULI)).astype(dtype)
    scaled = nifti(np.asarray(stored, stored.dtype.newbyteorder("=")), slope=1 / 300, inter=-0.25)
    content = nifti(stored) if np.dtype(dtype).byteorder == ">" else scaled
    table = read_recording(content, mask=nifti(mask))
    z, y, x = np.unravel_index(table.places.flat_index, table.places.shape)
    np.testing.assert_allclose(table.repeats[0], as_nibabel_reads(content)[x, y, z].T, rtol=1e-12)


def test_a_file_is_known_by_its_content(rng, tmp_path, mask, betas):
    path = tmp_path / "responses.csv"
    path.write_bytes(nifti(betas, packed=True))
    np.testing.assert_array_equal(
        read_recording(path, mask=nifti(mask)).repeats, read_recording(nifti(betas), mask=nifti(mask)).repeats
    )


def test_several_files_are_runs_or_repeats_as_one_says(rng, mask, betas):
    halves, other = (nifti(betas[..., :25]), nifti(betas[..., 25:])), betas + 1
    whole = read_recording(nifti(betas), mask=nifti(mask))
    runs = read_recording(halves, mask=nifti(mask), files_are="runs")
    np.testing.assert_array_equal(runs.repeats, whole.repeats)
    twice = read_recording((nifti(betas), nifti(other)), mask=nifti(mask), files_are="repeats")
    np.testing.assert_array_equal(twice.repeats[0], whole.repeats[0])
    np.testing.assert_array_equal(twice.repeats[1], read_recording(nifti(other), mask=nifti(mask)).repeats[0])
    assert "2 volumes" in refusal(read_recording, halves, mask=nifti(mask))
    assert "Repeats have 25, 35 volumes" in refusal(read_recording, halves, mask=nifti(mask), files_are="repeats")
    assert "One file" in refusal(read_recording, nifti(betas), mask=nifti(mask), files_are="runs")
    subject = import_subject("a", pictures(rng), (nifti(betas), nifti(other)), mask=nifti(mask), files_are="repeats")
    np.testing.assert_allclose(subject.responses.values, whole.repeats[0] + 0.5, atol=1e-6)
    assert any("Repeats: 2 to 2" in line for line in describe_import(subject))


def test_grids_that_differ_are_refused_with_numbers(mask, betas):
    turned = AFFINE.copy()
    turned[0] = [2.0, 0, 0, 42]
    message = refusal(read_recording, nifti(betas), mask=nifti(mask, turned))
    assert f"place a voxel up to {distance_between(AFFINE, turned, GRID):.1f} mm apart" in message and "8.0 mm apart" in message
    message = refusal(read_recording, nifti(betas), mask=nifti(mask[:, :6]))
    assert "is a volume of 5 x 7 x 4" in message and "one of 5 x 6 x 4" in message
    near = AFFINE.copy()
    near[0, 3] += 0.05
    read_recording(nifti(betas), mask=nifti(mask, near))


def test_masks_that_are_none(rng, mask, betas):
    def said(values: np.ndarray) -> str:
        return refusal(read_recording, nifti(betas), mask=nifti(values))

    assert "is 0 at all 140 places" in said(np.zeros(GRID, np.uint8))
    holes = mask.astype(np.float32)
    holes[0, 0, :3] = np.nan
    assert "is NaN at 3 of 140 places" in said(holes)
    assert "holds 1 other number than 0 and 1 (0.5)" in said(mask.astype(np.float32) * 0.5)
    assert "are 5 x 7 x 4 x 60; expected one volume" in said(betas)
    assert "no mask was given" in refusal(read_recording, nifti(betas))
    assert "surfaces; give the mask as NIfTI" in refusal(
        read_recording, nifti(betas), mask=(gifti(np.ones((6, 1), np.float32)), gifti(np.ones((6, 1), np.float32)))
    )


def test_three_axes_in_place_of_four(mask, betas):
    assert "are 5 x 7 x 4, 3 axes; expected four: x, y, z and stimulus" in refusal(
        read_recording, nifti(betas[..., 0]), mask=nifti(mask)
    )
    assert "5 axes" in refusal(read_recording, nifti(betas[..., None]), mask=nifti(mask))


def test_another_number_of_stimuli_than_images(rng, mask, betas):
    message = refusal(import_subject, "a", pictures(rng, 57), nifti(betas), mask=nifti(mask))
    assert "read as x,y,z,stimulus) have 60 stimuli, images 57" in message and "did you mean" not in message


def test_axes_are_for_tables_alone(mask, betas):
    assert "is a NIfTI volume, whose axes follow" in refusal(read_recording, nifti(betas), mask=nifti(mask), axes=("voxel", "stimulus"))
    assert "are not named" in refusal(read_recording, npy(betas[0, 0]))
    assert "of 2 kinds (a NIfTI volume, a table)" in refusal(read_recording, (nifti(betas), npy(betas[0, 0])), mask=nifti(mask))


def test_cut_off_or_changed_files(mask, betas):
    whole, packed = nifti(betas), nifti(betas, packed=True)
    assert "of 33,600 bytes are there. It was cut off" in refusal(read_recording, whole[:-100], mask=nifti(mask))
    assert "is damaged or cut off" in refusal(read_recording, packed[:-200], mask=nifti(mask))
    assert "holds more than the 33,600 bytes" in refusal(read_recording, whole + b"x", mask=nifti(mask))
    flipped = bytearray(packed)
    flipped[-6] ^= 1
    assert "damaged or cut off" in refusal(read_recording, bytes(flipped), mask=nifti(mask))


def test_a_header_that_claims_too_much_is_refused_before_anything_is_read(mask, betas, monkeypatch):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header["magic"], header["vox_offset"], header["datatype"], header["bitpix"] = b"n+1", 352, 16, 32
    bomb = gzip.compress(header.binaryblock + b"\0" * 1000)
    monkeypatch.setattr("mine_core.subjects.custom.volumes.frames", lambda *_: pytest.fail("values were read"))
    message = refusal(read_recording, nifti(betas), mask=bomb)
    assert "claim 2,000 x 2,000 x 2,000, 29.8 GiB a volume" in message and f"at most {MAX_FRAME_BYTES // 2**30} and" in message


def test_a_header_that_the_library_would_mend_is_refused(mask, betas):
    for place, changed, said in ((252, b"\x7b\0", "qform_code"), (80, b"\0\0\x80\xbf", "pixdim"), (108, b"\0\0\x80\x43", "vox offset")):
        content = bytearray(nifti(betas))
        content[place : place + len(changed)] = changed
        message = refusal(read_recording, bytes(content), mask=nifti(mask))
        assert "NIfTI header cannot be read" in message and said in message


def test_one_volume_is_in_memory_at_a_time(betas):
    given = frames(nifti(betas), read_header(nifti(betas), "Responses"))
    first = next(given)
    np.testing.assert_array_equal(first, betas[..., 0])


def test_half_of_a_pair_is_refused(betas, mask):
    holder = nibabel.Nifti1Pair.make_file_map({"header": io.BytesIO(), "image": io.BytesIO()})
    nibabel.Nifti1Pair(betas, AFFINE).to_file_map(holder)
    content = holder["header"].fileobj.getvalue()
    assert "half of a pair of files" in refusal(import_subject, "a", content, content, ("voxel", "stimulus"))


def test_values_that_are_missing_or_constant_are_named_by_voxel(rng, mask, betas):
    x, y, z = np.argwhere(mask)[0]
    betas[x, y, z] = 0
    assert "1 of" in (said := refusal(import_subject, "a", pictures(rng), nifti(betas), mask=nifti(mask))) and "do not vary" in said
    kept = import_subject("a", pictures(rng), nifti(betas), mask=nifti(mask), drop_incomplete=True).responses
    left = np.unravel_index(kept.voxels.flat_index, kept.voxels.grid_shape)
    assert len(kept.voxels) == mask.sum() - 1 and (x, y, z) not in set(zip(*left[::-1], strict=True))
    np.testing.assert_array_equal(kept.values, betas[left[2], left[1], left[0]].T)


def test_ceilings_and_regions_on_the_same_grid(rng, mask, betas):
    ceiling = np.where(mask, rng.uniform(0.1, 0.9, GRID), np.nan).astype(np.float32)
    labelled = np.where(mask, rng.integers(-1, 3, GRID), 0).astype(np.int16)
    given = {
        "mask": nifti(mask),
        "noise_ceiling": nifti(ceiling),
        "regions": nifti(labelled),
        "region_names": b"value,name\n1,V1\n2,FFA\n",
    }
    subject = import_subject("a", pictures(rng), nifti(betas), **given)
    voxels = subject.responses.voxels
    z, y, x = np.unravel_index(voxels.flat_index, voxels.grid_shape)
    np.testing.assert_array_equal(subject.noise_ceiling, ceiling[x, y, z].astype(np.float64))
    assert voxels.regions == ("V1", "FFA")
    np.testing.assert_array_equal(voxels.membership, [labelled[x, y, z] == 1, labelled[x, y, z] == 2])

    def said(**changed: bytes) -> str:
        return refusal(import_subject, "a", pictures(rng), nifti(betas), **{**given, **changed})

    assert "1 label of regions have no name (first: 2)" in said(region_names=b"value,name\n1,V1\n")
    assert "'V1' is no whole number" in said(region_names=b"value,name\nV1,1\n")
    assert "named twice" in said(region_names=b"value,name\n1,V1\n1,V2\n")
    assert "no whole numbers" in said(regions=nifti(labelled + np.float32(0.25)))
    assert "0 labels above 0" in said(regions=nifti(np.zeros(GRID, np.uint8)))
    assert "mm apart" in said(noise_ceiling=nifti(ceiling, np.eye(4)))
    assert "not between 0 and 1" in said(noise_ceiling=nifti(ceiling * 100))
    assert "no map of their labels" in said(regions=b"voxel,region\n0,V1\n")
    table = {"regions": nifti(labelled), "region_names": given["region_names"]}
    message = refusal(import_subject, "a", pictures(rng), npy(betas[0, 0].T), ("stimulus", "voxel"), **table)
    assert "have no place in one; give a mask" in message


@pytest.mark.parametrize("order", ["xyz", "zyx"])
def test_a_table_counts_the_voxels_of_a_mask_in_the_order_that_is_said(rng, mask, betas, order):
    flat = betas[mask == 1].T if order == "xyz" else betas.transpose(2, 1, 0, 3)[mask.T == 1].T
    given = {"response_axes": ("stimulus", "voxel"), "mask": nifti(mask)}
    assert "give the order of the mask" in refusal(import_subject, "a", pictures(rng), npy(flat), **given)
    subject = import_subject("a", pictures(rng), npy(flat), **given, mask_order=order)
    index = subject.responses.voxels
    z, y, x = np.unravel_index(index.flat_index, index.grid_shape)
    np.testing.assert_array_equal(subject.responses.values, betas[x, y, z].T)
    message = refusal(import_subject, "a", pictures(rng), npy(flat[:, 1:]), **given, mask_order=order)
    assert f"holds {mask.sum()} voxels, the responses {mask.sum() - 1}" in message


def test_reading_can_be_stopped(mask, betas):
    seen: list[int] = []
    with pytest.raises(Cancelled, match="after 3 of 60 volumes"):
        read_recording(nifti(betas), mask=nifti(mask), on_progress=lambda done, *_: seen.append(done), cancelled=lambda: len(seen) == 3)


def test_voxels_are_drawn_as_slices(tmp_path, rng, mask, betas):
    store = ArtifactStore(tmp_path)
    import_into(store, name="lab", images=pictures(rng), responses=nifti(betas), mask=nifti(mask))
    (stage,) = (stage for stage in stages_of(InstrumentConfig("lab"), store) if stage.name == "cortex")
    drawn = load_flatmap(Run(store, None, None).make([stage], {})["cortex"].path)
    assert stage.recipe.kind == "slices" and len(drawn.hidden_voxels) == 0
    index = subject_of(custom_artifact("lab", store)).responses.voxels
    assert [voxel_at(drawn, *drawn.centres[voxel].tolist()) for voxel in range(len(index))] == list(range(len(index)))
