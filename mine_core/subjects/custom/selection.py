"""Which stimuli and voxels stay: what lacks responses or never varies is refused, or dropped and named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.large import IN_MEMORY, Scratch, blocks_along
from mine_core.subjects.custom.limits import MIN_STIMULI, counted, listed
from mine_core.subjects.custom.matching import Dropped, Matching
from mine_core.subjects.custom.responses import (
    ResponseTable,
    average_repeats,
    choose_dropped,
    count_holes,
    find_constant,
    missing_blocks,
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
    holes = count_holes(missing_blocks(table.repeats, matching.response_rows))
    dropped = list(matching.dropped)
    if not drop:
        refuse_missing(holes, matching.ids, len(table.repeats))
    stimuli, voxels = choose_dropped(holes, missing_blocks(table.repeats, matching.response_rows))
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


def measure(table: ResponseTable, matching: Matching, kept: Kept, splits: Splits, drop: bool, scratch: Scratch = IN_MEMORY) -> Measured:
    """Average the repeats that were shown, and leave out voxels that do not vary over the training stimuli; by blocks of voxels.

    Raises SubjectError if there are such voxels and `drop` is False, if none stays, or if float32 cannot hold the responses.
    """
    rows = matching.response_rows[kept.stimuli]
    kept = _that_vary(table, rows, kept, splits, drop)
    n_repeats, voxels = len(table.repeats), np.flatnonzero(kept.voxels)
    stored = scratch.empty((len(rows), len(voxels)), np.float32)
    repeats = None if n_repeats == 1 else scratch.empty((n_repeats, len(rows), len(voxels)), np.float32)
    moved, n_quiet = 0.0, 0
    for block, shown in _blocks(table, rows, voxels):
        values = average_repeats(shown)
        sd = values[splits.train].std(axis=0)
        stored[:, block] = to_float32(values, sd, "The response", block.start)
        if repeats is not None:
            repeats[:, :, block] = to_float32(shown, sd, "A repeat", block.start)
        moved = max(moved, float((np.abs(stored[:, block] - values) / sd).max()))
        n_quiet += int(find_constant(values[splits.test]).sum())
    return Measured(stored, repeats, kept, (*_axis_notes(table), *_rounding_notes(moved), *_quiet_notes(n_quiet)))


def _blocks(
    table: ResponseTable, rows: Int[np.ndarray, " stimulus"], voxels: Int[np.ndarray, " voxel"]
) -> Iterator[tuple[slice, Float[np.ndarray, "repeat stimulus block"]]]:
    """Responses of stimuli and voxels that stay, in blocks, with the places of a block among `voxels`."""
    for block in blocks_along(len(voxels), 8 * len(table.repeats) * len(rows)):
        chosen = voxels[block]
        # between the first and the last there is little that does not stay
        near = table.repeats[:, rows, chosen[0] : chosen[-1] + 1]
        yield block, near if near.shape[2] == len(chosen) else near[:, :, chosen - chosen[0]]


def _that_vary(table: ResponseTable, rows: Int[np.ndarray, " stimulus"], kept: Kept, splits: Splits, drop: bool) -> Kept:
    """Leave out voxels that do not vary over the training stimuli."""
    voxels = np.flatnonzero(kept.voxels)
    constant, value = np.zeros(len(voxels), np.bool_), 0.0
    for block, shown in _blocks(table, rows, voxels):
        train = average_repeats(shown[:, splits.train])
        constant[block] = found = find_constant(train)
        if found.any() and not constant[: block.start].any():
            value = train[0, int(np.argmax(found))]
    if not constant.any():
        return kept
    if not drop:
        raise SubjectError(
            f"{int(constant.sum()):,} of {counted(len(constant), 'voxel')} do not vary over the {len(splits.train):,} training "
            f"stimuli (first: voxel {voxels[constant][0]}, counted from 0, always {value:g}); "
            "leave them out, or ask to drop what is incomplete and be told which."
        )
    lost = np.zeros_like(kept.voxels)
    lost[voxels[constant]] = True
    dropped = [*kept.dropped, Dropped("voxel", "does not vary over the training stimuli", _voxel_labels(table, lost))]
    _check_some_left(kept.voxels & ~lost, dropped)
    return Kept(kept.stimuli, kept.voxels & ~lost, tuple(dropped))


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


def _rounding_notes(moved: float) -> list[str]:
    return [f"Responses are kept as float32; that moves none by more than {moved:.1e} SD of its voxel."] if moved else []


def _quiet_notes(n_quiet: int) -> list[str]:
    return [f"{counted(n_quiet, 'voxel')} do not vary over the test stimuli: no accuracy can be given for them."] if n_quiet else []
