"""Captions on the Explore page: the dataset's own where there are any, the backbone's, and those of the part that drives a voxel."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.attribution.decomposition import attribute_images
from mine_core.errors import MineError
from mine_core.figures import data_url
from mine_core.instrument import Instrument
from mine_core.instrument.captioned import N_BEAMS, Part, caption_part, dataset_captions, driving_part
from mine_core.profiles import wordless_text
from mine_core.ui.state import View


def shown_caption(instrument: Instrument, stimulus: int) -> str:
    """Return the caption of a stimulus in a gallery: the dataset's first, else the backbone's."""
    own = dataset_captions(instrument, stimulus)
    return own[0] if own else instrument.captions[stimulus]


def caption_source(instrument: Instrument) -> str:
    """Say who wrote the captions and chose the words."""
    foreign = instrument.config.backbone.startswith("phantom") and instrument.config.subject != "phantom"
    warning = " It learnt from rendered scenes: its words and captions for photographs are guesses." if foreign else ""
    if any(instrument.subject.stimuli.captions):
        return f"Captions are the dataset's own ({instrument.subject.stimuli.caption_source}).{warning}"
    if not instrument.features.backbone.has_words:
        return wordless_text(instrument.features.backbone.name)
    if not any(instrument.captions):
        return "This backbone writes no captions."
    return f"Captions are written by the backbone '{instrument.config.backbone}'.{warning}"


def captions_of_image(view: View, instrument: Instrument) -> None:
    """List captions of the chosen image with who wrote each, and caption the part of it that drives the voxel."""
    if view.voxel < 0 or view.image < 0:
        return
    backbone = instrument.config.backbone
    rows = [("whole image", "the dataset", caption) for caption in dataset_captions(instrument, view.image)]
    if instrument.captions[view.image]:
        rows.append(("whole image", f"{backbone}, greedy", instrument.captions[view.image]))
    writes, part = any(instrument.captions), None
    if writes and st.toggle(f"Caption the part that drives voxel {view.voxel}", key="captions_part"):
        try:
            part = _part(view, instrument)
            rows += _written(instrument, instrument.key, view.image, view.voxel, part)
        except MineError as refusal:
            st.info(str(refusal))
    if not rows:
        return
    left, right = st.columns([1, 8], gap="medium")
    if part is not None:
        where = f"row {part.row} to {part.row + part.side}, column {part.col} to {part.col + part.side}"
        left.image(data_url(part.image, "webp"), width="stretch", caption=f"The part: pixels {where}")
    with right if part is not None else st.container():
        st.dataframe(pd.DataFrame(rows, columns=["of", "written by", "caption"]), hide_index=True, key="captions_table")
        st.caption(
            "What a model says of pixels: no measurement, and no part in a voxel's words. "
            f"Beam: best of {N_BEAMS} captions kept side by side. A captioner knows less of a part than of a whole image."
        )


def _part(view: View, instrument: Instrument) -> Part:
    at = np.array([view.image])
    values = attribute_images(instrument.model, instrument.features, at, view.voxel, instrument.mean_patches)[0]
    return driving_part(np.asarray(instrument.subject.stimuli.images[view.image]), values)


# `key`, `stimulus` and `voxel` are read by the cache alone
@st.cache_data(max_entries=256, show_spinner="Writing captions")
def _written(
    _instrument: Instrument,
    key: str,  # noqa: ARG001
    stimulus: int,
    voxel: int,  # noqa: ARG001
    _part: Part,
) -> list[tuple[str, str, str]]:
    image = np.asarray(_instrument.subject.stimuli.images[stimulus])
    told = {"whole image": caption_part(_instrument, image), "the part": caption_part(_instrument, _part.image)}
    told["whole image"].pop("greedy", None)
    backbone = _instrument.config.backbone
    return [(of, f"{backbone}, {search}", caption) for of, found in told.items() for search, caption in found.items()]
