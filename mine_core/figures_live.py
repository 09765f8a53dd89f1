"""Figures of an edit that is painted step by step, and of its seeds beside each other. No Streamlit, no science."""

from collections.abc import Sequence

import plotly.graph_objects as go

from mine_core.figures import plain_layout
from mine_core.instrument.live import SeedRun, SeedSummary

SHIFT = "predicted shift (SD)"
NOW, EARLIER, FORESEEN = "#0b5c8a", "#b3bac2", "#8a5a00"


def steps_figure(runs: Sequence[SeedRun], instant: float) -> go.Figure:
    """Draw the predicted shift after each denoising step, one line a seed, the last one dark; dotted: the instant estimate."""
    figure = go.Figure()
    for run in runs:
        last = run is runs[-1]
        figure.add_scatter(
            x=[0, *(step.step for step in run.steps)],
            y=[0.0, *(step.shift for step in run.steps)],
            mode="lines+markers" if last else "lines",
            line={"color": NOW if last else EARLIER, "width": 2},
            marker={"size": 6},
            hovertemplate=f"seed {run.seed}, step %{{x}}: %{{y:+.2f}} SD<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": "#1b2430", "width": 1})
    figure.add_hline(y=instant, line={"color": FORESEEN, "width": 1.5, "dash": "dot"})
    shown = [instant, 0.0, *(step.shift for run in runs for step in run.steps)]
    room = 0.12 * (max(shown) - min(shown)) or 0.5
    n_steps = max((step.n_steps for run in runs for step in run.steps), default=1)
    figure.update_layout(height=230, showlegend=False, xaxis_title="denoising step", yaxis_title=SHIFT, **plain_layout())
    figure.update_xaxes(range=[0, n_steps + 0.3], tick0=0, dtick=max(1, round(n_steps / 6)))
    figure.update_yaxes(range=[min(shown) - room, max(shown) + room], automargin=True)
    return figure


def seeds_figure(runs: Sequence[SeedRun], summary: SeedSummary, instant: float, voxel: int) -> go.Figure:
    """Draw each seed's shift, failed ones hollow, their mean with its interval, and the instant estimate."""
    figure = go.Figure()
    rows = ["each seed", "mean, 95 %", "instant estimate"]
    for run in runs:
        if run.trial is not None:
            figure.add_scatter(
                x=[float(run.trial.shift.shift[voxel])],
                y=[rows[0]],
                mode="markers",
                marker={"size": 11, "symbol": "x-thin-open" if run.failed else "circle", "color": NOW, "line": {"width": 2}},
                hovertemplate=f"seed {run.seed}{', failed' if run.failed else ''}: %{{x:+.2f}} SD<extra></extra>",
            )
    if summary.mean is not None:
        low, high = summary.interval or (summary.mean, summary.mean)
        error = {"type": "data", "symmetric": False, "array": [high - summary.mean], "arrayminus": [summary.mean - low]}
        figure.add_scatter(
            x=[summary.mean],
            y=[rows[1]],
            mode="markers",
            marker={"size": 12, "symbol": "diamond", "color": NOW},
            error_x=error if summary.interval else None,
            hovertemplate=f"mean of {summary.n}: %{{x:+.2f}} SD<extra></extra>",
        )
    marker = {"size": 11, "symbol": "square-open", "color": FORESEEN, "line": {"width": 2}}
    figure.add_scatter(x=[instant], y=[rows[2]], mode="markers", marker=marker, hovertemplate="%{x:+.2f} SD<extra></extra>")
    figure.add_vline(x=0, line={"color": "#1b2430", "width": 1})
    figure.update_layout(height=185, showlegend=False, xaxis_title=SHIFT, **plain_layout())
    figure.update_yaxes(categoryorder="array", categoryarray=rows[::-1], automargin=True)
    return figure
