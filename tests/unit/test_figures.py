"""Pictures say what the numbers say: signs, limits, one mark per number."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mine_core.figures import (
    FAINT,
    HEAT_HIGH,
    HEAT_LOW,
    UNSIGNED_MAP,
    css_gradient,
    data_url,
    heat_gradient,
    heat_rgba,
    interval_figure,
    mask_rgba,
    outlined,
    shift_figure,
)
from mine_core.types import PredictedShift


def decoded(url: str, kind: str) -> np.ndarray:
    head, content = url.split(",", 1)
    assert head == f"data:image/{kind};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.format == kind.upper()
    return np.array(picture)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_data_url_holds_every_pixel(rng: np.random.Generator, channels: int) -> None:
    image = rng.integers(0, 256, (17, 23, channels), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(data_url(image), "png"), image)


def test_a_webp_data_url_looks_alike_and_is_smaller(rng: np.random.Generator) -> None:
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    close = decoded(data_url(image, "webp"), "webp")
    assert close.shape == image.shape
    assert np.abs(close.astype(int) - image).mean() < 6
    assert len(data_url(image, "webp")) < len(data_url(image))


def test_heat_is_red_where_it_raises_blue_where_it_lowers_and_clear_where_it_does_neither() -> None:
    values = np.zeros((8, 8))
    values[1:3, 1:3], values[5:7, 5:7] = 2.0, -2.0
    rgba = heat_rgba(values, 2.0, size=80)
    assert rgba.shape == (80, 80, 4)
    assert tuple(rgba[20, 20, :3]) == HEAT_HIGH and tuple(rgba[60, 60, :3]) == HEAT_LOW
    assert rgba[20, 20, 3] > 240 and rgba[60, 60, 3] > 240
    assert rgba[5, 75, 3] == 0 and rgba[75, 5, 3] == 0
    flipped = heat_rgba(-values, 2.0, size=80)
    np.testing.assert_array_equal(flipped[..., 3], rgba[..., 3])
    assert tuple(flipped[20, 20, :3]) == HEAT_LOW and tuple(flipped[60, 60, :3]) == HEAT_HIGH


def test_heat_is_opaque_from_the_limit_on_and_below_it_as_opaque_as_it_is_strong() -> None:
    for value, share in ((0.25, 0.25), (0.6, 0.6), (1.0, 1.0), (7.0, 1.0)):
        assert abs(int(heat_rgba(np.full((4, 4), value), 1.0, size=8)[4, 4, 3]) - 255 * share) <= 1
    assert not heat_rgba(np.full((4, 4), 0.9 * FAINT), 1.0)[..., 3].any()
    assert not heat_rgba(np.zeros((4, 4)), 0.0)[..., 3].any()


def test_a_mask_is_opaque_on_its_region_and_nowhere_else(rng: np.random.Generator) -> None:
    region = rng.random((9, 14)) < 0.5
    rgba = mask_rgba(region, (1, 2, 3))
    np.testing.assert_array_equal(rgba[..., 3] == 255, region)
    assert (rgba[region] == (1, 2, 3, 255)).all() and not rgba[~region].any()


def test_an_outline_is_drawn_at_the_border_and_leaves_the_image_as_it_was() -> None:
    image = np.full((96, 96, 3), 128, np.uint8)
    region = np.zeros((96, 96), bool)
    region[30:60, 30:60] = True
    before = image.copy()
    large = outlined(image, region)
    np.testing.assert_array_equal(image, before)
    assert large.shape == (384, 384, 3)
    changed = (large != 128).any(-1)
    assert changed[4 * 30 - 4 : 4 * 30 + 4, 4 * 45].any() and changed[4 * 45, 4 * 60 - 5 : 4 * 60 + 4].any()
    assert not changed[4 * 33 : 4 * 57, 4 * 33 : 4 * 57].any() and not changed[: 4 * 28].any()


def test_gradients_name_the_colours_of_their_scale() -> None:
    stops = re.findall(r"#[0-9a-f]{6}", css_gradient(UNSIGNED_MAP, 5))
    assert len(stops) == 5 and stops[0] == "#440154" and stops[-1] == "#fde725"
    scale = heat_gradient()
    assert scale.index(str(HEAT_LOW)) < scale.index("#ffffff") < scale.index(str(HEAT_HIGH))


@pytest.fixture
def shift(rng: np.random.Generator) -> PredictedShift:
    controls = rng.normal(size=(7, 2))
    moved = np.array([-2.5, 1.5])
    names = ("elsewhere", "kept", "elsewhere", "kept", "kept", "other", "elsewhere")
    still = np.zeros(2)
    return PredictedShift(still, moved, moved, controls, names, np.full(2, 0.125), np.ones(2, int), "a", None)


@pytest.mark.parametrize(("voxel", "colour"), [(0, "#2166ac"), (1, "#b2182b")])
def test_a_shift_is_drawn_with_one_point_per_control_in_the_row_of_its_kind(shift: PredictedShift, voxel: int, colour: str) -> None:
    figure = shift_figure(shift, voxel)
    drawn = [(kind, value) for trace in figure.data[:-1] for kind, value in zip(trace.y, trace.x, strict=True)]
    assert sorted(drawn) == sorted(zip(shift.control_names, shift.controls[:, voxel], strict=True))
    ours = figure.data[-1]
    assert list(ours.x) == [shift.shift[voxel]] and list(ours.y) == ["this edit"]
    assert ours.marker.color == colour
    assert set(figure.layout.yaxis.categoryarray) == {"this edit", "elsewhere", "kept", "other"}
    assert "SD of predictions" in figure.layout.xaxis.title.text


def test_a_shift_stands_on_the_axis_of_the_one_above_it(shift: PredictedShift) -> None:
    """Every point of both is inside, and the zero; where the lower one reaches no further, the axes are the same."""
    narrow = replace(shift, controls=shift.controls[:3] * 0.1, control_names=("a", "b", "c"), shift=shift.shift * 0.5)
    upper, under, alone = shift_figure(shift, 1), shift_figure(narrow, 1, above=shift), shift_figure(narrow, 1)
    assert under.layout.xaxis.range == upper.layout.xaxis.range != alone.layout.xaxis.range
    assert under.layout.margin.l == upper.layout.margin.l
    for figure, shown in ((upper, shift), (alone, narrow)):
        low, high = figure.layout.xaxis.range
        points = [0.0, *shown.controls[:, 1], shown.shift[1]]
        assert low < min(points) and max(points) < high


def test_intervals_reach_from_low_to_high_around_their_mean() -> None:
    figure = interval_figure(["a", "b"], [1.0, -2.0], [0.5, -4.0], [3.0, -1.5], "r")
    points = figure.data[0]
    np.testing.assert_allclose(np.asarray(points.x) + points.error_x.array, [3.0, -1.5])
    np.testing.assert_allclose(np.asarray(points.x) - points.error_x.arrayminus, [0.5, -4.0])
    assert list(points.y) == ["a", "b"] and figure.layout.xaxis.title.text == "r"


def test_a_region_of_patches_is_outlined_on_an_image_of_any_size():
    image = np.full((50, 50, 3), 128, np.uint8)
    patches = np.zeros((8, 8), bool)
    patches[2:4, 5] = True
    drawn = (outlined(image, patches) != 128).any(axis=2)
    rows, cols = np.nonzero(drawn)
    side = drawn.shape[0]
    assert np.abs([rows.min() - side * 2 / 8, rows.max() - side * 4 / 8]).max() < 4
    assert np.abs([cols.min() - side * 5 / 8, cols.max() - side * 6 / 8]).max() < 4
