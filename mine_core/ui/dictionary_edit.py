"""The part of the Layers page that takes a unit out of an image, and says what that does to the voxel's prediction."""

import streamlit as st

from mine_core.errors import MineError
from mine_core.instrument import Instrument
from mine_core.instrument.dictionary import Dictionary
from mine_core.instrument.dictionary_edits import largest_activation, removal_of_unit
from mine_core.instrument.dictionary_views import Unit, activation
from mine_core.ui import counterfactual
from mine_core.ui.second import prepared, second_opinion
from mine_core.ui.state import View


def without_unit(view: View, instrument: Instrument, dictionary: Dictionary, unit: Unit | None) -> None:
    """Offer to remove the unit's patches from the chosen image; show before and after, and the shift beside matched controls."""
    if unit is None or view.voxel < 0 or view.image < 0:
        return
    st.subheader(f"Image {view.image} without unit {unit.unit} of layer {unit.layer + 1}", anchor=False)
    wanted = st.toggle("Remove the patches where the unit is active", key=f"dictionary_remove_{unit.layer}_{unit.unit}_{view.image}")
    if not wanted:
        st.caption(f"The same edit, controls and verdict as on the Counterfactual page, for voxel {view.voxel}.")
        return
    try:
        request = removal_of_unit(instrument, dictionary, unit, view.voxel, view.image)
    except MineError as refusal:
        st.info(str(refusal))
        return
    second = prepared(instrument)
    left, right = st.columns([4, 5], gap="medium")
    with left:
        trial = counterfactual.run(instrument, request, second)
        if trial is None:
            return
        counterfactual.before_and_after(trial)
        before = float(activation(dictionary, Unit(unit.layer, unit.unit))[view.image])
        after = largest_activation(instrument, dictionary, unit, trial.edit.edited)
        st.caption(
            f"The unit's largest activation goes from {before:.2f} to {after:.2f}. Late tokens hold content from elsewhere: a unit may "
            "stay where its patches are gone."
        )
    with right:
        counterfactual.verdict(view, instrument, trial)
        second_opinion(view, instrument, trial, second)
