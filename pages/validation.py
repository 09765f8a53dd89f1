"""Validation: can I trust this?"""

import streamlit as st

from mine_core.ui import claims, descriptions, encoders, validation
from mine_core.ui.frame import require_instrument

view, instrument = require_instrument()

st.subheader("What is claimed, and what is not", anchor=False)
validation.claims()
st.divider()
st.subheader("How well this subject is predicted", anchor=False)
validation.accuracy(instrument)
st.divider()
st.subheader("Encoders side by side", anchor=False)
encoders.side_by_side(instrument)
validation.learning(instrument)
st.divider()
st.subheader("Known answers", anchor=False)
validation.known_answers(instrument)
st.divider()
st.subheader("Words", anchor=False)
descriptions.of_words(instrument)
st.divider()
st.subheader("Claims of the paper, tested", anchor=False)
claims.tested(instrument)
