"""What one edit did to its voxel, in the few numbers that an experiment keeps of a trial."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mine_core.errors import EditError
from mine_core.experiments.planted_edits import true_shift
from mine_core.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.trials import EditRequest, Trial, run_trial
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import PredictedShift


@dataclass(frozen=True)
class Moved:
    """Shift of a voxel and of its controls, in SD of an encoder's predictions; `rank` 1 is beyond all controls."""

    shift: float
    rank: int
    controls: tuple[float, ...]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Moved":
        """Read it from JSON."""
        return cls(row["shift"], row["rank"], tuple(row["controls"]))

    @property
    def mean_control(self) -> float:
        """Mean shift of the controls."""
        return float(np.mean(self.controls))


@dataclass(frozen=True)
class Tried:
    """One trial: what was predicted by the encoder that guided it, by the second, and what the planted brain would do.

    `truth` is in SD of the voxel's signal, None where no true shift is known; `changed_outside` counts pixels outside the edited
    region; `instant` is the estimate before the edit was made; `verified` whether the backbone recognises what was done, None where
    that cannot be asked.
    """

    voxel: int
    stimulus: int
    inserted: bool
    verified: bool | None
    guiding: Moved
    control_names: tuple[str, ...]
    second: Moved | None
    instant: float
    changed_outside: int
    truth: float | None

    @classmethod
    def of(cls, request: EditRequest, trial: Trial, truth: float) -> "Tried":
        """What is kept of a trial."""
        return cls(
            request.voxel,
            request.stimulus,
            request.kind == "insert",
            trial.edit.verified,
            _moved(trial.shift, request.voxel),
            tuple(trial.shift.control_names),
            None if trial.check is None else _moved(trial.check, request.voxel),
            float(trial.instant),
            int(trial.edit.changed_outside_mask),
            float(truth) if np.isfinite(truth) else None,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Tried":
        """Read what `row` gave, from JSON."""
        moved = {name: None if (found := row[name]) is None else Moved.from_row(found) for name in ("guiding", "second")}
        return cls(**{**row, **moved, "control_names": tuple(row["control_names"])})

    def row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def try_edit(instrument: Instrument, truth: PlantedTruth | None, request: EditRequest, second: SecondEncoder | None) -> Tried | None:
    """Run a trial and keep its numbers; None where the edit cannot be made."""
    try:
        trial = run_trial(instrument, request, second)
    except EditError:
        return None
    if truth is None:
        return Tried.of(request, trial, float("nan"))
    stimulus = instrument.subject.stimuli.ids[request.stimulus]
    return Tried.of(request, trial, true_shift(truth, stimulus, trial.edit, request.voxel))


def _moved(shown: PredictedShift, voxel: int) -> Moved:
    return Moved(float(shown.shift[voxel]), int(shown.rank[voxel]), tuple(float(value) for value in shown.controls[:, voxel]))
