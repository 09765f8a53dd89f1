"""Search: which voxels want this concept?"""

import streamlit as st

from mine_core.ui import concept, exporting, pins, search
from mine_core.ui.frame import require_instrument
from mine_core.ui.state import set_view

ASKED = {"": "Find voxels", "test": "Test a concept"}

view, instrument = require_instrument()
asked = st.segmented_control("Ask", list(ASKED), format_func=ASKED.__getitem__, default=view.ask, key="search_ask", required=True)
if asked != view.ask:
    view = set_view(ask=asked)

if view.ask:
    tested = concept.ask(view, instrument)
    if tested is not None:
        concept.verdict(instrument, tested)
        left, right = st.columns([6, 5], gap="medium")
        with left:
            concept.cortex(view, instrument, tested)
        with right:
            concept.tables(instrument, tested)
        concept.pictures(instrument, tested)
else:
    found = search.ask(view, instrument)
    if found is not None:
        left, right = st.columns([6, 5], gap="medium")
        with left:
            search.map_of_text(view, instrument, found)
            exporting.export_search(instrument, found)
            pins.pin_search(view, instrument)
        with right:
            search.table_of_text(instrument, found)
