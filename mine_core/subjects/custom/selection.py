"""Which stimuli and voxels stay: what lacks responses or never varies is refused, or dropped and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MIN_STIMULI, counted, listed
from mine_core.subjects.custom.matching import Dropped, Matching
from mine_core.subjects.custom.responses import (
    ResponseTable,
    average_repeats,
    choose_dropped,
    find_constant,
    find_missing,
    refuse_missing,
    to_float32,
)
from mine_core.types import Splits

Item = TypeVar("Item")


@dataclass(frozen=True)
class Kept:
    """True where a stimulus (in the order of the matching) or a voxel stays, and what was left out so far."""

    stimuli: Bool[np.ndarray, " stimulus"]
    voxels: Bool[np.ndarray, " voxel"]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Measured:
    """Responses as the store keeps them, of the stimuli and voxels that stay, and what the report should say of them."""

    values: Float32[np.ndarray, "stimulus voxel"]
    repeats: Float32[np.ndarray, "repeat stimulus voxel"] | None
    kept: Kept
    notes: tuple[str, ...]


def picked(items: Sequence[Item], kept: Bool[np.ndarray, " item"]) -> tuple[Item, ...]:
    """Return the items that stay."""
    return tuple(item for item, stays in zip(items, kept, strict=True) if stays)


def keep_complete(table: ResponseTable, matching: Matching, drop: bool) -> Kept:
    """Keep stimuli and voxels without a hole.

    Raises SubjectError if there is a hole and `drop` is False, if fewer than 50 stimuli stay, or no voxel.
    """
    missing = find_missing(table)[matching.response_rows]
    dropped = list(matching.dropped)
    if not drop:
        refuse_missing(missing, matching.ids, len(table.repeats))
    stimuli, voxels = choose_dropped(missing)
    if stimuli.any():
        dropped.append(Dropped("stimulus", "not shown to more than half of the voxels", picked(matching.ids, stimuli)))
    if voxels.any():
        dropped.append(Dropped("voxel", "no response to some stimulus", _voxel_labels(table, voxels)))
    n_left = int((~stimuli).sum())
    if n_left < MIN_STIMULI:
        lost = f" after {int(stimuli.sum()):,} were dropped" if stimuli.any() else ""
        raise SubjectError(
            f"There are {counted(n_left, 'stimulus', 'stimuli')}{lost}; expected at least {MIN_STIMULI} to fit and test an "
            "encoding model. Give more (or check the axes of the responses)."
        )
    _check_some_left(~voxels, dropped)
    return Kept(~stimuli, ~voxels, tuple(dropped))


def measure(table: ResponseTable, matching: Matching, kept: Kept, splits: Splits, drop: bool) -> Measured:
    """Average the repeats that were shown, and leave out voxels that do not vary over the training stimuli.

    Raises SubjectError if there are such voxels and `drop` is False, if none stays, or if float32 cannot hold the responses.
    """
    rows = matching.response_rows[kept.stimuli]
    repeats = table.repeats[:, rows][:, :, kept.voxels]
    values = average_repeats(repeats)
    constant = find_constant(values[splits.train])
    dropped = list(kept.dropped)
    if constant.any():
        positions = np.flatnonzero(kept.voxels)[constant]
        lost = np.zeros_like(kept.voxels)
        lost[positions] = True
        if not drop:
            first = int(np.argmax(constant))
            raise SubjectError(
                f"{int(constant.sum()):,} of {counted(len(constant), 'voxel')} do not vary over the {len(splits.train):,} training "
                f"stimuli (first: voxel {positions[0]}, counted from 0, always {values[splits.train[0], first]:g}); "
                "leave them out, or ask to drop what is incomplete and be told which."
            )
        dropped.append(Dropped("voxel", "does not vary over the training stimuli", _voxel_labels(table, lost)))
        values, repeats = values[:, ~constant], repeats[:, :, ~constant]
        kept = Kept(kept.stimuli, kept.voxels & ~lost, tuple(dropped))
        _check_some_left(kept.voxels, dropped)
    sd = values[splits.train].std(axis=0)
    stored = to_float32(values, sd, "The response")
    notes = [*_axis_notes(table), *_rounding_notes(values, stored, sd), *_quiet_notes(values, splits)]
    single = len(repeats) == 1
    return Measured(stored, None if single else to_float32(repeats, sd, "A repeat"), kept, tuple(notes))


def _voxel_labels(table: ResponseTable, which: Bool[np.ndarray, " voxel"]) -> tuple[str, ...]:
    """Names of voxels where the responses have them, else their positions, counted from 0."""
    names = table.voxel_names or [str(i) for i in range(table.n_voxels)]
    return picked(names, which)


def _check_some_left(voxels: Bool[np.ndarray, " voxel"], dropped: list[Dropped]) -> None:
    if not voxels.any():
        last = dropped[-1]
        raise SubjectError(
            f"No voxel is left: {counted(len(last.which), last.what)} dropped ({last.why}: {listed(last.which)}); "
            "expected at least one. Check the responses and their axes."
        )


def _axis_notes(table: ResponseTable) -> list[str]:
    notes = []
    if "repeat" in table.axes and len(table.repeats) == 1:
        notes.append("The repeat axis has length 1: kept as single responses.")
    if table.n_stimuli == table.n_voxels:
        notes.append(f"There are {table.n_stimuli:,} stimuli and as many voxels: lengths cannot show that the axes were swapped.")
    return notes


def _rounding_notes(
    values: Float[np.ndarray, "stimulus voxel"], stored: Float32[np.ndarray, "stimulus voxel"], sd: Float[np.ndarray, " voxel"]
) -> list[str]:
    worst = float((np.abs(stored - values) / sd).max())
    return [f"Responses are kept as float32; that moves none by more than {worst:.1e} SD of its voxel."] if worst else []


def _quiet_notes(values: Float[np.ndarray, "stimulus voxel"], splits: Splits) -> list[str]:
    quiet = int(find_constant(values[splits.test]).sum())
    return [f"{counted(quiet, 'voxel')} do not vary over the test stimuli: no accuracy can be given for them."] if quiet else []
