"""Pinning: a small form that keeps what is on the page in the notebook, and an edit that a pin brings back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
import streamlit as st

from mine_core.errors import MineError, NotebookError
from mine_core.figures import data_url, outlined
from mine_core.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.notebook import Finding, Kind
from mine_core.notebook.again import (
    edit_settings,
    image_now,
    mask_of,
    provenance_of,
    request_from,
    settings_of,
    voxel_now,
)
from mine_core.notebook.findings import Found, find_edit
from mine_core.notebook.maps import AskedMap, MapName, map_now
from mine_core.notebook.records import MOST_NOTE, MOST_TAGS
from mine_core.ui import maps, resources
from mine_core.ui.attribution import chosen_method
from mine_core.ui.state import MAPS, View, set_view

NOTEBOOK = "pages/notebook.py"


def pin_explore(view: View, instrument: Instrument) -> None:
    """Offer to pin the voxel, the image or the map in view."""
    offered = maps.offered(instrument, view.image)
    name = view.map if view.map in offered else offered[0]
    choices: dict[str, Callable[[], Finding]] = {}
    if view.voxel >= 0:
        choices[f"Voxel {view.voxel}"] = lambda: _voxel(view, instrument)
    if view.voxel >= 0 and view.image >= 0:
        choices[f"Image {view.image} for this voxel"] = lambda: _image(view, instrument)
    asked = AskedMap(cast(MapName, name), view.image if name == "image" else -1)
    choices[f"The map: {MAPS[name]}"] = lambda: _map(replace(view, map=name), instrument, asked)
    _pin("explore", choices)


def pin_search(view: View, instrument: Instrument) -> None:
    """Offer to pin the map of the text that is looked for."""
    asked = AskedMap("search", find=view.find, minus=view.minus)
    _pin("search", {"The map of this text": lambda: _map(view, instrument, asked)})


def pin_layers(view: View, instrument: Instrument) -> None:
    """Offer to pin the map of best layers."""
    _pin("layers", {"The map: Best layer": lambda: _map(view, instrument, AskedMap("layer"))})


def pin_edit(view: View, instrument: Instrument, request: EditRequest | None, trial: Trial, second: SecondEncoder | None) -> None:
    """Offer to pin an edit with its shift, its controls and the second encoder's."""
    if request is None:
        return

    def make() -> Finding:
        found = find_edit(instrument, request, trial, second)
        shown = replace(view, edit=request.kind, voxel=request.voxel, image=request.stimulus, pin=-1)
        return _finding("edit", shown, instrument, found, edit_settings(instrument, request, trial, second))

    _pin("edit", {"This edit": make})


def pinned_edit(view: View, instrument: Instrument) -> EditRequest | None:
    """Show the edit of the pin in view, and return its request; None if the pin is not of this view, which is said."""
    try:
        pin = resources.notebook().get(view.pin)
        if pin.kind != "edit" or (pin.config, pin.voxel, pin.image) != (view.config(), view.voxel, view.image):
            raise NotebookError(
                f"The link asks for the edit of pin {view.pin}, which is of another view; open the pin from the notebook."
            )
        request = request_from(pin.settings.get("request", {}))
        image = np.asarray(instrument.subject.stimuli.images[view.image])
        picture = outlined(image, mask_of(pin, image.shape[0], image.shape[1]))
    except MineError as refusal:
        st.error(str(refusal))
        return None
    st.caption(f"The edit of pin {pin.id}, as it was asked for. Its region is outlined.")
    st.image(data_url(picture, "webp"), width="stretch")
    what = f"Insert '{request.word}'" if request.kind == "insert" else f"Remove {request.word or 'what drives the voxel'}"
    st.markdown(f"**{what}** in image {request.stimulus}{f', by {request.editor}' if request.editor else ''}")
    if st.button("Ask for another edit", key="cf_unpin"):
        set_view(pin=-1)
        st.rerun()
    return request


def _pin(key: str, choices: Mapping[str, Callable[[], Finding]]) -> None:
    """Ask what to pin, with a note and tags, and keep it."""
    with st.popover("Pin to the notebook", key=f"{key}_pin"):
        try:
            known = list(resources.notebook().tags())
        except MineError as refusal:
            st.error(str(refusal))
            return
        with st.form(f"{key}_pin_form", clear_on_submit=True, border=False):
            what = st.radio("What", list(choices), key=f"{key}_pin_what") if len(choices) > 1 else next(iter(choices))
            note = st.text_area("Note", key=f"{key}_pin_note", height=100, max_chars=MOST_NOTE, placeholder="What did you see?")
            tags = st.multiselect(
                "Tags",
                known,
                key=f"{key}_pin_tags",
                accept_new_options=True,
                max_selections=MOST_TAGS,
                placeholder="type a tag, then Enter",
            )
            sent = st.form_submit_button("Pin", type="primary")
        if sent and what is not None:
            _keep(choices[what], note, tags)
        st.caption("Kept with the numbers on screen and what makes them again; no image is copied.")
        st.page_link(NOTEBOOK, label="Open the notebook")


def _keep(make: Callable[[], Finding], note: str, tags: list[str]) -> None:
    try:
        with st.spinner("Reading the numbers"):
            pin = resources.notebook().add(replace(make(), note=note, tags=tuple(tags)))
    except MineError as refusal:
        st.error(str(refusal))
        return
    st.success(f"Pinned as number {pin.id}.")


def _voxel(view: View, instrument: Instrument) -> Finding:
    method = chosen_method(view)
    found = voxel_now(instrument, resources.store(), view.voxel, method)
    return _finding("voxel", view, instrument, found, settings_of(instrument, method=method))


def _image(view: View, instrument: Instrument) -> Finding:
    method = chosen_method(view)
    found = image_now(instrument, resources.store(), view.voxel, view.image, method)
    return _finding("image", view, instrument, found, settings_of(instrument, method=method))


def _map(view: View, instrument: Instrument, asked: AskedMap) -> Finding:
    found = map_now(instrument, resources.store(), asked, view.voxel)
    texts = {"find": asked.find, "minus": asked.minus} if asked.name == "search" else {}
    return _finding("map", view, instrument, found, settings_of(instrument, map=asked.name, **texts))


def _finding(kind: Kind, view: View, instrument: Instrument, found: Found, settings: dict[str, Any]) -> Finding:
    return Finding(
        kind=kind,
        # also what is the default now, which another version may change
        view={name: str(value) for name, value in asdict(view).items() if value not in ("", -1)},
        title=found.title,
        numbers=found.numbers,
        settings=settings,
        provenance=provenance_of(instrument, resources.store()),
        withheld=found.withheld,
    )
