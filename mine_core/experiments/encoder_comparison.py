"""Encoders of one subject side by side: the same test stimuli, the difference of each to ridge with its interval."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mine_core.artifacts import ArtifactStore
from mine_core.encoding.uncertainty import paired_difference
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument
from mine_core.instrument.encoders import EncoderKind, FittedEncoder, fitted_encoders

CEILING_FLOOR, LEVEL, N_RESAMPLES, SEED = 0.1, 0.05, 1000, 17
BASELINE: EncoderKind = "ridge"
# A Gaussian receptive field is called small where the disc of two SD covers less than this share of the image.
SMALL = 0.25


def compare(instrument: Instrument, store: ArtifactStore) -> dict[str, Any]:
    """Score every fitted encoder on the same test stimuli, and set each beside ridge.

    difference = R² / ceiling of the encoder less that of ridge (plain R² where no ceiling is known), mean over voxels with a
    ceiling of at least 0.1; intervals resample test stimuli, the same for both encoders and all voxels. By region, and on a
    phantom also over voxels with small receptive fields. It says nothing of another training set or another brain.
    """
    encoders = fitted_encoders(instrument.config, store)
    return {kind: _entry(instrument, encoder, encoders[BASELINE]) for kind, encoder in encoders.items()}


def _entry(instrument: Instrument, encoder: FittedEncoder, ridge: FittedEncoder) -> dict[str, Any]:
    score = encoder.score
    known = np.asarray(score.noise_ceiling) >= CEILING_FLOOR
    share = np.asarray(score.r2[known] / score.noise_ceiling[known], np.float64)
    entry = {
        "median_r": float(np.median(score.r)),
        "median_r2": float(np.median(score.r2)),
        "normalised_accuracy": float(share.mean()) if len(share) else None,
        "share_significant": float((score.q <= LEVEL).mean()),
        "null_voxel_false_positive_rate": _false_positives(instrument, encoder),
    }
    return entry if encoder.kind == BASELINE else entry | {"difference_to_ridge": _differences(instrument, encoder, ridge)}


def groups_of(instrument: Instrument) -> dict[str, Bool[np.ndarray, " voxel"]]:
    """Sets of voxels that encoders are compared on: all, each region, and small and large receptive fields where known."""
    voxels = instrument.subject.responses.voxels
    groups = {"all voxels": np.ones(len(voxels), bool)}
    groups |= {name: np.asarray(inside) for name, inside in zip(voxels.regions, voxels.membership, strict=True)}
    if instrument.truth_path is not None:
        truth = truth_of(instrument)
        signal = truth.ncsnr > 0
        small = np.pi * (2 * np.asarray(truth.receptive_field[:, 2])) ** 2 < SMALL
        groups |= {"small receptive fields": small & signal, "large receptive fields": ~small & signal}
    return groups


def _differences(instrument: Instrument, encoder: FittedEncoder, ridge: FittedEncoder) -> dict[str, Any]:
    groups, test = groups_of(instrument), instrument.subject.splits.test
    ceiling = np.asarray(encoder.score.noise_ceiling, np.float64)
    found = paired_difference(
        _exact(encoder.predicted),
        _exact(ridge.predicted),
        _exact(instrument.subject.responses.values[test]),
        np.stack(list(groups.values())),
        np.random.default_rng(SEED),
        noise_ceiling=ceiling if (ceiling >= CEILING_FLOOR).any() else None,
        floor=CEILING_FLOOR,
        n_resamples=N_RESAMPLES,
    ).regions
    rows = zip(groups, found.estimate, found.low, found.high, found.n_voxels, strict=True)
    return {
        name: {"difference": float(estimate), "interval": [float(low), float(high)], "n_voxels": int(n)}
        for name, estimate, low, high, n in rows
        if np.isfinite([estimate, low, high]).all()
    }


def _exact(values: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, "stimulus voxel"]:
    return np.asarray(values, np.float64)


def _false_positives(instrument: Instrument, encoder: FittedEncoder) -> float | None:
    if instrument.truth_path is None:
        return None
    return float((encoder.score.q[truth_of(instrument).of_kind("null")] <= LEVEL).mean())
