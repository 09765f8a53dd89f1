"""Pins to take away: a report with figures, made off the page, or a script that makes every figure again."""

from typing import get_args

import streamlit as st

from mine_core.artifacts import hash_text
from mine_core.errors import MineError
from mine_core.jobs import Job
from mine_core.notebook import Pin
from mine_core.notebook.again import opener
from mine_core.notebook.report import SUFFIX, Format, make_entries, write_report
from mine_core.notebook.script import write_script
from mine_core.ui import resources
from mine_core.ui.waiting import wait_for

FORMATS: tuple[Format, ...] = get_args(Format)
TITLES = {"html": "Report (HTML)", "markdown": "Report (Markdown)", "script": "Script (Python)"}
MIME: dict[Format, str] = {"html": "text/html", "markdown": "text/markdown"}


def export(pins: list[Pin], which: str) -> None:
    """Offer pins as a report or as a script."""
    with st.popover(f"Export {which}", width="stretch", key="notebook_export"):
        form = st.radio("As", list(TITLES), format_func=TITLES.__getitem__, key="notebook_form")
        if form == "script":
            st.caption("Makes every figure and number again by calling MINE, and says which numbers differ from the pinned ones.")
            _script(pins)
            return
        st.caption(
            "Figures are made anew from the cache, an edit in seconds each. Notes stay text; the report says what was predicted."
        )
        _report(pins, next(name for name in FORMATS if name == form))


def _script(pins: list[Pin]) -> None:
    try:
        text = write_script(pins)
    except MineError as refusal:
        st.error(str(refusal))
        return
    st.download_button("Download", text, "mine_notebook.py", "text/x-python", type="primary", on_click="ignore", key="notebook_script")


def _report(pins: list[Pin], form: Format) -> None:
    key = f"report {form} {hash_text(*(f'{pin.id} {pin.version}' for pin in pins))}"
    job = resources.worker().find(key)
    if job is None:
        if st.button("Make the report", type="primary", key="notebook_report"):
            _start(key, pins, form)
            st.rerun()
    elif job.state == "done":
        name = f"mine_notebook{SUFFIX[form]}"
        st.download_button("Download", job.outcome, name, MIME[form], type="primary", on_click="ignore", key="notebook_download")
        if st.button("Make it anew", key="notebook_anew", help="What is in the cache may have changed"):
            resources.worker().forget(key)
            st.rerun()
    else:
        wait_for(job)


def _start(key: str, pins: list[Pin], form: Format) -> Job:
    # reports hold their figures: only the last one is kept
    for old in resources.worker().jobs():
        if old.key.startswith("report "):
            resources.worker().forget(old.key)
    store = resources.store()
    return resources.worker().submit(
        key,
        "Making the report",
        lambda on_progress, cancelled: write_report(
            make_entries(pins, store, opener(store), on_progress=on_progress, cancelled=cancelled), form
        ),
    )
