"""Words of one image for one voxel: a table of the patches that drive it, and of any patch that is clicked."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.attribution.decomposition import attribute_images
from mine_core.description.decoding import image_words, patch_words
from mine_core.instrument import Instrument
from mine_core.ui.components import placer
from mine_core.ui.state import View
from mine_core.ui.words import labelled

N_WORDS = 10


def words_of_image(view: View, instrument: Instrument) -> None:
    """Show which words the chosen image gives the voxel, and the words of the patch that is clicked."""
    if view.voxel < 0 or view.image < 0 or not len(instrument.vocabulary):
        return
    st.divider()
    st.markdown(f"**Words of image {view.image}**")
    left, middle, right = st.columns([3, 4, 4], gap="medium")
    image = np.asarray(instrument.subject.stimuli.images[view.image])
    alt = f"image {view.image}: {instrument.captions[view.image]}"
    with left:
        place = placer(
            image,
            choice=f"{view.subject}-{view.seed}-{view.image}",
            alt=alt,
            label=f"Patch whose words are wanted. {alt}. Arrow keys move the crosshair, Enter chooses the patch.",
            key="explore_patch",
            unplaced="No patch",
        )
    with middle:
        _driving(view, instrument)
    with right:
        _clicked(view, instrument, image.shape[:2], place)


def _driving(view: View, instrument: Instrument) -> None:
    """Table of the patches that drive the voxel in this image."""
    values = attribute_images(instrument.model, instrument.features, np.array([view.image]), view.voxel, instrument.mean_patches)[0]
    rows = image_words(instrument.features, view.image, values, instrument.mean_patches, instrument.vocabulary, N_WORDS)
    st.caption(f"Patches that drive voxel {view.voxel}")
    if not rows:
        st.caption("Nothing in this image raises its prediction.")
        return
    table = pd.DataFrame([(row.rank, labelled(instrument, row.word), round(row.score, 2), row.count) for row in rows])
    table.columns = ["Rank", "Word", "Score", "Count"]
    st.dataframe(table, hide_index=True, key="explore_image_words")
    st.caption("Score: mean over the patches, in SD of the word over training patches. Count: patches with it among their best three.")


def _clicked(view: View, instrument: Instrument, shape: tuple[int, int], place: tuple[int, int] | None) -> None:
    """Table of the patch that was clicked."""
    if place is None:
        st.caption("Click a patch of the image to see its words, whatever voxel is chosen.")
        return
    rows, cols = instrument.features.backbone.grid
    row, col = min(place[0] * rows // shape[0], rows - 1), min(place[1] * cols // shape[1], cols - 1)
    patch = row * cols + col
    patches = np.asarray(instrument.features.patches[view.image], np.float32)
    scores = patch_words(patches, instrument.mean_patches, instrument.vocabulary)[patch]
    best = np.argsort(-scores, kind="stable")[:N_WORDS]
    st.caption(f"Patch in row {row + 1} of {rows}, column {col + 1} of {cols}")
    table = pd.DataFrame(
        {"Rank": range(1, len(best) + 1), "Word": [labelled(instrument, instrument.vocabulary.words[w]) for w in best]}
    )
    table["Score"] = scores[best].round(2)
    st.dataframe(table, hide_index=True, key="explore_patch_words")
    st.caption("A late patch mixes what its neighbours hold: its words are what the backbone says there, not what is drawn there.")
