"""Regions: what do a region's voxels share, and what is each one's own?"""

import streamlit as st

from mine_core.ui import faithfulness, regions
from mine_core.ui.frame import require_instrument

view, instrument = require_instrument()

st.subheader("Known categories", anchor=False)
if regions.categories(instrument):
    st.divider()
    st.subheader("Fine structure", anchor=False)
    regions.one_region(view, instrument)
    st.divider()
    st.subheader("Can the heatmaps be trusted here?", anchor=False)
    faithfulness.regions(view, instrument)
