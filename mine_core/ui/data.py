"""The parts of the Data page: the subjects at hand, bringing one's own, and what this machine has."""

from typing import Any

import pandas as pd
import streamlit as st

from mine_core.backbones.presets import backbone_available, preset_names
from mine_core.config import InstrumentConfig
from mine_core.errors import MineError
from mine_core.instrument.doctor import examine
from mine_core.instrument.subjects import PHANTOM, import_into, known_subjects
from mine_core.jobs import Job
from mine_core.subjects.custom import describe_import
from mine_core.ui import resources
from mine_core.ui.frame import show_ended
from mine_core.ui.state import View, current_view, set_view

AXES = ("voxel,stimulus", "stimulus,voxel", "voxel,stimulus,repeat", "repeat,stimulus,voxel", "stimulus,voxel,repeat")
UPLOAD_MB = 40


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
    if resources.built(config):
        instrument = resources.instrument(config)
        score = instrument.score
        first, second, third, fourth = st.columns(4)
        first.metric("Voxels", f"{len(score.r):,}")
        second.metric("Images", f"{len(instrument.subject.stimuli):,}")
        third.metric("Median held-out r", f"{pd.Series(score.r).median():.2f}")
        fourth.metric("Reliable voxels", f"{int(instrument.reliable.sum()):,}")
        if config.subject != PHANTOM:
            st.caption(" · ".join(describe_import(instrument.subject)))
        if st.button("Open in Explore", type="primary", key="data_open"):
            set_view(subject=config.subject, seed=config.seed, backbone=config.backbone, voxel=-1, image=-1, map="normalised", edit="")
            st.switch_page("pages/explore.py", query_params=st.query_params.to_dict())
        return
    job = resources.worker().find(resources.build_key(config))
    if job is None:
        st.caption("Not built yet with this backbone: it takes up to a minute or two and is kept.")
        if st.button("Build", type="primary", key="data_build"):
            resources.build(config)
            st.rerun()
        return
    _progress(job)


@st.fragment(run_every="0.5s")
def _progress(job: Job) -> None:
    if job.state == "done":
        st.rerun()
    if job.active:
        st.progress(job.share, job.message or "Waiting for the worker")
        st.button("Stop", key="data_stop", on_click=job.cancel)
    else:
        show_ended(job)


def import_form() -> None:
    """Take images and responses, check them, and keep them as a subject."""
    with st.form("data_import"):
        name = st.text_input("Name", placeholder="letters, digits, - and _")
        images = st.file_uploader(f"Images: a zip of JPEG or PNG, up to {UPLOAD_MB} MB", type=["zip"])
        responses = st.file_uploader("Responses: npy or CSV", type=["npy", "csv"])
        axes = st.selectbox("Axes of the responses", AXES)
        size = st.number_input("Crop and resize to (pixels; empty: as they are)", 32, 512, value=None)
        drop = st.checkbox("Leave out what is incomplete, and say what")
        sent = st.form_submit_button("Import", type="primary")
    st.caption("Larger files: `python -m mine_core import --help`. Nothing leaves this machine.")
    if not sent:
        return
    if not (name and images and responses):
        st.error("A name, images and responses are needed.")
        return
    _import(name, images.getvalue(), responses.getvalue(), tuple(axes.split(",")), size, drop)


def _import(name: str, images: bytes, responses: bytes, axes: tuple[str, ...], size: float | None, drop: bool) -> None:
    bar = st.progress(0.0, "Reading")
    try:
        report: dict[str, Any] = import_into(
            resources.store(),
            name=name,
            images=images,
            responses=responses,
            response_axes=axes,
            size=None if size is None else int(size),
            drop_incomplete=drop,
            on_progress=lambda done, total, message: bar.progress(min(1.0, done / max(total, 1)), message),
        )
    except MineError as refusal:
        st.error(str(refusal))
        return
    finally:
        bar.empty()
    st.success(f"Imported {report['subject']}: {report['n_stimuli']} images, {report['n_voxels']} voxels. Choose it above.")
    for line in report["report"]:
        st.caption(line)


@st.cache_data(ttl=60, show_spinner="Looking at this machine")
def _found(config: InstrumentConfig) -> dict[str, Any]:
    return examine(config, resources.store())


def machine() -> None:
    """Say what this machine has and what works without the rest."""
    found = _found(InstrumentConfig())
    st.markdown(f"Python {found['python']} · {found['system']} · GPU: {found['gpu']} · {found['free_disk_gb']} GB free")
    states = [_state(name) for name in found["backbones"]]
    st.dataframe(pd.DataFrame({"backbone": found["backbones"].keys(), "weights": states}), hide_index=True, key="data_backbones")
    for line in found["missing"]:
        st.caption(line)


def _state(backbone: str) -> str:
    available = backbone_available(backbone)
    return "ready" if available.ready else f"not here ({available.size_mb} MB)"
