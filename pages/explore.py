"""Explore: what drives this voxel?"""

import streamlit as st

from mine_core.ui import captions, explore, exporting, own_words, patches, pins, writer
from mine_core.ui.frame import require_instrument

view, instrument = require_instrument()

left, right = st.columns([6, 5], gap="medium")
with left:
    view = explore.map_and_click(view, instrument)
    exporting.export_map(view, instrument)
with right:
    explore.voxel_routes(view, instrument)
    explore.voxel_card(view, instrument)
    pins.pin_explore(view, instrument)

explore.images_of_voxel(view, instrument)
patches.words_of_image(view, instrument)
captions.captions_of_image(view, instrument)
explore.own_photograph(view, instrument)
own_words.own_words(view, instrument)
writer.writer(view, instrument)
