"""What a page says of one voxel, from its profile."""

import streamlit as st

from mine_core.instrument import Instrument
from mine_core.instrument.wanting import full_profile
from mine_core.types import VoxelProfile


# `model_key` is read by the cache alone: it tells instruments apart
@st.cache_data(max_entries=512, show_spinner=False)
def _profile(_instrument: Instrument, model_key: str, voxel: int) -> VoxelProfile:  # noqa: ARG001
    return full_profile(_instrument, voxel)


def profile_of(instrument: Instrument, voxel: int) -> VoxelProfile:
    """Profile of a voxel, put together once."""
    return _profile(instrument, instrument.model.provenance["key"], voxel)


def reliability_line(instrument: Instrument, voxel: int) -> str:
    """Say how near the model comes to what the repeats could explain."""
    score = instrument.score
    ceiling, r2 = float(score.noise_ceiling[voxel]), float(score.r2[voxel])
    if not ceiling > 0:
        return f"Held-out R² is {r2:.2f}; without repeats the noise ceiling is unknown."
    return f"Held-out R² is {r2:.2f} of the {ceiling:.2f} that could be explained, on {score.n_test} images."
