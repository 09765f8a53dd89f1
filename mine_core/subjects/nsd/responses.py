"""Single showings and their averages, written session by session into memory maps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.limits import MIN_STIMULI
from mine_core.subjects.nsd.betas import read_session, standardise
from mine_core.subjects.nsd.design import Design
from mine_core.subjects.nsd.labels import Places
from mine_core.subjects.nsd.tree import NsdTree
from mine_core.types import IsCancelled, OnProgress

STIMULI_AT_A_TIME = 256


@dataclass(frozen=True)
class Showings:
    """Which images were shown in the sessions that are there: `stimuli` by their place in the dataset, ascending.

    `row` and `repeat` say for every trial of `sessions` which stimulus it showed and how often that had been shown before.
    """

    sessions: tuple[int, ...]
    stimuli: Int[np.ndarray, " stimulus"]
    row: Int[np.ndarray, "session trial"]
    repeat: Int[np.ndarray, "session trial"]

    @property
    def counts(self) -> Int[np.ndarray, " stimulus"]:
        """How often each stimulus was shown."""
        return np.bincount(self.row.ravel(), minlength=len(self.stimuli))


@dataclass(frozen=True)
class Recorded:
    """Responses in SD of a voxel within its session: averages, single showings (NaN: not shown), and what did not vary."""

    values: Float[np.ndarray, "stimulus voxel"]
    repeats: Float[np.ndarray, "repeat stimulus voxel"]
    n_flat: int


def showings_of(design: Design, sessions: tuple[int, ...]) -> Showings:
    """Count the showings of each image in the sessions that are there, in their order.

    Raises SubjectError if fewer than 50 images were shown.
    """
    shown = design.stimulus_of_trial[np.array(sessions) - 1]
    stimuli, row = np.unique(shown, return_inverse=True)
    row = row.ravel()
    if len(stimuli) < MIN_STIMULI:
        raise SubjectError(f"{len(sessions)} sessions show {len(stimuli)} images; expected at least {MIN_STIMULI}. Add sessions.")
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row)
    repeat = np.empty(len(row), np.int64)
    repeat[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Showings(sessions, stimuli, row.reshape(shown.shape), repeat.reshape(shown.shape))


def write_responses(
    tree: NsdTree, showings: Showings, places: Places, directory: Path, on_progress: OnProgress, cancelled: IsCancelled
) -> Recorded:
    """Write `values.npy` (float32) and `repeats.npy` (float16) of all voxels; a session is never held whole.

    Each voxel is z-scored over the trials of a session, showings of an image are averaged; the averages are made of float32,
    before showings are kept in half precision.

    Raises
    ------
    SubjectError
        If a session cannot be read as the design and the mask say (see `read_session`).
    Cancelled
        When `cancelled()` becomes True between parts of a session.
    """
    n_stimuli, n_voxels, counts = len(showings.stimuli), len(places.flat_index), showings.counts
    create = np.lib.format.open_memmap
    values = create(directory / "values.npy", "w+", np.float32, (n_stimuli, n_voxels))
    repeats = create(directory / "repeats.npy", "w+", np.float16, (int(counts.max()), n_stimuli, n_voxels))
    for start in range(0, n_stimuli, STIMULI_AT_A_TIME):
        repeats[:, start : start + STIMULI_AT_A_TIME] = np.nan
    n_flat = 0
    for number, session in enumerate(showings.sessions):
        on_progress(number, len(showings.sessions) + 1, f"reading session {session}")
        row, repeat = showings.row[number], showings.repeat[number]
        for voxels, raw in read_session(tree, session, places, showings.row.shape[1]):
            if cancelled():
                raise Cancelled(f"Stopped in session {session}; nothing was kept.")
            z, flat = standardise(raw)
            n_flat += flat
            repeats[repeat, row, voxels] = z
            for time in np.unique(repeat):
                # no image is among the first, the second or the third showings twice
                of_time = repeat == time
                values[row[of_time], voxels] += z[of_time]
    on_progress(len(showings.sessions), len(showings.sessions) + 1, "averaging")
    for start in range(0, n_stimuli, STIMULI_AT_A_TIME):
        rows = slice(start, start + STIMULI_AT_A_TIME)
        values[rows] /= counts[rows, None]
    return Recorded(values, repeats, n_flat)
