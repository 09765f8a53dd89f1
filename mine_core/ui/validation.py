"""The parts of the Validation page: claims, accuracy with its null, and the phantom's known answers."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.experiments import experiment
from mine_core.figures import interval_figure, learning_figure
from mine_core.instrument import Instrument
from mine_core.ui import resources
from mine_core.ui.waiting import wait_for

CLAIMED = (
    "A heatmap is an account of how the model's *prediction* is composed. Each method says whether its parts add up; "
    "those of the exact decomposition do.",
    "Words are chosen on training images and scored on held-out responses against shuffled ones; a voxel that earns none gets none.",
    "A predicted shift is shown beside matched control edits of the same image, with its rank among them.",
    "Voxels that are not predicted above chance (q ≤ 0.05, r ≥ 0.15) are withheld, visibly.",
)
NOT_CLAIMED = (
    "Nothing here is a measurement of a brain after an edit. It is a prediction of a model that was fit to recordings.",
    "A word that fits does not cause: it may be the usual company of what does. The counterfactual test is for that.",
    "The phantom's responses are simulated. What works on it need not work on a brain; what fails on it will not.",
    "The backbone 'phantom' learnt where things are from object masks; public CLIP models did not, and localise worse.",
)


def claims() -> None:
    """List what the instrument claims and what it does not."""
    left, right = st.columns(2, gap="large")
    left.markdown("**Claimed**\n\n" + "\n".join(f"- {line}" for line in CLAIMED))
    right.markdown("**Not claimed**\n\n" + "\n".join(f"- {line}" for line in NOT_CLAIMED))


def measured(instrument: Instrument, name: str, title: str) -> dict[str, Any] | None:
    """Run an experiment in the background once, showing how far it is; returns its result when there is one."""
    key = f"{name} {instrument.model.provenance['key']}"
    job = resources.worker().find(key)
    if job is None:
        if st.button(title, key=f"validation_{name}"):
            work = experiment(name)
            resources.worker().submit(key, title, lambda on_progress, _: work(instrument.config, resources.store(), on_progress))
            st.rerun()
        return None
    if job.state == "done":
        return job.outcome
    wait_for(job)
    return None


def accuracy(instrument: Instrument) -> None:
    """Show accuracy by region with intervals, and the null."""
    score = instrument.score
    first, second, third, fourth = st.columns(4)
    first.metric("Voxels", f"{len(score.r):,}")
    second.metric("Median held-out r", f"{np.median(score.r):.2f}")
    known = score.noise_ceiling[np.isfinite(score.noise_ceiling)]
    third.metric("Median noise ceiling", f"{np.median(known):.2f}" if len(known) else "unknown")
    fourth.metric("Voxels with q ≤ 0.05", f"{100 * (score.q <= 0.05).mean():.0f} %")
    found = measured(instrument, "encoding", "Measure accuracy by region")
    if found is None:
        return
    regions = {name: entry for name, entry in found["by_region"].items() if entry["interval"]}
    if regions:
        figure = interval_figure(
            [f"{name} (n = {entry['n_normalised']})" for name, entry in regions.items()],
            [entry["normalised_accuracy"] for entry in regions.values()],
            [entry["interval"][0] for entry in regions.values()],
            [entry["interval"][1] for entry in regions.values()],
            "R² / noise ceiling, mean over voxels with 95 % bootstrap interval",
        )
        st.plotly_chart(figure, width="stretch", theme=None, key="validation_regions", config={"displayModeBar": False})
    st.caption(
        f"{found['n_test']} held-out images. Chance: predictions paired with other images' responses give a median r of "
        f"{found['shuffled_median_r']:.3f}. Intervals are over {found['resampled']}: they speak of these voxels and other images."
    )


def learning(instrument: Instrument) -> None:
    """Show accuracy against the number of training images."""
    found = measured(instrument, "learning", "Measure the learning curve (a minute or two; longer where attention was fitted)")
    if found is None:
        return
    figure = learning_figure(found["curves"], f"{found['statistic']}, mean over voxels")
    st.plotly_chart(figure, width="stretch", theme=None, key="validation_learning", config={"displayModeBar": False})
    last = found["curves"]["ridge"][-1]
    spread = max(point["highest_draw"] - point["lowest_draw"] for point in found["curves"]["ridge"])
    st.caption(
        f"{last['n_voxels']:,} voxels, {found['n_test']} held-out images; bars: 95 % intervals over held-out images. Smaller parts are "
        f"drawn {found['curves']['ridge'][0]['n_draws']} times for ridge, which differ by {spread:.3f} at most. Shuffled responses: "
        "ridge on responses of other images, which is chance. A curve that still rises says that more images would help."
    )


def known_answers(instrument: Instrument) -> None:
    """Compare with what was planted; only a phantom has known answers."""
    if instrument.truth_path is None:
        st.info(
            "No one knows the answers for this subject. Choose the phantom on the Data page to see how far the method can be trusted."
        )
        return
    found = measured(instrument, "attribution", "Do the heatmaps point at what was planted?")
    if found is not None:
        rows = [
            ("all pairs", found["n_pairs"], found["pointing_game"], found["chance"]),
            ("reliable voxels", found["reliable"]["n_pairs"], found["reliable"]["pointing_game"], found["reliable"]["chance"]),
            (
                "small objects",
                found["small_objects"]["n_pairs"],
                found["small_objects"]["pointing_game"],
                found["small_objects"]["chance"],
            ),
        ]
        st.dataframe(pd.DataFrame(rows, columns=["pairs of voxel and held-out image", "n", "hits", "chance"]).round(3), hide_index=True)
        st.caption(
            "A hit: the highest point of the heatmap lies on an object planted to drive the voxel. "
            f"What taught the backbone where things are: {found['localisation']}. "
            f"Another voxel's heatmap hits {found['pointing_game_of_another_voxel']:.2f}. "
            f"Largest completeness error {found['completeness_error_max']:.1e} SD."
        )
    removal = measured(instrument, "removal", "Does removing what drives a voxel lower its prediction? (some minutes)")
    if removal is not None:
        low, high = removal["beyond_all_controls_interval"]
        st.markdown(
            f"Beyond all controls in **{100 * removal['beyond_all_controls']:.0f} %** of {removal['n_pairs']} pairs (95 % interval "
            f"{100 * low:.0f} to {100 * high:.0f} %; by chance {100 / (1 + removal['n_controls_median']):.0f} %). "
            f"Mean shift {removal['mean_shift']:+.2f} SD, controls {removal['mean_control_shift']:+.2f} SD."
        )
