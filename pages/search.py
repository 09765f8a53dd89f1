"""Search: which voxels want this concept?"""

import streamlit as st

from mine_core.ui import exporting, search
from mine_core.ui.frame import require_instrument

view, instrument = require_instrument()

found = search.ask(view, instrument)
if found is not None:
    left, right = st.columns([6, 5], gap="medium")
    with left:
        search.map_of_text(view, instrument, found)
        exporting.export_search(instrument, found)
    with right:
        search.table_of_text(instrument, found)
