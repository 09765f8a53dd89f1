"""An estimate of a removal's shift before any pixel is changed, from the stored patches alone."""

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mine_core.errors import AlignmentError
from mine_core.types import EncodingModel


def patch_overlap(edit_mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Float[np.ndarray, " patch"]:
    """Share of each patch's area that the mask covers, 0 to 1, row by row; the mask spans what the backbone sees."""
    share = cv2.resize(edit_mask.astype(np.float64), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return share.ravel()


def masked_patch_estimate(
    model: EncodingModel,
    patches: Float[np.ndarray, "patch feature"],
    mean_patches: Float[np.ndarray, "patch feature"],
    edit_mask: Bool[np.ndarray, "height width"],
) -> Float[np.ndarray, " voxel"]:
    """Estimated shift of every voxel if the masked patches were those of an average image: no editing, no forward pass.

    estimate[v] = -sum_p overlap[p] (patches[p] - mean_patches[p]) @ coef[:, v] / prediction_sd[v]

    Parameters
    ----------
    patches : additive parts of the image's embedding, as float32.
    mean_patches : their mean over the training stimuli, patch by patch.
    edit_mask : True where pixels would change; overlap[p] is the share of patch p that it covers.

    Returns
    -------
    In SD of each voxel's predictions over the training stimuli, as `predict_shift` gives.

    Raises
    ------
    AlignmentError : if the patches are not those of the model's backbone.

    Notes
    -----
    An estimate, to be named so. It assumes that what is filled in looks like an average image, and that no other patch or
    normalisation changes with the masked ones; both are false, so the edited image is what counts.
    """
    rows, cols = model.backbone.grid
    if patches.shape != (rows * cols, len(model.coef)) or mean_patches.shape != patches.shape:
        raise AlignmentError(
            f"Patches are {patches.shape} and their means {mean_patches.shape}; backbone '{model.backbone.name}' "
            f"has ({rows * cols}, {len(model.coef)})."
        )
    beyond = patch_overlap(edit_mask, model.backbone.grid) @ (patches.astype(np.float64) - mean_patches)
    return -(beyond @ model.coef) / model.prediction_sd
