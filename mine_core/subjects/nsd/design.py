"""Which image each trial showed: the design of the experiment, checked against itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import reason
from mine_core.subjects.nsd.tree import N_SESSIONS, N_SUBJECTS


@dataclass(frozen=True)
class Design:
    """Images by their place in the dataset (0-based): of every trial of every session, and those that all subjects share."""

    stimulus_of_trial: Int[np.ndarray, "session trial"]
    shared: Int[np.ndarray, " shared"]

    @property
    def n_trials(self) -> int:
        """Trials of a session."""
        return self.stimulus_of_trial.shape[1]


def read_design(path: Path, subject: int) -> Design:
    """Read the design of a subject (1 to 8).

    image of trial t = subjectim[subject, masterordering[t] - 1] - 1; the file counts images and orders from 1.

    Raises
    ------
    SubjectError
        If the file cannot be read, lacks a table, or its tables do not fit one another.
    """
    ordering, images, shared = _tables(path)
    if images.ndim != 2 or len(images) != N_SUBJECTS:
        raise SubjectError(f"{path.name}: subjectim is of shape {images.shape}; expected one row for each of {N_SUBJECTS} subjects.")
    if len(ordering) % N_SESSIONS:
        raise SubjectError(f"{path.name}: masterordering has {len(ordering)} trials; expected {N_SESSIONS} sessions of one length.")
    n_images = images.shape[1]
    if ordering.min() < 1 or ordering.max() > n_images:
        raise SubjectError(
            f"{path.name}: masterordering runs from {ordering.min()} to {ordering.max()}; subjectim has images 1 to {n_images}."
        )
    if images.min() < 1:
        raise SubjectError(f"{path.name}: subjectim holds {images.min()}; it counts images from 1.")
    own = images[subject - 1]
    if len(np.unique(own)) != n_images:
        raise SubjectError(f"{path.name}: subjectim names {n_images - len(np.unique(own))} images of subject {subject} twice.")
    strangers = np.setdiff1d(shared, own)
    if len(strangers):
        raise SubjectError(
            f"{path.name}: {len(strangers)} of {len(shared)} images of sharedix are not among subject {subject}'s "
            f"(first: {strangers[0]}); the two tables do not fit."
        )
    return Design((own[ordering - 1] - 1).reshape(N_SESSIONS, -1), np.sort(shared) - 1)


def _tables(path: Path) -> tuple[Int[np.ndarray, " trial"], Int[np.ndarray, "subject image"], Int[np.ndarray, " shared"]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path)
    except (OSError, ValueError, NotImplementedError, TypeError, MatReadError) as error:
        raise SubjectError(f"{path.name} cannot be read as a MATLAB file ({reason(error)}); copy it again.") from error
    missing = [name for name in ("masterordering", "subjectim", "sharedix") if name not in found]
    if missing:
        raise SubjectError(f"{path.name} has no {', '.join(missing)}; expected the design as published.")
    tables = []
    for name in ("masterordering", "subjectim", "sharedix"):
        values = np.asarray(found[name])
        if values.dtype.kind not in "iuf" or not values.size or not np.array_equal(values, np.floor(values)):
            raise SubjectError(f"{path.name}: {name} is {values.dtype} of shape {values.shape}; expected whole numbers.")
        tables.append(values.astype(np.int64))
    ordering, images, shared = tables
    return ordering.ravel(), images, shared.ravel()
