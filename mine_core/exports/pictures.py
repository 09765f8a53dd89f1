"""Figures for paper: flatmaps, shifts beside their controls, deletion curves, as PNG of 300 dpi, SVG and PDF.

Drawn by matplotlib's own objects and never by pyplot, whose state all threads share. Outlines and axes are lines in SVG and PDF,
the cortex itself a picture; what has no value is clear.
"""

import io
import textwrap
import threading
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
import shapely
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.path import Path as Outline

from mine_core.attribution.critical import CriticalSet
from mine_core.cortex.flatmap import FlatMap, RegionOutline, render_map
from mine_core.errors import ConfigError
from mine_core.exports.maps import CortexMap
from mine_core.figures import GROUP_COLOURS
from mine_core.types import PredictedShift

PictureFormat = Literal["png", "svg", "pdf"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
DPI = 300
WIDTH_IN = 7.2
"""Width of a page's two columns."""
INK, GREY, RAISED, LOWERED, LINE = "#1b2430", "#6b7580", "#b2182b", "#2166ac", "#0b5c8a"
LETTERS_A_LINE = 132
LEAST_NAMED = 0.25  # of the area of a region's largest piece
DRAWING = threading.Lock()
"""Matplotlib's settings and its caches of fonts and texts are shared by all threads: held by whoever draws."""
_EDITABLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "MINE", "pdf.fonttype": 42}
"""Text stays text in SVG and PDF, and names of parts are not drawn at random."""


def flatmap_figure(flatmap: FlatMap, shown: CortexMap, subject: str, note: str = "") -> Figure:
    """Draw a map on the flattened cortex: folds, values, region outlines with names, colour scale, caption.

    Parameters
    ----------
    subject : whose cortex, and seen through what; stands below the map.
    note : what must not be missed, such as that the map is predicted by a model.
    """
    below = textwrap.wrap(f"{shown.caption} {note} {subject}", LETTERS_A_LINE)
    map_in = WIDTH_IN * flatmap.height / flatmap.width
    legend_rows = -(-len(shown.categories) // 5) if shown.categories else 0
    head, foot = 0.4, 0.12 + (0.18 * legend_rows + 0.1 if legend_rows else 0.52) + 0.15 * len(below)
    figure = Figure(figsize=(WIDTH_IN, map_in + head + foot), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    height = figure.get_figheight()
    axes = figure.add_axes((0, foot / height, 1, map_in / height))
    axes.set_axis_off()
    axes.imshow(_folds(flatmap), interpolation="nearest", zorder=0)
    axes.imshow(value_rgba(flatmap, shown), interpolation="nearest", zorder=1).set_gid("values")
    _draw_outlines(axes, flatmap)
    axes.set_xlim(-0.5, flatmap.width - 0.5)
    axes.set_ylim(flatmap.height - 0.5, -0.5)
    figure.text(0.02, 1 - 0.13 / height, shown.title, size=12, weight="bold", color=INK, va="top")
    _scale(figure, shown, foot / height, height)
    figure.text(0.02, 0.08 / height, "\n".join(below), size=7, color=INK, va="bottom", linespacing=1.3)
    return figure


def value_rgba(flatmap: FlatMap, shown: CortexMap) -> UInt8[np.ndarray, "height width 4"]:
    """Colours of a map's values by pixel; a pixel without a voxel, and a voxel without a value, is clear."""
    values = np.asarray(shown.values, np.float64)
    colours = np.zeros((len(values) + 1, 4))
    known = np.isfinite(values)
    if shown.categories:
        table = np.array([to_rgb(colour) for colour in GROUP_COLOURS])
        colours[:-1][known, :3] = table[values[known].astype(int)]
    else:
        scaled = np.clip((values[known] - shown.low) / (shown.high - shown.low), 0, 1)
        colours[:-1][known] = matplotlib.colormaps[shown.colormap](scaled)
    colours[:-1, 3] = known
    return np.rint(255 * colours[flatmap.pixel_voxel]).astype(np.uint8)


def _folds(flatmap: FlatMap) -> UInt8[np.ndarray, "height width 4"]:
    """The cortex without values, as the app draws it."""
    nothing: Float[np.ndarray, " voxel"] = np.full(len(flatmap.centres), np.nan)
    return render_map(flatmap, nothing, colormap="viridis", vmin=0, vmax=1)


def _draw_outlines(axes: Any, flatmap: FlatMap) -> None:
    """Region borders as paths, white on dark so that they show on any colour, and the regions' names."""
    for outline in flatmap.outlines:
        closed = [np.concatenate([polygon, polygon[:1]]) for polygon in outline.polygons]
        for colour, width, layer in (("black", 1.7, 2), ("white", 0.8, 3)):
            paths = PathCollection([Outline(points) for points in closed], facecolors="none", edgecolors=colour, linewidths=width)
            paths.set_transform(axes.transData)
            paths.set_gid(f"outline {outline.name} {colour}")
            paths.set_zorder(layer)
            axes.add_collection(paths, autolim=False)
        for x, y in _named_spots(outline):
            axes.text(
                x, y, outline.name, size=6.5, color="white", weight="bold", ha="center", va="center", zorder=4,
                path_effects=_halo(), clip_on=True,
            )  # fmt: skip


def _named_spots(outline: RegionOutline) -> list[tuple[float, float]]:
    """Where a region's name is written: on its large pieces, not on every speck."""
    areas = [shapely.Polygon(points).area for points in outline.polygons]
    return [spot for spot, area in zip(outline.labels, areas, strict=True) if area >= LEAST_NAMED * max(areas)]


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=1.6, foreground="black")]


def _scale(figure: Figure, shown: CortexMap, top: float, height: float) -> None:
    """Colour scale with its unit, or the groups' colours, below the map."""
    if shown.categories:
        pairs = zip(shown.categories, GROUP_COLOURS, strict=False)
        patches = [Patch(facecolor=colour, edgecolor="none", label=name) for name, colour in pairs]
        where = (0.01, top)
        figure.legend(handles=patches, loc="upper left", bbox_to_anchor=where, ncols=5, fontsize=7, frameon=False, handlelength=1)
        return
    axes = figure.add_axes((0.02, top - 0.2 / height, 0.32, 0.1 / height))
    scale = ListedColormap(matplotlib.colormaps[shown.colormap](np.linspace(0, 1, 256)))
    bar = figure.colorbar(ScalarMappable(Normalize(shown.low, shown.high), scale), cax=axes, orientation="horizontal")
    bar.set_label(shown.unit, size=7, color=INK)
    bar.ax.tick_params(labelsize=7, length=2, colors=INK)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]


def shift_chart(shift: PredictedShift, voxel: int, title: str) -> Figure:
    """Draw one voxel's predicted shift beside its control edits, kind by kind, with its rank and p."""
    kinds = list(dict.fromkeys(shift.control_names))
    figure = Figure(figsize=(WIDTH_IN * 0.72, 1.5 + 0.3 * len(kinds)), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for row, kind in enumerate(kinds, 1):
        chosen = [i for i, name in enumerate(shift.control_names) if name == kind]
        axes.plot(shift.controls[chosen, voxel], [row] * len(chosen), "o", ms=4.5, mfc=GREY, mec="white", mew=0.5)
    value = float(shift.shift[voxel])
    axes.plot([value], [0], "D", ms=7, color=RAISED if value >= 0 else LOWERED)
    axes.axvline(0, color=INK, lw=0.7)
    axes.set_yticks(range(len(kinds) + 1), ["this edit", *kinds])
    axes.set_ylim(len(kinds) + 0.6, -0.6)
    n = len(shift.control_names)
    said = f"Voxel {voxel}: {value:+.2f} SD, rank {int(shift.rank[voxel])} among itself and {n} matched controls, "
    said += f"one-sided p = {float(shift.p[voxel]):.3f}. Predicted by a model, not measured."
    axes.set_xlabel("predicted shift (SD of the voxel's predictions)", size=7)
    _say(figure, said)
    axes.set_title(title, size=9, loc="left", color=INK)
    _plain(axes)
    return figure


def curve_chart(found: CriticalSet, title: str) -> Figure:
    """Draw what is left of a prediction while patches are taken away, in a heatmap's order and at random."""
    figure = Figure(figsize=(WIDTH_IN * 0.6, 2.9), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    share = 100 * found.gone / found.patches.size
    axes.plot(share, found.random, "o:", ms=2.5, lw=1, color=GREY, label="random order")
    axes.plot(share, found.predicted, "o-", ms=2.5, lw=1, color=LINE, label="highest first")
    if found.patches.any():
        axes.axvline(100 * found.patches.sum() / found.patches.size, color=INK, lw=0.7)
    axes.set_xlabel(f"patches taken away (% of {found.patches.size})", size=7)
    _say(figure, "Replaced by the average image, in the heatmap's order and at random. Predicted by a model, not measured.")
    axes.set_ylabel("prediction (SD)", size=7)
    axes.legend(fontsize=7, frameon=False)
    axes.set_title(title, size=9, loc="left", color=INK)
    _plain(axes)
    return figure


def _say(figure: Figure, text: str) -> None:
    """Write a caption below the axes, as wide as the figure."""
    n_letters = int(LETTERS_A_LINE * 0.9 * figure.get_figwidth() / WIDTH_IN)
    figure.supxlabel("\n".join(textwrap.wrap(text, n_letters)), x=0.01, ha="left", size=7, color=INK)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=7, colors=INK, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)


def picture_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file's bytes: `png` (300 dpi), `svg` or `pdf`, without the time, so that equal figures are equal.

    Raises ConfigError for another kind.
    """
    if kind not in PICTURE_FORMATS:
        raise ConfigError(f"There is no picture format '{kind}'; pictures are written as {', '.join(PICTURE_FORMATS)}.")
    stream = io.BytesIO()
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": "MINE"}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with DRAWING, matplotlib.rc_context(_EDITABLE):
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata[kind])
    return stream.getvalue()
