"""Layers: which layer of the model is this voxel like, and which of its units?"""

import streamlit as st

from mine_core.errors import MineError
from mine_core.ui import dictionary, dictionary_edit, dictionary_trust, layers, pins
from mine_core.ui.frame import require_instrument

view, instrument = require_instrument()
try:
    found = dictionary.require_dictionary(instrument)
    unit = dictionary.chosen_unit(view, found)
except MineError as refusal:
    st.error(str(refusal))
    st.stop()

left, right = st.columns([6, 5], gap="medium")
with left:
    layers.cortex(view, instrument, found, unit)
    pins.pin_layers(view, instrument)
with right:
    layers.voxel_number(view, instrument)
    layers.voxel_layers(view, instrument, found)
dictionary.voxel_units(view, instrument, found, unit)
st.divider()
dictionary.unit_images(view, instrument, found, unit)
dictionary_edit.without_unit(view, instrument, found, unit)
st.divider()
st.subheader("Regions and layers", anchor=False)
layers.regions_and_layers(instrument, found)
st.divider()
st.subheader("Regions and units", anchor=False)
dictionary_trust.units_of_one_region(view, instrument, found)
dictionary_trust.shared_units(instrument, found)
st.divider()
st.subheader("One image through the layers", anchor=False)
layers.through_layers(view, instrument, found)
st.divider()
st.subheader("How good the autoencoders are", anchor=False)
dictionary_trust.autoencoders(instrument, found)
