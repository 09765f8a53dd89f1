"""The table from pixel to voxel, and colour, on maps small enough to check by hand."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mine_core.cortex.flatmap import (
    FlatMap,
    RegionOutline,
    centre_of_voxel,
    load_flatmap,
    pixels_of_voxel,
    render_groups,
    render_map,
    save_flatmap,
    voxel_at,
)
from mine_core.cortex.projection import clip_outlines, interior_pixels
from mine_core.errors import ArtifactError, SubjectError


def _flatmap(rng: np.random.Generator, n_voxels: int = 12, hidden: int = 2) -> FlatMap:
    """Blocks of random voxels with a rim of bare cortex and a corner off the map; the last `hidden` voxels show nowhere."""
    blocks = rng.permutation(np.arange(24) % (n_voxels - hidden)).reshape(4, 6)
    pixel_voxel = np.pad(np.kron(blocks, np.ones((5, 5), int)), 3, constant_values=-1).astype(np.int32)
    curvature = rng.normal(0, 0.2, pixel_voxel.shape).astype(np.float32)
    curvature[:2, :2] = np.nan
    outline = RegionOutline("V1", (np.array([[3.0, 3.0], [13.25, 3.0], [13.25, 9.5], [3.0, 3.0]]),), ((10.0, 5.0),))
    return FlatMap("S1", pixel_voxel, curvature, interior_pixels(pixel_voxel, n_voxels), (outline,), 2.5)


def test_every_visible_voxels_centre_maps_back_to_it_and_hidden_ones_have_none(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    for voxel in range(10):
        x, y = centre_of_voxel(flatmap, voxel)
        assert voxel_at(flatmap, x, y) == voxel
        assert [x, y] in pixels_of_voxel(flatmap, voxel).tolist()
    for voxel in (10, 11):
        assert centre_of_voxel(flatmap, voxel) is None
        assert len(pixels_of_voxel(flatmap, voxel)) == 0
    assert flatmap.hidden_voxels.tolist() == [10, 11]


def test_a_click_off_the_voxels_or_off_the_map_selects_none(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    assert voxel_at(flatmap, 0, 0) is None
    assert voxel_at(flatmap, -1, 10) is None
    assert voxel_at(flatmap, 10, flatmap.height) is None
    assert voxel_at(flatmap, flatmap.width, 10) is None
    assert voxel_at(flatmap, 3.4, 7.6) == flatmap.pixel_voxel[8, 3]


def test_a_centre_lies_deepest_in_the_largest_patch_and_not_between_two() -> None:
    pixel_voxel = np.zeros((9, 30), np.int32)
    pixel_voxel[1:8, 1:8] = 1
    pixel_voxel[3:6, 20:23] = 1
    centres = interior_pixels(pixel_voxel, 3)
    assert centres[1].tolist() == [4, 4]
    assert centres[2].tolist() == [-1, -1]


def test_a_voxels_pixels_are_all_that_show_it(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    found = np.full(flatmap.pixel_voxel.shape, -1)
    for voxel in range(12):
        x, y = pixels_of_voxel(flatmap, voxel).T
        found[y, x] = voxel
    np.testing.assert_array_equal(found, flatmap.pixel_voxel)


def test_painting_equals_the_formula_pixel_by_pixel(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    values, alpha = rng.normal(size=12), rng.uniform(size=12)
    values[3], alpha[5] = np.nan, 0
    image = render_map(flatmap, values, colormap="RdBu_r", vmin=-1.0, vmax=1.0, alpha=alpha)
    bare = render_map(flatmap, np.full(12, np.nan), colormap="RdBu_r", vmin=-1.0, vmax=1.0)
    for y in range(flatmap.height):
        for x in range(flatmap.width):
            voxel = flatmap.pixel_voxel[y, x]
            ground = bare[y, x, :3].astype(float)
            opacity = 0 if voxel < 0 or voxel == 3 else alpha[voxel]
            colour = 255 * np.array(matplotlib.colormaps["RdBu_r"]((np.clip(values[voxel], -1, 1) + 1) / 2)[:3]) if opacity else 0
            np.testing.assert_allclose(image[y, x, :3], (1 - opacity) * ground + opacity * colour, atol=1.01)
            assert image[y, x, 3] == (0 if np.isnan(flatmap.curvature[y, x]) else 255)


def test_constant_values_give_one_colour(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    image = render_map(flatmap, np.full(12, 0.25), colormap="viridis", vmin=0.0, vmax=1.0)
    painted = np.unique(image[flatmap.pixel_voxel >= 0], axis=0)
    expected = [*np.rint(255 * np.array(matplotlib.colormaps["viridis"](0.25)[:3])).astype(int), 255]
    assert painted.tolist() == [expected]


def test_a_voxel_without_opacity_shows_the_folds_and_sulci_are_darker(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    bare = render_map(flatmap, np.zeros(12), colormap="viridis", vmin=0.0, vmax=1.0, alpha=np.zeros(12))
    order = np.argsort(flatmap.curvature[2:], axis=None)
    greys = bare[2:].reshape(-1, 4)[order]
    assert (np.diff(greys[:, 0].astype(int)) >= 0).all()
    assert greys[0, 0] < greys[-1, 0]
    assert (greys[:, 0] == greys[:, 1]).all()
    flat = render_map(flatmap, np.zeros(12), colormap="viridis", vmin=0.0, vmax=1.0, alpha=np.zeros(12), curvature=False)
    assert len(np.unique(flat[..., :3])) == 1


def test_groups_take_their_colour_and_no_group_takes_none(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    groups = np.arange(12) % 3 - 1
    image = render_groups(flatmap, groups, ("#E69F00", "#0072B2"))
    bare = render_map(flatmap, np.full(12, np.nan), colormap="viridis", vmin=0.0, vmax=1.0)
    for voxel in range(10):
        x, y = pixels_of_voxel(flatmap, voxel).T
        if groups[voxel] < 0:
            np.testing.assert_array_equal(image[y, x], bare[y, x])
        else:
            expected = 255 * np.array(to_rgb(("#E69F00", "#0072B2")[groups[voxel]]))
            np.testing.assert_allclose(image[y, x, :3], np.tile(expected, (len(x), 1)), atol=0.5)


def test_a_map_comes_back_from_disk_as_it_went(rng: np.random.Generator, tmp_path: Path) -> None:
    flatmap = _flatmap(rng)
    save_flatmap(flatmap, tmp_path)
    loaded = load_flatmap(tmp_path)
    for name in ("pixel_voxel", "curvature", "centres"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(flatmap, name))
        assert getattr(loaded, name).dtype == getattr(flatmap, name).dtype
        assert not getattr(loaded, name).flags.writeable
    assert (loaded.subject, loaded.px_per_mm) == (flatmap.subject, flatmap.px_per_mm)
    assert [(o.name, o.labels) for o in loaded.outlines] == [(o.name, o.labels) for o in flatmap.outlines]
    np.testing.assert_array_equal(loaded.outlines[0].polygons[0], flatmap.outlines[0].polygons[0])
    (tmp_path / "centres.npy").unlink()
    with pytest.raises(ArtifactError, match="no readable flatmap"):
        load_flatmap(tmp_path)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"values": np.zeros(11)}, "11 values.*12 voxels"),
        ({"vmin": 1.0}, "Limits 1.0 and 1.0"),
        ({"vmax": float("nan")}, "Limits 0.0 and nan"),
        ({"colormap": "no_such_map"}, "no_such_map"),
        ({"alpha": np.full(12, 1.5)}, "12 from 1.5 to 1.5"),
        ({"alpha": np.full(12, np.nan)}, "12 from nan to nan"),
    ],
)
def test_what_cannot_be_painted_is_refused(rng: np.random.Generator, changes: dict, found: str) -> None:
    given = {"values": np.zeros(12), "colormap": "viridis", "vmin": 0.0, "vmax": 1.0} | changes
    with pytest.raises(SubjectError, match=found):
        render_map(_flatmap(rng), given.pop("values"), **given)


def test_a_group_without_a_colour_and_an_unknown_voxel_are_refused(rng: np.random.Generator) -> None:
    flatmap = _flatmap(rng)
    with pytest.raises(SubjectError, match="Groups 0 to 2.*2 colours"):
        render_groups(flatmap, np.arange(12) % 3, ("#E69F00", "#0072B2"))
    with pytest.raises(SubjectError, match="Voxel 12 .* 0 to 11"):
        centre_of_voxel(flatmap, 12)


def test_borders_are_cut_to_the_hemisphere_that_holds_most_of_them() -> None:
    hemisphere = np.zeros((40, 60), np.int8)
    hemisphere[5:35, 5:28], hemisphere[5:35, 32:55] = -1, 1
    across = np.array([[10.0, 10.0], [36.0, 10.0], [36.0, 20.0], [10.0, 20.0]])
    outside = np.array([[56.0, 1.0], [59.0, 1.0], [59.0, 3.0], [56.0, 3.0]])
    (outline,) = clip_outlines([("V1", across), ("SEF", outside)], hemisphere)
    assert (outline.region, outline.hemisphere) == ("V1", -1)
    assert outline.polygon.bounds == (10.0, 10.0, 27.0, 20.0)
