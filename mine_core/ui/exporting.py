"""What a page hands over to be kept: a map, an edit or a figure, made when the button is pressed and not before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.critical import CriticalSet
from mine_core.description.search import TextSearch
from mine_core.exports.bundle import flatmap_bytes, map_zip
from mine_core.exports.derivative import subject_label
from mine_core.exports.edits import edit_name, edit_zip
from mine_core.exports.files import DataFormat, formats_in
from mine_core.exports.pictures import PICTURE_FORMATS, PictureFormat, curve_chart, picture_bytes, shift_chart
from mine_core.exports.provenance import RESTRICTED
from mine_core.exports.records import MapRecord, edit_label, search_record, shift_record, view_record
from mine_core.exports.space import lies_in, space_of
from mine_core.instrument import Instrument
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.ui import maps, resources
from mine_core.ui.state import View

MIME = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "zip": "application/zip"}
PICTURES: dict[PictureFormat, str] = {"png": "PNG, 300 dpi", "svg": "SVG, outlines as vectors", "pdf": "PDF, outlines as vectors"}
DATA: dict[DataFormat, str] = {
    "nifti": "NIfTI volume",
    "gifti": "GIFTI, both hemispheres",
    "npz": "NumPy arrays, npz",
    "tsv": "TSV, a row for every voxel",
    "csv": "CSV, a row for every voxel",
}


@dataclass(frozen=True)
class Choice:
    """One way to take something away; `images` is True where it holds images of the subject's stimuli."""

    label: str
    file: str
    make: Callable[[], bytes]
    images: bool = False


def export_map(view: View, instrument: Instrument) -> None:
    """Offer the map that the Explore page shows."""
    offered = maps.offered(instrument, view.image)
    name = view.map if view.map in offered else offered[0]
    label = f"{name}{view.image}" if name == "image" else name
    choices = _of_map(instrument, label, partial(view_record, instrument, name, view.image))
    _offer("Export this map", choices, instrument, "explore_export")


def export_search(instrument: Instrument, found: TextSearch) -> None:
    """Offer the map of a text."""
    record = search_record(instrument, found)
    _offer("Export this map", _of_map(instrument, record.name, lambda: record), instrument, "search_export")


def export_edit(instrument: Instrument, request: EditRequest, trial: Trial) -> None:
    """Offer an edit, its figure and the map of its shift."""
    store, voxel = resources.store(), request.voxel
    agreement = RESTRICTED.get(instrument.subject.kind)
    pack = partial(edit_zip, instrument, store, request, trial, agreement=agreement)
    whole = Choice("Edit: images, mask, all shifts, controls (zip)", edit_name(instrument, request, trial), pack, images=True)
    title = f"{trial.edit.instruction}, image {request.stimulus}"
    name = f"{subject_label(instrument)}-shift-{edit_label(request, trial)}"
    charts = [
        Choice(
            f"Shift and controls of voxel {voxel}: {PICTURES[kind]}", f"{name}-voxel.{kind}", partial(_shift, trial, voxel, title, kind)
        )
        for kind in PICTURE_FORMATS
    ]
    shown = _of_map(
        instrument, f"shift-{edit_label(request, trial)}", partial(shift_record, instrument, trial, request), "Map of shifts"
    )
    _offer("Export this edit", [whole, *charts, *shown], instrument, "cf_export")


def export_curve(instrument: Instrument, voxel: int, image: int, found: CriticalSet) -> None:
    """Offer the figure of a deletion curve."""
    title, name = f"Voxel {voxel}, image {image}", f"{subject_label(instrument)}-curve-v{voxel}i{image}"
    choices = [Choice(PICTURES[kind], f"{name}.{kind}", partial(_curve, found, title, kind)) for kind in PICTURE_FORMATS]
    _offer("Export this curve", choices, instrument, "explore_curve_export")


def _shift(trial: Trial, voxel: int, title: str, kind: str) -> bytes:
    return picture_bytes(shift_chart(trial.shift, voxel, title), kind)


def _curve(found: CriticalSet, title: str, kind: str) -> bytes:
    return picture_bytes(curve_chart(found, title), kind)


def _of_map(instrument: Instrument, label: str, record: Callable[[], MapRecord], what: str = "Flatmap") -> list[Choice]:
    """Pictures of a map, its data in every format that fits the subject, and all of these together."""
    store, name = resources.store(), f"{subject_label(instrument)}-{label}"
    formats = formats_in(*lies_in(instrument))
    pictures = [
        Choice(f"{what}: {PICTURES[kind]}", f"{name}.{kind}", partial(_picture, instrument, record, kind)) for kind in PICTURE_FORMATS
    ]
    data = [
        Choice(f"Data: {DATA[kind]} (zip)", f"{name}-{kind}.zip", partial(_zip, instrument, store, record, (kind,))) for kind in formats
    ]
    every = Choice("Data: all formats (zip)", f"{name}.zip", partial(_zip, instrument, store, record, formats))
    return [*pictures, *data, every]


def _picture(instrument: Instrument, record: Callable[[], MapRecord], kind: str) -> bytes:
    return flatmap_bytes(instrument, record(), kind)


def _zip(instrument: Instrument, store: ArtifactStore, record: Callable[[], MapRecord], formats: Sequence[DataFormat]) -> bytes:
    return map_zip(instrument, store, space_of(instrument, store.root), record(), formats)


def _offer(title: str, choices: Sequence[Choice], instrument: Instrument, key: str) -> None:
    """Let the user choose one of several ways, and download it."""
    with st.popover(title, icon=":material/download:", key=key):
        labels = [choice.label for choice in choices]
        chosen = st.selectbox("As", labels, key=f"{key}_as")
        choice = choices[labels.index(chosen)]
        allowed = not choice.images or _agreed(instrument, key)
        st.download_button(
            "Download",
            choice.make if allowed else b"",
            choice.file,
            MIME[choice.file.rsplit(".", 1)[1]],
            on_click="ignore",
            disabled=not allowed,
            width="stretch",
            key=f"{key}_go",
        )
        if choice.file.endswith(".zip"):
            st.caption("With what it was made of: keys, weights, seed, versions, and a SHA-256 of every file.")


def _agreed(instrument: Instrument, key: str) -> bool:
    """Ask for the data agreement where the subject's images may not be handed on without one."""
    agreement = RESTRICTED.get(instrument.subject.kind)
    if agreement is None:
        return True
    said = f"I and whoever gets these images are bound by the {agreement}"
    return st.checkbox(
        said, key=f"{key}_agreed", help="The zip holds an image of the Natural Scenes Dataset, before and after the edit."
    )
