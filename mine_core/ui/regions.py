"""The parts of the Regions page: which categories regions go with, and the parts of one region."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.cortex.flatmap import voxel_at
from mine_core.description.regions import GroupRecovery, RegionParts
from mine_core.errors import MineError
from mine_core.figures import interval_figure
from mine_core.instrument import Instrument
from mine_core.instrument.regions import VOXEL_COLUMNS, is_recovered, known_group, listed, parts_of, recovered, region_rows, voxel_rows
from mine_core.instrument.tables import as_csv
from mine_core.ui import maps
from mine_core.ui.components import flatmap
from mine_core.ui.search import open_voxel
from mine_core.ui.state import View, set_view
from mine_core.ui.words import labelled


# `key` is read by the cache alone: it tells instruments apart
@st.cache_data(max_entries=4, show_spinner="Comparing regions with categories")
def _recovered(_instrument: Instrument, key: str) -> dict[str, GroupRecovery]:  # noqa: ARG001
    return recovered(_instrument)


@st.cache_data(max_entries=32, show_spinner="Splitting the region")
def _parts(_instrument: Instrument, key: str, region: str) -> RegionParts:  # noqa: ARG001
    return parts_of(_instrument, region)


def categories(instrument: Instrument) -> bool:
    """Show which category each region goes with, beside what is known of it; False where there is nothing to show."""
    try:
        found = _recovered(instrument, instrument.key)
    except MineError as refusal:
        st.info(str(refusal))
        return False
    if not found:
        st.info("This subject has no named regions. Give some when importing (--regions).")
        return False
    rows = []
    for region, entry in found.items():
        known = known_group(region)
        place = entry.groups.index(entry.best)
        rows.append(
            {
                "region": region,
                "voxels": entry.n_voxels,
                "goes with": entry.best,
                "mean r": f"{entry.r[place]:.3f} [{entry.low[place]:.3f}, {entry.high[place]:.3f}]",
                "lead over the next": f"{entry.lead:.3f} [{entry.lead_low:.3f}, {entry.lead_high:.3f}]",
                "known": known or "none",
                "recovered": {None: "", True: "yes", False: "no"}[is_recovered(region, entry)],
            }
        )
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="regions_categories")
    st.caption(
        "Mean over all voxels of a region of the correlation between measured responses and what the words of the category predict, "
        "on held-out images; 95 % intervals over images. Recovered: the known category leads, and its lead's interval lies above 0. "
        "The categories are the groups of the vocabulary."
    )
    return True


def one_region(view: View, instrument: Instrument) -> None:
    """Show one region: its categories with intervals, its parts on the cortex and in a table."""
    names = list(instrument.subject.responses.voxels.regions)
    place = names.index(view.region) if view.region in names else 0
    region = st.selectbox("Region", names, index=place, key="regions_chosen")
    if region != view.region:
        set_view(region=region)
    entry = _recovered(instrument, instrument.key).get(region)
    left, right = st.columns([6, 5], gap="medium")
    try:
        parts = _parts(instrument, instrument.key, region)
    except MineError as refusal:
        parts = None
        left.info(str(refusal))
    if parts is not None:
        with left:
            _map(view, instrument, region, parts)
    with right:
        if parts is not None:
            _say_parts(instrument, parts)
        if entry is not None:
            figure = interval_figure(
                entry.groups, entry.r.tolist(), entry.low.tolist(), entry.high.tolist(), "mean r, 95 % over images"
            )
            st.plotly_chart(figure, width="stretch", theme=None, key="regions_groups", config={"displayModeBar": False})
    if parts is not None and entry is not None:
        _each_voxel(instrument, region, entry, parts)


def _part_names(instrument: Instrument, parts: RegionParts) -> tuple[str, ...]:
    if not parts.own:
        return (", ".join(labelled(instrument, word) for word, _ in parts.shared[:3]) or "one part",)
    return tuple(
        f"{number + 1}: {', '.join(labelled(instrument, word) for word, _ in own[:3]) or 'nothing of its own'}"
        for number, own in enumerate(parts.own)
    )


def _map(view: View, instrument: Instrument, region: str, parts: RegionParts) -> None:
    values = np.full(len(instrument.score.r), np.nan)
    values[parts.voxels] = parts.part
    names = _part_names(instrument, parts)
    caption = f"{len(parts.voxels)} reliable voxels of {region}, by what they want; a click opens a voxel."
    shown = maps.CortexMap(f"Parts of {region}", values, 0, max(1, len(names) - 1), False, "part", caption, names)
    clicked = flatmap(maps.layer(instrument, shown), selected=None, table_key=f"{view.subject}-{view.seed}", key="regions_flatmap")
    maps.legend(shown)
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None:
            open_voxel(voxel)


def _say_parts(instrument: Instrument, parts: RegionParts) -> None:
    shared = ", ".join(listed(parts.shared, instrument.own_words))
    st.markdown(f"**Shared:** {shared or 'no word'}")
    best = max(parts.stability, key=lambda n: parts.stability[n])
    if not parts.own:
        st.markdown("**No split repeats** on two halves of the images: the voxels differ, if they do, too little to tell parts apart.")
    else:
        rows = [
            {
                "part": number + 1,
                "voxels": int((parts.part == number).sum()),
                "has more than the rest": ", ".join(listed(own, instrument.own_words)) or "nothing",
            }
            for number, own in enumerate(parts.own)
        ]
        st.table(pd.DataFrame(rows).set_index("part"))
    tried = ", ".join(f"{n} parts {value:.2f}" for n, value in parts.stability.items())
    st.caption(
        f"Stability (adjusted Rand index between splits on two halves of the training images; 0 by chance, 1 the same): {tried}. Best: "
        f"{best}. Words of parts: differences of mean r on held-out images, which made no part."
    )


def _each_voxel(instrument: Instrument, region: str, entry: GroupRecovery, parts: RegionParts) -> None:
    """Table of the region's voxels with what each has of its own, and both tables to take away."""
    table = pd.DataFrame(voxel_rows(region, parts, instrument.own_words), columns=VOXEL_COLUMNS).drop(columns="region")
    n_own = int((table["own_words"].map(len) > 0).sum())
    st.markdown(f"**What each voxel has of its own** ({n_own} of {len(table)} reliable voxels)")
    shown = table.assign(own_words=[", ".join(words) for words in table["own_words"]]).rename(
        columns={"own_words": "more than the rest"}
    )
    event = st.dataframe(shown, height=260, hide_index=True, on_select="rerun", selection_mode="single-row", key="regions_voxels")
    st.caption(
        "Words whose correlation with the voxel's responses to held-out images exceeds the region's mean by four standard errors "
        f"(difference shown; by chance one word in 30,000). Categories, parts and voxels of all regions: `python -m mine_core regions "
        f"--subject {instrument.config.subject} --out regions.parquet --voxels voxels.csv`."
    )
    first, second, third = st.columns([2, 2, 2])
    rows = event.selection.rows
    if first.button("Open in Explore", disabled=not rows, width="stretch", key="regions_open"):
        open_voxel(int(table["voxel"].iloc[rows[0]]))
    whole = as_csv(pd.DataFrame(region_rows(region, entry, parts, mine=instrument.own_words)))
    second.download_button("Region as CSV", whole, f"{region}.csv", "text/csv", width="stretch", key="regions_csv")
    each = as_csv(table)
    third.download_button("Voxels as CSV", each, f"{region}-voxels.csv", "text/csv", width="stretch", key="regions_voxels_csv")
