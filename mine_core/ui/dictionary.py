"""The parts of the Dictionary page: which layer each voxel is like, a voxel's units, a unit's images, words and voxels."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.dictionary.hierarchy import depth_interval, layer_matrix, monotony
from mine_core.errors import ConfigError, MineError
from mine_core.figures import HEAT_HIGH, heat_rgba
from mine_core.figures_dictionary import layers_figure, matrix_figure
from mine_core.instrument import Instrument
from mine_core.instrument.dictionary import (
    Dictionary,
    build_dictionary,
    dictionary_is_built,
    open_dictionary,
    regions_of,
    stages_of_path,
)
from mine_core.instrument.dictionary_views import (
    Unit,
    UnitOnCortex,
    UnitWord,
    VoxelUnit,
    image_through_layers,
    patches_of_unit,
    top_images,
    unit_on_cortex,
    units_of_voxel,
    words_of_unit,
)
from mine_core.ui import maps, resources
from mine_core.ui.components import GalleryItem, flatmap, gallery
from mine_core.ui.state import View, set_view
from mine_core.ui.waiting import wait_for

N_IMAGES, N_ACROSS, HIGHEST, SEED = 12, 2, 0.5, 41
MAPS = {"layer": "Best layer", "sure": "How sure the best layer is", "unit": "Voxels of the chosen unit"}
PLAIN = {"displayModeBar": False}
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
def _cortex(_instrument: Instrument, _dictionary: Dictionary, key: str, unit: Unit) -> UnitOnCortex:  # noqa: ARG001
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


def cortex(view: View, instrument: Instrument, dictionary: Dictionary, unit: Unit | None) -> None:
    """Show best layers, how sure they are, or the voxels of a unit, on the cortex; a click chooses a voxel."""
    offered = [name for name in MAPS if name != "unit" or unit is not None]
    chosen = st.selectbox("Map", offered, format_func=lambda name: MAPS[name], key="dictionary_map")
    shown = _unit_map(instrument, dictionary, unit) if chosen == "unit" and unit is not None else _layer_map(dictionary, chosen)
    centre = centre_of_voxel(instrument.flatmap, view.voxel) if view.voxel >= 0 else None
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    layer = maps.layer(instrument, shown)
    clicked = flatmap(layer, selected=selected, table_key=f"{view.subject}-{view.seed}", key="dictionary_flatmap")
    maps.legend(shown)
    voxel = None if clicked is None else voxel_at(instrument.flatmap, *clicked)
    if voxel is not None and voxel != view.voxel:
        set_view(voxel=voxel)
        st.rerun()


def _layer_map(dictionary: Dictionary, name: str) -> maps.CortexMap:
    preference, placed = dictionary.preference, dictionary.placed
    n = f"{int(placed.sum()):,} voxels that it predicts above chance (q ≤ 0.05), others grey; {preference.n_images} held-out images"
    if name == "sure":
        values = np.where(placed, preference.share.max(axis=0), np.nan)
        caption = f"Share of resampled images in which the most frequent best layer is the best; {n}."
        return maps.CortexMap("How sure the best layer is", values, 1 / len(preference.r), 1.0, False, "of resamples", caption)
    values = np.where(placed, preference.best + 1.0, np.nan)
    caption = f"Layer whose tokens, cell by cell, predict the voxel best by ridge; {n}."
    return maps.CortexMap("Best layer", values, 1, len(preference.r), False, "layer", caption)


def _unit_map(instrument: Instrument, dictionary: Dictionary, unit: Unit) -> maps.CortexMap:
    found = _cortex(instrument, dictionary, dictionary.key, unit)
    called = found.q <= 0.05
    caption = (
        f"Correlation of the unit's activation with measured responses, {found.n_images} held-out images that matched nothing; "
        f"{int(called.sum()):,} of {len(found.r):,} voxels at q ≤ 0.05 (Benjamini-Yekutieli), others grey."
    )
    return maps.CortexMap(f"Unit {name_of(unit)}", np.where(called, found.r, np.nan), 0.0, HIGHEST, False, "r", caption)


def voxel_number(view: View, instrument: Instrument) -> None:
    """Offer the way to a voxel that needs no map."""
    last = len(instrument.score.r) - 1
    value = view.voxel if view.voxel >= 0 else None
    number = st.number_input("Voxel number", 0, last, value=value, key=f"dictionary_voxel_{view.voxel}")
    if number is not None and number != view.voxel:
        set_view(voxel=int(number))
        st.rerun()


def voxel_layers(view: View, instrument: Instrument, dictionary: Dictionary) -> None:
    """Say which layer the voxel is like, and how sure that is."""
    if view.voxel < 0:
        st.info("Click a voxel on the map, or give its number: its layers and its units are shown here.")
        return
    preference, voxel = dictionary.preference, view.voxel
    st.subheader(f"Voxel {voxel}", anchor=False)
    st.caption(maps.region_text(instrument)[voxel])
    if not dictionary.placed[voxel]:
        q = float(dictionary.preference_q[voxel])
        st.warning(f"Withheld: no layer predicts this voxel above chance (q = {q:.2f}), so that it has no best one.")
        return
    figure = layers_figure(preference.r[:, voxel].tolist(), preference.share[:, voxel].tolist())
    st.plotly_chart(figure, width="stretch", theme=None, key="dictionary_layers", config=PLAIN)
    best, share = int(preference.best[voxel]), float(preference.share[preference.best[voxel], voxel])
    sure = "" if share >= 0.9 else " Other layers are about as good: do not lean on this one."
    st.caption(
        f"Best: layer {best + 1}, in {100 * share:.0f} % of resamples of {preference.n_images} held-out images "
        f"(by chance {100 / len(preference.r):.0f} %).{sure}"
    )


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


def regions_and_layers(instrument: Instrument, dictionary: Dictionary) -> None:
    """Show regions against layers, and whether layers rise along the path from early visual cortex."""
    regions = regions_of(instrument)
    if not regions:
        st.info("This subject has no named regions. Give some when importing (--regions).")
        return
    preference = dictionary.preference
    depth = {name: [value + 1 for value in depth_interval(preference, inside)] for name, inside in regions.items()}
    best = {name: f"{middle:.1f} [{low:.1f}, {high:.1f}]" for name, (middle, low, high) in depth.items()}
    figure = matrix_figure(layer_matrix(preference, regions), best)
    st.plotly_chart(figure, width="stretch", theme=None, key="dictionary_matrix", config=PLAIN)
    st.caption(
        f"Mean held-out r of ridge on each layer, over all voxels of a region ({preference.n_images} images; 0 by chance). Beside each "
        "region: mean best layer, 95 % interval over images; a voxel without signal has any layer, which pulls the mean to the middle."
    )
    try:
        path = monotony(preference, regions, stages_of_path(tuple(regions)), np.random.default_rng(SEED))
    except MineError as refusal:
        st.caption(f"The path from early visual cortex is not tested: {refusal}")
        return
    st.markdown(
        f"**From early visual to category regions** the mean best layer rises with Spearman's ρ = {path.rho:.2f} "
        f"[{path.low:.2f}, {path.high:.2f}] over {path.n_regions} regions (p = {path.p:.4f} over relabelled regions); "
        f"{path.ordered} of {path.n_steps} steps do not go down."
    )


def through_layers(view: View, instrument: Instrument, dictionary: Dictionary) -> None:
    """Project an image's unit activations to the cortex, layer by layer."""
    last = len(instrument.subject.stimuli) - 1
    left, right = st.columns([1, 5], gap="medium", vertical_alignment="bottom")
    with left:
        value = view.image if view.image >= 0 else None
        image = st.number_input("Image number", 0, last, value=value, key=f"dictionary_image_{view.image}")
    if image is not None and image != view.image:
        set_view(image=int(image))
        st.rerun()
    if view.image < 0:
        right.caption("Give the number of an image, or choose one of a unit's images.")
        return
    right.image(np.asarray(instrument.subject.stimuli.images[view.image]), width=120, caption=instrument.captions[view.image])
    values = image_through_layers(dictionary, view.image)
    n = int(dictionary.matched.sum())
    for start in range(0, len(values), N_ACROSS):
        for offset, column in enumerate(st.columns(N_ACROSS)):
            layer = start + offset
            if layer >= len(values):
                break
            title = f"Layer {layer + 1}: response to image {view.image} by one unit a voxel"
            shown = maps.CortexMap(title, values[layer], -1.5, 1.5, True, "SD", "")
            with column:
                st.markdown(f"**Layer {layer + 1}**")
                made = maps.layer(instrument, shown)
                flatmap(made, selected=None, table_key=f"{view.subject}-{view.seed}", key=f"dictionary_through_{layer}")
    maps.legend(
        maps.CortexMap(
            "",
            values[0],
            -1.5,
            1.5,
            True,
            "SD of the response",
            f"Predicted, not measured: what the best unit of each layer says of this image, r · z; {n:,} matched voxels, others grey.",
        )
    )
