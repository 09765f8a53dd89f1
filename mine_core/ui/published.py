"""The part of the Data page that imports a published dataset, and says how its files are fetched."""

import shlex
from functools import partial
from pathlib import Path

import streamlit as st

from mine_core.instrument.subjects import import_nsd_into
from mine_core.subjects.nsd.tree import AGREEMENT, N_SESSIONS, N_SUBJECTS, TERMS
from mine_core.ui import resources
from mine_core.ui.wizard import IMPORT


def natural_scenes() -> None:
    """Import a subject of the Natural Scenes Dataset from a local copy; without one, show the command that fetches it."""
    with st.expander("Natural Scenes Dataset"):
        left, middle, right = st.columns([3, 1, 1])
        root = left.text_input("Folder of nsddata, nsddata_betas and nsddata_stimuli on this machine", key="nsd_root")
        subject = int(middle.number_input("Subject", 1, N_SUBJECTS, 1, key="nsd_subject"))
        space = str(right.selectbox("Space", ("func1pt8mm", "fsaverage"), key="nsd_space"))
        if st.button("Import from this folder", disabled=not root.strip(), key="nsd_import"):
            _start(Path(root.strip()), subject, space)
        st.markdown(
            "**Without a local copy**, the command below fetches what an import needs from the dataset's public bucket: it says how "
            "much first, asks, and goes on where it was when it is given again. Images take 40 GB and a session about 1 GB, if "
            f"nothing is packed. The dataset is given out under the [{AGREEMENT}]({TERMS})."
        )
        if not st.checkbox(f"I accepted the {AGREEMENT}", key="nsd_terms"):
            return
        sessions = int(st.number_input(f"Sessions, of {N_SESSIONS}, from the first on", 1, N_SESSIONS, N_SESSIONS, key="nsd_sessions"))
        options = f"--root {shlex.quote(root.strip() or '/data/nsd')} --subject {subject} --space {space} --sessions {sessions}"
        st.code(f"python -m mine_core import nsd --from-bucket --accept-nsd-terms {options}", language="bash", wrap_lines=True)


def _start(root: Path, subject: int, space: str) -> None:
    """Hand the import to the worker; its report is where that of an own recording is."""
    resources.worker().forget(IMPORT)
    work = partial(import_nsd_into, resources.store(), root=root, subject=subject, space=space)
    resources.worker().submit(
        IMPORT, f"Importing NSD subject {subject}", lambda on_progress, cancelled: work(on_progress=on_progress, cancelled=cancelled)
    )
