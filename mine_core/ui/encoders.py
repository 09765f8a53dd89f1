"""The encoders of a subject side by side: how well each predicts the same held-out images, where, and which the app uses."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.experiments.encoder_comparison import BASELINE, compare
from mine_core.figures import data_url, interval_figure, scatter_figure
from mine_core.instrument import Instrument
from mine_core.instrument.encoders import KINDS, TITLES, EncoderKind, FittedEncoder, fit_encoder, fitted_encoders
from mine_core.ui import maps, resources
from mine_core.ui.waiting import wait_for

OFFERED: dict[EncoderKind, str] = {"query_attention": "some five minutes on two cores", "banded": "a minute or two"}
PLAIN = {"displayModeBar": False}


def side_by_side(instrument: Instrument) -> None:
    """Show every fitted encoder beside ridge, and offer to fit the others."""
    st.markdown(
        "The app explains with **ridge**: it is a linear read-out, so that parts made once serve every voxel and a click is "
        "instant. The others say how much of each voxel such a read-out misses; all are scored on the same held-out images."
    )
    found = fitted_encoders(instrument.config, resources.store())
    if len(found) > 1:
        entries = _entries(instrument, tuple(str(encoder.provenance["key"]) for encoder in found.values()))
        _table(entries)
        for kind, encoder in found.items():
            if kind != BASELINE:
                _beside_ridge(instrument, found[BASELINE], encoder, entries[kind]["difference_to_ridge"])
    for kind in KINDS:
        if kind not in found:
            _offer(instrument, kind)


# `keys` are read by the cache alone: they tell fits apart
@st.cache_data(max_entries=8, show_spinner="Comparing encoders")
def _entries(_instrument: Instrument, keys: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG001
    return compare(_instrument, resources.store())


def _table(entries: dict[str, Any]) -> None:
    rows = []
    for kind, entry in entries.items():
        beside = entry.get("difference_to_ridge", {}).get("all voxels")
        rows.append(
            {
                "encoder": TITLES[kind],
                "median r": _number(entry["median_r"]),
                "R² / noise ceiling": _number(entry["normalised_accuracy"]),
                "voxels with q ≤ 0.05": f"{100 * entry['share_significant']:.0f} %",
                "planted null voxels called": _number(entry["null_voxel_false_positive_rate"], 3),
                "more than ridge (95 % interval)": _difference(beside) if beside else "",
            }
        )
    st.table(pd.DataFrame(rows), hide_index=True, border="horizontal")


def _number(value: float | None, digits: int = 2) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _difference(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _beside_ridge(instrument: Instrument, ridge: FittedEncoder, encoder: FittedEncoder, differences: dict[str, Any]) -> None:
    st.markdown(f"**{TITLES[encoder.kind]} beside ridge**")
    left, right = st.columns(2, gap="medium")
    with left:
        names = [f"{name} (n = {entry['n_voxels']})" for name, entry in differences.items()]
        middle = [entry["difference"] for entry in differences.values()]
        low, high = zip(*(entry["interval"] for entry in differences.values()), strict=True)
        figure = interval_figure(names, middle, low, high, "R² / noise ceiling more than ridge, 95 % interval over images")
        st.plotly_chart(figure, width="stretch", theme=None, key=f"encoders_regions_{encoder.kind}", config=PLAIN)
    with right:
        figure = scatter_figure(ridge.score.r, encoder.score.r, "r of ridge", f"r of {encoder.kind.replace('_', ' ')}")
        st.plotly_chart(figure, width="stretch", theme=None, key=f"encoders_voxels_{encoder.kind}", config=PLAIN)
        st.caption(f"{len(ridge.score.r):,} voxels, {ridge.score.n_test} held-out images. On the line both predict equally well.")
    for column, shown in zip(st.columns(2, gap="medium"), (ridge, encoder), strict=True):
        caption = f"{TITLES[shown.kind]}: held-out r of each voxel."
        drawn = maps.CortexMap("Accuracy", np.asarray(shown.score.r), 0.0, 0.8, False, "Pearson r", caption)
        with column:
            st.image(data_url(maps.layer(instrument, drawn).image, "webp"), width="stretch")
            maps.legend(drawn)


def _offer(instrument: Instrument, kind: EncoderKind) -> None:
    key = f"encoder {kind} {instrument.model.provenance['key']}"
    job = resources.worker().find(key)
    if job is not None and job.state != "done":
        wait_for(job)
        return
    if st.button(f"Fit: {TITLES[kind]} ({OFFERED[kind]})", key=f"encoders_fit_{kind}"):
        config, store = instrument.config, resources.store()
        resources.worker().forget(key)
        resources.worker().submit(
            key,
            f"Fitting: {TITLES[kind]}",
            lambda on_progress, cancelled: fit_encoder(config, store, kind, on_progress=on_progress, cancelled=cancelled).kind,
        )
        st.rerun()
