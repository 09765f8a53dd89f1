"""Occlusion: what the prediction loses when one patch is replaced by the average image. The causal yardstick of the others.

The change of the pooled embedding is computed once per image and serves every voxel of a linear read-out by one product.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.attribution.base import Scene, Setting, checked_backbone, predict_parts
from mine_core.attribution.seeing import as_seen
from mine_core.backbones.base import Backbone, Embedding, image_batches
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import EncodingModel, IsCancelled, PatchAttribution

BATCH = 32
Squares = UInt8[np.ndarray, "variant side side 3"]
Encode = Callable[[Squares], Float[np.ndarray, "variant feature"]]


def pooled_of(backbone: Backbone, cancelled: IsCancelled | None = None) -> Encode:
    """Return a function from square images to their embeddings, in batches, without gradients; it may raise Cancelled."""
    import torch

    def encode(images: Squares) -> Float[np.ndarray, "variant feature"]:
        rows = np.empty((len(images), backbone.spec.n_features), np.float32)
        for batch in image_batches(len(images), BATCH):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped after {batch.start} of {len(images)} altered images; nothing was kept.")
            with torch.inference_mode():
                pixels = backbone.preprocess(images[batch]).to(backbone.device)
                rows[batch] = backbone.pooled(pixels).float().cpu().numpy()
        return rows

    return encode


def patch_masks(grid: tuple[int, int], side: int) -> Bool[np.ndarray, "patch side side"]:
    """True on the pixels of each patch of a square image, row by row; raises BackboneError if the grid does not divide it."""
    rows, cols = grid
    if side % rows or side % cols:
        raise BackboneError(f"A grid of {rows}x{cols} does not divide an image of {side} pixels; use the backbone's own.")
    number = np.arange(rows * cols).reshape(rows, cols).repeat(side // rows, axis=0).repeat(side // cols, axis=1)
    return number == np.arange(rows * cols)[:, None, None]


def without_each_patch(
    image: UInt8[np.ndarray, "side side 3"], fill: UInt8[np.ndarray, "side side 3"], grid: tuple[int, int]
) -> UInt8[np.ndarray, "patch side side 3"]:
    """Copies of a square image, each with one patch replaced by what `fill` shows there; raises BackboneError as `patch_masks`."""
    return np.where(patch_masks(grid, len(image))[..., None], fill, image)


def occlusion_change(
    backbone: Backbone,
    image: UInt8[np.ndarray, "side side 3"],
    fill: UInt8[np.ndarray, "side side 3"],
    *,
    cancelled: IsCancelled | None = None,
) -> Float[np.ndarray, "patch feature"]:
    """What the pooled embedding loses with each patch: change_p = pooled(image) - pooled(image, patch p from `fill`).

    For a linear read-out, change @ coef is the occlusion map of every voxel. One forward pass per patch.

    Raises
    ------
    BackboneError
        If the grid does not divide the image.
    Cancelled
        If `cancelled()` became True between batches.

    References
    ----------
    Zeiler and Fergus (2014), 10.1007/978-3-319-10590-1_53.
    """
    encode = pooled_of(backbone, cancelled)
    altered = encode(without_each_patch(image, fill, backbone.spec.grid))
    return encode(image[None])[0] - altered


def occlusion_values(
    model: EncodingModel, changes: Float[np.ndarray, "image patch feature"], voxel: int
) -> Float[np.ndarray, "image row col"]:
    """Occlusion maps of one voxel from what images' embeddings lose with each patch, in the units of the responses, float32.

    Raises BackboneError if the changes are not of the model's backbone.
    """
    rows, cols = model.backbone.grid
    wanted = (rows * cols, len(model.coef))
    if changes.shape[1:] != wanted:
        raise BackboneError(f"Changes of shape {changes.shape[1:]} were given; the backbone '{model.backbone.name}' has {wanted}.")
    values = np.asarray(changes, np.float32) @ np.asarray(model.coef[:, voxel], np.float32)
    return values.reshape(len(changes), rows, cols)


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Attribute by replacing one patch after another: values[v, p] = prediction[v] - prediction[v] without patch p.

    Its parts need not sum to anything: `completeness_error` is None, `baseline` the prediction of the average image, and
    `remainder` what is left over.

    Raises
    ------
    BackboneError
        If the backbone is another than the encoder's.

    Notes
    -----
    The replaced image has edges that no training image has; what is shown by two patches falls with neither alone.
    """
    backbone = checked_backbone(setting)
    image, fill = as_seen(scene.image, backbone.image_size), setting.averages().image
    variants = np.concatenate([image[None], fill[None], without_each_patch(image, fill, setting.grid)])
    if isinstance(setting.encoder, EncodingModel):
        pooled = pooled_of(backbone)(variants)
        found = Embedding(pooled, np.empty((*pooled.shape[:1], 0, pooled.shape[1]), np.float32), pooled)  # a read-out asks for no parts
    else:
        found = backbone.embed(variants, batch_size=BATCH)
    whole, empty, *without = predict_parts(setting.encoder, found.patches, found.pooled, voxels)
    values = (whole - np.stack(without)).T.reshape(len(voxels), *setting.grid)
    return PatchAttribution(
        values=values,
        remainder=whole - empty - values.sum(axis=(1, 2)),
        baseline=empty,
        prediction=whole,
        method="occlusion",
        completeness_error=None,
    )
