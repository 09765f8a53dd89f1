"""What every page shares: which pages there are, the line that says whose brain this is, and the state of a first start."""

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from mine_core.errors import MineError, SubjectError
from mine_core.instrument import Instrument
from mine_core.jobs import Job
from mine_core.ui import resources
from mine_core.ui.state import View, current_view
from mine_core.ui.waiting import wait_for

PAGES = (
    ("explore", "Explore", "pages/explore.py"),
    ("counterfactual", "Counterfactual", "pages/counterfactual.py"),
    ("search", "Search", "pages/search.py"),
    ("regions", "Regions", "pages/regions.py"),
    ("layers", "Layers", "pages/layers.py"),
    ("validation", "Validation", "pages/validation.py"),
    ("notebook", "Notebook", "pages/notebook.py"),
    ("data", "Data", "pages/data.py"),
)

FRAMED = "mine_framed"


def header() -> None:
    """Set the style that all pages share, and note that app.py has run."""
    st.session_state[FRAMED] = True
    st.html(
        "<style>.st-key-mine_note p {font-size: .82rem; margin: 0 0 0.3rem 0;}"
        "[data-testid=stMainBlockContainer] {padding-top: 4.1rem; padding-bottom: 3rem;}</style>"
    )


def under_router() -> None:
    """See to it that app.py runs around this page.

    Before the first run of app.py a server takes the folder pages/ for Streamlit's older kind of app, and answers a link to
    one of its pages with that page alone. Only a session that has not met app.py yet starts again: a later run may carry a
    click, which starting again would lose.
    """
    if PagesManager.uses_pages_directory and FRAMED not in st.session_state:
        PagesManager.uses_pages_directory = False
        st.rerun()


def require_instrument() -> tuple[View, Instrument]:
    """Return the view and the opened instrument, or show how far its building is and stop the page."""
    under_router()
    try:
        view = current_view()
        config = view.config()
        if not resources.built(config):
            show_build(resources.build(config))
            st.stop()
        instrument = resources.instrument(config)
        _require_shown(view, instrument)
        _say_whose(instrument)
        return view, instrument
    except MineError as refusal:
        st.error(str(refusal))
        st.page_link("pages/data.py", label="Choose another subject")
        st.stop()


def _say_whose(instrument: Instrument) -> None:
    """Say whose brain this is, and that what is shown is predicted by a model."""
    with st.container(key="mine_note"):
        st.caption(
            f"Subject **{instrument.subject.name}** seen through backbone **{instrument.config.backbone}**. Responses, heatmaps and "
            "shifts are predictions of a model unless they are called measured."
        )


def _require_shown(view: View, instrument: Instrument) -> None:
    """Refuse a link to a voxel or an image that this subject does not have."""
    n_voxels, n_images = len(instrument.subject.responses.voxels), len(instrument.subject.stimuli)
    if not (-1 <= view.voxel < n_voxels and -1 <= view.image < n_images):
        raise SubjectError(
            f"The link asks for voxel {view.voxel} and image {view.image}; this subject has voxels 0 to {n_voxels - 1} and "
            f"images 0 to {n_images - 1}."
        )


def show_build(job: Job) -> None:
    """Show a build that is under way, with progress and a way to stop it; the page goes on by itself when it is done."""
    st.subheader("Preparing this subject")
    st.caption(
        "The first start renders the stimuli, simulates the recording, embeds the images and fits the encoding model. "
        "It is done once and kept; a build that is stopped goes on where it was."
    )
    wait_for(job)
