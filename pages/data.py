"""Data: whose brain is this?"""

import streamlit as st

from mine_core.ui import data, published, wizard
from mine_core.ui.frame import under_router

under_router()
st.subheader("Subjects", anchor=False)
data.subjects()
st.divider()
st.subheader("Bring your own", anchor=False)
st.caption("Uploads hold at most 40 MB each; larger files are read where they lie on this machine. Nothing leaves it.")
wizard.import_wizard()
published.natural_scenes()
wizard.show_import()
st.divider()
st.subheader("This machine", anchor=False)
data.machine()
