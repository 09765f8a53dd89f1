"""Pictures of attribution: a heatmap over its image, a deletion curve, an average map. No Streamlit, no science."""

import cv2
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8

from mine_core.attribution.critical import CriticalSet
from mine_core.attribution.receptive_field import ReceptiveField
from mine_core.figures import heat_rgba, plain_layout

SIDE = 288
COLOUR, GREY = "#0b5c8a", "#8a94a0"


def heat_over(image: UInt8[np.ndarray, "height width 3"], values: Float[np.ndarray, "row col"]) -> UInt8[np.ndarray, "side side 3"]:
    """Draw a heatmap over its image, on a scale of its own."""
    heat = heat_rgba(values, float(np.abs(values).max()) or 1.0, SIDE)
    below = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    opacity = 0.75 * heat[..., 3:].astype(np.float32) / 255
    return np.rint(below * (1 - opacity) + heat[..., :3] * opacity).astype(np.uint8)


def curve_figure(found: CriticalSet) -> go.Figure:
    """Draw what is left of the prediction while patches are taken away, in the heatmap's order and at random."""
    share = 100 * found.gone / found.patches.size
    figure = go.Figure()
    for name, curve, colour, dash in (("random order", found.random, GREY, "dot"), ("highest first", found.predicted, COLOUR, "solid")):
        figure.add_trace(
            go.Scatter(
                x=share,
                y=curve,
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"size": 5},
                hovertemplate="%{x:.0f} % taken away: %{y:+.2f} SD<extra>" + name + "</extra>",
            )
        )
    if found.patches.any():
        figure.add_vline(x=100 * found.patches.sum() / found.patches.size, line={"color": "#1b2430", "width": 1})
    figure.update_layout(
        height=280,
        xaxis_title="patches taken away (%)",
        yaxis_title="prediction (SD)",
        legend={"x": 1, "y": 1, "xanchor": "right", "yanchor": "top", "bgcolor": "rgba(255,255,255,0.7)"},
        **plain_layout(),
    )
    return figure


def field_figure(found: ReceptiveField) -> go.Figure:
    """Draw how much each patch contributes to what is explained of the response, with the estimated centre and radius."""
    rows, cols = found.shares.shape
    limit = 100 * float(np.abs(found.shares).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=100 * found.shares,
            x=(np.arange(cols) + 0.5) / cols,
            y=(np.arange(rows) + 0.5) / rows,
            colorscale="RdBu_r",
            zmin=-limit,
            zmax=limit,
            colorbar={"thickness": 10, "ticksuffix": " %"},
            hovertemplate="%{z:.1f} % of what is explained<extra></extra>",
        )
    )
    ends = {"x0": found.x - found.size, "x1": found.x + found.size, "y0": found.y - found.size, "y1": found.y + found.size}
    figure.add_shape(type="circle", line={"color": "#1b2430", "width": 2}, **ends)
    figure.add_trace(
        go.Scatter(x=[found.x], y=[found.y], mode="markers", marker={"symbol": "cross", "color": "#1b2430"}, hoverinfo="skip")
    )
    figure.update_layout(height=280, showlegend=False, **plain_layout())
    figure.update_xaxes(visible=False, range=[0, 1], constrain="domain")
    figure.update_yaxes(visible=False, range=[1, 0], scaleanchor="x", constrain="domain")
    return figure
