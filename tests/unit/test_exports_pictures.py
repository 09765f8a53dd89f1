"""Figures for paper: they parse, outlines are paths at the regions' places, what has no value is clear, 300 dots are an inch."""

import io
import re
import threading
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mine_core.attribution.critical import CriticalSet
from mine_core.cortex.flatmap import FlatMap, RegionOutline
from mine_core.errors import ConfigError
from mine_core.exports.maps import CortexMap
from mine_core.exports.pictures import (
    PICTURE_FORMATS,
    WIDTH_IN,
    curve_chart,
    flatmap_figure,
    picture_bytes,
    shift_chart,
    value_rgba,
)
from mine_core.figures import GROUP_COLOURS
from mine_core.types import PredictedShift

HEIGHT, WIDTH, N = 60, 90, 6
SVG = "{http://www.w3.org/2000/svg}"
OUTLINES = (
    RegionOutline("FFA", (np.array([[10.0, 12], [30, 12], [30, 40]]),), ((22.0, 18.0),)),
    RegionOutline(
        "V1", (np.array([[50.0, 5], [80, 5], [80, 20]]), np.array([[50.0, 30], [70, 30], [70, 50]])), ((70.0, 9.0), (65.0, 36.0))
    ),
)


@pytest.fixture
def flat() -> FlatMap:
    """Six voxels as six stripes, the outer columns cortex without a voxel, the last rows no cortex."""
    pixels = np.full((HEIGHT, WIDTH), -1, np.int32)
    pixels[:50, 6:84] = np.arange(78) // 13
    curvature = np.zeros((HEIGHT, WIDTH), np.float32)
    curvature[50:] = np.nan
    centres = np.array([[12 + 13 * v, 25] for v in range(N)], np.int32)
    return FlatMap("toy", pixels, curvature, centres, OUTLINES, 2.0)


def a_map(values=(0.0, 0.25, np.nan, 0.75, 1.0, 2.0), **more) -> CortexMap:
    return CortexMap(
        "Toy", np.array(values), **{"low": 0.0, "high": 1.0, "signed": False, "unit": "Pearson r", "caption": "6 voxels.", **more}
    )


def drawn(flat, kind, shown=None):
    return picture_bytes(flatmap_figure(flat, shown or a_map(), "Subject toy.", "Predicted by a model."), kind)


def test_a_png_is_of_300_dots_an_inch_and_two_columns_wide(flat):
    image = Image.open(io.BytesIO(drawn(flat, "png")))
    image.verify()
    assert image.format == "PNG" and image.size[0] == round(300 * WIDTH_IN)
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_an_svg_has_every_outline_as_a_path_where_the_region_is(flat):
    root = ElementTree.fromstring(drawn(flat, "svg"))
    assert root.tag == f"{SVG}svg"
    width = float(root.attrib["width"].removesuffix("pt"))
    scale = width / WIDTH
    for outline in OUTLINES:
        group = root.find(f".//{SVG}g[@id='outline {outline.name} white']")
        assert group is not None, f"no outline of {outline.name}"
        uses = group.findall(f".//{SVG}use")
        paths = {path.attrib["id"]: path for path in group.iter(f"{SVG}path") if "id" in path.attrib}
        shapes = (
            list(group.iter(f"{SVG}path"))
            if not uses
            else [paths[use.attrib["{http://www.w3.org/1999/xlink}href"][1:]] for use in uses]
        )
        assert len(shapes) == len(outline.polygons)
        for shape, polygon in zip(shapes, outline.polygons, strict=True):
            points = np.array(re.findall(r"(-?[0-9.]+) (-?[0-9.]+)", shape.attrib["d"]), float)
            assert len(points) == len(polygon) + 1
            np.testing.assert_allclose(np.ptp(points, axis=0), np.ptp(polygon, axis=0) * scale, rtol=1e-3)
            np.testing.assert_allclose(points[:, 0], (np.r_[polygon, polygon[:1]][:, 0] + 0.5) * scale, atol=0.05)
    texts = drawn(flat, "svg").decode()
    assert all(f">{word}</text>" in texts for word in ("Toy", "Pearson r"))
    assert "Predicted by a model." in texts and "6 voxels." in texts


def test_a_pdf_is_whole_and_draws_outlines_as_lines(flat):
    content = drawn(flat, "pdf")
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    start = int(re.search(rb"startxref\s+(\d+)", content).group(1))
    assert content[start : start + 4] == b"xref"
    page = max((zlib.decompress(part) for part in flate_streams(content)), key=lambda part: part.count(b" l\n"))
    bare = replace(flat, outlines=())
    plain = max((zlib.decompress(part) for part in flate_streams(drawn(bare, "pdf"))), key=len)
    assert page.count(b" l\n") > plain.count(b" l\n")


def flate_streams(content: bytes) -> list[bytes]:
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    return [part for part in found if part[:1] == b"x"]


def test_what_has_no_value_is_clear_and_what_has_one_has_its_colour(flat):
    import matplotlib

    rgba = value_rgba(flat, a_map())
    table = matplotlib.colormaps["viridis"]
    for voxel, value in enumerate((0.0, 0.25, None, 0.75, 1.0, 1.0)):
        found = np.unique(rgba[flat.pixel_voxel == voxel], axis=0)
        wanted = [0, 0, 0, 0] if value is None else np.rint(255 * np.array(table(value)))
        np.testing.assert_array_equal(found, [wanted])
    assert not rgba[flat.pixel_voxel < 0].any()


def test_groups_take_the_colours_of_the_app_and_a_legend(flat):
    shown = a_map((0, 1, 2, np.nan, 0, 1), high=2, categories=("faces", "places", "food"))
    rgba = value_rgba(flat, shown)
    wanted = [tuple(int(GROUP_COLOURS[group][i : i + 2], 16) for i in (1, 3, 5)) for group in (0, 1, 2)]
    assert [tuple(rgba[25, 12 + 13 * voxel, :3]) for voxel in range(3)] == wanted
    assert rgba[25, 12 + 39, 3] == 0
    text = drawn(flat, "svg", shown).decode()
    assert all(f">{name}</text>" in text for name in shown.categories)


def test_the_picture_shows_folds_where_nothing_is_known(flat):
    """Painted over grey folds: the withheld stripe is grey, a stripe with a value is not."""
    image = np.asarray(Image.open(io.BytesIO(drawn(replace(flat, outlines=()), "png"))).convert("RGB")).astype(int)
    scale = image.shape[1] / WIDTH
    # the map's first row lies below the title
    top = next(row for row in range(image.shape[0]) if (image[row, int(3 * scale)] < 250).all())
    withheld = image[top + int(25 * scale), int((12 + 26 + 0.5) * scale)]
    shown = image[top + int(25 * scale), int((12 + 0.5) * scale)]
    assert np.ptp(withheld) <= 2 and np.ptp(shown) > 40


@pytest.mark.parametrize("kind", PICTURE_FORMATS)
def test_threads_draw_the_same_picture_as_one_alone(flat, kind):
    """Sessions are threads: figures drawn at once are those drawn one by one."""
    shown = [a_map(np.linspace(0, top, N)) for top in (0.2, 0.5, 0.8, 1.0)]
    alone = [drawn(flat, kind, one) for one in shown]
    found: list = [None] * len(shown)

    def work(place: int) -> None:
        found[place] = drawn(flat, kind, shown[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(shown))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone and len(set(alone)) == len(alone)


def test_an_unknown_picture_format_is_refused(flat):
    with pytest.raises(ConfigError, match="no picture format 'bmp'; pictures are written as png, svg, pdf"):
        drawn(flat, "bmp")


def test_a_shift_is_drawn_beside_every_one_of_its_controls():
    rng = np.random.default_rng(4)
    controls = rng.normal(size=(5, 3))
    names = ("elsewhere", "elsewhere", "content", "content", "content")
    zeros = np.zeros(3)
    shift = PredictedShift(
        zeros, np.array([-2.0, 0, 1]), np.array([-2.0, 0, 1]), controls, names, np.full(3, 1 / 6), np.ones(3, int), "a", None
    )
    figure = shift_chart(shift, 0, "remove")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) and line.get_marker() in ("o", "D")]
    drawn_at = np.sort(np.concatenate([np.asarray(line.get_xdata(), float) for line in lines]))
    np.testing.assert_array_equal(drawn_at, np.sort(np.r_[controls[:, 0], -2.0]))
    label = figure.get_supxlabel().replace("\n", " ")
    assert "-2.00 SD" in label and "rank 1 among itself and 5" in label and "p = 0.167" in label and "not measured" in label
    assert ElementTree.fromstring(picture_bytes(figure, "svg")).tag == f"{SVG}svg"


def test_a_deletion_curve_is_drawn_beside_the_random_order():
    gone = np.arange(5)
    found = CriticalSet(np.array([[True, False], [False, False]]), 0.5, gone, np.array([2.0, 1, 0.5, 0.2, 0]), np.linspace(2, 0, 5))
    figure = curve_chart(found, "image 3")
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(curves["highest first"], found.predicted)
    np.testing.assert_array_equal(curves["random order"], found.random)
    Image.open(io.BytesIO(picture_bytes(figure, "png"))).verify()
