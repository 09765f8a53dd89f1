"""Pictures of what is about to be imported."""

import plotly.graph_objects as go

from mine_core.instrument.looking import VOXEL_COLOUR, ResponsesLook


def response_histogram(look: ResponsesLook, units: str) -> go.Figure:
    """Bars of how often a response has each value, over all stimuli, voxels and repeats that were looked at."""
    centres = (look.edges[:-1] + look.edges[1:]) / 2
    figure = go.Figure(
        go.Bar(
            x=centres,
            y=look.counts,
            width=look.edges[1:] - look.edges[:-1],
            marker={"color": VOXEL_COLOUR, "line": {"width": 0}},
            hovertemplate="%{x:.3g}: %{y:,}<extra></extra>",
        )
    )
    figure.update_layout(
        height=230,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis_title=f"response ({units})",
        yaxis_title=f"values (of {look.n_values:,})",
        plot_bgcolor="white",
        showlegend=False,
    )
    figure.update_yaxes(gridcolor="#e3e7ec", rangemode="tozero")
    return figure
