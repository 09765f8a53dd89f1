"""What the Counterfactual page says of the second encoder: its own shift, how far it can be trusted, and preparing it."""

import streamlit as st

from mine_core.errors import MineError
from mine_core.instrument import Instrument
from mine_core.instrument.second import SecondEncoder, build_second, second_is_built
from mine_core.instrument.trials import Trial
from mine_core.ui import resources
from mine_core.ui.state import View
from mine_core.ui.waiting import wait_for


def prepared(instrument: Instrument) -> SecondEncoder | None:
    """Return the second encoder if it can be opened without building anything."""
    try:
        return _opened(instrument) if second_is_built(instrument.config, resources.store()) else None
    except MineError:
        # There is none for this subject; `second_opinion` says why.
        return None


def _opened(instrument: Instrument) -> SecondEncoder:
    return _second(instrument, instrument.model.provenance["key"])


# `key` is read by the cache alone: it tells instruments apart
@st.cache_resource(max_entries=3, show_spinner=False)
def _second(_instrument: Instrument, key: str) -> SecondEncoder:  # noqa: ARG001
    return build_second(_instrument.config, resources.store())


def second_opinion(view: View, instrument: Instrument, trial: Trial, second: SecondEncoder | None) -> None:
    """Say how an encoder that took no part in the edit predicts it, or offer to prepare one."""
    st.markdown("**Second encoder**")
    if second is None or trial.check is None:
        _offer(instrument)
        return
    voxel, check = view.voxel, trial.check
    shift, rank, n = float(check.shift[voxel]), int(check.rank[voxel]), len(check.control_names)
    beyond = "beyond all" if rank == 1 else f"rank {rank} among"
    st.caption(
        f"Predicted shift {shift:+.2f} SD, {beyond} {n} controls. It {second.independence}, "
        f"and took no part in choosing the edit. It predicts this voxel with a held-out r of {second.score.r[voxel]:.2f} "
        f"(the first encoder: {instrument.score.r[voxel]:.2f})."
    )
    if not second.reliable[voxel]:
        st.warning("The second encoder does not predict this voxel reliably: it neither confirms nor refutes the shift.")
    elif shift * float(trial.shift.shift[voxel]) < 0:
        st.warning("The two encoders disagree about the direction: do not build on this shift.")


def _offer(instrument: Instrument) -> None:
    config, store = instrument.config, resources.store()
    key = f"second encoder {instrument.model.provenance['key']}"
    job = resources.worker().find(key)
    if job is not None and job.state != "done":
        wait_for(job)
        return
    try:
        second_is_built(config, store)
    except MineError as refusal:
        st.caption(str(refusal))
        return
    st.caption("An encoder that takes no part in choosing an edit can check it. It is made once, in about half a minute, and kept.")
    if st.button("Prepare the second encoder", key="cf_second"):
        resources.worker().forget(key)
        resources.worker().submit(
            key,
            "Preparing the second encoder",
            lambda on_progress, cancelled: build_second(config, store, on_progress=on_progress, cancelled=cancelled).key,
        )
        st.rerun()
