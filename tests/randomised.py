"""Image towers and models of open_clip and timm with every parameter random."""

import torch
from torch import nn

NORMS = ("ln_1.weight", "ln_2.weight", "ln_pre.weight", "ln_post.weight", "ln_q.weight", "ln_k.weight", "gamma", "ln_final.weight")
TIMM_NORMS = ("norm1.weight", "norm2.weight", "norm.weight")


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter, norms and biases included, a random value of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if name.endswith((*NORMS, *TIMM_NORMS)):
            parameter.data = 1 + 0.5 * noise
        elif parameter.ndim < 2:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise * parameter[0].numel() ** -0.5
    return module.eval()
