"""Bringing one's own recording, a step at a time: each part is looked at as soon as it is given, and said in words if it is wrong."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from mine_core.errors import MineError
from mine_core.figures_import import response_histogram
from mine_core.instrument.looking import (
    OF_RECORDING,
    CortexLook,
    ImagesLook,
    Recordings,
    ResponsesLook,
    look_at_cortex,
    look_at_images,
    look_at_responses,
    look_beside,
    pycortex_choices,
)
from mine_core.instrument.subjects import import_into
from mine_core.jobs import Job, Worker
from mine_core.subjects.custom.sources import BRAIN_IMAGES
from mine_core.subjects.custom.study import FIELDS, Field, write_study
from mine_core.ui import resources
from mine_core.ui.waiting import show_ended, wait_for
from mine_core.ui.wizard_fields import (
    PATHS,
    describe,
    draft,
    drop_files,
    drop_values,
    take_choice,
    take_files,
    take_number,
    take_text,
    take_tick,
)

IMPORT = "import"
KEPT_LOOKS = 16
MAP_WIDTH = 720
AXES: tuple[str, ...] = ("voxel,stimulus", "stimulus,voxel", "voxel,stimulus,repeat", "repeat,stimulus,voxel", "stimulus,voxel,repeat")
AXES += ("voxel,repeat,stimulus", "repeat,voxel,stimulus", "stimulus,repeat,voxel")
OF_IMAGES = ("images", "size", "image_dataset")
OF_RESPONSES: tuple[str, ...] = (
    "images",
    "image_dataset",
    *OF_RECORDING,
)
OF_RESPONSES += ("stimulus_ids", "image_order", "drop_incomplete")
BESIDE = ("splits", "regions", "region_names", "noise_ceiling", "captions")
OF_CORTEX = (*OF_RECORDING, "cortex", "pycortex_subject", "pycortex_transform", "mapper")


class Look(NamedTuple):
    """One part that is looked at: its title, the fields that it depends on, those it needs, what looks, and what shows it."""

    title: str
    fields: tuple[str, ...]
    needs: tuple[str, ...]
    look: Callable[..., Any]
    show: Callable[[Any], None]


@st.cache_resource
def looker() -> Worker:
    """Return the thread that looks at parts of imports, so that they do not wait for builds."""
    return Worker()


def import_wizard() -> None:
    """Show the step in view, with the way back and forth."""
    titles = [title for title, _ in STEPS]
    state = draft()
    if st.session_state.get("import_step") not in titles:
        st.session_state["import_step"] = titles[state.step]
    chosen = st.segmented_control("Step", titles, key="import_step", label_visibility="collapsed")
    state.step = titles.index(chosen) if chosen in titles else state.step
    try:
        STEPS[state.step][1]()
    except MineError as refusal:
        st.error(str(refusal))
    back, forth, _ = st.columns([1, 1, 6])
    back.button("Back", key="import_back", disabled=state.step == 0, on_click=_go, args=(-1,), width="stretch")
    forth.button("Next", key="import_next", disabled=state.step == len(STEPS) - 1, on_click=_go, args=(1,), width="stretch")


def _go(by: int) -> None:
    state = draft()
    state.step = min(max(state.step + by, 0), len(STEPS) - 1)
    st.session_state["import_step"] = STEPS[state.step][0]


# --- steps -----------------------------------------------------------------------------------------------------------


def _images_step() -> None:
    left, right = st.columns([3, 2], gap="medium")
    with left:
        take_text("name", "Name of the subject", placeholder="letters, digits, - and _", max_chars=64)
    with right:
        take_number("size", "Crop and resize to (pixels; empty: as they are)", 16, 1024)
    take_files("images", "Images: a zip of JPEG, PNG, WebP, BMP or TIFF, or an npy or HDF5 array")
    if draft().kind("images") == "hdf5":
        take_text("image_dataset", "Path of the images inside the HDF5 file")
    else:
        drop_values("image_dataset")
    _look("images")


def _responses_step() -> None:
    take_files("responses", "Responses: npy, HDF5 or CSV; NIfTI of x, y, z, stimulus; GIFTI or MGH, left and right")
    kind = draft().kind("responses")
    if kind is None:
        return
    table = kind not in BRAIN_IMAGES
    if table:
        take_choice("response_axes", "Axes of the responses", {one: one for one in AXES})
        drop_values("files_are")
    else:
        drop_values("response_axes")
    if kind == "hdf5":
        take_text("response_dataset", "Path of the responses inside the HDF5 file")
    else:
        drop_values("response_dataset")
    if kind == "nifti" and len(draft().files["responses"].sources) > 1:
        shown = {"": "choose", "runs": "runs: their stimuli follow one another", "repeats": "repeats of the same stimuli"}
        take_choice("files_are", "What the several files are", shown)
    elif not table:
        drop_values("files_are")
    _mask(kind, table)
    with st.expander("How images and responses belong together", expanded="stimulus_ids" in draft().files):
        take_files("stimulus_ids", "Stimulus ids: text, one file name a line, in the order of the responses", types=("txt", "csv"))
        orders = {"": "as text and by number alike", "text": "as text", "number": "by the numbers in them"}
        take_choice("image_order", "Order of the images: how file names are sorted where nothing has ids", orders)
        take_tick("drop_incomplete", "Drop what is incomplete, and say what")
    _look("responses")


def _mask(kind: str, table: bool) -> None:
    if kind == "nifti":
        take_files("mask", "Mask: NIfTI on the same grid, 1 inside and 0 outside", types=("nii", "gz"))
        drop_values("mask_order")
        return
    title = "Where voxels lie (needed for slices or a cortex)" if table else "Mask of both hemispheres (none: every vertex)"
    with st.expander(title, expanded="mask" in draft().files):
        take_files("mask", "Mask: NIfTI; or GIFTI or MGH, left and right" if table else "Mask: GIFTI or MGH, left and right")
        if table and draft().kind("mask") == "nifti":
            orders = {"": "choose", "xyz": "xyz: nilearn, or numpy on the array of a NIfTI", "zyx": "zyx: pycortex"}
            take_choice("mask_order", "Order in which the table counts the voxels of the mask", orders)
        else:
            drop_values("mask_order")


def _beside_step() -> None:
    st.caption("Everything here may be left out.")
    left, right = st.columns(2, gap="medium")
    with left:
        take_text("units", "Units of the responses", placeholder="as given")
    with right:
        take_number("seed", "Which random split by image (empty: 0)", 0, 10_000)
    take_files("splits", "Splits: CSV stimulus,split (none: 80, 10 and 10 % by image)", types=("csv", "txt"))
    take_files("regions", "Regions: CSV voxel,region; or labels on the grid of the responses")
    if draft().kind("regions") in BRAIN_IMAGES:
        take_files("region_names", "Names of regions: CSV value,name of the labels", types=("csv", "txt"))
    else:
        drop_files("region_names")
    take_files("noise_ceiling", "Noise ceilings, 0 to 1: npy, or a map on the grid of the responses")
    take_files("captions", "Captions: COCO JSON, or CSV stimulus,caption", types=("json", "csv", "txt"))
    if any(name in draft().files for name in BESIDE):
        _look("extras")


def _cortex_step() -> None:
    kind = draft().kind("responses")
    surface = kind in ("gifti", "mgh")
    own = "slices of the volume" if kind == "nifti" else "the flat fsaverage5" if surface else "no cortex, laid out by similarity"
    choices = {"": f"as the responses suggest: {own}", "none": "none: laid out by similarity, at most 5,000 voxels"}
    choices |= {} if surface else {"slices": "slices of the volume"}
    choices |= {} if kind == "nifti" else {"fsaverage": "the average surface laid flat (fsaverage)"}
    choices |= {} if surface else {"pycortex": "a pycortex subject and transform"}
    choices |= {"mapper": "an HDF5 flatmap mapper, as the Gallant laboratory shares"}
    take_choice("cortex", "What voxels are drawn on", choices)
    cortex = draft().values.get("cortex")
    if cortex == "pycortex":
        known = _known_cortices()
        left, right = st.columns(2, gap="medium")
        with left:
            take_choice("pycortex_subject", "Subject", {name: name for name in known})
        with right:
            take_choice("pycortex_transform", "Transform", {name: name for name in known[draft().values["pycortex_subject"]]})
    else:
        drop_values("pycortex_subject", "pycortex_transform")
    if cortex == "mapper":
        take_files("mapper", "Mapper", types=("hdf", "hdf5", "h5"))
    else:
        drop_files("mapper")
    _look("cortex")


@st.cache_data(ttl=60, show_spinner="Looking for cortices")
def _known_cortices() -> dict[str, tuple[str, ...]]:
    return pycortex_choices(resources.store())


def _check_step() -> None:
    state = draft()
    given = [field for field in FIELDS if field.name in state.files or field.name in state.values]
    shown = [(_title(field), _shown(field.name)) for field in given]
    if shown:
        st.dataframe(pd.DataFrame(shown, columns=["What", "Given"]), hide_index=True, width="stretch", key="import_summary")
    parts = ["images", "responses", *(["extras"] if any(name in state.files for name in BESIDE) else []), "cortex"]
    fine = [_state_of(part) for part in parts]
    if not state.values.get("name"):
        st.warning("The subject has no name yet: see Images.")
    st.download_button("Save as TOML", write_study(state.saved()), "study.toml", "application/toml", key="import_toml")
    st.caption("For `python -m mine_core import --from study.toml`. An upload is saved by its name: put it beside the file.")
    job = resources.worker().find(IMPORT)
    busy = job is not None and job.active
    ready = all(fine) and bool(state.values.get("name"))
    if st.button("Import", type="primary", disabled=busy or not ready, key="import_send"):
        start_import(state.study())
        st.rerun()


def _title(field: Field) -> str:
    words = re.split(r":| \(", field.help)[0]
    return words[:1].upper() + words[1:]


def _shown(name: str) -> str:
    state = draft()
    return describe(state.files[name]) if name in PATHS else str(state.values[name])


def _state_of(part: str) -> bool:
    """Say whether a part was looked at and found right, looking if need be."""
    look = LOOKS[part]
    if not all(name in draft().files for name in look.needs):
        st.warning(f"{look.title}: not given yet.")
        return False
    job = _job(part)
    if job.active:
        wait_for(job)
    elif job.state == "done":
        found = job.outcome if isinstance(job.outcome, tuple) else job.outcome.lines
        st.success(f"{look.title}: {found[0]}")
        return True
    elif job.state == "refused":
        st.error(f"{look.title}: {job.error}")
    else:
        _ended(job)
    return False


# --- looking ---------------------------------------------------------------------------------------------------------


def _job(part: str) -> Job:
    """Return the job that looks at a part as it is given now, started if it is not there."""
    look, state, store = LOOKS[part], draft(), resources.store()
    key = f"look {part} {state.mark(look.fields)}"
    found = looker().find(key)
    if found is not None:
        return found
    for old in looker().jobs()[:-KEPT_LOOKS]:
        looker().forget(old.key)
    study = {name: value for name, value in state.study().items() if name in look.fields}
    state.recordings = state.recordings or Recordings(store.root / "unfinished")
    more: dict[str, Any] = {} if part == "images" else {"read": state.recordings.read}
    more |= {"store": store} if part == "cortex" else {}
    return looker().submit(
        key, look.title, lambda on_progress, cancelled: look.look(study, on_progress=on_progress, cancelled=cancelled, **more)
    )


def _look(part: str) -> None:
    """Show a part as it is given now, or what is wrong with it, once what it needs is given."""
    look = LOOKS[part]
    missing = [name for name in look.needs if name not in draft().files]
    if missing:
        before = [LOOKS[name].title for name in ("images", "responses") if name in missing and name != part]
        if before:
            st.info(f"First: {', '.join(before)}.")
        return
    job = _job(part)
    if job.active:
        wait_for(job)
    elif job.state == "done":
        look.show(job.outcome)
    else:
        _ended(job)


def _ended(job: Job) -> None:
    show_ended(job, stopped="Stopped.", again=False)
    if job.state != "refused":
        st.button("Look again", key=f"again_{job.key}", on_click=looker().forget, args=(job.key,))


def _show_images(found: ImagesLook) -> None:
    _lines(found.lines)
    captions = list(found.names) or [f"row {row}" for row in range(len(found.images))]
    st.image(list(found.images), caption=captions, width=112)


def _show_responses(found: ResponsesLook) -> None:
    _lines(found.lines)
    st.plotly_chart(response_histogram(found, draft().values.get("units", "as given")), key="import_histogram")


def _show_cortex(found: CortexLook) -> None:
    _lines(found.lines)
    if found.image is not None:
        st.image(found.image, caption="Where the voxels lie: each that the map shows is blue.", width=MAP_WIDTH)


def _lines(lines: tuple[str, ...]) -> None:
    st.caption("  \n".join(lines))


# --- importing -------------------------------------------------------------------------------------------------------


def start_import(study: dict[str, Any]) -> None:
    """Hand an import to the worker; one at a time, the report of the last gives way."""
    store = resources.store()
    resources.worker().forget(IMPORT)
    resources.worker().submit(
        IMPORT,
        f"Importing {study['name']}",
        lambda on_progress, cancelled: import_into(store, **study, on_progress=on_progress, cancelled=cancelled),
    )


def show_import() -> None:
    """Show how far an import is, and at its end the report or why there is none."""
    job = resources.worker().find(IMPORT)
    if job is None:
        return
    if job.active:
        wait_for(job)
    elif job.state == "done":
        report = job.outcome
        st.success(f"Imported {report['subject']}: {report['n_stimuli']} images, {report['n_voxels']} voxels.")
        _lines(tuple(report["report"]))
        st.button("Choose it", key="data_import_choose", on_click=_choose, args=(report["subject"],))
    else:
        show_ended(job, stopped="Stopped. Nothing of it was kept.", again=False)


def _choose(subject: str) -> None:
    st.session_state["data_subject"] = subject
    resources.worker().forget(IMPORT)


LOOKS = {
    "images": Look("Images", OF_IMAGES, ("images",), look_at_images, _show_images),
    "responses": Look("Responses", OF_RESPONSES, ("images", "responses"), look_at_responses, _show_responses),
    "extras": Look("Extras", (*OF_RESPONSES, *BESIDE, "mapper"), ("images", "responses"), look_beside, _lines),
    "cortex": Look("Cortex", OF_CORTEX, ("responses",), look_at_cortex, _show_cortex),
}
STEPS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("1 Images", _images_step),
    ("2 Responses", _responses_step),
    ("3 Extras", _beside_step),
    ("4 Cortex", _cortex_step),
    ("5 Check and import", _check_step),
)
