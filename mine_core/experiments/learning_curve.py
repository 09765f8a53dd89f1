"""Accuracy against the number of training images: would more recording help, and which encoder needs more of it?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.encoding.noise_ceiling import CeilingEstimate
from mine_core.encoding.ridge import fit_ridge
from mine_core.encoding.uncertainty import region_interval
from mine_core.errors import EncodingError
from mine_core.experiments.encoder_comparison import CEILING_FLOOR
from mine_core.experiments.pieces import HERE, Pieces, measure_pieces
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.encoders import FittedEncoder, fitted_encoders
from mine_core.types import OnProgress, Responses, Splits

SMALLEST, MOST_SIZES, DRAWS, N_RESAMPLES, SEED = 60, 6, 3, 1000, 29
ATTENTION_SIZES = 3
"""Sizes that the slower encoder is trained at, the largest among them."""

Predicted = Float[np.ndarray, "test voxel"]
Bench = tuple[Instrument, FittedEncoder | None]


@dataclass(frozen=True)
class Curve:
    """One line of the figure: what is predicted with, at which numbers of training images, from how many draws."""

    name: str
    sizes: tuple[int, ...]
    draws: int


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Fit on ever larger parts of the training stimuli, and score each fit on the same test stimuli.

    accuracy = mean over voxels with a ceiling of at least 0.1 of R² / ceiling, averaged over random draws of training stimuli
    (a draw's smaller parts lie within its larger ones); without known ceilings, mean R² of all voxels. Intervals of 95 %
    resample test stimuli alone, with ceilings taken as exact; the spread over draws is `lowest_draw` and `highest_draw`.
    `shuffled` is ridge on responses of other training stimuli: chance. Ridge always; query attention where it was fitted.
    A curve at one number of images is a task.

    It speaks of images like these; a curve that still rises says that more of them would help, not by how much.

    Raises
    ------
    EncodingError
        If there are fewer than 60 training stimuli.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    attention = fitted_encoders(config, store).get("query_attention")
    curves = _curves(instrument, attention)
    asked: list[dict[str, Any]] = [
        {"curve": curve.name, "size": size, "draws": curve.draws} for curve in curves for size in curve.sizes
    ]
    points = measure_pieces(
        Pieces("learning", _opened, point, about={"attention": "" if attention is None else attention.provenance["key"]}),
        asked,
        config,
        store,
        opened=(instrument, attention),
        where=where,
        title="fitting on ever more training images",
        on_progress=on_progress,
    )
    found: dict[str, list[Any]] = {curve.name: [] for curve in curves}
    for each, measured in zip(asked, points, strict=True):
        found[each["curve"]].append(measured)
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


def _opened(config: InstrumentConfig, store: ArtifactStore) -> Bench:
    return build_instrument(config, store), fitted_encoders(config, store).get("query_attention")


def _curves(instrument: Instrument, attention: FittedEncoder | None) -> list[Curve]:
    sizes = sizes_of(len(instrument.subject.splits.train))
    curves = [Curve("ridge", sizes, DRAWS), Curve("shuffled", sizes, 1)]
    return curves if attention is None else [*curves, Curve("query_attention", sizes[-ATTENTION_SIZES:], 1)]


def point(bench: Bench, curve: str, size: int, draws: int) -> dict[str, Any]:
    """Accuracy of one curve at one number of training images."""
    instrument, attention = bench
    # all of them can be drawn once only
    draws = draws if size < len(instrument.subject.splits.train) else 1
    drawn = [_part(instrument, size, draw) for draw in range(draws)]
    if curve == "query_attention":
        predicted = [_by_attention(instrument, attention, part) for part in drawn]
    else:
        responses = instrument.subject.responses if curve == "ridge" else _mixed(instrument)
        pooled = np.asarray(instrument.features.pooled[instrument.subject.splits.test], np.float64)
        predicted = [np.asarray(fit_ridge(instrument.features, responses, part).predict(pooled), np.float64) for part in drawn]
    return {"n_train": size, **_accuracy(instrument, predicted)}


def _by_attention(instrument: Instrument, fitted: FittedEncoder | None, splits: Splits) -> Predicted:
    """Predictions of query attention fit on a part; of the whole, those of the encoder that was fitted."""
    from mine_core.encoding.query_attention.fit import fit_query_attention
    from mine_core.instrument.encoder_makers import attention_settings

    if fitted is not None and len(splits.train) == len(instrument.subject.splits.train):
        return np.asarray(fitted.predicted, np.float64)
    encoder = fit_query_attention(instrument.features, instrument.subject.responses, splits, attention_settings())
    return np.asarray(encoder.predict(instrument.features, instrument.subject.splits.test), np.float64)


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


def _accuracy(instrument: Instrument, predicted: Sequence[Predicted]) -> dict[str, Any]:
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
