"""Pictures of a dictionary: regions against layers, one voxel's layers. No Streamlit, no science."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from mine_core.figures import UNSIGNED_MAP, plain_layout

COLOUR, GREY = "#0b5c8a", "#8a94a0"


def matrix_figure(rows: Mapping[str, Float[np.ndarray, " layer"]], best: Mapping[str, str]) -> go.Figure:
    """Draw mean held-out r of every layer (columns) in every region (rows), each row beside its mean best layer."""
    values = np.array(list(rows.values()))
    names = [f"{name} · {best[name]}" for name in rows]
    layers = [f"layer {layer + 1}" for layer in range(values.shape[1])]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=layers,
            y=names,
            colorscale=UNSIGNED_MAP,
            zmin=0,
            zmax=max(float(values.max()), 1e-6),
            text=[[f"{value:.2f}" for value in row] for row in values] if values.shape[1] <= 12 else None,
            texttemplate="%{text}" if values.shape[1] <= 12 else None,
            colorbar={"title": "mean r", "thickness": 12},
            hovertemplate="%{y}, %{x}: r = %{z:.3f}<extra></extra>",
        )
    )
    figure.update_layout(height=90 + 30 * len(rows), **plain_layout())
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def layers_figure(r: Sequence[float], share: Sequence[float]) -> go.Figure:
    """Draw one voxel's held-out r by layer, and how often each layer is the best of resampled images."""
    best = int(np.argmax(r))
    figure = go.Figure(
        go.Bar(
            x=[f"layer {layer + 1}<br>best in<br>{100 * part:.0f} %" for layer, part in enumerate(share)],
            y=list(r),
            marker={"color": [COLOUR if layer == best else GREY for layer in range(len(r))]},
            text=[f"{value:.2f}" for value in r],
            textposition="auto",
            textangle=0,
            hovertemplate="%{x}: r = %{y:.3f}<extra></extra>",
        )
    )
    figure.update_layout(height=240, yaxis_title="held-out r", showlegend=False, **plain_layout())
    figure.update_xaxes(tickangle=0)
    return figure
