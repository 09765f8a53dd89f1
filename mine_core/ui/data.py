"""The parts of the Data page: the subjects at hand, and what this machine has."""

from typing import Any

import pandas as pd
import streamlit as st

from mine_core.backbones.presets import backbone_available, preset_names
from mine_core.config import InstrumentConfig
from mine_core.errors import MineError
from mine_core.instrument.doctor import examine
from mine_core.instrument.subjects import PHANTOM, known_subjects
from mine_core.subjects.custom import describe_import
from mine_core.types import Subject
from mine_core.ui import resources
from mine_core.ui.state import View, current_view, set_view
from mine_core.ui.waiting import wait_for


def subjects() -> None:
    """Choose a subject, a phantom's seed and a backbone; build it if it is not there yet."""
    try:
        view = current_view()
    except MineError as refusal:
        st.error(str(refusal))
        view = View()
    names = known_subjects(resources.store())
    left, middle, right = st.columns(3)
    name = left.selectbox("Subject", names, index=names.index(view.subject) if view.subject in names else 0, key="data_subject")
    seed = int(middle.number_input("Phantom seed", 0, 89, view.seed, disabled=name != PHANTOM, key="data_seed"))
    ready = [preset for preset in preset_names() if backbone_available(preset).ready]
    chosen = ready.index(view.backbone) if view.backbone in ready else 0
    backbone = right.selectbox("Backbone", ready, index=chosen, key="data_backbone")
    config = InstrumentConfig(name, seed if name == PHANTOM else 0, backbone)
    try:
        _show_subject(config)
    except MineError as refusal:
        st.error(str(refusal))


def _show_subject(config: InstrumentConfig) -> None:
    job = resources.worker().find(resources.build_key(config))
    gone = job is not None and job.state == "done"  # and no longer in the store, unless the next line finds it there
    if resources.built(config):
        instrument = resources.instrument(config)
        score = instrument.score
        first, second, third, fourth = st.columns(4)
        first.metric("Voxels", f"{len(score.r):,}")
        second.metric("Images", f"{len(instrument.subject.stimuli):,}")
        third.metric("Median held-out r", f"{pd.Series(score.r).median():.2f}")
        fourth.metric("Reliable voxels", f"{int(instrument.reliable.sum()):,}")
        if config.subject != PHANTOM:
            st.caption(" · ".join(_report(instrument.subject)))
        if st.button("Open in Explore", type="primary", key="data_open"):
            set_view(subject=config.subject, seed=config.seed, backbone=config.backbone, voxel=-1, image=-1, map="normalised", edit="")
            st.switch_page("pages/explore.py", query_params=st.query_params.to_dict())
        return
    if job is None or gone:
        st.caption("Not built yet with this backbone: it takes up to a minute or two and is kept.")
        if st.button("Build", type="primary", key="data_build"):
            resources.build(config)
            st.rerun()
        return
    wait_for(job)


def _report(subject: Subject) -> tuple[str, ...]:
    """Say what an import of files or of a published dataset did."""
    return describe_import(subject) if subject.kind == "custom" else tuple(subject.provenance["import"]["report"])


@st.cache_data(ttl=60, show_spinner="Looking at this machine")
def _found(config: InstrumentConfig) -> dict[str, Any]:
    return examine(config, resources.store())


def machine() -> None:
    """Say what this machine has and what works without the rest."""
    found = _found(InstrumentConfig())
    st.markdown(f"Python {found['python']} · {found['system']} · GPU: {found['gpu']} · {found['free_disk_gb']} GB free")
    kinds = (("backbone", "backbones"), ("editor", "editors"), ("captioner", "captioners"))
    rows = [(name, kind, state.split(": ")[0]) for kind, key in kinds for name, state in found[key].items()]
    st.dataframe(pd.DataFrame(rows, columns=["model", "what it is", "weights"]), hide_index=True, height="content", key="data_models")
    for line in found["missing"]:
        st.caption(line)
