"""Notebook: what have I found?"""

import streamlit as st

from mine_core.errors import MineError
from mine_core.ui import notebook
from mine_core.ui.frame import under_router

under_router()
try:
    book = notebook.opened()
    pins = notebook.asked_for(book)
    chosen = notebook.chosen_of(pins)
    if len(chosen) > 1:
        notebook.beside(chosen)
    notebook.cards(book, pins)
    notebook.deleted(book)
except MineError as refusal:
    st.error(str(refusal))
