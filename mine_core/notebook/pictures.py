"""Findings as pictures for paper and small previews, drawn with matplotlib's objects and no display. No Streamlit, no science.

Figures carry what may leave this machine: where a dataset's terms forbid that of its images, the figure says so in their place.
"""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mine_core.cortex.flatmap import centre_of_voxel
from mine_core.exports.maps import CortexMap, painted
from mine_core.exports.pictures import DRAWING
from mine_core.exports.provenance import RESTRICTED
from mine_core.figures import GROUP_COLOURS, HEAT_HIGH, HEAT_LOW, heat_rgba, limit_of, outlined
from mine_core.instrument import Instrument
from mine_core.instrument.explain import ImageExplanation
from mine_core.instrument.trials import Trial
from mine_core.types import PredictedShift

Rgb = UInt8[np.ndarray, "height width 3"]
SIDE, DPI, INK, GREY = 240, 120, "#1b2430", "#8a94a0"
RIM = [withStroke(linewidth=1.6, foreground="#303840")]  # so that white names show on any colour


def may_leave(instrument: Instrument) -> bool:
    """Whether copies of the subject's images may be written into files."""
    return instrument.subject.kind not in RESTRICTED


def heat_on(image: Rgb, values: Float[np.ndarray, "row col"], limit: float) -> UInt8[np.ndarray, "side side 3"]:
    """Lay a heatmap over its image: red raises the prediction, blue lowers it, full strength at `limit`."""
    heat = heat_rgba(values, limit, SIDE)
    below = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    opacity = 0.8 * heat[..., 3:].astype(np.float32) / 255
    return np.rint(below * (1 - opacity) + heat[..., :3] * opacity).astype(np.uint8)


def map_picture(instrument: Instrument, shown: CortexMap, voxel: int = -1) -> bytes:
    """Draw a map of the cortex with outlines, scale and caption, as PNG; `voxel` is ringed."""
    figure = Figure(figsize=(8, 6.2), layout="constrained")
    axes = figure.subplots()
    _flatmap(axes, instrument, shown, voxel)
    if shown.categories:
        handles = [Patch(color=colour, label=name) for name, colour in zip(shown.categories, GROUP_COLOURS, strict=False)]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5, frameon=False, fontsize=8)
    else:
        colours = ScalarMappable(Normalize(shown.low, shown.high), colormaps[shown.colormap])
        figure.colorbar(colours, ax=axes, orientation="horizontal", shrink=0.5, pad=0.02, label=shown.unit)
    axes.set_title(shown.title, fontsize=11, color=INK, parse_math=False)
    figure.supxlabel(_folded(shown.caption, 110), fontsize=8, color=INK, parse_math=False)
    return png(figure)


def voxel_picture(instrument: Instrument, shown: CortexMap, voxel: int, top: Sequence[ImageExplanation]) -> bytes:
    """Draw where a voxel lies, and the images of its strongest predicted response with heatmaps, as PNG."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, width_ratios=[1, 1, 1, 1, 1, 1])
    place = figure.add_subplot(grid[:, :3])
    _flatmap(place, instrument, shown, voxel)
    scale = f"dark {shown.low:g} to bright {shown.high:g} {shown.unit}"
    place.set_title(f"voxel {voxel} on {shown.title.lower()}, {scale}", fontsize=9, color=INK)
    limit = limit_of([item.values for item in top])
    for position, item in enumerate(top[:6]):
        axes = figure.add_subplot(grid[position // 3, 3 + position % 3])
        _heat(axes, instrument, item, limit)
        axes.set_title(f"image {item.stimulus}: predicted {item.predicted:+.1f} SD", fontsize=7, color=INK)
    figure.supxlabel(_scale_text(limit), fontsize=8, color=INK)
    return png(figure)


def image_picture(instrument: Instrument, voxel: int, item: ImageExplanation) -> bytes:
    """Draw an image, and the same with the heatmap of one voxel over it, as PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    plain, heated = figure.subplots(1, 2)
    _picture(plain, instrument, _stimulus(instrument, item.stimulus))
    plain.set_title(f"image {item.stimulus}", fontsize=9, color=INK)
    limit = limit_of([item.values])
    _heat(heated, instrument, item, limit)
    heated.set_title(f"voxel {voxel}: predicted {item.predicted:+.2f}, measured {item.measured:+.2f} SD", fontsize=9, color=INK)
    figure.supxlabel(_scale_text(limit), fontsize=8, color=INK)
    return png(figure)


def edit_picture(instrument: Instrument, voxel: int, trial: Trial) -> bytes:
    """Draw an image before and after an edit, and the voxel's shift beside its controls, as PNG."""
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    before, after, shifts = figure.subplots(1, 3, width_ratios=[1, 1, 1.4])
    edit = trial.edit
    _picture(before, instrument, outlined(edit.original, edit.edit_mask))
    _picture(after, instrument, edit.edited)
    before.set_title("before, region outlined", fontsize=9, color=INK)
    after.set_title("after", fontsize=9, color=INK)
    _strip(shifts, trial.shift, voxel)
    if trial.check is not None:
        shifts.plot(float(trial.check.shift[voxel]), 0, "s", mfc="none", mec=INK, ms=9)
        figure.supxlabel("Diamond: the edit. Square: the same by the second encoder. Dots: control edits.", fontsize=8, color=INK)
    return png(figure)


def thumbnail(image: UInt8[np.ndarray, "height width channel"], width: int = 320) -> UInt8[np.ndarray, "h w channel"]:
    """Shrink a picture to a width, for a list; a smaller one is left as it is."""
    if image.shape[1] <= width:
        return image
    return cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA)


def ringed(instrument: Instrument, picture: UInt8[np.ndarray, "height width 4"], voxel: int) -> UInt8[np.ndarray, "height width 4"]:
    """Ring a voxel on a painted map; one that the map hides is not ringed."""
    centre = centre_of_voxel(instrument.flatmap, voxel) if voxel >= 0 else None
    if centre is None:
        return picture
    marked = np.ascontiguousarray(picture)
    at = (int(centre[0]), int(centre[1]))
    radius = max(10, picture.shape[1] // 45)
    cv2.circle(marked, at, radius, (0, 0, 0, 255), radius // 2, cv2.LINE_AA)
    cv2.circle(marked, at, radius, (255, 255, 255, 255), radius // 4, cv2.LINE_AA)
    return marked


def png(figure: Figure) -> bytes:
    """Render a figure; equal figures give equal bytes."""
    stream = io.BytesIO()
    with DRAWING:
        FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": "MINE"})
    return stream.getvalue()


def _flatmap(axes: Axes, instrument: Instrument, shown: CortexMap, voxel: int) -> None:
    flat = instrument.flatmap
    axes.imshow(painted(instrument.flatmap, shown), interpolation="antialiased")
    for outline in flat.outlines:
        for polygon in outline.polygons:
            axes.plot(polygon[:, 0], polygon[:, 1], color="white", lw=0.8)
        for x, y in outline.labels:
            axes.text(x, y, outline.name, color="white", fontsize=7, ha="center", va="center", parse_math=False, path_effects=RIM)
    centre = centre_of_voxel(flat, voxel) if voxel >= 0 else None
    if centre is not None:
        axes.plot(*centre, "o", mfc="none", mec="black", ms=13, mew=3)
        axes.plot(*centre, "o", mfc="none", mec="white", ms=13, mew=1.3)
    axes.set_axis_off()


def _stimulus(instrument: Instrument, stimulus: int) -> Rgb:
    return np.asarray(instrument.subject.stimuli.images[stimulus])


def _picture(axes: Axes, instrument: Instrument, image: Rgb) -> None:
    if may_leave(instrument):
        axes.imshow(image)
    else:
        axes.set_facecolor("#e8ebee")
        axes.text(0.5, 0.5, "images of this dataset\nare not exported", ha="center", va="center", transform=axes.transAxes, fontsize=8)
        axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def _heat(axes: Axes, instrument: Instrument, item: ImageExplanation, limit: float) -> None:
    """A heatmap over its image, or over a light ground where the image may not leave."""
    below = _stimulus(instrument, item.stimulus)
    ground = below if may_leave(instrument) else np.full_like(below, 245)
    axes.imshow(heat_on(ground, item.values, limit))
    axes.set_xticks([])
    axes.set_yticks([])


def _strip(axes: Axes, shift: PredictedShift, voxel: int) -> None:
    kinds = list(dict.fromkeys(shift.control_names))
    for row, kind in enumerate(kinds, 1):
        chosen = [i for i, name in enumerate(shift.control_names) if name == kind]
        axes.plot(shift.controls[chosen, voxel], np.full(len(chosen), row), "o", color=GREY, mec="white", ms=6)
    value = float(shift.shift[voxel])
    colour = HEAT_HIGH if value >= 0 else HEAT_LOW
    axes.plot(value, 0, "D", color=np.array(colour) / 255, ms=10)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(kinds) + 1), ["this edit", *kinds], fontsize=8, parse_math=False)
    axes.set_ylim(len(kinds) + 0.6, -0.6)
    axes.set_xlabel("predicted shift (SD of predictions)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"voxel {voxel}: {value:+.2f} SD", fontsize=9, color=INK)


def _scale_text(limit: float) -> str:
    return f"Heatmap: red raises and blue lowers the predicted response; full strength at {limit:.2g} SD a cell."


def _folded(text: str, width: int) -> str:
    """Break a caption into lines."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
