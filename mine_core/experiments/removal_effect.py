"""Does removing what drives a voxel lower its prediction beyond every matched control?"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import EditError
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.second import SecondEncoder, build_second
from mine_core.instrument.trials import EditRequest, Trial, run_trial
from mine_core.statistics import bootstrap_mean_interval
from mine_core.types import OnProgress

N_VOXELS, TOP_IMAGES = 60, 2


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Remove the driving region from top images of random reliable category voxels, with all controls.

    beyond_all_controls = share of (voxel, image) pairs whose predicted shift is lower than that of every control; by
    chance 1 / (1 + n_controls). Effect size: the shift minus the mean control, in SD of the voxel's predictions. All of
    it is prediction; which object is planted plays no part. `second_encoder`: the same edits and controls as predicted by an
    encoder that took no part in choosing them, over the voxels that it predicts reliably.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    second = build_second(config, store, on_progress=on_progress)
    rng = np.random.default_rng(9)
    category = truth_of(instrument).of_kind("category")
    category = category[instrument.reliable[category]]
    voxels = rng.choice(category, min(N_VOXELS, len(category)), replace=False)
    trials, refused = [], 0
    for number, voxel in enumerate(voxels):
        on_progress(number, len(voxels), "removing what drives each voxel")
        for stimulus in ranked_images(instrument, int(voxel), "top", TOP_IMAGES):
            trial = _try(instrument, int(voxel), int(stimulus), second)
            refused += trial is None
            trials += [] if trial is None else [(int(voxel), trial)]
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(voxels),
        **summary(trials, refused),
        "second_encoder": {"independence": second.independence, **checked(trials, second.reliable)},
    }


def _try(instrument: Instrument, voxel: int, stimulus: int, second: SecondEncoder) -> Trial | None:
    try:
        return run_trial(instrument, EditRequest("remove", voxel, stimulus), second)
    except EditError:
        return None


def checked(trials: list[tuple[int, Trial]], reliable: Bool[np.ndarray, " voxel"]) -> dict[str, Any]:
    """Say what the second encoder makes of the edits, over the voxels that it predicts reliably."""
    found = [(voxel, trial.check) for voxel, trial in trials if trial.check is not None and reliable[voxel]]
    if len(found) < 2:
        return {"n_pairs": len(found)}
    rng = np.random.default_rng(12)
    beyond = np.array([check.rank[voxel] == 1 for voxel, check in found], np.float64)
    effect = np.array([check.shift[voxel] - check.controls[:, voxel].mean() for voxel, check in found], np.float64)
    return {
        "n_pairs": len(found),
        "lower_after_removal": float(np.mean([check.shift[voxel] < 0 for voxel, check in found])),
        "beyond_all_controls": float(beyond.mean()),
        "beyond_all_controls_interval": list(bootstrap_mean_interval(beyond, rng=rng)),
        "effect_size": float(effect.mean()),
        "effect_size_interval": list(bootstrap_mean_interval(effect, rng=rng)),
    }


def summary(trials: list[tuple[int, Trial]], refused: int) -> dict[str, Any]:
    """Share beyond all controls, effect size with interval, and how many edits could not be made."""
    beyond = np.array([trial.shift.rank[voxel] == 1 for voxel, trial in trials], np.float64)
    shift = np.array([trial.shift.shift[voxel] for voxel, trial in trials], np.float64)
    controls = np.array([trial.shift.controls[:, voxel].mean() for voxel, trial in trials], np.float64)
    instant = np.array([trial.instant for _, trial in trials], np.float64)
    rng = np.random.default_rng(10)
    return {
        "n_pairs": len(trials),
        "n_not_editable": refused,
        "n_controls_median": float(np.median([len(trial.shift.control_names) for _, trial in trials])),
        "beyond_all_controls": float(beyond.mean()),
        "beyond_all_controls_interval": list(bootstrap_mean_interval(beyond, rng=rng)),
        "mean_shift": float(shift.mean()),
        "mean_control_shift": float(controls.mean()),
        "effect_size": float((shift - controls).mean()),
        "effect_size_interval": list(bootstrap_mean_interval(shift - controls, rng=rng)),
        "instant_estimate_correlation": float(np.corrcoef(instant, shift)[0, 1]),
        "pixels_changed_outside": int(max(trial.edit.changed_outside_mask for _, trial in trials)),
    }
