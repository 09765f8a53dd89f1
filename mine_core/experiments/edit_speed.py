"""How long an edit takes, stage by stage: from the click to a shift of every voxel beside its controls."""

import time
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import EditError, MineError
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.second import find_second
from mine_core.instrument.things import insertable_words
from mine_core.instrument.trials import STAGES, EditRequest, Kind, Stage, run_trial
from mine_core.types import OnProgress

N_VOXELS, SEED = 20, 91


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Time removals and insertions of 20 voxels that have words, in the held-out image that each is predicted to answer most.

    Stages: mask = the heatmap and the region, generate = the edit, controls = all control edits, re-encode = embeddings of all
    images, predict = shifts of every voxel and p, check = the same by the second encoder where one is fitted, verify = whether
    the edit did what was asked. The first trial of each kind is not counted: it loads networks and finds exemplars. Seconds are
    of this machine, and of whatever else it does; stages that an edit does not have count as none.

    Raises
    ------
    EditError
        If no voxel can be edited.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    second = find_second(config, store)
    found: dict[str, Any] = {"subject": instrument.subject.name, "backbone": config.backbone, "checked": second is not None}
    found["n_voxels_predicted"] = len(instrument.score.r)
    voxels = _voxels(instrument)
    for kind in ("remove", "insert"):
        rows, n_controls = [], 0
        for number, voxel in enumerate(voxels):
            on_progress(number, len(voxels), f"timing: {kind}")
            timed = _timed(instrument, kind, int(voxel), second)
            if timed is not None:
                rows.append(timed[0])
                n_controls = max(n_controls, timed[1])
        if len(rows) < 2:
            raise EditError(f"{len(rows)} of {len(voxels)} voxels could be edited ({kind}); at least 2 are needed to time edits.")
        found[kind] = _summary(rows[1:]) | {"n_edits": len(rows) - 1, "n_controls": n_controls}
    return found


def _voxels(instrument: Instrument) -> np.ndarray:
    described = np.array([bool(instrument.words.description(voxel).phrases) for voxel in range(len(instrument.score.r))])
    able = np.flatnonzero(instrument.reliable & described)
    return np.random.default_rng(SEED).permutation(able)[: N_VOXELS + 1]


def _timed(instrument: Instrument, kind: Kind, voxel: int, second: Any) -> tuple[dict[str, float], int] | None:
    """Seconds of each stage of one trial, and how many controls it had; None where it cannot be made."""
    held_out = np.flatnonzero(instrument.held_out)
    stimulus = int(held_out[np.argmax(instrument.predicted(voxel)[held_out])])
    word = insertable_words(instrument, voxel)[0] if kind == "insert" else ""
    began: list[tuple[Stage, float]] = []
    start = time.perf_counter()
    try:
        trial = run_trial(
            instrument,
            EditRequest(kind, voxel, stimulus, word),
            second,
            on_stage=lambda stage: began.append((stage, time.perf_counter())),
        )
    except MineError:
        return None
    end = time.perf_counter()
    ends = [when for _, when in began[1:]] + [end]
    seconds: dict[str, float] = {stage: stop - when for (stage, when), stop in zip(began, ends, strict=True)}
    return {**seconds, "whole": end - start}, len(trial.shift.control_names)


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    stages = {stage: [row.get(stage, 0.0) for row in rows] for stage in (*STAGES, "whole")}
    return {
        "p50_seconds": {stage: float(np.median(values)) for stage, values in stages.items()},
        "p95_seconds": {stage: float(np.quantile(values, 0.95)) for stage, values in stages.items()},
    }
