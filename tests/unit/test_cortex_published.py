"""Maps of subjects whose voxels have a place but no cortex of their own: slices of a volume, and the average surface laid flat."""

import nibabel
import nsd_tree
import numpy as np
import pytest
from nilearn.datasets import fetch_surf_fsaverage

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import FlatMap, load_flatmap
from mine_core.cortex.fsaverage import N_VERTICES, flat_fsaverage, surface_map
from mine_core.cortex.slices import slice_map
from mine_core.errors import SubjectError
from mine_core.instrument.stages import Run, stages_of
from mine_core.instrument.subjects import import_nsd_into
from mine_core.types import VoxelIndex


def index_of(inside: np.ndarray, regions: dict[str, np.ndarray] | None = None) -> VoxelIndex:
    regions = regions or {}
    membership = np.array([member[inside] for member in regions.values()], bool).reshape(len(regions), int(inside.sum()))
    return VoxelIndex("x", np.flatnonzero(inside), inside.shape, tuple(regions), membership)


@pytest.fixture
def blob(rng):
    inside = np.zeros((9, 12, 11), bool)
    inside[2:8, 3:10, 1:9] = rng.random((6, 7, 8)) < 0.6
    return inside


def test_every_voxel_of_a_volume_is_one_square_and_neighbours_touch(blob):
    drawn = slice_map(index_of(blob))
    counts = np.bincount(drawn.pixel_voxel[drawn.pixel_voxel >= 0], minlength=blob.sum())
    side = round(counts[0] ** 0.5)
    assert (counts == side**2).all()
    assert len(drawn.hidden_voxels) == 0
    places = np.argwhere(blob)
    centres = drawn.centres.astype(float)
    for first, (z, y, x) in enumerate(places):
        for second, step in (
            (np.flatnonzero((places == (z, y, x + 1)).all(1)), (side, 0)),
            (np.flatnonzero((places == (z, y + 1, x)).all(1)), (0, -side)),
        ):
            for other in second:
                np.testing.assert_array_equal(centres[other] - centres[first], step)


def test_slices_do_not_touch_and_read_row_by_row(blob):
    drawn = slice_map(index_of(blob))
    z = np.argwhere(blob)[:, 0]
    shown = np.where(drawn.pixel_voxel >= 0, z[drawn.pixel_voxel], -1)
    beside = (shown[:, 1:] != shown[:, :-1]) & (shown[:, 1:] >= 0) & (shown[:, :-1] >= 0)
    below = (shown[1:] != shown[:-1]) & (shown[1:] >= 0) & (shown[:-1] >= 0)
    assert not beside.any()
    assert not below.any()
    tile = [np.argwhere(shown == level).mean(axis=0) for level in np.unique(z)]
    height = np.ptp(np.argwhere(shown == z[0])[:, 0])
    assert all(b[1] > a[1] or b[0] > a[0] + height / 2 for a, b in zip(tile, tile[1:], strict=False))


def test_units_without_a_place_have_no_slices():
    nowhere = VoxelIndex("x", np.full(5, -1), (4, 4, 4), (), np.zeros((0, 5), bool))
    with pytest.raises(SubjectError, match="5 of 5 voxels have no place"):
        slice_map(nowhere)


@pytest.fixture(scope="module")
def whole() -> FlatMap:
    """Every vertex of fsaverage5, with the back of the brain as a region."""
    y = np.stack([nibabel.load(fetch_surf_fsaverage("fsaverage5")[f"pial_{side}"]).darrays[0].data[:, 1] for side in ("left", "right")])
    return surface_map(index_of(np.ones((2, N_VERTICES), bool), {"back": y < -85, "nowhere": y < -1000}))


def test_pixels_show_the_nearest_vertex_of_the_flat_surface(whole, rng):
    flat = nibabel.load(fetch_surf_fsaverage("fsaverage5")["flat_left"])
    points = flat.darrays[0].data[:, :2].astype(float)
    used = np.unique(flat.darrays[1].data)
    left = np.argwhere((whole.pixel_voxel >= 0) & (whole.pixel_voxel < N_VERTICES))
    chosen = left[rng.choice(len(left), 300, replace=False)]
    # the grid's scale is given, its origin is not: find it from the pixels that show the outermost vertices
    at = np.stack([chosen[:, 1], -chosen[:, 0]], axis=1) / whole.px_per_mm
    shown = points[whole.pixel_voxel[tuple(chosen.T)]]
    placed = at + (shown - at).mean(axis=0)
    nearest = np.linalg.norm(placed[:, None] - points[used][None], axis=2).min(axis=1)
    assert np.abs(np.linalg.norm(placed - shown, axis=1) - nearest).max() < 0.8
    assert np.linalg.norm(placed - shown, axis=1).max() < 6


def test_hemispheres_lie_left_and_right_and_sulci_are_negative(whole):
    columns = [np.nonzero((whole.pixel_voxel >= low) & (whole.pixel_voxel < low + N_VERTICES))[1] for low in (0, N_VERTICES)]
    assert columns[0].max() < columns[1].min()
    files = fetch_surf_fsaverage("fsaverage5")
    depth = np.concatenate([nibabel.load(files[f"sulc_{side}"]).darrays[0].data for side in ("left", "right")])
    on = whole.pixel_voxel >= 0
    assert np.corrcoef(whole.curvature[on], depth[whole.pixel_voxel[on]])[0, 1] < -0.5


def test_a_region_is_outlined_where_its_vertices_are(whole):
    (outline,) = whole.outlines
    assert outline.name == "back"
    assert len(outline.polygons) >= 2
    for polygon, (x, y) in zip(outline.polygons, outline.labels, strict=True):
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        assert (low[0] <= x <= high[0]) and (low[1] <= y <= high[1])


def test_finer_vertices_are_hidden_and_coarse_ones_lie_where_they_lay(whole):
    chosen = np.zeros((2, 4 * N_VERTICES), bool)
    chosen[0, [5, 17, N_VERTICES + 3]] = True
    chosen[1, [11, 2 * N_VERTICES]] = True
    drawn = surface_map(index_of(chosen))
    assert drawn.hidden_voxels.tolist() == [2, 4]
    for voxel, vertex in ((0, 5), (1, 17), (3, N_VERTICES + 11)):
        np.testing.assert_array_equal(drawn.pixel_voxel == voxel, whole.pixel_voxel == vertex)


def test_what_is_no_surface_is_refused():
    with pytest.raises(SubjectError, match="two hemispheres of at least 10242"):
        surface_map(index_of(np.ones((2, 50), bool)))
    fine = np.zeros((2, 2 * N_VERTICES), bool)
    fine[:, N_VERTICES:] = True
    with pytest.raises(SubjectError, match="None of 20484 vertices is among"):
        surface_map(index_of(fine))


def test_the_flat_surface_is_shared_and_read_only():
    assert flat_fsaverage() is flat_fsaverage()
    with pytest.raises(ValueError, match="read-only"):
        flat_fsaverage().pixel_vertex[0, 0] = 1


@pytest.mark.parametrize(("space", "kind"), [("func1pt8mm", "slices"), ("fsaverage", "surface")])
def test_a_subject_of_the_dataset_gets_its_map(tmp_path, monkeypatch, space, kind):
    monkeypatch.setattr(nsd_tree, "N_VERTICES", N_VERTICES)
    nsd_tree.write(tmp_path / "nsd", space)
    store = ArtifactStore(tmp_path / "store")
    import_nsd_into(store, root=tmp_path / "nsd", subject=1, space=space, size=24, name="mini")
    stage = stages_of(InstrumentConfig(subject="mini"), store)[0]
    assert stage.recipe.kind == kind
    drawn = load_flatmap(Run(store, None, None).make([stage], {})["cortex"].path)
    assert (drawn.pixel_voxel >= 0).any()
    assert len(drawn.hidden_voxels) < (1 if space == "func1pt8mm" else 30)
