"""Average attribution over images as an estimated receptive field: where in the image a voxel's response comes from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mine_core.errors import EncodingError


@dataclass(frozen=True)
class ReceptiveField:
    """Share of what the prediction explains of the response that comes from each place, and the centre and size of its peak.

    `x` to the right and `y` down from the upper left corner, and `size` (SD of the weights along one axis), in shares of the
    image's side.
    """

    shares: Float[np.ndarray, "row col"]
    x: float
    y: float
    size: float


def covariance_shares(
    values: Float[np.ndarray, "image row col"], responses: Float[np.ndarray, " image"]
) -> Float[np.ndarray, "row col"]:
    """Split the covariance of prediction and measured response by place: shares_p = cov(value_p, response) / cov(sum, response).

    They sum to 1; a place that speaks against the response has a negative share. The mean of a map over images says nothing, for
    values are counted from the average image; measured responses leave out what the parts only have in common with each other.

    Parameters
    ----------
    values : attribution of each image, parts that sum to the prediction but for a constant.
    responses : measured responses to the same images, on any scale.

    Raises
    ------
    EncodingError
        If there are fewer than two images, or the sum does not rise with the response.
    """
    centred = np.asarray(responses, np.float64) - np.mean(responses)
    shares = np.einsum("i,irc->rc", centred, np.asarray(values, np.float64))
    if len(values) < 2 or not shares.sum() > 0:
        raise EncodingError(
            f"Over {len(values)} images the prediction does not rise with the measured response: there is no receptive field to "
            "estimate; choose another voxel."
        )
    return shares / shares.sum()


def field_of(shares: Float[np.ndarray, "row col"]) -> ReceptiveField:
    """Centre and size of the peak of a map of shares: weight_p = max(share_p - peak / 2, 0), x = sum_p weight_p x_p / sum_p weight_p.

    What is below half of the peak is left out: tokens mix, so a little of every place enters every voxel.

    Raises
    ------
    EncodingError
        If no place stands out.
    """
    rows, cols = shares.shape
    weights = np.maximum(shares - shares.max() / 2, 0.0)
    if not weights.sum() > 0 or not np.ptp(shares) > 0:
        raise EncodingError(f"All {shares.size} places have the same share: there is no receptive field to estimate.")
    weights = weights / weights.sum()
    across, down = (np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows
    x, y = float(weights.sum(axis=0) @ across), float(weights.sum(axis=1) @ down)
    spread = float(weights.sum(axis=0) @ (across - x) ** 2 + weights.sum(axis=1) @ (down - y) ** 2)
    return ReceptiveField(shares, x, y, float(np.sqrt(spread / 2)))
