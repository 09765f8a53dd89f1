"""The parts of the Counterfactual page: what to change, before and after, the shift beside its controls, the whole cortex."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.errors import MineError
from mine_core.figures import data_url, mask_rgba, outlined, shift_figure
from mine_core.instrument import Instrument
from mine_core.instrument.trials import EditRequest, Trial, driving_region, insertable_words, run_trial
from mine_core.profiles import wordless_text
from mine_core.ui import maps
from mine_core.ui.components import flatmap, painter
from mine_core.ui.state import View, set_view

KINDS = {"remove": "Remove", "insert": "Insert"}
ALPHA = 0.05


def ask(view: View, instrument: Instrument) -> EditRequest | None:
    """Ask what to change and where; returns None until the request makes sense."""
    kind = st.segmented_control("Edit", KINDS, format_func=KINDS.get, default=view.edit or "remove", key="cf_kind") or "remove"
    if kind != view.edit:
        set_view(edit=kind)
    image = np.asarray(instrument.subject.stimuli.images[view.image])
    word = ""
    if kind == "insert":
        words = insertable_words(instrument, view.voxel)
        if not words:
            st.info(f"{wordless_text(instrument.features.backbone.name)} Nothing can be inserted by name, only removed.")
            return None
        word = st.selectbox("Insert", words, key="cf_word", help="Cut out by its own attribution from another image")
    start = driving_region(instrument, view.voxel, view.image) if kind == "remove" else None
    st.caption(
        "The region that drives the voxel is painted; change it with the brush."
        if kind == "remove"
        else "It is put where the image drives the voxel least; paint a region to choose the place."
    )
    drawn = painter(
        image,
        None if start is None else mask_rgba(start),
        drawing=f"{view.subject}-{view.seed}-{view.voxel}-{view.image}-{kind}",
        alt=f"Image {view.image}: {instrument.captions[view.image]}",
        label="Region that the edit may change. Arrow keys move the brush, the space bar paints.",
        key="cf_painter",
    )
    if drawn is not None and not drawn.any():
        st.info("The region is empty: paint where the edit may change the image.")
        return None
    return EditRequest(kind=kind, voxel=view.voxel, stimulus=view.image, word=word, region=_packed(drawn))


def _packed(region: np.ndarray | None) -> bytes | None:
    return None if region is None else np.packbits(region).tobytes()


# `key` is read by the cache alone: it tells instruments apart
@st.cache_resource(max_entries=64, show_spinner="Making the edit and its controls")
def _trial(_instrument: Instrument, key: tuple[str, ...], request: EditRequest) -> Trial:  # noqa: ARG001
    return run_trial(_instrument, request)


def run(instrument: Instrument, request: EditRequest | None) -> Trial | None:
    """Run the edit with its controls, or find it done; says why when it is refused."""
    if request is None:
        return None
    try:
        return _trial(instrument, (str(instrument.config), instrument.model.provenance["key"]), request)
    except MineError as refusal:
        st.error(str(refusal))
        return None


def before_and_after(trial: Trial) -> None:
    """Show the image before and after, the changed region outlined."""
    left, right = st.columns(2)
    edit = trial.edit
    with left:
        st.image(data_url(outlined(edit.original, edit.edit_mask), "webp"), width="stretch", caption="Before, region outlined")
    with right:
        st.image(data_url(outlined(edit.edited, np.zeros_like(edit.edit_mask)), "webp"), width="stretch", caption="After")


def verdict(view: View, instrument: Instrument, trial: Trial) -> None:
    """Say how the prediction moved and whether matched controls move it as much."""
    shift, voxel = trial.shift, view.voxel
    value, n = float(shift.shift[voxel]), len(shift.control_names)
    rank, p = int(shift.rank[voxel]), float(shift.p[voxel])
    st.markdown(f"### Predicted shift {value:+.2f} SD")
    beyond = "beyond all" if rank == 1 else f"rank {rank} among"
    before = float(shift.before[voxel]) - instrument.mean_prediction(voxel)
    st.markdown(
        f"From {before:+.2f} to {before + value:+.2f} SD around the mean image; {beyond} {n} matched controls (one-sided p = {p:.3f}, "
        f"smallest possible {1 / (n + 1):.3f})."
    )
    checked = trial.edit.provenance.get("verification")
    if checked and not trial.edit.verified:
        st.warning(f"The edit may not have done what was asked. {checked['reason'].capitalize()}.")
    elif checked:
        st.caption(f"Checked by the backbone: {checked['reason']}.")
    if not instrument.reliable[voxel]:
        st.warning("This voxel is not predicted reliably: read nothing into its shift.")
    st.plotly_chart(shift_figure(shift, voxel), width="stretch", theme=None, key="cf_shift", config={"displayModeBar": False})
    st.caption(
        "A prediction of the encoding model, not a change of a brain. " + trial.control_note + f" Instant estimate from the masked "
        f"patches alone: {trial.instant[voxel]:+.2f} SD. Pixels changed outside the region: {trial.edit.changed_outside_mask}."
    )


def whole_cortex(view: View, instrument: Instrument, trial: Trial) -> None:
    """Show the predicted shift of every reliable voxel; a click goes to that voxel."""
    st.markdown("**Predicted shift over the cortex**")
    shown = maps.signed_map(instrument, trial.shift.shift, "Predicted shift", "Predicted shift of this edit over the cortex")
    centre = centre_of_voxel(instrument.flatmap, view.voxel)
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    clicked = flatmap(maps.layer(instrument, shown), selected=selected, table_key=f"{view.subject}-{view.seed}", key="cf_flatmap")
    maps.legend(shown)
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None and voxel != view.voxel:
            set_view(voxel=voxel)
            st.rerun()


def history(view: View, trial: Trial) -> None:
    """List the edits of this session, newest first."""
    rows: list[dict] = st.session_state.setdefault("cf_history", [])
    shift, voxel = trial.shift, view.voxel
    row = {
        "voxel": voxel,
        "image": view.image,
        "edit": trial.edit.instruction,
        "predicted shift (SD)": round(float(shift.shift[voxel]), 2),
        "rank": int(shift.rank[voxel]),
        "controls": len(shift.control_names),
        "p": round(float(shift.p[voxel]), 3),
        "region (% of image)": round(100 * float(trial.edit.edit_mask.mean()), 1),
    }
    if row not in rows:
        rows.insert(0, row)
    st.markdown("**Edits of this session**")
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", key="cf_history_table")
