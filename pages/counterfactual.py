"""Counterfactual: is that the cause?"""

import streamlit as st

from mine_core.ui import counterfactual, exporting, live, pins
from mine_core.ui.frame import require_instrument
from mine_core.ui.related import this_or_its_kind
from mine_core.ui.second import prepared, second_opinion

view, instrument = require_instrument()
if view.voxel < 0 or view.image < 0:
    st.info("Choose a voxel and one of its images on the Explore page first.")
    st.page_link("pages/explore.py", label="Go to Explore")
    st.stop()

st.subheader(f"Voxel {view.voxel}: is that what drives it?", anchor=False)
left, right = st.columns([4, 7], gap="medium")
with left:
    request = pins.pinned_edit(view, instrument) if view.pin >= 0 else counterfactual.ask(view, instrument)
with right:
    second = prepared(instrument)
    request, trial = live.made(view, instrument, request, second)
    if request is not None and trial is not None:
        counterfactual.before_and_after(trial)
        counterfactual.verdict(view, instrument, trial)
        second_opinion(view, instrument, trial, second)
        this_or_its_kind(view, instrument, trial)
        exporting.export_edit(instrument, request, trial)
        pins.pin_edit(view, instrument, request, trial, second)
if trial is not None:
    st.divider()
    left, right = st.columns([6, 5], gap="medium")
    with left:
        counterfactual.whole_cortex(view, instrument, trial)
    with right:
        counterfactual.history(view, trial)
