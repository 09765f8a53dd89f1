"""What makes the map of a subject of a published dataset: where its voxels lie is known, but no cortex of its own is here."""

from typing import Any

from mine_core.artifacts import Artifact
from mine_core.cortex.flatmap import save_flatmap
from mine_core.cortex.fsaverage import surface_map
from mine_core.cortex.slices import slice_map
from mine_core.instrument.makers import Work
from mine_core.instrument.subjects import subject_of


def slices(subject: Artifact) -> Any:
    """Lay the slices of the subject's volume side by side."""

    def make(work: Work) -> None:
        save_flatmap(slice_map(subject_of(subject).responses.voxels), work.directory)

    return make


def surface(subject: Artifact) -> Any:
    """Draw the subject's vertices on the average surface laid flat."""

    def make(work: Work) -> None:
        save_flatmap(surface_map(subject_of(subject).responses.voxels), work.directory)

    return make
