"""What a pin is now: its picture and its numbers, made from what is in the cache, and not stored anywhere."""

from typing import Any

import numpy as np
import streamlit as st
from jaxtyping import UInt8

from mine_core.artifacts import canonical_json
from mine_core.cortex.flatmap import centre_of_voxel
from mine_core.errors import MineError
from mine_core.exports.maps import CortexMap, cortex_map, painted
from mine_core.figures import limit_of, outlined
from mine_core.instrument import Instrument
from mine_core.instrument.explain import ImageExplanation, explain_images
from mine_core.notebook import Number, Pin
from mine_core.notebook.again import absent, is_here, make_again, mask_of, method_of, own_words_of, request_from, second_for
from mine_core.notebook.findings import find_edit, find_image, heat_by
from mine_core.notebook.maps import made_map, map_of
from mine_core.notebook.pictures import heat_on, ringed, thumbnail
from mine_core.ui import resources
from mine_core.ui.counterfactual import run

Picture = UInt8[np.ndarray, "height width channel"]
MADE = "notebook_made"


def instrument_of(pin: Pin) -> Instrument:
    """Open the instrument of a pin; raises MineError if it is not in this cache."""
    if not is_here(pin, resources.store()):
        raise absent(pin)
    return resources.instrument_with(pin.config, own_words_of(pin))


def ask_for(pin: Pin) -> None:
    """Note that an edit is to be made again."""
    st.session_state.setdefault(MADE, set()).add(pin.id)


def numbers_now(pin: Pin) -> tuple[Number, ...] | None:
    """Numbers of a pin from the present cache; None for an edit that was not asked for. Raises MineError if they cannot be had."""
    instrument = instrument_of(pin)
    if pin.kind != "edit":
        return _numbers(pin, instrument, _key(pin, instrument))
    if pin.id not in st.session_state.get(MADE, ()):
        return None
    request, second = request_from(pin.settings.get("request", {})), second_for(pin, resources.store())
    trial = run(instrument, request, second)
    return None if trial is None else find_edit(instrument, request, trial, second).numbers


def preview(pin: Pin) -> tuple[Picture | None, str]:
    """A small picture and its text; without a picture, why there is none."""
    try:
        instrument = instrument_of(pin)
        if pin.kind == "edit" and pin.id in st.session_state.get(MADE, ()):
            return _edited(pin, instrument)
        return _picture(pin, instrument, _key(pin, instrument)), _alt(pin, instrument)
    except MineError as refusal:
        return None, f"No picture: {refusal}"


def _key(pin: Pin, instrument: Instrument) -> str:
    return canonical_json([instrument.key, pin.kind, dict(pin.view), dict(pin.settings)])


# `key` is read by the cache alone: it says what the pin is of, and of which instrument
@st.cache_data(max_entries=400, show_spinner=False)
def _numbers(_pin: Pin, _instrument: Instrument, key: str) -> tuple[Number, ...]:
    if _pin.kind == "image":
        return find_image(_instrument, _pin.voxel, _item(_pin, _instrument, key), method_of(_pin)).numbers
    return make_again(_pin, _instrument, resources.store()).numbers


@st.cache_data(max_entries=400, show_spinner="Making heatmaps again")
def _item(_pin: Pin, _instrument: Instrument, key: str) -> ImageExplanation:  # noqa: ARG001
    heat = heat_by(_instrument, resources.store(), method_of(_pin), _pin.voxel)
    return explain_images(_instrument, _pin.voxel, np.array([_pin.image]), heat)[0]


# a text is searched for, and a dictionary opened, once and not each time that the page is drawn
@st.cache_data(max_entries=64, show_spinner=False)
def _map(_pin: Pin, _instrument: Instrument, key: str) -> CortexMap:  # noqa: ARG001
    if _pin.kind == "map":
        return made_map(_instrument, resources.store(), map_of(_pin))
    return cortex_map(_instrument, "accuracy", -1)


@st.cache_data(max_entries=400, show_spinner=False)
def _picture(_pin: Pin, _instrument: Instrument, key: str) -> Picture:
    if _pin.kind in ("voxel", "map"):
        return thumbnail(ringed(_instrument, painted(_instrument.flatmap, _map(_pin, _instrument, key)), _pin.voxel))
    image = np.asarray(_instrument.subject.stimuli.images[_pin.image])
    if _pin.kind == "edit":
        return thumbnail(outlined(image, mask_of(_pin, image.shape[0], image.shape[1])))
    item = _item(_pin, _instrument, key)
    return thumbnail(heat_on(image, item.values, limit_of([item.values])))


def _edited(pin: Pin, instrument: Instrument) -> tuple[Picture, str]:
    """Before and after, of an edit that was made again."""
    trial: Any = run(instrument, request_from(pin.settings.get("request", {})), second_for(pin, resources.store()))
    if trial is None:
        return _picture(pin, instrument, _key(pin, instrument)), _alt(pin, instrument)
    before, after = (
        outlined(trial.edit.original, trial.edit.edit_mask),
        outlined(trial.edit.edited, np.zeros_like(trial.edit.edit_mask)),
    )
    return thumbnail(np.concatenate([before, after], axis=1), 480), f"Image {pin.image} before and after the edit"


def _alt(pin: Pin, instrument: Instrument) -> str:
    """What a small picture shows, with the scale of a map."""
    if pin.kind == "image":
        return f"Image {pin.image} with the heatmap of voxel {pin.voxel}: red raises its prediction"
    if pin.kind == "edit":
        return f"Image {pin.image} with the edited region outlined"
    shown = _map(pin, instrument, _key(pin, instrument))
    low, high = ("blue", "red") if shown.signed else ("dark", "bright")
    scale = "colours as on Explore" if shown.categories else f"{low} {shown.low:g} to {high} {shown.high:g} {shown.unit}"
    ringed_here = pin.voxel >= 0 and centre_of_voxel(instrument.flatmap, pin.voxel) is not None
    return f"{shown.title}, {scale}" + (f"; voxel {pin.voxel} ringed" if ringed_here else "")
