"""Waiting for a job of the worker: how far it is, how long it may take, a way to stop it, and why it ended without a result."""

import streamlit as st

from mine_core.jobs import Job
from mine_core.ui import resources


def wait_for(job: Job) -> None:
    """Show a job until it ends, then run the page again; of one that ended without a result, say why."""
    if job.active:
        _watch(job)
    elif job.state == "done":
        # It was done between the page's question and now.
        st.rerun()
    else:
        show_ended(job)


@st.fragment(run_every="1s")
def _watch(job: Job) -> None:
    if not job.active:
        st.rerun(scope="app")
    st.progress(job.share, " · ".join(part for part in (doing(job), _left(job.seconds_left)) if part))
    st.button("Stop", key=f"stop_{job.key}", on_click=job.cancel, disabled=job.stop.is_set())


def doing(job: Job) -> str:
    """Say what a job is at."""
    if job.stopping:
        return "Stopping at the next step"
    if job.state == "waiting":
        return "Waiting for other work to end"
    return job.message[:1].upper() + job.message[1:] or job.title


def _left(seconds: float | None) -> str:
    """Say the time left as coarsely as it is known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "some seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s left"
    return f"about {round(seconds / 60)} min left"


def show_ended(job: Job, *, stopped: str = "Stopped. What was finished is kept.", again: bool = True) -> None:
    """Say why a job ended without a result, and offer to start it again, which a page does by asking for it once more."""
    if job.state == "cancelled":
        st.info(stopped)
    elif job.state == "refused":
        st.error(str(job.error))
    elif job.state == "failed":
        st.error(f"This is a fault of the program, not of your data: {type(job.error).__name__}. The log has the details.")
    if again and st.button("Start again", key=f"again_{job.key}"):
        resources.worker().forget(job.key)
        st.rerun()
