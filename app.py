"""MINE: the frame of the app. Which pages there are, and what they share; run with `streamlit run app.py`."""

import streamlit as st

from mine_core.ui import resources
from mine_core.ui.frame import PAGES, header

st.set_page_config(page_title="MINE", layout="wide", initial_sidebar_state="collapsed")
page = st.navigation(
    [st.Page(path, title=title, url_path=url, default=(url == "explore")) for url, title, path in PAGES], position="top"
)
header()
with resources.foreground().waited_for():
    page.run()
