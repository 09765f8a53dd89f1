"""Average attribution over images as an estimated receptive field: where in the image a voxel's prediction comes from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mine_core.errors import EncodingError


@dataclass(frozen=True)
class ReceptiveField:
    """Share of the variance of the prediction that comes from each place, and the centre and size of what stands out.

    `x` to the right and `y` down from the upper left corner, and `size` (SD of the weights along one axis), in shares of the
    image's side.
    """

    shares: Float[np.ndarray, "row col"]
    x: float
    y: float
    size: float


def variance_shares(values: Float[np.ndarray, "image row col"]) -> Float[np.ndarray, "row col"]:
    """Split the variance over images of the summed map by place: shares_p = cov(value_p, sum of values) / var(sum of values).

    They sum to 1; a place that works against the others has a negative share. The mean of a map over images says nothing, for
    values are counted from the average image.

    Raises
    ------
    EncodingError
        If there are fewer than two images, or the sum does not vary.
    """
    total = values.sum(axis=(1, 2), dtype=np.float64)
    centred = total - total.mean()
    if len(values) < 2 or not (centred @ centred) > 0:
        raise EncodingError(f"The prediction does not vary over {len(values)} images: it has no receptive field; choose another voxel.")
    return np.einsum("i,irc->rc", centred, np.asarray(values, np.float64)) / (centred @ centred)


def field_of(shares: Float[np.ndarray, "row col"]) -> ReceptiveField:
    """Centre and size of a map of shares: weight_p = max(share_p - median share, 0), x = sum_p weight_p x_p / sum_p weight_p.

    Late tokens mix what other patches hold, so a little of every place enters every voxel: the median is taken off for it.

    Raises
    ------
    EncodingError
        If no place stands out.
    """
    rows, cols = shares.shape
    weights = np.maximum(shares - np.median(shares), 0.0)
    if not weights.sum() > 0:
        raise EncodingError(f"All {shares.size} places have the same share: there is no receptive field to estimate.")
    weights = weights / weights.sum()
    across, down = (np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows
    x, y = float(weights.sum(axis=0) @ across), float(weights.sum(axis=1) @ down)
    spread = float(weights.sum(axis=0) @ (across - x) ** 2 + weights.sum(axis=1) @ (down - y) ** 2)
    return ReceptiveField(shares, x, y, float(np.sqrt(spread / 2)))
