"""What makes the map of an imported subject whose voxels have a place: in a volume, on a surface, or on a cortex of its own."""

from pathlib import Path
from typing import Any

from mine_core.artifacts import Artifact
from mine_core.cortex.flatmap import save_flatmap
from mine_core.cortex.fsaverage import surface_map
from mine_core.cortex.slices import slice_map
from mine_core.instrument.makers import Work
from mine_core.instrument.own_cortex import mapper_map, pycortex_map
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


def pycortex(given: tuple[Artifact, Path]) -> Any:
    """Draw the subject's voxels on the flatmap of a pycortex subject, which works under the path given."""
    subject, cache_dir = given

    def make(work: Work) -> None:
        save_flatmap(pycortex_map(cache_dir, subject_of(subject)), work.directory)

    return make


def mapper(subject: Artifact) -> Any:
    """Draw the subject's voxels on the flatmap that was kept with it."""

    def make(work: Work) -> None:
        save_flatmap(mapper_map(subject, subject_of(subject)), work.directory)

    return make
