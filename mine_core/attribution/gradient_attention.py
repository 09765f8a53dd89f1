"""Gradient-weighted attention through the whole backbone."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mine_core.attribution.base import Scene, Setting, checked_backbone, require_linear
from mine_core.types import PatchAttribution


def attention_relevance(
    attention: list[Float[Tensor, "head token token"]], gradient: list[Float[Tensor, "head token token"]]
) -> Float[Tensor, "token token"]:
    """How far each token's content comes from every token, block by block: R <- R + mean over heads of max(A * dy/dA, 0) @ R.

    R starts as the identity, which is taken off at the end.
    """
    relevance = torch.eye(attention[0].shape[-1], dtype=attention[0].dtype, device=attention[0].device)
    for shares, slope in zip(attention, gradient, strict=True):
        relevance = relevance + (shares * slope).clamp(min=0).mean(dim=0) @ relevance
    return relevance - torch.eye(len(relevance), dtype=relevance.dtype, device=relevance.device)


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Attribute by attention, where more of it would raise the prediction: values[v, p] = pooled row of the relevance of patch p.

    One forward pass per image and one backward pass per voxel. The row is the class token's, or the mean over patches, as
    the tower pools. Values are not in the units of the responses and sum to nothing; they are never negative.

    Raises
    ------
    EncodingError
        If the encoder is no linear read-out.
    BackboneError
        If the backbone is no open_clip vision transformer.

    References
    ----------
    Chefer, Gur, Wolf (2021), arXiv:2103.15679.
    """
    from mine_core.backbones.tracing import image_tower, pool_tokens, run_blocks

    model, backbone = require_linear(setting), checked_backbone(setting)
    visual = image_tower(backbone)
    pixels = backbone.preprocess(scene.image[None]).to(backbone.device, visual.proj.dtype)
    rows = slice(1, None) if visual.pool_type == "avg" else slice(0, 1)
    values = np.empty((len(voxels), scene.patches.shape[0]))
    with torch.enable_grad():
        blocks = run_blocks(visual, visual._embeds(pixels), watched=True)
        pooled = pool_tokens(visual, blocks[-1].attended + blocks[-1].mlp)[0]
        watched = [block.attention for block in blocks]
        for number, voxel in enumerate(voxels):
            weights = torch.tensor(np.array(model.coef[:, voxel]), dtype=pooled.dtype, device=pooled.device)
            slopes = torch.autograd.grad(pooled @ weights, watched, retain_graph=number + 1 < len(voxels))
            relevance = attention_relevance([shares[0].detach() for shares in watched], [slope[0] for slope in slopes])
            values[number] = relevance[rows, 1:].mean(dim=0).double().cpu().numpy()
    prediction = np.asarray(scene.pooled, np.float64) @ model.coef[:, voxels] + model.intercept[voxels]
    return PatchAttribution(
        values=values.reshape(len(voxels), *setting.grid),
        remainder=np.zeros(len(voxels)),
        baseline=np.asarray(model.intercept[voxels], np.float64),
        prediction=np.asarray(prediction, np.float64),
        method="gradient_attention",
        completeness_error=None,
    )
