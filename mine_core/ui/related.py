"""What the Counterfactual page says of an insertion beside its hardest comparison: the things related to it."""

from dataclasses import replace

import streamlit as st

from mine_core.counterfactual.shift import beyond_controls
from mine_core.errors import EditError
from mine_core.figures import shift_figure
from mine_core.instrument import Instrument
from mine_core.instrument.related import Related, beside_related
from mine_core.instrument.trials import Trial
from mine_core.types import ImageEdit
from mine_core.ui.state import View


def this_or_its_kind(view: View, instrument: Instrument, trial: Trial) -> None:
    """Show an insertion beside those of related things in its place, after everything that is known at once."""
    if view.edit != "insert":
        return
    st.markdown("**This thing, or its kind?**")
    edit = trial.edit
    key = (str(instrument.config), instrument.model.provenance["key"], edit.edited.tobytes(), edit.original.tobytes())
    try:
        related = _related(instrument, key, edit)
    except EditError as refusal:
        st.caption(str(refusal))
        return
    shown = replace(related.shift, control_names=related.words)
    figure = shift_figure(shown, view.voxel, above=trial.shift)
    st.plotly_chart(figure, width="stretch", theme=None, key="cf_related", config={"displayModeBar": False})
    st.caption(sentence(related, view.voxel))


# `key` is read by the cache alone: it tells instruments and edits apart
@st.cache_resource(max_entries=64, show_spinner="Inserting related things in the same place")
def _related(_instrument: Instrument, key: tuple[object, ...], _edit: ImageEdit) -> Related:  # noqa: ARG001
    return beside_related(_instrument, _edit)


def sentence(related: Related, voxel: int) -> str:
    """What the comparison says of one voxel, with its uncertainty."""
    shift, n = related.shift, len(related.words)
    effect, low, high = beyond_controls(shift, voxel)
    as_much = [word for word, moved in zip(related.words, shift.controls[:, voxel], strict=True) if moved >= shift.shift[voxel]]
    if as_much:
        found = f"{', '.join(as_much)} would raise the prediction as much: the voxel may want the kind, or what goes with it."
    else:
        found = f"None of the {n} raises the prediction as much."
    return (
        f"{found} This insertion: {effect:+.2f} SD beyond the mean of {n} things hardest to tell from it (95 % {low:+.2f} to "
        f"{high:+.2f}, over these things), cut out of training images and laid in the same place. They do not enter the rank above."
    )
