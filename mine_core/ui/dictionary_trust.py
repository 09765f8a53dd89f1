"""Parts of the Layers page: the units of a region, whether its voxels share them, and how good the autoencoders are."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.dictionary.consistency import Consistency
from mine_core.dictionary.quality import Stability
from mine_core.errors import MineError
from mine_core.instrument import Instrument
from mine_core.instrument.dictionary import Dictionary, regions_of, stability_of_layers
from mine_core.instrument.dictionary_regions import RegionUnits, sharing_of_regions, units_of_region
from mine_core.instrument.dictionary_views import Unit
from mine_core.statistics import bootstrap_mean_interval
from mine_core.ui import resources
from mine_core.ui.dictionary import name_of
from mine_core.ui.state import View, set_view

SEED = 43
OWN, ALONE = "Each voxel's own best", "One unit to a voxel"


# `key` is read by the caches alone: it tells dictionaries apart
@st.cache_data(max_entries=8, show_spinner="Comparing voxels within regions")
def _sharing(_instrument: Instrument, _dictionary: Dictionary, key: str) -> Consistency:  # noqa: ARG001
    return sharing_of_regions(_instrument, _dictionary)


@st.cache_data(max_entries=64, show_spinner="Giving out units")
def _units(_instrument: Instrument, _dictionary: Dictionary, key: str, region: str) -> tuple[RegionUnits, RegionUnits]:  # noqa: ARG001
    return units_of_region(_instrument, _dictionary, region)


@st.cache_data(max_entries=8, ttl=60, show_spinner=False)
def _stability(_instrument: Instrument, _dictionary: Dictionary, key: str) -> tuple[Stability, ...] | None:  # noqa: ARG001
    return stability_of_layers(_instrument.config, resources.store(), _dictionary)


def units_of_one_region(view: View, instrument: Instrument, dictionary: Dictionary) -> None:
    """List the units of a region's voxels, as each likes best or given out one to one; a chosen row opens voxel and unit.

    In the order of the correlation that chose: an order of the held-out one would choose by it.
    """
    names = list(regions_of(instrument))
    if not names:
        return
    left, right = st.columns(2)
    place = names.index(view.region) if view.region in names else 0
    region = left.selectbox("Region", names, index=place, key="dictionary_region")
    how = right.radio("Units", (OWN, ALONE), horizontal=True, key="dictionary_given")
    try:
        own, alone = _units(instrument, dictionary, dictionary.key, region)
    except MineError as refusal:
        st.info(str(refusal))
        return
    shown = own if how == OWN else alone
    table = pd.DataFrame(
        {
            "voxel": shown.voxels,
            "layer": shown.layer + 1,
            "unit": shown.unit,
            "held-out r": shown.r_held_out.round(3),
            "r where chosen": shown.r_chosen.round(3),
        }
    ).sort_values("r where chosen", ascending=False, ignore_index=True)
    event = st.dataframe(
        table, hide_index=True, height=260, on_select="rerun", selection_mode="single-row", key=f"dictionary_region_{region}_{how}"
    )
    lost = _lost(own, alone)
    low, high = bootstrap_mean_interval(lost, np.random.default_rng(SEED)) if len(lost) > 1 else (np.nan, np.nan)
    st.caption(
        f"{len(shown.voxels)} voxels of {region} with a unit, units read in whole images. Each its own best: {own.n_units} units, mean "
        f"held-out r {own.r_held_out.mean():.3f}. One unit to a voxel, best in sum: {alone.n_units} units, mean held-out r "
        f"{alone.r_held_out.mean():.3f}; a voxel loses {lost.mean():.3f} (95 % over voxels {low:.3f} to {high:.3f}). Choose a row to "
        "see voxel and unit."
    )
    picked = event.selection.rows
    if picked:
        row = table.iloc[picked[0]]
        set_view(voxel=int(row["voxel"]), unit=name_of(Unit(int(row["layer"]) - 1, int(row["unit"]))))
        st.rerun()


def _lost(own: RegionUnits, alone: RegionUnits) -> np.ndarray:
    """How much held-out r each voxel loses to one-to-one."""
    place = np.searchsorted(own.voxels, alone.voxels)
    return np.asarray(own.r_held_out[place] - alone.r_held_out, np.float64)


def shared_units(instrument: Instrument, dictionary: Dictionary) -> None:
    """Say whether voxels of one region share their unit more than chance."""
    try:
        found = _sharing(instrument, dictionary, dictionary.key)
    except MineError as refusal:
        st.caption(f"Whether voxels of a region share units is not tested: {refusal}")
        return
    st.markdown(
        f"**Two voxels of one region have the same first unit** in {100 * found.mean:.1f} % of pairs (mean over {len(found.shared)} "
        f"regions); {100 * found.exchanged:.1f} % with voxels dealt to regions at random (p = {found.p_exchanged:.3f}), "
        f"{100 * found.shifted:.1f} % with regions moved along the order of the scan, which keeps neighbours together "
        f"(p = {found.p_shifted:.3f})."
    )
    rows = [
        {
            "region": name,
            "same unit (% of pairs)": round(100 * value, 1),
            "by chance (%)": round(100 * found.chance[name], 1),
            "q": round(found.q[name], 3),
        }
        for name, value in found.shared.items()
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="dictionary_sharing")
    st.caption(
        f"{found.n_voxels:,} voxels with a unit above chance. Chance and q: regions moved along the order of the scan, 1,000 times; "
        "q by Benjamini and Hochberg over regions. A coarser dictionary shares more; sharing says that voxels are alike through it."
    )


def autoencoders(instrument: Instrument, dictionary: Dictionary) -> None:
    """Show how good the autoencoders of every layer are on images that they were not trained on."""
    again = _stability(instrument, dictionary, dictionary.key)
    rows = []
    for layer, quality in enumerate(dictionary.quality):
        row = {
            "layer": layer + 1,
            "units": dictionary.autoencoders[layer].n_units,
            "variance kept": round(quality.explained, 3),
            "of shuffled tokens": round(quality.null, 3),
            "active units a token": round(quality.active, 1),
            "dead units (%)": round(100 * quality.dead, 1),
        }
        if again is not None:
            row |= {"same in another seed (cosine)": round(again[layer].assigned, 2), "by chance": round(again[layer].null, 2)}
        rows.append(row)
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="dictionary_quality")
    seeds = (
        "Units of two seeds are paired one to one by the cosine of their directions: units below about .7 are one way among "
        "others to cut up the same tokens, so read their words and voxels, not their numbers."
        if again is not None
        else "Whether another seed finds the same units is not known yet: `python -m mine_core fit --dictionary` trains it."
    )
    n = dictionary.quality[0].n_tokens
    st.caption(f"On {n:,} tokens of validation images. Shuffled tokens: each dimension on its own. {seeds}")
