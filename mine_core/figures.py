"""Typed results to pictures: data URLs for the page's components and plotly figures. No Streamlit, no science.

Colours: signed quantities run from blue over white to red-brown (safe for the common colour blindnesses), unsigned ones
through viridis, groups through the palette of Okabe and Ito (2008).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mine_core.types import PredictedShift

SIGNED_MAP = "RdBu_r"
UNSIGNED_MAP = "viridis"
GROUP_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442", "#5b5b5b", "#8c510a", "#80cdc1")
HEAT_HIGH, HEAT_LOW = (178, 24, 43), (33, 102, 172)
# Below this share of the scale a heatmap is clear, so that it does not tint what it says nothing about.
FAINT = 0.08
FULL_STRENGTH = 0.98
LABELS = 248  # pixels for the longest name of a kind of control


def data_url(image: UInt8[np.ndarray, "height width channel"], kind: str = "png") -> str:
    """Encode an RGB or RGBA image as a data URL (`png` lossless, `webp` smaller)."""
    stream = io.BytesIO()
    if kind == "webp":
        Image.fromarray(image).save(stream, "WEBP", quality=88, method=2)
    else:
        Image.fromarray(image).save(stream, "PNG", compress_level=3)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def limit_of(values: Sequence[Float[np.ndarray, "row col"]]) -> float:
    """Scale that several heatmaps share: 98 % of their places lie within it; a few strong ones would leave the others too faint."""
    return float(np.quantile(np.abs(np.concatenate([each.ravel() for each in values])), FULL_STRENGTH)) or 1.0


def heat_rgba(values: Float[np.ndarray, "row col"], limit: float, size: int = 96) -> UInt8[np.ndarray, "size size 4"]:
    """Draw one image's patch attribution: red raises the prediction, blue lowers it, opacity is strength up to `limit`.

    Patches are interpolated to `size` pixels for the eye; the numbers stay those of the patches.
    """
    smooth = cv2.resize(np.asarray(values, np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    strength = np.clip(np.abs(smooth) / max(limit, 1e-12), 0, 1)
    rgba = np.empty((size, size, 4), np.uint8)
    rgba[..., :3] = np.where((smooth >= 0)[..., None], HEAT_HIGH, HEAT_LOW)
    rgba[..., 3] = (255 * strength * (strength > FAINT)).astype(np.uint8)
    return rgba


def mask_rgba(
    region: Bool[np.ndarray, "height width"], colour: tuple[int, int, int] = (214, 0, 108)
) -> UInt8[np.ndarray, "height width 4"]:
    """Draw a region in one opaque colour on a clear ground."""
    rgba = np.zeros((*region.shape, 4), np.uint8)
    rgba[region] = (*colour, 255)
    return rgba


def outlined(image: UInt8[np.ndarray, "height width 3"], region: Bool[np.ndarray, "rows cols"]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a region's border on an image, white on black so that it shows on any ground; a region of patches is stretched over it."""
    scale = max(1, 384 // image.shape[0])
    height, width = image.shape[0] * scale, image.shape[1] * scale
    large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    borders, _ = cv2.findContours(
        cv2.resize(region.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST),
        cv2.RETR_EXTERNAL,
        cv2.CHAIN_APPROX_NONE,
    )
    cv2.drawContours(large, borders, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(large, borders, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return large


def css_gradient(colormap: str, n: int = 9) -> str:
    """Write a matplotlib colour map as a CSS gradient."""
    table = matplotlib.colormaps[colormap](np.linspace(0, 1, n))
    return f"linear-gradient(90deg, {', '.join(matplotlib.colors.to_hex(colour) for colour in table)})"


def heat_gradient() -> str:
    """Write the heatmap's own scale, blue over clear to red, as a CSS gradient."""
    low, high = (f"rgb{colour}" for colour in (HEAT_LOW, HEAT_HIGH))
    return f"linear-gradient(90deg, {low}, #ffffff 50%, {high})"


def shift_figure(
    shift: PredictedShift, voxel: int, unit: str = "SD of predictions", above: PredictedShift | None = None
) -> go.Figure:
    """Draw one voxel's predicted shift beside its control edits, kind by kind; on the axis that the figure of `above` has."""
    figure = go.Figure()
    kinds = list(dict.fromkeys(shift.control_names))
    for kind in kinds:
        chosen = [i for i, name in enumerate(shift.control_names) if name == kind]
        figure.add_trace(
            go.Scatter(
                x=shift.controls[chosen, voxel],
                y=[kind] * len(chosen),
                mode="markers",
                marker={"size": 9, "color": "#8a94a0", "line": {"color": "#ffffff", "width": 1}},
                hovertemplate="%{x:.2f} SD<extra>" + kind + "</extra>",
                showlegend=False,
            )
        )
    value = float(shift.shift[voxel])
    figure.add_trace(
        go.Scatter(
            x=[value],
            y=["this edit"],
            mode="markers",
            marker={"size": 15, "symbol": "diamond", "color": "#b2182b" if value >= 0 else "#2166ac"},
            hovertemplate="%{x:.2f} SD<extra>this edit</extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line={"color": "#1b2430", "width": 1})
    known = np.concatenate([[0.0], *(np.append(one.controls[:, voxel], one.shift[voxel]) for one in (shift, above) if one is not None)])
    room = 0.06 * max(float(np.ptp(known)), 0.1)
    layout = plain_layout()
    layout["margin"] |= {"l": LABELS}
    figure.update_layout(height=110 + 34 * (len(kinds) + 1), xaxis_title=f"predicted shift ({unit})", **layout)
    figure.update_xaxes(range=[float(known.min()) - room, float(known.max()) + room])
    figure.update_yaxes(categoryorder="array", categoryarray=["this edit", *kinds][::-1], automargin=False)
    return figure


def interval_figure(names: Sequence[str], means: Sequence[float], low: Sequence[float], high: Sequence[float], axis: str) -> go.Figure:
    """Draw means with intervals, one row a name."""
    centre = np.asarray(means)
    figure = go.Figure(
        go.Scatter(
            x=centre,
            y=list(names),
            mode="markers",
            marker={"size": 9, "color": "#0b5c8a"},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.asarray(high) - centre,
                "arrayminus": centre - np.asarray(low),
            },
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    figure.update_layout(height=90 + 26 * len(names), xaxis_title=axis, **plain_layout())
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def scatter_figure(
    first: Float[np.ndarray, " voxel"], second: Float[np.ndarray, " voxel"], first_axis: str, second_axis: str
) -> go.Figure:
    """Draw one point a voxel, and the line on which both values are equal."""
    low, high = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
    figure = go.Figure(
        [
            go.Scattergl(
                x=np.asarray(first, np.float32),
                y=np.asarray(second, np.float32),
                mode="markers",
                marker={"size": 3, "color": "#0b5c8a", "opacity": 0.35},
                hovertemplate="voxel %{pointNumber}: %{x:.2f}, %{y:.2f}<extra></extra>",
            ),
            go.Scatter(x=[low, high], y=[low, high], mode="lines", line={"color": "#1b2430", "width": 1}, hoverinfo="skip"),
        ]
    )
    figure.update_layout(height=420, xaxis_title=first_axis, yaxis_title=second_axis, showlegend=False, **plain_layout())
    return figure


def learning_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], axis: str) -> go.Figure:
    """Draw accuracy with its interval against the number of training images, one line an encoder, chance dashed and grey."""
    figure = go.Figure()
    coloured = iter((GROUP_COLOURS[4], GROUP_COLOURS[3], GROUP_COLOURS[2]))
    for name, points in curves.items():
        chance = name == "shuffled"
        colour = "#5b5b5b" if chance else next(coloured)
        middle = np.array([point["accuracy"] for point in points])
        low, high = np.array([point["interval"] for point in points]).T
        figure.add_scatter(
            x=[point["n_train"] for point in points],
            y=middle,
            name="shuffled responses" if chance else name.replace("_", " "),
            mode="lines+markers",
            line={"color": colour, "dash": "dot" if chance else "solid"},
            marker={"size": 8, "symbol": "x" if chance else "circle"},
            error_y={"type": "data", "symmetric": False, "array": high - middle, "arrayminus": middle - low, "thickness": 1.2},
            hovertemplate="%{x:,} images: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(height=360, xaxis_title="training images", yaxis_title=axis, **plain_layout())
    ticks = sorted({point["n_train"] for points in curves.values() for point in points})
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    figure.update_layout(legend={"orientation": "h", "y": 1.12, "x": 0})
    return figure


ENCODER_MARKS = {
    "guiding": ("guiding encoder", GROUP_COLOURS[4], "circle", -0.14),
    "second": ("second encoder", GROUP_COLOURS[3], "diamond-open", 0.14),
}


def contrasts_figure(entries: Sequence[Mapping[str, Any]], axis: str) -> go.Figure:
    """Draw differences of conditions with 95 % intervals, by either encoder, over the range of exchanged conditions in grey.

    Encoders differ in the shape and the height of their marks as well as in colour; rows are in the order given, each with its n.
    """
    figure, ends = go.Figure(), [0.0]
    for place, found in enumerate(entry["guiding"] for entry in entries):
        if found:
            low, high = found["null"]
            ends += [low, high]
            figure.add_shape(
                type="rect",
                x0=low,
                x1=high,
                y0=place - 0.3,
                y1=place + 0.3,
                fillcolor="#d5d9de",
                line={"width": 0},
                layer="below",
                opacity=1,
            )
    for encoder, (name, colour, symbol, beside) in ENCODER_MARKS.items():
        shown = [(place, entry[encoder]) for place, entry in enumerate(entries) if entry[encoder]]
        if not shown:
            continue
        centre = np.array([found["estimate"] for _, found in shown])
        low, high = np.array([found["interval"] for _, found in shown]).T
        ends += [*low.tolist(), *high.tolist()]
        figure.add_scatter(
            x=centre,
            y=[place + beside for place, _ in shown],
            mode="markers",
            marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
            error_x={"type": "data", "symmetric": False, "array": high - centre, "arrayminus": centre - low, "thickness": 2},
            name=name,
            hovertemplate="%{x:.2f}<extra>" + name + "</extra>",
        )
    figure.add_vline(x=0, line={"color": "#1b2430", "width": 1})
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    figure.update_layout(height=66 + 56 * len(entries), showlegend=False, **plain_layout())
    figure.update_xaxes(range=[min(ends) - margin, max(ends) + margin], title={"text": axis, "font": {"size": 12}})
    rows = [f"{_compared(entry)}<br>{_counted(entry)}" for entry in entries]
    figure.update_yaxes(range=[len(entries) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=rows, automargin=True)
    return figure


def _compared(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} less controls" if entry["reference"] == "controls" else f"{entry['treated']} less {entry['reference']}"


def _counted(entry: Mapping[str, Any]) -> str:
    found = entry["guiding"]
    return f"{found['n_voxels']} voxels, {found['n_images']} images" if found else "too few to test"


def plain_layout() -> dict:
    """Layout that every figure shares."""
    return {
        "template": "simple_white",
        "margin": {"l": 10, "r": 14, "t": 10, "b": 44},
        "font": {"size": 13, "color": "#1b2430"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
    }
