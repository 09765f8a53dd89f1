"""A backbone whose image tower has forgotten what it learnt, for the sanity check of heatmaps."""

import copy

import torch

from mine_core.backbones.base import Backbone
from mine_core.backbones.tracing import image_tower


def shuffled_backbone(backbone: Backbone, generator: torch.Generator) -> Backbone:
    """Copy a backbone and permute the entries of every parameter of its image tower; the original stays as it is.

    Sizes and distributions of the weights stay, what they compute is lost. It keeps its name and its weights' hash, so that a
    method takes it for the original.

    Raises
    ------
    BackboneError
        If it is no open_clip vision transformer.

    References
    ----------
    Adebayo et al. (2018), arXiv:1810.03292.
    """
    image_tower(backbone)
    forgetful = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in image_tower(forgetful).parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order.to(parameter.device)].reshape(parameter.shape))
    return forgetful
