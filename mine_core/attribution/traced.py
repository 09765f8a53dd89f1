"""Decomposition traced back through the last two blocks, on two grids half a patch apart: the default.

A final token has mixed in what other patches hold, so the plain decomposition points beside small objects; crediting the
last blocks' attention to its sources brings the content back to where it was seen. Like the plain parts, traced parts are
computed once per image and serve every voxel by one product.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.attribution.base import Scene, Setting, checked_backbone, require_linear
from mine_core.backbones.base import Backbone, image_batches
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import EncodingModel, IsCancelled, OnProgress, PatchAttribution

COPIES = 2  # the image itself, and moved up and left by half a patch


def trace_images(
    backbone: Backbone,
    images: UInt8[np.ndarray, "image height width 3"],
    *,
    batch_size: int = 16,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Float[np.ndarray, "image copy patch feature"]:
    """Traced parts of images and of their copies moved by half a patch (mirrored at the border), float32.

    Raises
    ------
    BackboneError
        If the backbone's blocks cannot be traced.
    Cancelled
        If `cancelled()` became True between batches.
    """
    import torch

    from mine_core.backbones.tracing import image_tower, trace

    visual = image_tower(backbone)
    rows, cols = backbone.spec.grid
    half = (round(backbone.image_size / rows / 2), round(backbone.image_size / cols / 2))
    traced = np.empty((len(images), COPIES, rows * cols, backbone.spec.n_features), np.float32)
    for batch in image_batches(len(images), batch_size):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {batch.start} of {len(images)} images; start again to trace them all.")
        pixels = backbone.preprocess(images[batch]).to(backbone.device, visual.proj.dtype)
        moved = torch.nn.functional.pad(pixels, (0, half[1], 0, half[0]), mode="reflect")[:, :, half[0] :, half[1] :]
        for copy, shown in enumerate((pixels, moved)):
            traced[batch, copy] = trace(visual, shown)[1].float().cpu().numpy()
        if on_progress is not None:
            on_progress(batch.stop, len(images), "tracing images")
    return traced


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
    model: EncodingModel,
    traced: Float[np.ndarray, "image copy patch feature"],
    mean_traced: Float[np.ndarray, "copy patch feature"],
    voxel: int,
) -> Float[np.ndarray, "image fine_row fine_col"]:
    """Values of one voxel for several images from their stored traced parts, in the units of the responses, float32.

    Raises
    ------
    BackboneError
        If the parts are not of the model's backbone.
    """
    _require_shape(model, traced.shape[1:], mean_traced.shape)
    weights = np.asarray(model.coef[:, voxel], np.float32)
    beyond = np.asarray(traced, np.float32) @ weights - np.asarray(mean_traced, np.float32) @ weights
    return fine_values(beyond.reshape(len(traced), COPIES, *model.backbone.grid))


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Split predictions over half patches: prediction[v] = baseline[v] + remainder[v] + values[v].sum().

    values[v] = fine_values((traced - mean traced) @ coef[:, v]); baseline[v] = intercept[v] + the same of the mean; remainder[v]
    is what the map leaves of the prediction: biases, the class token, and how the moved copy's prediction differs.

    Raises
    ------
    EncodingError
        If the encoder is no linear read-out.
    BackboneError
        If the backbone's blocks cannot be traced.

    Notes
    -----
    An account of how this prediction is composed, not of what would happen without a patch. See `mine_core.backbones.tracing.trace`.

    References
    ----------
    Gandelsman, Efros, Steinhardt (2024), arXiv:2310.05916.
    """
    model = require_linear(setting)
    traced = trace_images(checked_backbone(setting), scene.image[None])[0]
    mean = setting.averages().traced
    if mean is None:
        raise BackboneError("The averages hold no traced parts; make them with a backbone that can be traced.")
    _require_shape(model, traced.shape, mean.shape)
    coef = np.asarray(model.coef[:, voxels], np.float64)

    def on_grid(parts: Float[np.ndarray, "copy patch feature"]) -> Float[np.ndarray, "chosen fine_row fine_col"]:
        by_voxel = np.moveaxis(np.asarray(parts, np.float64) @ coef, -1, 0)
        return fine_values(by_voxel.reshape(len(voxels), COPIES, *setting.grid))

    values, intercept = on_grid(traced - mean), np.asarray(model.intercept[voxels], np.float64)
    baseline = intercept + on_grid(mean).sum(axis=(1, 2))
    prediction = np.asarray(scene.pooled, np.float64) @ coef + intercept
    remainder = (np.asarray(scene.pooled, np.float64) - _vector_sum(traced, setting.grid)) @ coef
    deviation = np.abs(baseline + remainder + values.sum(axis=(1, 2)) - prediction) / setting.sd(voxels)
    return PatchAttribution(
        values=values,
        remainder=remainder,
        baseline=baseline,
        prediction=prediction,
        method="traced",
        completeness_error=float(deviation.max(initial=0.0)),
    )


def _vector_sum(traced: Float[np.ndarray, "copy patch feature"], grid: tuple[int, int]) -> Float[np.ndarray, " feature"]:
    """Sum of the whole fine map, feature by feature."""
    by_feature = np.moveaxis(np.asarray(traced, np.float64), -1, 0).reshape(-1, COPIES, *grid)
    return fine_values(by_feature).sum(axis=(1, 2))


def _doubled(values: Float[np.ndarray, "*image row col"]) -> Float[np.ndarray, "*image fine_row fine_col"]:
    """Linear interpolation to twice the rows and columns; beyond the border a patch continues."""
    for axis in (-2, -1):
        moved = np.moveaxis(values, axis, -1)
        padded = np.concatenate([moved[..., :1], moved, moved[..., -1:]], axis=-1)
        before, after = (0.75 * moved + 0.25 * padded[..., start : start + moved.shape[-1]] for start in (0, 2))
        woven = np.stack([before, after], axis=-1).reshape(*moved.shape[:-1], 2 * moved.shape[-1])
        values = np.moveaxis(woven, -1, axis)
    return values


def _require_shape(model: EncodingModel, traced: tuple[int, ...], mean: tuple[int, ...]) -> None:
    rows, cols = model.backbone.grid
    wanted = (COPIES, rows * cols, len(model.coef))
    if tuple(traced) != wanted or tuple(mean) != wanted:
        raise BackboneError(
            f"Traced parts of shape {tuple(traced)} and means of {tuple(mean)} were given; the backbone '{model.backbone.name}' "
            f"has {wanted}."
        )
