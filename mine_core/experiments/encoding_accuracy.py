"""How well the encoding model predicts held-out responses, and how often it claims what is not there."""

from typing import Any, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.encoding.noise_ceiling import CeilingEstimate, ceiling_for_test
from mine_core.encoding.uncertainty import CEILING_FLOOR, RegionIntervals, region_interval
from mine_core.experiments.encoder_comparison import compare
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.statistics import FdrMethod, bootstrap_mean_interval, false_discovery_rate
from mine_core.types import OnProgress

LEVEL, N_SHUFFLES = 0.05, 20
INTERVAL_SEED, SHUFFLE_SEED = 11, 13
EVERYWHERE, ELSEWHERE = "everywhere", "no region"


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Score the encoder on the test stimuli.

    normalised_accuracy = mean over voxels with ceiling >= 0.1 of R² / ceiling (Grosbard et al. 2026, arXiv:2605.16468); every
    interval is of 95 %, over test stimuli (`resampled` says what else was drawn), but for the one named over_voxels, which
    takes voxels for independent; null_voxel_false_positive_rate = share of planted null voxels with q <= 0.05;
    encoders = every fitted encoder beside ridge (see `compare`);
    false_discoveries = the same and what is found under two procedures (None without planted truth). An unknown ceiling counts
    nowhere, and gives None where none is known.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    on_progress(0, 1, "scoring regions and shuffled images")
    score, subject = instrument.score, instrument.subject
    ceiling = ceiling_for_test(subject.responses, subject.splits, subject.noise_ceiling)
    places = _places(instrument)
    summaries = _summaries(instrument, ceiling, places)
    everywhere = summaries.pop(EVERYWHERE)
    known = score.noise_ceiling[np.isfinite(score.noise_ceiling)]
    return {
        "subject": subject.name,
        "backbone": config.backbone,
        "encoder": instrument.model.kind,
        "n_voxels": len(score.r),
        "n_train": len(subject.splits.train),
        "n_test": score.n_test,
        "median_r": float(np.median(score.r)),
        "median_r2": float(np.median(score.r2)),
        "median_noise_ceiling": float(np.median(known)) if len(known) else None,
        "noise_ceiling_source": ceiling.source,
        "n_unknown_ceiling": len(score.r) - len(known),
        "share_significant": float((score.q <= LEVEL).mean()),
        "normalised_accuracy_interval": everywhere.pop("interval"),
        "normalised_accuracy_interval_over_voxels": _over_voxels(instrument),
        **{name: value for name, value in everywhere.items() if name not in ("n", "median_r")},
        "shuffled_median_r": _shuffled(instrument),
        **_null_voxels(instrument),
        "by_region": summaries,
        "encoders": compare(instrument, store),
    }


def _places(instrument: Instrument) -> dict[str, Bool[np.ndarray, " voxel"]]:
    """Every region that holds a voxel, the voxels of none where there are regions, and all."""
    voxels = instrument.subject.responses.voxels
    places = {name: np.asarray(inside) for name, inside in zip(voxels.regions, voxels.membership, strict=True)}
    if places:
        places[ELSEWHERE] = ~np.any(list(places.values()), axis=0)
    places = {name: inside for name, inside in places.items() if inside.any()}
    return places | {EVERYWHERE: np.ones(len(voxels), bool)}


def _summaries(
    instrument: Instrument, ceiling: CeilingEstimate, places: dict[str, Bool[np.ndarray, " voxel"]]
) -> dict[str, dict[str, Any]]:
    score, (predicted, measured) = instrument.score, _test_pairs(instrument)
    membership = np.array(list(places.values()))
    found = {
        statistic: region_interval(
            predicted, measured, membership, np.random.default_rng(INTERVAL_SEED), statistic=statistic, ceiling=ceiling
        )
        for statistic in ("r", "r2", "normalised")
    }
    return {
        name: {
            "n": int(inside.sum()),
            "median_r": float(np.median(score.r[inside])),
            "mean_r": float(found["r"].estimate[row]),
            "mean_r_interval": _ends(found["r"], row),
            "mean_r2": float(found["r2"].estimate[row]),
            "mean_r2_interval": _ends(found["r2"], row),
            "normalised_accuracy": _or_none(found["normalised"].estimate[row]),
            "interval": _ends(found["normalised"], row),
            "n_normalised": int(found["normalised"].n_voxels[row]),
            "resampled": found["normalised"].resampled,
        }
        for row, (name, inside) in enumerate(places.items())
    }


def _ends(found: RegionIntervals, row: int) -> list[float] | None:
    ends = [float(found.low[row]), float(found.high[row])]
    return ends if np.isfinite(ends).all() else None


def _over_voxels(instrument: Instrument) -> list[float] | None:
    score = instrument.score
    kept = score.noise_ceiling >= CEILING_FLOOR
    share = np.asarray(score.r2[kept] / score.noise_ceiling[kept], np.float64)
    return list(bootstrap_mean_interval(share, rng=np.random.default_rng(INTERVAL_SEED))) if len(share) > 1 else None


def _null_voxels(instrument: Instrument) -> dict[str, Any]:
    if instrument.truth_path is None:
        return {"null_voxel_false_positive_rate": None, "n_null_voxels": 0, "false_discoveries": None}
    null = np.zeros(len(instrument.score.p), bool)
    null[truth_of(instrument).of_kind("null")] = True
    return {
        "null_voxel_false_positive_rate": float((instrument.score.q[null] <= LEVEL).mean()),
        "n_null_voxels": int(null.sum()),
        "false_discoveries": {method: _discoveries(instrument.score.p, null, method) for method in get_args(FdrMethod)},
    }


def _discoveries(p: Float[np.ndarray, " voxel"], null: Bool[np.ndarray, " voxel"], method: FdrMethod) -> dict[str, Any]:
    """Share of null and of other voxels that are called, with exact binomial intervals, and the false share of the called."""
    called = false_discovery_rate(np.asarray(p), method) <= LEVEL
    found: dict[str, Any] = {"proportion_false": float((called & null).sum() / max(called.sum(), 1))}
    for name, among in (("null_called", null), ("found", ~null)):
        low, high = stats.binomtest(int(called[among].sum()), int(among.sum())).proportion_ci(method="exact")
        found |= {name: float(called[among].mean()), f"{name}_interval": [float(low), float(high)]}
    return found


def _test_pairs(instrument: Instrument) -> tuple[Float[np.ndarray, "stimulus voxel"], Float[np.ndarray, "stimulus voxel"]]:
    test = instrument.subject.splits.test
    predicted = instrument.model.predict(np.asarray(instrument.features.pooled[test], np.float64))
    return predicted, np.asarray(instrument.subject.responses.values[test], np.float64)


def _shuffled(instrument: Instrument) -> float:
    """Median over voxels of r, averaged over 20 pairings of predictions with other images' responses: chance."""
    rng, (predicted, measured) = np.random.default_rng(SHUFFLE_SEED), _test_pairs(instrument)
    medians = [np.median(_correlations(predicted, measured[rng.permutation(len(measured))])) for _ in range(N_SHUFFLES)]
    return float(np.mean(medians))


def _correlations(a: Float[np.ndarray, "stimulus voxel"], b: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(axis=0) / np.where(scale > 0, scale, np.inf)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
