"""Attention rollout: where attention alone would carry content. It knows nothing of the voxel, and serves as a baseline."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mine_core.attribution.base import Scene, Setting, checked_backbone, predict_parts
from mine_core.types import PatchAttribution


def roll_out(attention: list[Float[Tensor, "head token token"]]) -> Float[Tensor, "token token"]:
    """Share of each token's content that came from every token: the product over blocks of (mean attention + identity) / 2.

    Rows sum to 1.
    """
    identity = torch.eye(attention[0].shape[-1], dtype=attention[0].dtype, device=attention[0].device)
    shares = identity
    for found in attention:
        shares = (found.mean(dim=0) + identity) / 2 @ shares
    return shares


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Attribute by attention rollout, the same for every voxel: values[p] = share of patch p in the pooled row.

    Raises
    ------
    BackboneError
        If the backbone is no open_clip vision transformer.

    References
    ----------
    Abnar and Zuidema (2020), arXiv:2005.00928.
    """
    from mine_core.backbones.tracing import image_tower, run_blocks

    backbone = checked_backbone(setting)
    visual = image_tower(backbone)
    with torch.inference_mode():
        pixels = backbone.preprocess(scene.image[None]).to(backbone.device, visual.proj.dtype)
        shares = roll_out([block.attention[0] for block in run_blocks(visual, visual._embeds(pixels))])
    row = shares[1:, 1:].mean(dim=0) if visual.pool_type == "avg" else shares[0, 1:]
    values = np.broadcast_to(row.double().cpu().numpy().reshape(setting.grid), (len(voxels), *setting.grid)).copy()
    prediction = predict_parts(setting.encoder, scene.patches[None], scene.pooled[None], voxels)[0]
    return PatchAttribution(
        values=values,
        remainder=np.zeros(len(voxels)),
        baseline=np.zeros(len(voxels)),
        prediction=prediction,
        method="rollout",
        completeness_error=None,
    )
