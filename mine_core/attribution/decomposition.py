"""Split predicted responses over image patches: exact for a linear read-out of an additive embedding.

No gradient and no second look at the image: the parts of every stimulus are stored with its features, so the attribution
of any voxel is a matrix product.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from mine_core.attribution.base import Scene, Setting, require_linear
from mine_core.errors import AlignmentError, BackboneError, EncodingError
from mine_core.types import EncodingModel, Features, PatchAttribution

# A region's fragment that carries less than this share of the positive attribution is a stray patch, not part of the drive.
SMALLEST_FRAGMENT = 0.1
# How far a region reaches beyond its patches, in patch sides: an object's border rarely falls on the grid.
MARGIN = 0.25


def attribute(
    model: EncodingModel,
    features: Features,
    stimulus: int,
    mean_patches: Float[np.ndarray, "patch feature"],
    voxels: Int[np.ndarray, " chosen"] | None = None,
) -> PatchAttribution:
    """Split the predicted response to one stimulus over its patches, for all voxels or the chosen ones.

    values[v, row, col] = (patches[p] - mean_patches[p]) @ coef[:, v]
    baseline[v]  = intercept[v] + sum_p mean_patches[p] @ coef[:, v]
    remainder[v] = remainder @ coef[:, v]
    prediction[v] = pooled @ coef[:, v] + intercept[v] = baseline[v] + remainder[v] + values[v].sum()

    Parameters
    ----------
    model : a linear read-out of the pooled embedding of the same backbone as `features`.
    features : embeddings and their parts; one new image is a `Features` of one stimulus.
    stimulus : position in `features`, 0-based.
    mean_patches : the average patch at each place over training stimuli, so that a value is what this image has there
        beyond the average image.
    voxels : which voxels, 0-based; None for all.

    Returns
    -------
    Values in the units of the responses; `completeness_error` in SD of each voxel's predictions, the largest over voxels
    whose prediction varies. It is the rounding of the stored parts, not an error of the attribution.

    Raises
    ------
    BackboneError : if model and features come from different backbones, or the grids differ.
    AlignmentError : if there is no such stimulus or voxel.

    Notes
    -----
    An account of how this prediction is composed, not of what would happen without a patch: late tokens already mix what
    other patches hold, and normalisations are held at this image's values.

    References
    ----------
    Gandelsman, Efros, Steinhardt (2024), arXiv:2310.05916.
    """
    _require_same_backbone(model, features, mean_patches)
    _require_stimuli(features, np.array([stimulus]))
    chosen = np.arange(model.coef.shape[1]) if voxels is None else voxels
    _require_voxels(model, chosen)
    coef = np.asarray(model.coef[:, chosen], np.float64)
    intercept = np.asarray(model.intercept[chosen], np.float64)
    rows, cols = features.backbone.grid
    beyond = np.asarray(features.patches[stimulus], np.float64) - mean_patches
    values = (beyond @ coef).T.reshape(len(chosen), rows, cols)
    baseline = intercept + np.asarray(mean_patches, np.float64).sum(axis=0) @ coef
    remainder = np.asarray(features.remainder[stimulus], np.float64) @ coef
    prediction = np.asarray(features.pooled[stimulus], np.float64) @ coef + intercept
    deviation = np.abs(baseline + remainder + values.sum(axis=(1, 2)) - prediction)
    sd = model.prediction_sd[chosen]
    return PatchAttribution(
        values=values,
        remainder=remainder,
        baseline=baseline,
        prediction=prediction,
        method="decomposition",
        completeness_error=float(np.max(deviation[sd > 0] / sd[sd > 0], initial=0.0)),
    )


def attribute_images(
    model: EncodingModel,
    features: Features,
    stimuli: Int[np.ndarray, " image"],
    voxel: int,
    mean_patches: Float[np.ndarray, "patch feature"],
) -> Float[np.ndarray, "image row col"]:
    """Patch values of one voxel for several stimuli, in the units of the responses: `attribute`'s values, quickly.

    Only the rows of these stimuli are read from the memory-mapped patches; float32 arithmetic.

    Raises
    ------
    BackboneError : if model and features come from different backbones, or the grids differ.
    AlignmentError : if there is no such stimulus or voxel.
    """
    _require_same_backbone(model, features, mean_patches)
    _require_stimuli(features, stimuli)
    _require_voxels(model, np.array([voxel]))
    weights = np.asarray(model.coef[:, voxel], np.float32)
    read = np.asarray(features.patches[stimuli], np.float32)
    values = read @ weights - np.asarray(mean_patches, np.float32) @ weights
    return values.reshape(len(stimuli), *features.backbone.grid)


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Split the predictions of voxels for one image over its patches: `attribute` for an image that need be no stimulus.

    Raises
    ------
    EncodingError : if the encoder is no linear read-out of the pooled embedding.
    """
    model = require_linear(setting)
    own = Features(scene.pooled[None], scene.patches[None], scene.remainder[None], ("scene",), model.backbone)
    return attribute(model, own, 0, setting.mean_patches, voxels)


def attributed_region(
    values: Float[np.ndarray, "row col"], height: int, width: int, share: float = 0.5
) -> Bool[np.ndarray, "height width"]:
    """Pixels that carry `share` of what raises the prediction: the smallest such set of patches, as a smooth region.

    Patches enter in order of their value until their sum reaches `share` of the sum of all positive values. Fragments
    that carry less than a tenth of it are left out, the strongest one always stays. The patches are interpolated to
    pixels, cut at one half, and grown by a quarter of a patch. A larger share gives a region that holds the smaller one.

    Parameters
    ----------
    values : patch values of one voxel and image, in any unit.
    height, width : size of the image in pixels.
    share : above 0 and at most 1.

    Returns
    -------
    True where the drive comes from; all False where no patch raises the prediction.

    Raises
    ------
    EncodingError : if values are not finite, or share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise EncodingError(f"A share of {share:g} was asked for; give one above 0 and at most 1.")
    if not np.isfinite(values).all():
        raise EncodingError(f"{int((~np.isfinite(values)).sum())} of {values.size} patch values are not finite; refit the model.")
    kept = strongest_patches(values, share)
    if not kept.any():
        return np.zeros((height, width), bool)
    kept = _without_fragments(kept, np.maximum(np.asarray(values, np.float64), 0.0))
    smooth = cv2.resize(kept.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    side = min(height / values.shape[0], width / values.shape[1])
    reach = 2 * round(MARGIN * side) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return cv2.dilate((smooth >= 0.5).astype(np.uint8), disc).astype(bool)


def strongest_patches(values: Float[np.ndarray, "row col"], share: float = 0.5) -> Bool[np.ndarray, "row col"]:
    """Return the smallest set of patches that carries `share` of the positive attribution; empty if none is positive."""
    positive = np.maximum(np.asarray(values, np.float64), 0.0)
    order = np.argsort(-positive, axis=None, kind="stable")
    reached = np.cumsum(positive.ravel()[order])
    kept = np.zeros(positive.size, bool)
    if reached[-1] > 0:
        kept[order[: int(np.searchsorted(reached, share * reached[-1])) + 1]] = True
    return kept.reshape(positive.shape)


def _without_fragments(kept: Bool[np.ndarray, "row col"], positive: Float[np.ndarray, "row col"]) -> Bool[np.ndarray, "row col"]:
    labels, n_fragments = ndimage.label(kept, structure=np.ones((3, 3)))
    carried = ndimage.sum_labels(positive, labels, np.arange(n_fragments + 1))
    large = carried >= SMALLEST_FRAGMENT * positive.sum()
    large[labels.ravel()[np.argmax(positive)]] = True
    large[0] = False
    return large[labels]


def _require_same_backbone(model: EncodingModel, features: Features, mean_patches: np.ndarray) -> None:
    found, wanted = features.backbone, model.backbone
    if (found.name, found.weights_hash) != (wanted.name, wanted.weights_hash):
        raise BackboneError(
            f"The features come from backbone '{found.name}' (weights {found.weights_hash[:8]}), the encoding model from "
            f"'{wanted.name}' (weights {wanted.weights_hash[:8]}); give both of one backbone."
        )
    if mean_patches.shape != features.patches.shape[1:]:
        raise BackboneError(
            f"The mean patches have shape {mean_patches.shape}, the patches of an image {features.patches.shape[1:]}; "
            "take the mean over the training stimuli of the same features."
        )


def _require_stimuli(features: Features, stimuli: Int[np.ndarray, " image"]) -> None:
    outside = stimuli[(stimuli < 0) | (stimuli >= len(features.stimulus_ids))]
    if outside.size:
        raise AlignmentError(f"Stimulus {outside[0]} was asked for; these features have 0 to {len(features.stimulus_ids) - 1}.")


def _require_voxels(model: EncodingModel, voxels: Int[np.ndarray, " chosen"]) -> None:
    outside = voxels[(voxels < 0) | (voxels >= model.coef.shape[1])]
    if outside.size:
        raise AlignmentError(f"Voxel {outside[0]} was asked for; this encoding model has 0 to {model.coef.shape[1] - 1}.")
