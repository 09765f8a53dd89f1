"""What a page says of one voxel, from its profile."""

import streamlit as st

from mine_core.description.own_words import OWN
from mine_core.instrument import Instrument
from mine_core.instrument.wanting import full_profile
from mine_core.types import VoxelProfile

N_WORDS, N_CAVEATS = 6, 2


# `key` is read by the cache alone: it tells instruments apart
@st.cache_data(max_entries=512, show_spinner=False)
def _profile(_instrument: Instrument, key: str, voxel: int) -> VoxelProfile:  # noqa: ARG001
    return full_profile(_instrument, voxel)


def profile_of(instrument: Instrument, voxel: int) -> VoxelProfile:
    """Profile of a voxel, put together once."""
    return _profile(instrument, instrument.key, voxel)


def reliability_line(instrument: Instrument, voxel: int) -> str:
    """Say how near the model comes to what the repeats could explain."""
    score = instrument.score
    ceiling, r2 = float(score.noise_ceiling[voxel]), float(score.r2[voxel])
    if not ceiling > 0:
        return f"Held-out R² is {r2:.2f}; without repeats the noise ceiling is unknown."
    return f"Held-out R² is {r2:.2f} of the {ceiling:.2f} that could be explained, on {score.n_test} images."


def labelled(instrument: Instrument, word: str) -> str:
    """Return a word as it is shown: marked where the user brought it."""
    return f"{word} {OWN}" if word in instrument.own_words else word


def tell(instrument: Instrument, profile: VoxelProfile) -> None:
    """Say what a voxel wants: sentence, scores, attributes, caveats."""
    description = profile.description
    if description and description.phrases:
        st.markdown("**Wants** " + " · ".join(labelled(instrument, word) for word in description.phrases))
        if profile.text:
            st.markdown(profile.text)
        st.caption(_scores(instrument, profile))
    else:
        st.markdown(profile.words_withheld or "No word of the vocabulary describes this voxel better than chance.")
    for entry in profile.attributes:
        if entry.stands:
            st.caption(
                f"Among these, more where {entry.attribute} is '{entry.word}': partial r {entry.score:+.2f}, p = {entry.p:.1g}, "
                "on images that did not choose it."
            )
    for caveat in profile.caveats[:N_CAVEATS]:
        st.caption(f"Caution: {caveat}")
    if len(profile.caveats) > N_CAVEATS:
        with st.expander(f"{len(profile.caveats) - N_CAVEATS} more cautions"):
            for caveat in profile.caveats[N_CAVEATS:]:
                st.caption(caveat)


def _scores(instrument: Instrument, profile: VoxelProfile) -> str:
    """Scores of the phrases, and then of the words that were scored beside them."""
    description = profile.description
    if description is None:
        return ""
    by_word = dict(zip(description.words, description.scores, strict=True))
    first = [*description.phrases, *(word for word in description.words if word not in description.phrases)][:N_WORDS]
    listed = ", ".join(f"{labelled(instrument, word)} {by_word[word]:+.2f}" for word in first)
    together = f" Together the words reach r = {profile.words_r:.2f}." if profile.words_r == profile.words_r else ""
    return f"Words chosen on training images and scored on held-out ones: {listed} (correlation with the measured response).{together}"
