"""The parts of the Search page: what is looked for, the cortex that answers, the voxels in a table."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.description.search import TextSearch, parse_query
from mine_core.errors import MineError
from mine_core.instrument import Instrument
from mine_core.instrument.search import search_text
from mine_core.ui import maps
from mine_core.ui.components import flatmap
from mine_core.ui.state import View, set_view

N_ROWS = 200


def ask(view: View, instrument: Instrument) -> TextSearch | None:
    """Ask for texts, and look for the voxels that go with them; None until something is asked for."""
    left, middle, right = st.columns([5, 4, 2], vertical_alignment="bottom")
    example = ", ".join(instrument.vocabulary.words[:2])
    wanted = left.text_input("Shows (texts, separated by commas)", view.find, placeholder=example, key="search_wanted")
    unwanted = middle.text_input("but not", view.minus, placeholder="nothing", key="search_unwanted")
    right.button("Search", type="primary", width="stretch", key="search_go")
    if (wanted, unwanted) != (view.find, view.minus):
        set_view(find=wanted, minus=unwanted)
    if not wanted.strip():
        st.info("Type what an image may show. The map then shows which voxels answer more to images that show it.")
        return None
    mine = [word for word in instrument.own_words if word in (part.strip() for part in f"{wanted},{unwanted}".split(","))]
    if mine:
        st.caption(f"Words of your own: {', '.join(mine)}.")
    try:
        return _search(instrument, instrument.key, wanted, unwanted)
    except MineError as refusal:
        st.error(str(refusal))
        return None


# `key` is read by the cache alone: it tells instruments apart
@st.cache_data(max_entries=64, show_spinner="Reading the text")
def _search(_instrument: Instrument, key: str, wanted: str, unwanted: str) -> TextSearch:  # noqa: ARG001
    return search_text(_instrument, parse_query(wanted, unwanted))


def map_of_text(view: View, instrument: Instrument, found: TextSearch) -> None:
    """Show the voxels that go with the text on the cortex; a click opens one."""
    shown = maps.text_map(instrument, found)
    centre = centre_of_voxel(instrument.flatmap, view.voxel) if view.voxel >= 0 else None
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    clicked = flatmap(maps.layer(instrument, shown), selected=selected, table_key=f"{view.subject}-{view.seed}", key="search_flatmap")
    maps.legend(shown)
    counts = found.shuffled_calls
    st.caption(
        f"Shuffled responses reach the same correlation in {np.mean(counts):.1f} of {len(found.r):,} voxels on average (most: "
        f"{max(counts)}, of {len(counts)} shuffles). What goes with a text may want its usual company, or the contrast that it brings."
    )
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None:
            open_voxel(voxel)


def open_voxel(voxel: int) -> None:
    """Go to a voxel on the Explore page."""
    set_view(voxel=voxel, image=-1)
    st.switch_page("pages/explore.py", query_params=st.query_params.to_dict())


def table_of_text(instrument: Instrument, found: TextSearch) -> None:
    """List the voxels and the regions that go with the text; a chosen row opens its voxel."""
    called = np.flatnonzero(found.calls & instrument.reliable)
    if not len(called):
        st.info("No voxel goes with this text beyond chance, after correction over all voxels.")
        return
    regions = maps.region_text(instrument)
    best = called[np.argsort(-found.r[called], kind="stable")][:N_ROWS]
    st.markdown("**Regions**")
    st.dataframe(by_region(instrument, found), hide_index=True, key="search_regions")
    st.markdown(f"**Voxels** ({len(best)} of {len(called):,})")
    table = pd.DataFrame({"voxel": best, "region": [regions[voxel] for voxel in best], "r": found.r[best].round(3)})
    table["q"] = [f"{q:.3f}" if q >= 0.001 else "< 0.001" for q in found.q[best]]
    event = st.dataframe(table, height=300, hide_index=True, on_select="rerun", selection_mode="single-row", key="search_table")
    rows = event.selection.rows
    if st.button("Open in Explore", disabled=not rows, key="search_open"):
        open_voxel(int(table["voxel"].iloc[rows[0]]))


def by_region(instrument: Instrument, found: TextSearch) -> pd.DataFrame:
    """How many reliable voxels of each region go with the text, and how strongly."""
    voxels = instrument.subject.responses.voxels
    called = found.calls & instrument.reliable
    rows = []
    for name, inside in zip(voxels.regions, np.asarray(voxels.membership), strict=True):
        reliable = inside & instrument.reliable
        if reliable.any():
            share, mean = (called & inside).sum() / reliable.sum(), found.r[reliable].mean()
            rows.append((name, int(reliable.sum()), round(float(share), 2), round(float(mean), 3)))
    table = pd.DataFrame(rows, columns=["region", "reliable voxels", "share that goes with it", "mean r"])
    return table.sort_values("mean r", ascending=False, ignore_index=True)
