"""The parts of the Counterfactual page: what to change, before and after, the shift beside its controls, the whole cortex."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.counterfactual.editor_presets import RemovalError, find_editor_preset, measured_quality, measured_removals
from mine_core.counterfactual.shift import beyond_controls
from mine_core.errors import EditError, MineError
from mine_core.figures import data_url, mask_rgba, outlined, shift_figure
from mine_core.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.things import exemplars_of, insertable_words
from mine_core.instrument.trials import (
    FILLS,
    EditRequest,
    Kind,
    Trial,
    driving_region,
    painting_editors,
    run_trial,
    word_region,
)
from mine_core.profiles import wordless_text
from mine_core.types import ImageEdit
from mine_core.ui import maps
from mine_core.ui.components import flatmap, painter, placer
from mine_core.ui.state import View, set_view

WORDS_TRIED = 12
DRIVER = "what drives the voxel"
PAINTS_WELL = 0.95  # share of a painter's insertions that are recognised, from which on painting is offered first
NO_BREAK = "\N{NO-BREAK SPACE}"
HOW = {True: "Paint it by words", False: "Use a cut-out"}
FILLED = {"patch-fill": "patches of the image", "smooth-fill": "colours around it"}
NULL_FILL = "ring median"
KNOWS_NOTHING = "the median colour around it, which knows nothing,"
NO_PAINTER = "No editor that paints photographs is on this machine. The Data page says how to get one."
KINDS: dict[Kind, str] = {"remove": "Remove", "insert": "Insert"}


def ask(view: View, instrument: Instrument) -> EditRequest | None:
    """Ask what to change and where; returns None until the request makes sense."""
    shown: Kind = "insert" if view.edit == "insert" else "remove"
    kind = st.segmented_control("Edit", list(KINDS), format_func=lambda name: KINDS[name], default=shown, key="cf_kind") or shown
    if kind != view.edit:
        set_view(edit=kind)
    image = np.asarray(instrument.subject.stimuli.images[view.image])
    about = f"{view.subject}-{view.seed}-{view.voxel}-{view.image}-{kind}"
    alt = f"Image {view.image}: {instrument.captions[view.image]}"
    return _ask_where(view, instrument, image, about, alt) if kind == "remove" else _ask_what(view, instrument, image, about, alt)


def _ask_where(view: View, instrument: Instrument, image: np.ndarray, about: str, alt: str) -> EditRequest | None:
    """Ask which region to remove; the one that drives the voxel is offered, or that of a word, if there is one."""
    words = insertable_words(instrument, view.voxel)
    word = st.selectbox("Remove", [DRIVER, *words], key="cf_removed") if words else DRIVER
    editor = _ask_fill(instrument)
    start = None
    try:
        region = driving_region(instrument, view.voxel, view.image) if word == DRIVER else word_region(instrument, view.image, word)
        start = mask_rgba(region)
        found = "The region that drives the voxel" if word == DRIVER else f"Where '{word}' is seen"
        st.caption(f"{found} is marked; change it with the brush.")
    except EditError as refusal:
        st.info(f"{refusal} Or paint a region yourself.")
    drawn = painter(
        image,
        start,
        drawing=about if word == DRIVER else f"{about}-{word}",
        alt=alt,
        label="Region that the edit may change. Arrow keys move the brush, the space bar paints.",
        key="cf_painter",
    )
    if start is None and drawn is None:
        return None
    if drawn is not None and not drawn.any():
        st.info("The region is empty: paint where the edit may change the image.")
        return None
    packed = None if drawn is None else np.packbits(drawn).tobytes()
    return EditRequest("remove", view.voxel, view.image, word="" if word == DRIVER else word, region=packed, editor=editor)


def _ask_fill(instrument: Instrument) -> str:
    """Ask what fills the place of what is removed; a generative editor, or a fill, of which the first is empty."""
    painters = painting_editors(instrument)
    names = [*FILLS, *painters]
    told = "The fills are made at once and need no model. A painter is watched while it paints what may be behind, and has seeds."
    chosen = st.selectbox(
        "Fill its place with", names, format_func=lambda name: f"{FILLED.get(name, 'painted')} ({name})", key="cf_fill", help=told
    )
    known = [(found, name) for name in painters if name in (found := measured_removals(name))]
    if known:
        st.caption(_nearest(*known[0]))
    elif chosen in painters:
        st.caption(f"{find_editor_preset(chosen).about} How near it comes to what is behind was not measured here.")
    elif not painters and instrument.subject.kind != "phantom":
        st.caption(NO_PAINTER)
    return "" if chosen == FILLS[0] else chosen


def _nearest(measured: Mapping[str, RemovalError], painter_name: str) -> str:
    """How far each way of removing ends from what is behind, beside a fill that knows nothing of the scene."""
    own = measured[painter_name]
    rest = sorted((way for way in measured if way != painter_name), key=lambda way: measured[way].mean)
    each = "; ".join(
        f"{KNOWS_NOTHING if way == NULL_FILL else way} {found.more:+.1f} ({found.more_low:+.1f} to {found.more_high:+.1f})"
        for way, found in ((way, measured[way]) for way in rest)
    )
    return (
        f"Distance from what is behind, in grey levels of 255, over {own.n:.0f} scenes also drawn without the object (95 % intervals): "
        f"painted by {painter_name} {own.mean:.1f} ({own.low:.1f} to {own.high:.1f}). Beyond that, in the same scenes: {each}."
    )


def _ask_what(view: View, instrument: Instrument, image: np.ndarray, about: str, alt: str) -> EditRequest | None:
    """Ask what to insert and how, and at which place if at a certain one."""
    words = insertable_words(instrument, view.voxel)
    if not words:
        st.info(f"{wordless_text(instrument.features.backbone.name)} Nothing can be inserted by name, only removed.")
        return None
    editor = _ask_painter(instrument)
    if editor:
        told = "Choose a thing, or type what it is to look like: a red ball, a smiling woman with glasses"
        word = st.selectbox("Insert", words, index=0, key="cf_phrase", help=told, accept_new_options=True)
    else:
        first = _first_clear(instrument, instrument.model.provenance["key"], view.voxel)
        word = st.selectbox("Insert", words, index=first, key="cf_word", help="Cut out by its own attribution from another image")
    st.caption("Click where its middle is to be. Until then it is put where the image drives the voxel least.")
    place = placer(
        image,
        choice=about,
        alt=alt,
        label=f"Place of what is inserted. {alt}. Arrow keys move the crosshair, Enter puts it there.",
        key="cf_placer",
    )
    return EditRequest("insert", view.voxel, view.image, word=word, place=place, editor=editor) if word else None


def _ask_painter(instrument: Instrument) -> str:
    """Ask whether to paint and by which editor; empty for a cut-out."""
    painters = painting_editors(instrument)
    if not painters:
        if instrument.subject.kind != "phantom":
            st.caption(f"A cut-out is inserted. {NO_PAINTER}")
        return ""
    well = {name: found is not None and found[0] >= PAINTS_WELL for name in painters for found in (measured_quality(name),)}
    paint = st.segmented_control("How", list(HOW), format_func=HOW.__getitem__, default=any(well.values()), key="cf_how", required=True)
    if not paint:
        return ""
    editor = painters[0] if len(painters) == 1 else st.selectbox("Painter", painters, key="cf_painter_name")
    st.caption(_of_painter(editor))
    return editor


def _of_painter(name: str) -> str:
    """What is known of how well an editor paints."""
    quality, about = measured_quality(name), find_editor_preset(name).about
    if quality is None:
        return f"{about} How often its insertions are recognised was not measured here; what is not recognised is marked as failed."
    return (
        f"{'' if quality[0] >= PAINTS_WELL else 'This small painter is soft; cut-outs are sharper. '}An independent judge recognises "
        f"{100 * quality[0]:.0f} % of its insertions (95 % interval {100 * quality[1]:.0f} to {100 * quality[2]:.0f}); what the "
        "backbone does not recognise is marked as failed."
    )


# `model_key` is read by the cache alone: it tells instruments apart
@st.cache_data(max_entries=512, show_spinner="Looking for something to insert")
def _first_clear(_instrument: Instrument, model_key: str, voxel: int) -> int:  # noqa: ARG001
    """Position of the first insertable word that some image shows clearly, among those tried; else 0."""
    for position, word in enumerate(insertable_words(_instrument, voxel)[:WORDS_TRIED]):
        try:
            exemplars_of(_instrument, word)
            return position
        except EditError:
            continue
    return 0


# `key` is read by the cache alone: it tells instruments apart
@st.cache_resource(max_entries=64, show_spinner="Making the edit and its controls")
def _trial(_instrument: Instrument, _second: SecondEncoder | None, key: tuple[str, ...], request: EditRequest) -> Trial:  # noqa: ARG001
    return run_trial(_instrument, request, _second)


def run(instrument: Instrument, request: EditRequest | None, second: SecondEncoder | None) -> Trial | None:
    """Run the edit with its controls, or find it done; says why when it is refused."""
    if request is None:
        return None
    try:
        keys = (str(instrument.config), instrument.model.provenance["key"], second.key if second else "")
        return _trial(instrument, second, keys, request)
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
    effect, low, high = beyond_controls(shift, voxel)
    before = float(shift.before[voxel]) - instrument.mean_prediction(voxel)
    st.markdown(
        f"From {before:+.2f} to {before + value:+.2f} SD around the mean image; {beyond} {n} matched controls (one-sided p = {p:.3f}, "
        f"smallest possible {1 / (n + 1):.3f}). Beyond the mean control: {effect:+.2f} SD (95 % {low:+.2f} to {high:+.2f}, over "
        "controls of this image)."
    )
    if value != 0 and (value > 0) != (view.edit == "insert"):
        what = "insertion lowered" if view.edit == "insert" else "removal raised"
        st.warning(f"This {what} the prediction. Its rank only says how far the controls went the same way.")
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
        f"patches alone: {trial.instant:+.2f} SD. Pixels changed outside the region: {trial.edit.changed_outside_mask}."
    )


def whole_cortex(view: View, instrument: Instrument, trial: Trial) -> None:
    """Show the predicted shift of every reliable voxel; a click goes to that voxel."""
    st.markdown("**Predicted shift of all voxels**")
    shown = maps.signed_map(instrument, trial.shift.shift, "Predicted shift", "Predicted shift of this edit")
    centre = centre_of_voxel(instrument.flatmap, view.voxel)
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    clicked = flatmap(maps.layer(instrument, shown), selected=selected, table_key=f"{view.subject}-{view.seed}", key="cf_flatmap")
    maps.legend(shown)
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None and voxel != view.voxel:
            set_view(voxel=voxel)
            st.rerun()


def _in_short(edit: ImageEdit) -> str:
    place = edit.provenance.get("place")
    what = f"{edit.instruction} at {place['row']}, {place['col']}" if place else f"{edit.instruction.split()[0]}, {edit.editor}"
    return f"{what}, seed {edit.seed}" if "pipeline" in edit.provenance else what


def history(view: View, trial: Trial) -> None:
    """List the edits of this session, newest first."""
    rows: list[dict] = st.session_state.setdefault("cf_history", [])
    shift, voxel = trial.shift, view.voxel
    row = {
        "voxel, image": f"{voxel}, {view.image}",
        "edit": _in_short(trial.edit),
        "shift (SD)": f"{shift.shift[voxel]:+.2f}",
        "rank": f"{int(shift.rank[voxel])} of {1 + len(shift.control_names)}".replace(" ", NO_BREAK),
        "second (SD)": "" if trial.check is None else f"{trial.check.shift[voxel]:+.2f}",
        "area": f"{100 * trial.edit.edit_mask.mean():.0f}{NO_BREAK}%",
    }
    if row not in rows:
        rows.insert(0, row)
    st.markdown("**Edits of this session**")
    # a narrow window has no room for what is empty
    shown = pd.DataFrame(rows).astype(str)
    shown = shown.loc[:, (shown != "").any()]
    st.table(shown, hide_index=True, border="horizontal")
    st.caption(
        "Rank: of the voxel's shift among itself and the controls. Area: share of the image that may change. Places: row, column."
    )
