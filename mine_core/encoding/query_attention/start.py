"""Where a query-attention encoder starts: the ridge encoder, written as uniform attention over whitened values."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mine_core.encoding.query_attention.config import QueryAttentionConfig
from mine_core.errors import EncodingError
from mine_core.types import EncodingModel, Features, Responses, Splits

IMAGES_PER_READ = 64
# eigenvalues below this share of the largest are rounding: the embedding does not vary along them
LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Start:
    """Statistics of the training images, and ridge in their terms.

    ridge prediction = response_mean + response_sd * (readout . (pooled - mean) @ basis + (pooled - mean) @ linear);
    `basis` makes the training embeddings uncorrelated with variance 1; `penalty` is the ridge penalty per stimulus of each
    read-out weight.
    """

    mean_patches: Float[np.ndarray, "patch feature"]
    mean_remainder: Float[np.ndarray, " feature"]
    feature_sd: Float[np.ndarray, " feature"]
    basis: Float[np.ndarray, "feature value"]
    readout: Float[np.ndarray, "voxel value"]
    linear: Float[np.ndarray, "feature voxel"]
    penalty: Float[np.ndarray, "voxel value"]
    response_mean: Float[np.ndarray, " voxel"]
    response_sd: Float[np.ndarray, " voxel"]


def start_from_ridge(
    ridge: EncodingModel, features: Features, responses: Responses, splits: Splits, config: QueryAttentionConfig
) -> Start:
    """Describe the training images and write ridge in whitened coordinates of the pooled embedding.

    With C = U diag(l) U' the correlation matrix of `pooled` over training images and s its SD, basis = diag(1/s) U / sqrt(l);
    the `value_width` columns are kept along which ridge predicts most, sum_v readout_vj²; what the others predict stays in
    `linear`. A ridge penalty alpha on standardised features is alpha / l_j on whitened ones.

    Raises
    ------
    EncodingError
        If a training value is not finite, a voxel does not vary, or the embeddings do not.
    """
    pooled = np.asarray(features.pooled[splits.train], np.float64)
    _check_finite("pooled embeddings", pooled)
    mean, sd = pooled.mean(axis=0), pooled.std(axis=0)
    sd = np.where(sd > 1e-10 * np.abs(pooled).max(axis=0), sd, 1.0)
    standardised = (pooled - mean) / sd
    variances, axes = np.linalg.eigh(standardised.T @ standardised / len(pooled))
    known = variances > LEAST_VARIANCE * variances[-1]
    if variances[-1] <= 0 or not known.any():
        raise EncodingError(f"The embeddings of all {len(pooled)} training images are the same; give other images.")
    response_mean, response_sd = _response_moments(responses, splits.train)
    coef = np.asarray(ridge.coef, np.float64) / response_sd
    weights = np.sqrt(variances[known])[:, None] * (axes[:, known].T @ (sd[:, None] * coef))  # [value, voxel]
    kept = np.sort(np.argsort(-(weights**2).sum(axis=1), kind="stable")[: config.value_width])
    basis = (axes[:, known] / np.sqrt(variances[known]))[:, kept] / sd[:, None]
    penalty = np.asarray(ridge.alpha, np.float64)[:, None] / (len(pooled) * variances[known][kept])
    mean_patches, feature_sd = _patch_moments(features, splits.train)
    start = Start(
        mean_patches=mean_patches,
        mean_remainder=np.asarray(features.remainder[splits.train], np.float64).mean(axis=0),
        feature_sd=feature_sd,
        basis=basis,
        readout=weights[kept].T,
        linear=coef - basis @ weights[kept],
        penalty=config.penalty * penalty,
        response_mean=response_mean,
        response_sd=response_sd,
    )
    return start if config.ridge_start else _without_ridge(start)


def _without_ridge(start: Start) -> Start:
    return Start(**vars(start) | {"readout": np.zeros_like(start.readout), "linear": np.zeros_like(start.linear)})


def _patch_moments(
    features: Features, train: Int[np.ndarray, " train"]
) -> tuple[Float[np.ndarray, "patch feature"], Float[np.ndarray, " feature"]]:
    """Mean at each place and SD of each feature around it, over training images, read in blocks; the SD of a constant is 1."""
    total = np.zeros(features.patches.shape[1:])
    squares = np.zeros_like(total)
    origin = np.asarray(features.patches[train[0]], np.float64)  # near the mean, so that the squares lose nothing
    for first in range(0, len(train), IMAGES_PER_READ):
        block = np.asarray(features.patches[np.sort(train[first : first + IMAGES_PER_READ])], np.float64) - origin
        _check_finite("patches", block.reshape(len(block), -1))
        total += block.sum(axis=0)
        squares += np.einsum("ipf,ipf->pf", block, block)
    mean = total / len(train)
    sd = np.sqrt(np.maximum(squares / len(train) - mean**2, 0).mean(axis=0))
    mean += origin
    return mean, np.where(sd > 1e-6 * np.abs(mean).max(axis=0), sd, 1.0)


def _response_moments(
    responses: Responses, train: Int[np.ndarray, " train"]
) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    values = np.asarray(responses.values[train])
    _check_finite("responses", values)
    mean, sd = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    still = sd <= 1e-10 * np.abs(values).max(axis=0)
    if still.any():
        raise EncodingError(
            f"{int(still.sum())} voxels do not vary over the {len(train)} training stimuli (first: {int(np.argmax(still))}); "
            "leave them out."
        )
    return mean, sd


def _check_finite(name: str, values: Float[np.ndarray, "stimulus column"]) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise EncodingError(
            f"Training {name} have {int(wrong.sum())} values that are NaN or infinite (first: row {row}, column {column}); "
            "leave those stimuli or voxels out."
        )
