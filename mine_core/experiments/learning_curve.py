"""Accuracy against the number of training images: would more recording help, and which encoder needs more of it?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.encoding.noise_ceiling import CeilingEstimate
from mine_core.encoding.ridge import fit_ridge
from mine_core.encoding.uncertainty import region_interval
from mine_core.errors import EncodingError
from mine_core.experiments.encoder_comparison import CEILING_FLOOR
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.encoders import EncoderKind, FittedEncoder, fitted_encoders
from mine_core.types import OnProgress, Responses, Splits

SMALLEST, MOST_SIZES, DRAWS, N_RESAMPLES, SEED = 60, 6, 3, 1000, 29
ATTENTION_SIZES = 3
"""Sizes that the slower encoder is trained at, the largest among them."""

Predict = Callable[[Splits], Float[np.ndarray, "test voxel"]]


@dataclass(frozen=True)
class Curve:
    """One line of the figure: how it is predicted from a split, at which numbers of training images, from how many draws."""

    name: str
    predict: Predict
    sizes: tuple[int, ...]
    draws: int


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Fit on ever larger parts of the training stimuli, and score each fit on the same test stimuli.

    accuracy = mean over voxels with a ceiling of at least 0.1 of R² / ceiling, averaged over random draws of training stimuli
    (a draw's smaller parts lie within its larger ones); without known ceilings, mean R² of all voxels. Intervals of 95 %
    resample test stimuli alone, with ceilings taken as exact; the spread over draws is `lowest_draw` and `highest_draw`.
    `shuffled` is ridge on responses of other training stimuli: chance. Ridge always; query attention where it was fitted.

    It speaks of images like these; a curve that still rises says that more of them would help, not by how much.

    Raises
    ------
    EncodingError
        If there are fewer than 60 training stimuli.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    curves = _curves(instrument, fitted_encoders(config, store))
    total = sum(sum(curve.sizes) * curve.draws for curve in curves)
    done, found = 0, {}
    for curve in curves:
        points = []
        for size in curve.sizes:
            on_progress(done, total, f"{curve.name.replace('_', ' ')} on {size:,} training images")
            # all of them can be drawn once only
            draws = curve.draws if size < len(instrument.subject.splits.train) else 1
            drawn = [_part(instrument, size, draw) for draw in range(draws)]
            points.append({"n_train": size, **_accuracy(instrument, [curve.predict(part) for part in drawn])})
            done += size * curve.draws
        found[curve.name] = points
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_test": instrument.score.n_test,
        "statistic": "R² / noise ceiling" if _ceilings_known(instrument) else "R²",
        "curves": found,
    }


def sizes_of(n_train: int) -> tuple[int, ...]:
    """All training stimuli, half of them, a quarter and so on, ascending, none below 60 and six at most.

    Raises
    ------
    EncodingError
        If there are fewer than 60.
    """
    if n_train < SMALLEST:
        raise EncodingError(f"There are {n_train} training stimuli; a learning curve needs at least {SMALLEST}.")
    halved = [n_train >> times for times in range(MOST_SIZES)]
    return tuple(size for size in reversed(halved) if size >= SMALLEST)


def _curves(instrument: Instrument, fitted: dict[EncoderKind, FittedEncoder]) -> list[Curve]:
    features, responses, test = instrument.features, instrument.subject.responses, instrument.subject.splits.test
    pooled = np.asarray(features.pooled[test], np.float64)
    sizes = sizes_of(len(instrument.subject.splits.train))
    mixed = _mixed(instrument)

    def ridge(of: Responses) -> Predict:
        return lambda splits: np.asarray(fit_ridge(features, of, splits).predict(pooled), np.float64)

    curves = [Curve("ridge", ridge(responses), sizes, DRAWS), Curve("shuffled", ridge(mixed), sizes, 1)]
    if "query_attention" in fitted:
        kept = np.asarray(fitted["query_attention"].predicted, np.float64)

        def attention(splits: Splits) -> Float[np.ndarray, "test voxel"]:
            from mine_core.encoding.query_attention.fit import fit_query_attention
            from mine_core.instrument.encoder_makers import attention_settings

            if len(splits.train) == sizes[-1]:
                return kept
            encoder = fit_query_attention(features, responses, splits, attention_settings())
            return np.asarray(encoder.predict(features, test), np.float64)

        curves.append(Curve("query_attention", attention, sizes[-ATTENTION_SIZES:], 1))
    return curves


def _mixed(instrument: Instrument) -> Responses:
    """Responses of training stimuli dealt out to one another."""
    responses, train = instrument.subject.responses, instrument.subject.splits.train
    values = np.array(responses.values)
    values[train] = values[np.random.default_rng(SEED).permutation(train)]
    return replace(responses, values=values, repeats=None)


def _part(instrument: Instrument, size: int, draw: int) -> Splits:
    """The first `size` of the training stimuli in the order of a draw; the whole in its own order, as the app's encoder had it."""
    splits = instrument.subject.splits
    if size == len(splits.train):
        return splits
    order: Int[np.ndarray, " train"] = np.random.default_rng([SEED, draw]).permutation(splits.train)
    return replace(splits, train=np.sort(order[:size]))


def _ceilings_known(instrument: Instrument) -> bool:
    return bool((np.asarray(instrument.score.noise_ceiling) >= CEILING_FLOOR).any())


def _accuracy(instrument: Instrument, predicted: Sequence[Float[np.ndarray, "test voxel"]]) -> dict[str, Any]:
    """Accuracy averaged over draws, its interval over test stimuli, and the lowest and highest draw."""
    n_draws, n_voxels = len(predicted), predicted[0].shape[1]
    measured = np.asarray(instrument.subject.responses.values[instrument.subject.splits.test], np.float64)
    ceiling = np.asarray(instrument.score.noise_ceiling, np.float64)
    kept = np.flatnonzero(ceiling >= CEILING_FLOOR) if _ceilings_known(instrument) else np.arange(n_voxels)
    known = CeilingEstimate(np.tile(ceiling[kept], n_draws), "given") if _ceilings_known(instrument) else None
    # the last row is all draws together: a mean over draws that shares its resampled stimuli
    membership = np.concatenate([np.repeat(np.eye(n_draws, dtype=bool), len(kept), axis=1), np.ones((1, n_draws * len(kept)), bool)])
    found = region_interval(
        np.concatenate([one[:, kept] for one in predicted], axis=1),
        np.tile(measured[:, kept], n_draws),
        membership,
        np.random.default_rng(SEED),
        statistic="r2" if known is None else "normalised",
        ceiling=known,
        n_resamples=N_RESAMPLES,
    )
    return {
        "accuracy": float(found.estimate[-1]),
        "interval": [float(found.low[-1]), float(found.high[-1])],
        "n_voxels": len(kept),
        "n_draws": n_draws,
        "lowest_draw": float(found.estimate[:-1].min()),
        "highest_draw": float(found.estimate[:-1].max()),
    }
