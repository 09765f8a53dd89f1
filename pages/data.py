"""Data: whose brain is this?"""

import streamlit as st

from mine_core.ui import data
from mine_core.ui.frame import under_router

under_router()
st.subheader("Subjects", anchor=False)
data.subjects()
st.divider()
left, right = st.columns(2, gap="large")
with left:
    st.subheader("Bring your own", anchor=False)
    data.import_form()
with right:
    st.subheader("This machine", anchor=False)
    data.machine()
