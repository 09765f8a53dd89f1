"""How well the encoding model predicts held-out responses, and how often it claims what is not there."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.statistics import bootstrap_mean_interval
from mine_core.types import OnProgress

CEILING_FLOOR, LEVEL, N_SHUFFLES = 0.1, 0.05, 20


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Score the encoder on the test stimuli.

    normalised_accuracy = mean over voxels with ceiling >= 0.1 of R² / ceiling (Grosbard et al. 2026, arXiv:2605.16468);
    null_voxel_false_positive_rate = share of planted null voxels with q <= 0.05 (None without planted truth).
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    on_progress(0, 1, "scoring regions and shuffled images")
    score = instrument.score
    everywhere = np.ones(len(score.r), bool)
    summary = _summary(instrument, everywhere)
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "encoder": instrument.model.kind,
        "n_voxels": len(score.r),
        "n_train": len(instrument.subject.splits.train),
        "n_test": score.n_test,
        "median_r": float(np.median(score.r)),
        "median_r2": float(np.median(score.r2)),
        "median_noise_ceiling": _or_none(np.median(score.noise_ceiling)),
        "share_significant": float((score.q <= LEVEL).mean()),
        "normalised_accuracy": summary["normalised_accuracy"],
        "normalised_accuracy_interval": summary["interval"],
        "n_normalised": summary["n_normalised"],
        "shuffled_median_r": _shuffled(instrument),
        **_null_voxels(instrument),
        "by_region": _by_region(instrument),
    }


def _summary(instrument: Instrument, chosen: Bool[np.ndarray, " voxel"]) -> dict[str, Any]:
    score = instrument.score
    kept = chosen & (score.noise_ceiling >= CEILING_FLOOR)
    share = np.asarray(score.r2[kept] / score.noise_ceiling[kept], np.float64)
    if not len(share):
        return {"normalised_accuracy": None, "interval": None, "n_normalised": 0}
    interval = list(bootstrap_mean_interval(share, rng=np.random.default_rng(11))) if len(share) > 1 else None
    return {"normalised_accuracy": float(share.mean()), "interval": interval, "n_normalised": len(share)}


def _by_region(instrument: Instrument) -> dict[str, Any]:
    voxels, score = instrument.subject.responses.voxels, instrument.score
    named = {name: np.asarray(inside) for name, inside in zip(voxels.regions, voxels.membership, strict=True)}
    if named:
        named["no region"] = ~np.any(list(named.values()), axis=0)
    return {
        name: {"n": int(inside.sum()), "median_r": float(np.median(score.r[inside])), **_summary(instrument, inside)}
        for name, inside in named.items()
        if inside.any()
    }


def _null_voxels(instrument: Instrument) -> dict[str, Any]:
    if instrument.truth_path is None:
        return {"null_voxel_false_positive_rate": None, "n_null_voxels": 0}
    null = truth_of(instrument).of_kind("null")
    return {
        "null_voxel_false_positive_rate": float((instrument.score.q[null] <= LEVEL).mean()),
        "n_null_voxels": len(null),
    }


def _shuffled(instrument: Instrument) -> float:
    """Median over voxels of r, averaged over 20 pairings of predictions with other images' responses: chance."""
    test, rng = instrument.subject.splits.test, np.random.default_rng(13)
    predicted = instrument.model.predict(np.asarray(instrument.features.pooled[test], np.float64))
    measured = np.asarray(instrument.subject.responses.values[test], np.float64)
    medians = [np.median(_correlations(predicted, measured[rng.permutation(len(test))])) for _ in range(N_SHUFFLES)]
    return float(np.mean(medians))


def _correlations(a: Float[np.ndarray, "stimulus voxel"], b: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(axis=0) / np.where(scale > 0, scale, np.inf)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
