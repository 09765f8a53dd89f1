"""A user's own words on the Explore page: typed or uploaded, scored by the worker, listed, taken away again."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from mine_core.config import InstrumentConfig
from mine_core.description.own_words import MOST_LETTERS, MOST_WORDS
from mine_core.instrument import Instrument
from mine_core.instrument.own_words import add_words, kept_words, remove_words, with_own_words
from mine_core.jobs import Job
from mine_core.ui import resources
from mine_core.ui.state import View
from mine_core.ui.waiting import show_ended, wait_for


def own_words(view: View, instrument: Instrument) -> None:
    """Let the user add words beside the vocabulary, and take them away; they are kept for this subject and backbone."""
    if not len(instrument.vocabulary):
        return
    config = view.config()
    kept, job = kept_words(config, resources.store()), resources.worker().find(_key(config))
    title = f"Your own words ({len(kept)})" if kept else "Your own words"
    with st.expander(title, expanded=job is not None):
        if job is not None and job.active:
            wait_for(job)
            return
        if job is not None:
            _ended(config, job)
        _list(config, kept, instrument)
        _form(config, instrument)


def _key(config: InstrumentConfig) -> str:
    return f"own words {config}"


def _form(config: InstrumentConfig, instrument: Instrument) -> None:
    """Take words as text or as a file, and hand them to the worker."""
    with st.form("own_words_form", clear_on_submit=True, border=False):
        left, right = st.columns(2, gap="medium")
        typed = left.text_area(
            "Words or short phrases, one a line or separated by commas",
            placeholder="lighthouse\nbirthday party",
            height=110,
            key="own_words_text",
        )
        upload = right.file_uploader("or a text file (UTF-8)", type=["txt", "csv"], key="own_words_file")
        sent = st.form_submit_button("Add and score", type="primary", key="own_words_add")
    st.caption(
        f"Up to {MOST_WORDS} words of {MOST_LETTERS} letters. They compete with the {len(instrument.vocabulary)} words there for every "
        "voxel, chosen and scored as those are, and are marked (yours) wherever they appear. They stay on this machine, for this "
        "subject and backbone."
    )
    if sent:
        content = upload.getvalue() if upload is not None else typed
        _start(config, "Scoring your words", lambda stock, **more: add_words(stock, resources.store(), content, **more))


def _list(config: InstrumentConfig, kept: tuple[str, ...], instrument: Instrument) -> None:
    """List the words that are kept, with a way to take some away; of words that are not scored yet, offer to score them."""
    if not kept:
        return
    if instrument.own_words != kept:
        st.warning(f"{len(kept)} words of your own are kept and not scored with this version: {', '.join(kept[:6])}.")
        if st.button("Score them", key="own_words_score"):
            _start(config, "Scoring your words", lambda stock, **more: with_own_words(stock, resources.store(), kept, **more))
    first, second = st.columns([5, 1], vertical_alignment="bottom")
    chosen = first.multiselect("Kept", kept, placeholder="choose words to take away", key="own_words_kept")
    st.caption("Kept: " + ", ".join(kept))
    if second.button("Take away", disabled=not chosen, key="own_words_remove"):
        _start(config, "Taking words away", lambda stock, **more: remove_words(stock, resources.store(), tuple(chosen), **more))


def _start(config: InstrumentConfig, title: str, work: Callable[..., Any]) -> None:
    resources.worker().forget(_key(config))
    stock = resources.stock_instrument(config)
    resources.worker().submit(
        _key(config), title, lambda on_progress, cancelled: work(stock, on_progress=on_progress, cancelled=cancelled)
    )
    st.rerun()


def _ended(config: InstrumentConfig, job: Job) -> None:
    """Say once how it ended."""
    if job.state == "done":
        st.success(
            "Your words are scored; they appear in words, search and regions."
            if kept_words(config, resources.store())
            else "Taken away."
        )
    else:
        show_ended(job, stopped="Stopped. Nothing was changed.", again=False)
    resources.worker().forget(_key(config))
