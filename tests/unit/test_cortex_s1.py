"""S1's visual cortex against pycortex's own answers: image, mask, regions, folds; and the way back from pixel to voxel."""

import base64
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from mine_core.cortex import s1
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet
from mine_core.cortex.flatmap import FlatMap, build_flatmap, centre_of_voxel, load_flatmap, render_map, voxel_at
from mine_core.cortex.projection import LEFT, RIGHT, Projection, project
from mine_core.errors import ArtifactError, SubjectError
from mine_core.types import VoxelIndex


@dataclass(frozen=True)
class Built:
    cache: Path
    cortex: ModuleType
    projection: Projection
    voxels: s1.CortexVoxels
    flatmap: FlatMap
    installed_before: frozenset[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """S1 built once, cold, as the app builds it; the projection is kept on the way."""
    cache = tmp_path_factory.mktemp("cache")
    cortex = open_pycortex(cache)
    installed = _installed(cortex)
    kept = []

    def keep(*arguments: object) -> Projection:
        kept.append(project(*arguments))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s1, "project", keep)
        voxels = s1.s1_voxels(cache)
    return Built(cache, cortex, kept[0], voxels, s1.s1_flatmap(cache), installed)


def _installed(cortex: ModuleType) -> frozenset[str]:
    return frozenset(f"{path} {path.stat().st_size}" for path in Path(cortex.db.filestore).rglob("*") if path.is_file())


def test_nothing_is_written_into_the_installation(built: Built) -> None:
    assert _installed(built.cortex) == built.installed_before
    assert list((built.cache / "pycortex" / "S1").rglob("flatpixel*.npz"))


def test_pixels_show_the_voxels_that_pycortexs_own_image_shows(built: Built, rng: np.random.Generator) -> None:
    volume = rng.normal(size=built.projection.grid_shape)
    with PYCORTEX_LOCK, quiet():
        open_pycortex(built.cache)
        view = built.cortex.Volume(volume, "S1", "fullhead")
        image, _ = built.cortex.quickflat.make_flatmap_image(view, height=s1.HEIGHT, thick=1, depth=0.5)
    whole = build_flatmap(built.projection, built.voxels.index, regions=("V1",), margin_mm=None)
    assert whole.pixel_voxel.shape == image.shape
    shown = whole.pixel_voxel >= 0
    values = volume.ravel()[built.voxels.index.flat_index]
    np.testing.assert_array_equal(image[shown], values[whole.pixel_voxel[shown]])
    # And a pixel of a chosen voxel is never left blank: every other pixel shows a voxel that was not chosen.
    assert not np.isin(image[~shown & whole.drawn_mask], values).any()
    np.testing.assert_array_equal(whole.drawn_mask, ~np.isnan(image))


def test_the_cut_out_map_is_a_window_of_the_whole_one(built: Built) -> None:
    whole = build_flatmap(built.projection, built.voxels.index, regions=("V1",), margin_mm=None)
    first = np.argwhere(whole.pixel_voxel >= 0).min(0) - np.argwhere(built.flatmap.pixel_voxel >= 0).min(0)
    window = whole.pixel_voxel[first[0] :, first[1] :][: built.flatmap.height, : built.flatmap.width]
    np.testing.assert_array_equal(window, built.flatmap.pixel_voxel)
    moved = whole.outlines[0].polygons[0] - built.flatmap.outlines[0].polygons[0]
    np.testing.assert_allclose(moved, np.tile(first[::-1], (len(moved), 1)), atol=0.011)


def test_the_voxels_are_those_of_pycortexs_thin_mask_at_its_coordinates(built: Built) -> None:
    with PYCORTEX_LOCK, quiet():
        distance, _ = built.cortex.utils.get_vox_dist("S1", "fullhead", max_dist=3)
        transform = built.cortex.db.get_xfm("S1", "fullhead")
    near = built.projection.surface_voxels
    np.testing.assert_array_equal(near.flat_index, np.flatnonzero(distance.ravel() < 2))
    assert np.isin(built.voxels.index.flat_index, near.flat_index).all()
    zyx = np.stack(np.unravel_index(built.voxels.index.flat_index, built.voxels.index.grid_shape), 1)
    np.testing.assert_allclose(transform(built.voxels.mm), zyx[:, ::-1], atol=1e-9)


def test_there_are_voxels_enough_in_every_region_of_both_hemispheres(built: Built) -> None:
    voxels = built.voxels
    assert 6500 <= len(voxels.index) <= 8000
    assert len(np.unique(voxels.index.flat_index)) == len(voxels.index)
    for region in s1.REGIONS:
        members = voxels.index.in_region(region)
        for side in (LEFT, RIGHT):
            assert (voxels.hemisphere[members] == side).sum() >= 20, region
    np.testing.assert_array_equal(np.sign(voxels.flat_mm[:, 0]), voxels.hemisphere)
    assert (np.sign(voxels.mm[:, 0]) == voxels.hemisphere).mean() > 0.97


def test_a_region_holds_the_visible_voxels_whose_centre_is_inside_its_outline(built: Built) -> None:
    voxels, flatmap = built.voxels, built.flatmap
    for outline in flatmap.outlines:
        member = voxels.index.membership[voxels.index.regions.index(outline.name)]
        borders = [np.float32(polygon) for polygon in outline.polygons]
        for voxel in np.flatnonzero(voxels.visible):
            x, y = flatmap.centres[voxel].tolist()
            depth = max(cv2.pointPolygonTest(border, (x, y), True) for border in borders)
            # Outlines are kept to a hundredth of a pixel, so a centre on the border itself may fall on either side.
            assert depth > -0.02 if member[voxel] else depth < 0.02, (outline.name, voxel, depth)
    assert tuple(outline.name for outline in flatmap.outlines) == s1.REGIONS
    assert all(len(outline.polygons) == len(outline.labels) == 2 for outline in flatmap.outlines)


@pytest.mark.parametrize("region", ["V2", "FFA", "IPS"])
def test_regions_agree_with_pycortexs_vertices(built: Built, region: str) -> None:
    """pycortex asks which vertices lie within the border; the voxels nearest to them are an independent route."""
    with PYCORTEX_LOCK, quiet():
        overlay = built.cortex.db.get_overlay("S1")
        vertices = np.unique(overlay.rois.get_mask(region))
        fiducial, _ = built.cortex.db.get_surf("S1", "fiducial", merge=True)
        coordinates = np.round(built.cortex.db.get_xfm("S1", "fullhead")(fiducial[vertices])).astype(int)
    theirs, count = np.unique(np.ravel_multi_index(coordinates.T[::-1], built.projection.grid_shape), return_counts=True)
    ours = built.voxels.index.flat_index[built.voxels.index.in_region(region)]
    # A voxel on the border has a few vertices inside; the border cuts hardly any voxel with a dozen.
    assert np.isin(theirs[count >= 12], ours).mean() > 0.95
    assert np.isin(ours, theirs).mean() > 0.85


def test_every_visible_voxels_centre_maps_back_to_it(built: Built) -> None:
    for voxel in range(len(built.voxels.index)):
        centre = centre_of_voxel(built.flatmap, voxel)
        assert (centre is not None) == built.voxels.visible[voxel]
        assert centre is None or voxel_at(built.flatmap, *centre) == voxel


def test_hidden_voxels_are_there_and_in_regions(built: Built) -> None:
    hidden = built.flatmap.hidden_voxels
    assert 50 <= len(hidden) <= 1000
    np.testing.assert_array_equal(hidden, np.flatnonzero(~built.voxels.visible))
    assert built.voxels.index.membership[:, hidden].any(0).all()
    assert not np.isin(hidden, built.flatmap.pixel_voxel).any()
    assert np.isfinite(built.voxels.flat_mm).all()


def test_voxels_without_a_region_surround_the_regions(built: Built) -> None:
    voxels = built.voxels
    lone = ~voxels.index.membership.any(0)
    assert 1000 <= lone.sum() <= len(lone) / 2
    for side in (LEFT, RIGHT):
        inside, outside = (voxels.flat_mm[chosen & (voxels.hemisphere == side)] for chosen in (~lone, lone))
        assert cKDTree(inside).query(outside)[0].max() < s1.BRIDGED_MM + s1.AROUND_MM


def test_folds_agree_with_the_drawing_that_comes_with_s1(built: Built) -> None:
    svg = (Path(built.cortex.db.filestore) / "S1" / "overlays.svg").read_text()
    layer = svg[svg.index('inkscape:label="img_curvature"') :]
    encoded = re.search(r'"data:image/png;base64,([^"]+)"', layer).group(1)
    drawing = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")
    height, width = built.projection.curvature.shape
    drawn = np.asarray(drawing.resize((width, height)), float)
    cortex = ~np.isnan(built.projection.curvature)
    np.testing.assert_array_equal(cortex, built.projection.hemisphere != 0)
    assert np.corrcoef(np.sign(built.projection.curvature[cortex]), drawn[cortex])[0, 1] > 0.6


def test_constant_values_paint_all_voxels_in_one_colour(built: Built) -> None:
    image = render_map(built.flatmap, np.zeros(len(built.voxels.index)), colormap="RdBu_r", vmin=-1, vmax=1)
    assert len(np.unique(image[built.flatmap.pixel_voxel >= 0], axis=0)) == 1


def test_retinotopic_coordinates_are_smooth_and_run_as_named(built: Built) -> None:
    voxels = built.voxels
    coordinates = s1.retinotopic_coordinates(voxels)
    early = np.any([voxels.index.membership[voxels.index.regions.index(region)] for region in s1.EARLY], axis=0)
    np.testing.assert_array_equal(np.isfinite(coordinates).all(1), early)
    assert coordinates[early, 0].min() >= -1
    assert coordinates[early, 0].max() <= 1
    assert ((coordinates[early, 1] >= 0) & (coordinates[early, 1] <= 1)).all()
    for side in (LEFT, RIGHT):
        strips = {}
        for region in s1.EARLY:
            member = voxels.index.in_region(region)
            strips[region] = member[(voxels.hemisphere[member] == side)]
            place, uv = voxels.flat_mm[strips[region]], coordinates[strips[region]]
            assert np.corrcoef(place[:, 1], uv[:, 0])[0, 1] > 0.95  # dorsal is up on the map, and positive
            pairs = cKDTree(place).query_pairs(2.5, output_type="ndarray")
            assert np.median(np.abs(np.diff(uv[pairs, 0], axis=1))) < 0.05
            assert np.median(np.abs(np.diff(uv[pairs, 1], axis=1))) < 0.25
        from_v1 = cKDTree(voxels.flat_mm[strips["V1"]]).query(voxels.flat_mm[strips["V2"]])[0]
        assert np.corrcoef(from_v1, coordinates[strips["V2"], 1])[0, 1] > 0.7
        to_v2 = cKDTree(voxels.flat_mm[strips["V2"]]).query(voxels.flat_mm[strips["V1"]])[0]
        assert np.corrcoef(to_v2, coordinates[strips["V1"], 1])[0, 1] < -0.7


def test_what_was_built_is_kept_and_not_built_again(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s1, "project", lambda *_: pytest.fail("built again"))
    again = s1.s1_voxels(built.cache)
    for name in ("mm", "flat_mm", "hemisphere", "visible"):
        np.testing.assert_array_equal(getattr(again, name), getattr(built.voxels, name))
    again.save(tmp_path)
    np.testing.assert_array_equal(s1.CortexVoxels.load(tmp_path).index.membership, built.voxels.index.membership)
    assert s1.CortexVoxels.load(tmp_path).index.regions == s1.REGIONS
    with pytest.raises(ArtifactError, match="no readable flatmap"):
        load_flatmap(tmp_path)
    (tmp_path / "mm.npy").unlink()
    with pytest.raises(ArtifactError, match="no readable voxels"):
        s1.CortexVoxels.load(tmp_path)


def test_voxels_of_another_grid_and_regions_without_an_outline_are_refused(built: Built) -> None:
    index = built.voxels.index
    with pytest.raises(SubjectError, match=r"\(31, 100, 101\) volume, the flatmap of a \(31, 100, 100\)"):
        build_flatmap(built.projection, replace(index, grid_shape=(31, 100, 101)), regions=(), margin_mm=None)
    with pytest.raises(SubjectError, match="Region 'V4' has no outline.*EBA.*V1"):
        build_flatmap(built.projection, index, regions=("V4",), margin_mm=None)
    corner = VoxelIndex("S1", np.array([0]), index.grid_shape, (), np.zeros((0, 1), bool))
    with pytest.raises(SubjectError, match="None of the voxels is on the flatmap"):
        build_flatmap(built.projection, corner, regions=(), margin_mm=None)


def test_an_unknown_cortex_or_transform_is_refused(built: Built) -> None:
    with pytest.raises(SubjectError, match=r"Cortex 'S9' was asked for.*S1"):
        project(built.cache, "S9", "fullhead", 64)
    with pytest.raises(SubjectError, match=r"Transform 'func' was asked for.*fullhead, retinotopy"):
        project(built.cache, "S1", "func", 64)
