"""An optional language model on the Explore page: where it answers, what a text would cost, and the text, labelled as its own."""

import os

import pandas as pd
import streamlit as st

from mine_core.description.language_model import Endpoint, WrittenProfile, kept_answer, word_table, write_by_model
from mine_core.errors import MineError
from mine_core.instrument import Instrument
from mine_core.instrument.profiling import find_profiles
from mine_core.instrument.written import KEY_VARIABLE, answers_folder, endpoint_of, price, price_line, tables_of, write_batch
from mine_core.ui import resources
from mine_core.ui.state import View
from mine_core.ui.waiting import show_ended, wait_for
from mine_core.ui.words import profile_of


def writer(view: View, instrument: Instrument) -> None:
    """Let a language model of the user's own write what the words of a voxel say; nothing is sent before the user says so."""
    if not len(instrument.vocabulary):
        return
    with st.expander("Texts by a language model (optional)"):
        st.caption(
            "Any OpenAI-compatible endpoint, local or hosted. Only tables of words are sent, never an image or a response. Its "
            "texts are its reading of the words and were scored against nothing. The key is read from the environment variable "
            f"{KEY_VARIABLE} ({'set' if os.environ.get(KEY_VARIABLE) else 'not set'}); settings last as long as this browser tab."
        )
        endpoint = _settings()
        if endpoint is not None:
            _voxel(view, instrument, endpoint)
            _batch(instrument, endpoint)


def _settings() -> Endpoint | None:
    first, second, third, fourth = st.columns([4, 3, 2, 2])
    address = first.text_input("Address up to /v1", placeholder="http://127.0.0.1:8080/v1", key="writer_address")
    model = second.text_input("Model", key="writer_model")
    price_in = third.number_input("Price in, a million tokens", 0.0, value=0.0, key="writer_price_in")
    price_out = fourth.number_input("Price out, a million tokens", 0.0, value=0.0, key="writer_price_out")
    if not (address.strip() and model.strip()):
        return None
    try:
        return endpoint_of(address, model, price_in, price_out)
    except MineError as refusal:
        st.error(str(refusal))
        return None


def _voxel(view: View, instrument: Instrument, endpoint: Endpoint) -> None:
    """Write one voxel's text, or show the one that is kept."""
    if view.voxel < 0:
        st.caption("Choose a voxel to have its words written out.")
        return
    table = word_table(profile_of(instrument, view.voxel))
    if not table:
        st.caption(f"No word stands for voxel {view.voxel}: there is nothing to write from.")
        return
    try:
        found = kept_answer(table, endpoint, answers_folder(resources.store()))
        if found is None:
            asked = price_line(price([table], endpoint, resources.store()), endpoint)
            if not st.button(f"Write voxel {view.voxel}", help=asked, key="writer_one"):
                st.caption(f"{asked}. What would be sent:")
                st.code(table, language=None)
                return
            with st.spinner(f"Asking {endpoint.model}"):
                write_by_model(table, endpoint, answers_folder(resources.store()))
            st.rerun()
    except MineError as refusal:
        st.error(str(refusal))
        return
    _show(view.voxel, found, endpoint)


def _show(voxel: int, found: WrittenProfile, endpoint: Endpoint) -> None:
    st.markdown(f"**Voxel {voxel}, written by {endpoint.model} from the table of words alone**")
    rows = {
        "primary content": found.primary_content,
        "scene context": found.scene_context,
        "visual attributes": ", ".join(found.visual_attributes),
        "semantic categories": ", ".join(found.semantic_categories),
        "confidence note": found.confidence_note,
    }
    st.table(pd.Series(rows, name="text"))


def _batch(instrument: Instrument, endpoint: Endpoint) -> None:
    """Say what texts of all described voxels would cost, and have them written in the background once the user agrees."""
    profiles = find_profiles(instrument.config, resources.store(), instrument.own_words)
    if profiles is None:
        st.caption("For all voxels at once, make their profiles first: `python -m mine_core profile`.")
        return
    key = f"written {instrument.key} {endpoint.address} {endpoint.model}"
    job = resources.preparer().find(key)
    if job is not None and job.active:
        wait_for(job)
        return
    if job is not None and job.state != "done":
        show_ended(job, stopped="Stopped. What was written is kept.", again=False)
    missing = price(tables_of(profiles), endpoint, resources.store())
    described = int((profiles["text"] != "").sum())
    if not missing["n_asked"]:
        st.caption(
            f"All {described:,} described voxels are written by {endpoint.model}; `python -m mine_core profile --out` exports them."
        )
        return
    st.caption(f"All {described:,} described voxels: {price_line(missing, endpoint)}. Equal tables are asked for once.")
    if st.button("Write all voxels", key="writer_all"):
        resources.preparer().forget(key)
        resources.preparer().submit(
            key,
            f"Texts by {endpoint.model}",
            lambda on_progress, cancelled: len(
                write_batch(profiles, endpoint, resources.store(), on_progress=on_progress, cancelled=cancelled)
            ),
        )
        st.rerun()
