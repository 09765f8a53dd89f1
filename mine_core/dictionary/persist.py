"""Matches as plain files."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mine_core.dictionary.matching import Halves, Matches


@dataclass(frozen=True)
class UsedColumns:
    """Activations of the units that voxels of one layer were given, over all stimuli: `values[row, stimulus]` (float16).

    `column[row]` = place * n_units + unit, ascending.
    """

    column: Int[np.ndarray, " used"]
    values: Float[np.ndarray, "used stimulus"]
    n_units: int

    def of(self, unit: int, place: int) -> Float[np.ndarray, " stimulus"]:
        """Activation of a unit at a place in every stimulus; raises KeyError if no voxel was given it."""
        row = int(np.searchsorted(self.column, place * self.n_units + unit))
        if row >= len(self.column) or self.column[row] != place * self.n_units + unit:
            raise KeyError(f"unit {unit} at place {place}")
        return np.asarray(self.values[row], np.float32)


def save_matches(directory: Path, matches: Matches, halves: Halves) -> None:
    """Write matches and the halves of the images behind them."""
    for entry in fields(Matches):
        np.save(directory / f"{entry.name}.npy", getattr(matches, entry.name))
    np.save(directory / "half_choose.npy", halves.choose)
    np.save(directory / "half_measure.npy", halves.measure)


def load_matches(directory: Path) -> tuple[Matches, Halves]:
    """Read what `save_matches` wrote; arrays are memory-mapped and read-only."""
    matches = Matches(**{entry.name: _array(directory, entry.name) for entry in fields(Matches)})
    return matches, Halves(_array(directory, "half_choose"), _array(directory, "half_measure"))


def save_columns(directory: Path, layer: int, used: UsedColumns, whole: Float[np.ndarray, "stimulus unit"]) -> None:
    """Write the columns of one layer that voxels were given, and every unit's activation in whole images."""
    np.save(directory / f"column_{layer + 1:02d}.npy", used.column)
    np.save(directory / f"values_{layer + 1:02d}.npy", used.values.astype(np.float16))
    np.save(directory / f"whole_{layer + 1:02d}.npy", whole.astype(np.float16))


def load_columns(directory: Path, layer: int) -> tuple[UsedColumns, Float[np.ndarray, "stimulus unit"]]:
    """Read what `save_columns` wrote."""
    whole = _array(directory, f"whole_{layer + 1:02d}")
    column, values = (_array(directory, f"{name}_{layer + 1:02d}") for name in ("column", "values"))
    return UsedColumns(column, values, whole.shape[1]), whole


def _array(directory: Path, name: str) -> np.ndarray:
    return np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
