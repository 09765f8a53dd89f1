"""Parts of the Layers page: the voxel dictionary, a voxel's units, a unit's images, words and voxels."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.errors import ConfigError
from mine_core.figures import HEAT_HIGH, heat_rgba
from mine_core.instrument import Instrument
from mine_core.instrument.dictionary import (
    Dictionary,
    build_dictionary,
    dictionary_is_built,
    open_dictionary,
)
from mine_core.instrument.dictionary_views import (
    Unit,
    UnitOnCortex,
    UnitWord,
    VoxelUnit,
    patches_of_unit,
    top_images,
    unit_on_cortex,
    units_of_voxel,
    words_of_unit,
)
from mine_core.ui import resources
from mine_core.ui.components import GalleryItem, gallery
from mine_core.ui.state import View, set_view
from mine_core.ui.waiting import wait_for

N_IMAGES = 12
ACTIVE = f"linear-gradient(90deg, #ffffff, rgb{HEAT_HIGH})"


def require_dictionary(instrument: Instrument) -> Dictionary:
    """Open the dictionary, or offer to make it and stop the page."""
    config, store = instrument.config, resources.store()
    key = f"dictionary {instrument.model.provenance['key']}"
    job = resources.worker().find(key)
    if job is not None and job.state != "done":
        wait_for(job)
        st.stop()
    if not dictionary_is_built(config, store):
        _offer(instrument, key)
        st.stop()
    return _opened(instrument, key)


def _offer(instrument: Instrument, key: str) -> None:
    config, store = instrument.config, resources.store()
    st.info(
        "This subject has no dictionary yet. Sparse autoencoders are trained on every layer of the backbone and matched to all voxels: "
        "once, in some minutes for the phantom, longer for a large backbone. It goes on where it was stopped."
    )
    if st.button("Make the dictionary", type="primary", key="dictionary_make"):
        resources.worker().forget(key)
        resources.worker().submit(
            key,
            "Making the dictionary",
            lambda on_progress, cancelled: len(
                build_dictionary(config, store, whole=False, on_progress=on_progress, cancelled=cancelled)
            ),
        )
        st.rerun()


# `key` is read by the caches alone: it tells instruments and dictionaries apart
@st.cache_resource(max_entries=2, show_spinner=False)
def _opened(_instrument: Instrument, key: str) -> Dictionary:  # noqa: ARG001
    return open_dictionary(build_dictionary(_instrument.config, resources.store(), whole=False))


@st.cache_data(max_entries=128, show_spinner="Testing the units")
def _units(_instrument: Instrument, _dictionary: Dictionary, key: str, voxel: int) -> tuple[VoxelUnit, ...]:  # noqa: ARG001
    return units_of_voxel(_instrument, _dictionary, voxel)


@st.cache_data(max_entries=512, show_spinner=False)
def _words(_instrument: Instrument, _dictionary: Dictionary, key: str, unit: Unit) -> tuple[UnitWord, ...]:  # noqa: ARG001
    return words_of_unit(_instrument, _dictionary, unit)


@st.cache_data(max_entries=64, show_spinner="Looking for the unit's voxels")
def cortex_of_unit(_instrument: Instrument, _dictionary: Dictionary, key: str, unit: Unit) -> UnitOnCortex:  # noqa: ARG001
    """Correlations of a unit with every voxel, kept from visit to visit."""
    return unit_on_cortex(_instrument, _dictionary, unit)


def chosen_unit(view: View, dictionary: Dictionary) -> Unit | None:
    """Read the unit of the link, as layer-unit-place with layers from 1; raises ConfigError if there is none such."""
    if not view.unit:
        return None
    parts = view.unit.split("-")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"The link has unit={view.unit!r}; expected layer-unit-place, such as 2-17-0.")
    layer, unit, place = (int(part) for part in parts)
    if not (1 <= layer <= len(dictionary.tokens) and unit < dictionary.autoencoders[layer - 1].n_units):
        raise ConfigError(f"The link asks for unit {unit} of layer {layer}; there are {len(dictionary.tokens)} layers.")
    return Unit(layer - 1, unit, place)


def name_of(unit: Unit) -> str:
    """Write a unit as the link does."""
    return f"{unit.layer + 1}-{unit.unit}-{unit.place}"


def voxel_units(view: View, instrument: Instrument, dictionary: Dictionary, unit: Unit | None) -> None:
    """List the voxel's units; a chosen row opens the unit."""
    if view.voxel < 0:
        return
    if not dictionary.matched[view.voxel]:
        r, q = float(dictionary.matches.r_held_out[view.voxel, 0]), float(dictionary.matches.q[view.voxel])
        st.warning(f"Withheld: on images that did not choose it, this voxel's first unit has r = {r:.2f} (q = {q:.2f}).")
        return
    found = _units(instrument, dictionary, dictionary.key, view.voxel)
    rows = []
    for entry in found:
        words = _words(instrument, dictionary, dictionary.key, Unit(entry.unit.layer, entry.unit.unit))
        rows.append(
            {
                "layer": entry.unit.layer + 1,
                "unit": entry.unit.unit,
                "where": entry.where,
                "held-out r": round(entry.r_held_out, 3),
                "p": round(entry.p, 4),
                "r where chosen": round(entry.r_chosen, 3),
                "words": ", ".join(f"{word.word} {word.r:+.2f}" for word in words) or "none",
            }
        )
    event = st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"dictionary_units_{view.voxel}",
    )
    low, high = float(dictionary.matches.low[view.voxel]), float(dictionary.matches.high[view.voxel])
    st.caption(
        f"Chosen on {len(dictionary.halves.choose)} training images, measured on {len(dictionary.halves.measure)} others: the column "
        f"beside it is inflated by choosing. First unit: 95 % interval {low:.2f} to {high:.2f}; p among this voxel's units, against "
        "shuffled images. Words go with the unit, not with the voxel, with r on held-out images. Choose a row to see the unit."
    )
    picked = event.selection.rows
    opened = found[picked[0]].unit if picked else None
    if opened is not None and opened != unit:
        set_view(unit=name_of(opened))
        st.rerun()


def unit_images(view: View, instrument: Instrument, dictionary: Dictionary, unit: Unit | None) -> None:
    """Show the images in which the unit is most active, and the patches of each."""
    if unit is None:
        st.caption("No unit is chosen: choose a voxel, and a row of its table.")
        return
    st.subheader(f"Unit {unit.unit} of layer {unit.layer + 1}", anchor=False)
    words = _words(instrument, dictionary, dictionary.key, Unit(unit.layer, unit.unit))
    told = ", ".join(f"{word.word} ({word.r:+.2f}, p = {word.p:.3f})" for word in words)
    st.markdown(f"**Words:** {told or 'none stands'}")
    stimuli = top_images(dictionary, unit, N_IMAGES)
    values = patches_of_unit(dictionary, unit, stimuli)
    limit, held_out = float(values.max(initial=0)) or 1.0, instrument.held_out
    items = [
        GalleryItem(
            stimulus=int(stimulus),
            image=np.asarray(instrument.subject.stimuli.images[stimulus]),
            heat=heat_rgba(values[place], limit),
            numbers=f"activation up to {values[place].max():.1f}" + ("\nheld out" if held_out[stimulus] else ""),
            caption=instrument.captions[stimulus],
            words=(),
            alt=f"image {stimulus}: {instrument.captions[stimulus] or instrument.subject.stimuli.ids[stimulus]}",
            chosen=int(stimulus) == view.image,
        )
        for place, stimulus in enumerate(stimuli)
    ]
    legend = ("silent", ACTIVE, f"up to {limit:.1f}")
    label = f"Images of unit {unit.unit} of layer {unit.layer + 1}"
    acted = gallery(items, actions={"layers": "Through the layers"}, legend=legend, label=label, key="dictionary_gallery")
    st.caption(
        f"The {len(items)} images, of {len(held_out):,}, in which the unit is most active; red: the patches where it is, in units "
        "of the tokens' spread. The autoencoder was trained on the training images and on no response."
    )
    if acted is not None and acted[1] != view.image:
        set_view(image=acted[1])
        st.rerun()
