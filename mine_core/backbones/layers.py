"""Tokens of an image tower after each of its blocks.

The blocks are run one by one instead of read off with hooks: nothing is attached to a model, so one model may serve many
threads, and nothing is left behind when a call fails or is stopped.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from open_clip.transformer import VisionTransformer
from torch import Tensor

from mine_core.backbones.base import Backbone
from mine_core.backbones.tracing import image_tower
from mine_core.errors import BackboneError


def layered_tower(backbone: Backbone) -> VisionTransformer:
    """Return the image tower of a backbone whose layers can be read; raises BackboneError for any other."""
    try:
        return image_tower(backbone)
    except BackboneError as refusal:
        raise BackboneError(
            f"The layers of backbone '{backbone.spec.name}' cannot be read one by one: only vision transformers of open_clip are "
            "supported. Choose another backbone, such as phantom or ViT-B-16."
        ) from refusal


@torch.inference_mode()
def layer_tokens(
    visual: VisionTransformer, pixels: Float[Tensor, "image 3 side side"]
) -> tuple[Float[Tensor, "layer image patch width"], Float[Tensor, "layer image width"]]:
    """Patch tokens after every block, and the one token of each image that stands for the whole of it.

    x_l = block_l(x_{l-1}), the residual stream without the tower's last LayerNorm; the pooled token is the class token where
    the tower pools by it, else the mean over patches.

    Parameters
    ----------
    visual : an image tower of `layered_tower`, in eval mode.
    pixels : preprocessed images, in the dtype and on the device of the tower.

    Notes
    -----
    A token of a late layer stands at a place and holds content from many: attention has mixed them.
    """
    tokens, patches, pooled = visual._embeds(pixels), [], []
    for block in visual.transformer.resblocks:
        tokens = block(tokens)
        patches.append(tokens[:, 1:])
        pooled.append(tokens[:, 1:].mean(dim=1) if visual.pool_type == "avg" else tokens[:, 0])
    return torch.stack(patches), torch.stack(pooled)


def read_layers(
    backbone: Backbone, images: UInt8[np.ndarray, "image height width 3"]
) -> tuple[Float[np.ndarray, "layer image patch dimension"], Float[np.ndarray, "layer image dimension"]]:
    """Patch tokens and pooled tokens of RGB images after every block, float32; raises BackboneError as `layered_tower`."""
    visual = layered_tower(backbone)
    pixels = backbone.preprocess(images).to(backbone.device, visual.proj.dtype)
    patches, pooled = layer_tokens(visual, pixels)
    return patches.float().cpu().numpy(), pooled.float().cpu().numpy()


def n_layers(backbone: Backbone) -> int:
    """How many blocks the image tower has; raises BackboneError as `layered_tower`."""
    return len(layered_tower(backbone).transformer.resblocks)
