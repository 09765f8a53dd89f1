"""Decomposition traced back through the whole tower to the patches that were seen, on two grids half a patch apart: the default.

A final token has mixed in what other patches hold, so the plain decomposition points beside small objects; with attention,
LayerNorms and MLP gates held at what they are in the image, every part of the embedding has a patch that it was read from.
Like the plain parts, traced parts are computed once per image and serve every voxel by one product.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mine_core.attribution.base import Scene, Setting, checked_backbone, require_linear
from mine_core.backbones.base import Backbone, image_batches
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import EncodingModel, IsCancelled, OnProgress, PatchAttribution

COPIES = 2  # the image itself, and moved up and left by half a patch


def trace_images(
    backbone: Backbone,
    images: UInt8[np.ndarray, "image rows cols 3"],
    start: Float[np.ndarray, "token width"],
    *,
    batch_size: int = 4,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Float[np.ndarray, "image copy patch feature"]:
    """Traced parts of images and of their copies moved by half a patch (mirrored at the border), counted from tokens `start`.

    Computed in bfloat16 where the device multiplies it in hardware: float32, as returned, 0.5 % off then.

    Raises
    ------
    BackboneError
        If the backbone's blocks cannot be traced.
    Cancelled
        If `cancelled()` became True.
    """
    import torch

    from mine_core.backbones.tracing import hold, image_tower, quick_dtype, trace

    visual, dtype = image_tower(backbone), quick_dtype(backbone.device)
    rows, cols = backbone.spec.grid
    traced = np.empty((len(images), COPIES, rows * cols, backbone.spec.n_features), np.float32)
    first = torch.tensor(np.array(start), dtype=visual.proj.dtype, device=backbone.device)
    for batch in image_batches(len(images), batch_size):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {batch.start} of {len(images)} images; start again to trace them all.")
        for copy, pixels in enumerate(_copies(backbone, images[batch], visual.proj.dtype)):
            traced[batch, copy] = trace(hold(visual, pixels, dtype), first, cancelled).cpu().numpy()
        if on_progress is not None:
            on_progress(batch.stop, len(images), "tracing images")
    return traced


def trace_read_outs(
    backbone: Backbone,
    images: UInt8[np.ndarray, "image rows cols 3"],
    start: Float[np.ndarray, "token width"],
    weights: Float[np.ndarray, "feature readout"],
    *,
    batch_size: int = 8,
) -> Float[np.ndarray, "image readout fine_row fine_col"]:
    """Traced values of a few linear read-outs of the embedding, texts or voxels, for any images: one backward pass each.

    Raises BackboneError if the backbone's blocks cannot be traced.
    """
    import torch

    from mine_core.backbones.tracing import credit, hold, image_tower

    visual = image_tower(backbone)
    like = {"dtype": visual.proj.dtype, "device": backbone.device}
    first, read = (torch.tensor(np.array(part), **like) for part in (start, weights))
    found = []
    for batch in image_batches(len(images), batch_size):
        copies = [credit(hold(visual, pixels), first, read)[..., 1:] for pixels in _copies(backbone, images[batch], visual.proj.dtype)]
        found.append(torch.stack(copies, dim=2).double().cpu().numpy())
    parts = np.concatenate(found)
    return fine_values(parts.reshape(*parts.shape[:3], *backbone.spec.grid))


def _copies(backbone: Backbone, images: UInt8[np.ndarray, "image rows cols 3"], dtype: Any) -> tuple[Tensor, Tensor]:
    """Pixels of the images, and moved up and left by half a patch."""
    import torch

    rows, cols = backbone.spec.grid
    half = (round(backbone.image_size / rows / 2), round(backbone.image_size / cols / 2))
    pixels = backbone.preprocess(images).to(backbone.device, dtype)
    moved = torch.nn.functional.pad(pixels, (0, half[1], 0, half[0]), mode="reflect")[:, :, half[0] :, half[1] :]
    return pixels, moved


def fine_values(values: Float[np.ndarray, "*image copy row col"]) -> Float[np.ndarray, "*image fine_row fine_col"]:
    """Merge the values of both copies on a grid of half patches: each interpolated linearly, moved back, and averaged.

    A patch's value is spread over the half patches around it, so that the sum over the grid is the mean of the copies' sums, but
    for what the moved copy sees twice or not at all at the border.
    """
    own, moved = (_doubled(values[..., copy, :, :]) for copy in range(COPIES))
    back = np.concatenate([moved[..., :1, :], moved[..., :-1, :]], axis=-2)
    back = np.concatenate([back[..., :, :1], back[..., :, :-1]], axis=-1)
    return (own + back) / (4 * COPIES)


def coarse_values(values: Float[np.ndarray, "*image fine_row fine_col"]) -> Float[np.ndarray, "*image row col"]:
    """Sum of the four half patches of each patch."""
    *images, rows, cols = values.shape
    return values.reshape(*images, rows // 2, 2, cols // 2, 2).sum(axis=(-3, -1))


def traced_values(
    model: EncodingModel, traced: Float[np.ndarray, "image copy patch feature"], voxel: int
) -> Float[np.ndarray, "image fine_row fine_col"]:
    """Values of one voxel for several images from their stored traced parts, in the units of the responses, float32.

    Raises
    ------
    BackboneError
        If the parts are not of the model's backbone.
    """
    rows, cols = model.backbone.grid
    wanted = (COPIES, rows * cols, len(model.coef))
    if traced.shape[1:] != wanted:
        raise BackboneError(f"Traced parts of shape {traced.shape[1:]} were given; the backbone '{model.backbone.name}' has {wanted}.")
    parts = np.asarray(traced, np.float32) @ np.asarray(model.coef[:, voxel], np.float32)
    return fine_values(parts.reshape(len(traced), COPIES, rows, cols))


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Split predictions over half patches: prediction[v] = baseline[v] + remainder[v] + values[v].sum().

    values[v] = fine_values of what each patch's token adds over the average token, through the tower held at this image;
    baseline[v] is what average tokens give through the same held tower, biases included; remainder[v] what the map leaves: the
    class token, and how the moved copy differs.

    Raises
    ------
    EncodingError
        If the encoder is no linear read-out.
    BackboneError
        If the backbone's blocks cannot be traced.

    Notes
    -----
    An account of how this prediction is composed, not of what would happen without a patch: attention, LayerNorms and gates
    did depend on all patches. See `mine_core.backbones.tracing.hold`. One backward pass per voxel and copy, in the tower's
    precision; `trace_images` gives the same for all voxels at once.

    References
    ----------
    Ali et al. (2022), arXiv:2202.07304; Achtibat et al. (2024), arXiv:2402.05602.
    """
    import torch

    from mine_core.backbones.tracing import credit, hold, image_tower, through

    model, backbone = require_linear(setting), checked_backbone(setting)
    visual, start = image_tower(backbone), setting.averages().tokens
    if start is None:
        raise BackboneError("The averages hold no input tokens; make them with a backbone whose blocks can be traced.")
    like = {"dtype": visual.proj.dtype, "device": backbone.device}
    tokens, weights = (torch.tensor(np.array(part), **like) for part in (start, model.coef[:, voxels]))
    held = hold(visual, torch.cat(_copies(backbone, scene.image[None], visual.proj.dtype)))
    parts = credit(held, tokens, weights).double().cpu().numpy()
    with torch.no_grad():
        both = through(held, torch.stack([tokens.expand_as(held.tokens), held.tokens], dim=1))[0]
        from_start = held.pooled[0] - both[1] + both[0]  # biases, and what average tokens give
        baseline = (from_start @ weights).double().cpu().numpy() + model.intercept[voxels]
    values = fine_values(np.moveaxis(parts[..., 1:], 0, 1).reshape(len(voxels), COPIES, *setting.grid))
    prediction = np.asarray(scene.pooled, np.float64) @ model.coef[:, voxels] + model.intercept[voxels]
    own_copy = baseline + parts[0].sum(axis=-1)
    return PatchAttribution(
        values=values,
        remainder=prediction - baseline - values.sum(axis=(1, 2)),
        baseline=baseline,
        prediction=prediction,
        method="traced",
        completeness_error=float((np.abs(own_copy - prediction) / setting.sd(voxels)).max(initial=0.0)),
    )


def _doubled(values: Float[np.ndarray, "*image row col"]) -> Float[np.ndarray, "*image fine_row fine_col"]:
    """Linear interpolation to twice the rows and columns; beyond the border a patch continues."""
    for axis in (-2, -1):
        moved = np.moveaxis(values, axis, -1)
        padded = np.concatenate([moved[..., :1], moved, moved[..., -1:]], axis=-1)
        before, after = (0.75 * moved + 0.25 * padded[..., start : start + moved.shape[-1]] for start in (0, 2))
        woven = np.stack([before, after], axis=-1).reshape(*moved.shape[:-1], 2 * moved.shape[-1])
        values = np.moveaxis(woven, -1, axis)
    return values
