"""An estimate of a removal's shift before any pixel is changed, from patches alone."""

import cv2
import numpy as np
from jaxtyping import Bool, Float


def patch_overlap(edit_mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Float[np.ndarray, " patch"]:
    """Share of each patch's area that the mask covers, 0 to 1, row by row; the mask spans what the backbone sees."""
    share = cv2.resize(edit_mask.astype(np.float64), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return share.ravel()


def masked_patch_estimate(
    values: Float[np.ndarray, "row col"], edit_mask: Bool[np.ndarray, "height width"], prediction_sd: float
) -> float:
    """Estimated shift of a voxel if the masked patches were those of an average image: no editing, no forward pass.

    estimate = -sum_p overlap[p] values[p] / prediction_sd

    Parameters
    ----------
    values : attribution of the voxel in the image, whose parts sum to its prediction beyond an average image's.
    edit_mask : True where pixels would change; overlap[p] is the share of patch p that it covers.
    prediction_sd : SD of the voxel's predictions over training stimuli, above 0.

    Returns
    -------
    In SD of the voxel's predictions, as `predict_shift` gives.

    Notes
    -----
    An estimate, to be named so. It assumes that what is filled in looks like an average image, and that attention and
    normalisation stay as they are without the masked patches; both are false, so the edited image is what counts.
    """
    rows, cols = values.shape
    return -float(patch_overlap(edit_mask, (rows, cols)) @ np.asarray(values, np.float64).ravel()) / prediction_sd
