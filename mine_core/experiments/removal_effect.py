"""Does removing what drives a voxel lower its prediction beyond every matched control?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.experiments.pieces import HERE, Pieces, measure_pieces
from mine_core.experiments.planted import truth_of
from mine_core.experiments.tried import Tried, try_edit
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.second import SecondEncoder, build_second
from mine_core.instrument.trials import EditRequest
from mine_core.statistics import bootstrap_mean_interval
from mine_core.types import OnProgress

N_VOXELS, TOP_IMAGES = 60, 2
TITLE = "removing what drives each voxel"
Bench = tuple[Instrument, SecondEncoder]


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Remove the driving region from top images of random reliable category voxels, with all controls; a voxel is a task.

    beyond_all_controls = share of (voxel, image) pairs whose predicted shift is lower than that of every control; by
    chance 1 / (1 + n_controls). Effect size: the shift minus the mean control, in SD of the voxel's predictions. All of
    it is prediction; which object is planted plays no part. `second_encoder`: the same edits and controls as predicted by an
    encoder that took no part in choosing them, over the voxels that it predicts reliably.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    second = build_second(config, store, on_progress=on_progress)
    category = truth_of(instrument).of_kind("category")
    category = category[instrument.reliable[category]]
    voxels = np.random.default_rng(9).choice(category, min(N_VOXELS, len(category)), replace=False)
    found = measure_pieces(
        Pieces("removal", _opened, removals, about={"second": second.key}),
        [{"voxel": voxel} for voxel in voxels.tolist()],
        config,
        store,
        opened=(instrument, second),
        where=where,
        title=TITLE,
        on_progress=on_progress,
    )
    rows = [row for each in found for row in each]
    trials = [Tried.from_row(row) for row in rows if row]
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(voxels),
        **summary(trials, len(rows) - len(trials)),
        "second_encoder": {"independence": second.independence, **checked(trials, second.reliable)},
    }


def _opened(config: InstrumentConfig, store: ArtifactStore) -> Bench:
    return build_instrument(config, store), build_second(config, store)


def removals(bench: Bench, voxel: int) -> list[dict[str, Any] | None]:
    """A removal from each of the voxel's top images; None where it cannot be made."""
    instrument, second = bench
    chosen = ranked_images(instrument, voxel, "top", TOP_IMAGES)
    tried = [try_edit(instrument, None, EditRequest("remove", voxel, int(stimulus)), second) for stimulus in chosen]
    return [None if each is None else each.row() for each in tried]


def checked(trials: Sequence[Tried], reliable: Bool[np.ndarray, " voxel"]) -> dict[str, Any]:
    """Say what the second encoder makes of the edits, over the voxels that it predicts reliably."""
    found = [trial.second for trial in trials if trial.second is not None and reliable[trial.voxel]]
    if len(found) < 2:
        return {"n_pairs": len(found)}
    rng = np.random.default_rng(12)
    beyond = np.array([moved.rank == 1 for moved in found], np.float64)
    effect = np.array([moved.shift - moved.mean_control for moved in found], np.float64)
    return {
        "n_pairs": len(found),
        "lower_after_removal": float(np.mean([moved.shift < 0 for moved in found])),
        "beyond_all_controls": float(beyond.mean()),
        "beyond_all_controls_interval": list(bootstrap_mean_interval(beyond, rng=rng)),
        "effect_size": float(effect.mean()),
        "effect_size_interval": list(bootstrap_mean_interval(effect, rng=rng)),
    }


def summary(trials: Sequence[Tried], refused: int) -> dict[str, Any]:
    """Share beyond all controls, effect size with interval, and how many edits could not be made."""
    beyond = np.array([trial.guiding.rank == 1 for trial in trials], np.float64)
    shift = np.array([trial.guiding.shift for trial in trials], np.float64)
    controls = np.array([trial.guiding.mean_control for trial in trials], np.float64)
    instant = np.array([trial.instant for trial in trials], np.float64)
    rng = np.random.default_rng(10)
    return {
        "n_pairs": len(trials),
        "n_not_editable": refused,
        "n_controls_median": float(np.median([len(trial.control_names) for trial in trials])),
        "beyond_all_controls": float(beyond.mean()),
        "beyond_all_controls_interval": list(bootstrap_mean_interval(beyond, rng=rng)),
        "mean_shift": float(shift.mean()),
        "mean_control_shift": float(controls.mean()),
        "effect_size": float((shift - controls).mean()),
        "effect_size_interval": list(bootstrap_mean_interval(shift - controls, rng=rng)),
        "instant_estimate_correlation": float(np.corrcoef(instant, shift)[0, 1]),
        "pixels_changed_outside": int(max(trial.changed_outside for trial in trials)),
    }
