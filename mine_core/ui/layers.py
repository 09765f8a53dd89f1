"""Parts of the Layers page: which layer each voxel and each region is like, and an image layer by layer."""

import numpy as np
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.dictionary.hierarchy import depth_interval, layer_matrix, monotony
from mine_core.errors import MineError
from mine_core.exports.layers import layer_map
from mine_core.figures_dictionary import layers_figure, matrix_figure
from mine_core.instrument import Instrument
from mine_core.instrument.dictionary import Dictionary, regions_of, stages_of_path
from mine_core.instrument.dictionary_views import Unit, image_through_layers
from mine_core.ui import maps
from mine_core.ui.components import flatmap
from mine_core.ui.dictionary import cortex_of_unit, name_of
from mine_core.ui.state import View, set_view

N_ACROSS, HIGHEST, SEED = 2, 0.5, 41
MAPS = {"layer": "Best layer", "sure": "How sure the best layer is", "unit": "Voxels of the chosen unit"}
PLAIN = {"displayModeBar": False}


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
    if name != "sure":
        return layer_map(dictionary)
    preference, placed = dictionary.preference, dictionary.placed
    n = f"{int(placed.sum()):,} voxels that it predicts above chance (q ≤ 0.05), others grey; {preference.n_images} held-out images"
    values = np.where(placed, preference.share.max(axis=0), np.nan)
    caption = f"Share of resampled images in which the most frequent best layer is the best; {n}."
    return maps.CortexMap("How sure the best layer is", values, 1 / len(preference.r), 1.0, False, "of resamples", caption)


def _unit_map(instrument: Instrument, dictionary: Dictionary, unit: Unit) -> maps.CortexMap:
    found = cortex_of_unit(instrument, dictionary, dictionary.key, unit)
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
