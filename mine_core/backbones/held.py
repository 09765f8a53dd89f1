"""What is not linear in an image tower, held at its value for one image: LayerNorm's SD, and an activation as a gate."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

TINY = 1e-6


def norm_sd(tokens: Float[Tensor, "*axes width"], norm: nn.LayerNorm) -> Float[Tensor, "*axes"]:
    """SD that a LayerNorm divides by: sqrt(variance over the width + its eps)."""
    return (tokens.var(dim=-1, unbiased=False) + norm.eps).sqrt()


def centred_columns(matrix: Float[Tensor, "width some"]) -> Float[Tensor, "width some"]:
    """Centring of what is multiplied, moved into the matrix: centre(x) @ M = x @ (M - column means)."""
    return matrix - matrix.mean(dim=0)


def gate(activation: Callable[[Tensor], Tensor], hidden: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes hidden"]:
    """An activation as a factor, act(h) = g h: g = act(h) / h, and its limit where h is 0."""
    away = torch.where(hidden.abs() < TINY, torch.full_like(hidden, TINY), hidden)
    return activation(away) / away
