"""The one layer: queries of voxels, keys of tokens, attended values, a read-out; pure functions of tensors.

Tokens are the patches of an image and, as the last token, the remainder that the patches leave of its pooled embedding, so
that the sum over tokens is the pooled embedding.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Weights = Mapping[str, Tensor]
SHARED = ("key_map", "expand", "expand_query", "expand_bias", "contract")
PER_VOXEL = ("query", "place", "readout", "intercept")


class Statistics(NamedTuple):
    """What prepares tokens: averages over training images, scale of the features, basis of the values."""

    mean_patches: Float[Tensor, "patch feature"]
    mean_remainder: Float[Tensor, " feature"]
    feature_sd: Float[Tensor, " feature"]
    basis: Float[Tensor, "feature value"]


class Prepared(NamedTuple):
    """Tokens as the layer reads them: what keys are made of, values of patches, and the value of the remainder."""

    tokens: Float[Tensor, "image patch feature"]
    values: Float[Tensor, "image patch value"]
    rest: Float[Tensor, "image value"]


def prepare(
    patches: Float[Tensor, "image patch feature"], remainder: Float[Tensor, "image feature"], statistics: Statistics
) -> Prepared:
    """Centre tokens at each place and split them into what keys and what values are made of.

    token = RMSNorm((x_p - mean_p) / sd), value = (x_p - mean_p) @ basis, rest = (remainder - mean remainder) @ basis.
    """
    centred = patches - statistics.mean_patches
    tokens = F.rms_norm(centred / statistics.feature_sd, centred.shape[-1:], eps=1e-6)
    return Prepared(tokens, centred @ statistics.basis, (remainder - statistics.mean_remainder) @ statistics.basis)


class Attend(torch.autograd.Function):
    """Softmax attention read out twice, with the few passes over memory that its derivative needs.

    read = sum_p a_p score_p, hidden = sum_p a_p expanded_p, a = softmax(logits). With g_p the derivative by a_p,
    dL/dlogit_p = a_p (g_p - sum_p' a_p' g_p'); softmax and sums in float32 whatever the products are in.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scores: Tensor, expanded: Tensor) -> tuple[Tensor, Tensor]:
        """Return read [voxel, image] and hidden [image, voxel, hidden] of logits and scores [voxel, image, patch]."""
        with torch.autocast(logits.device.type, enabled=False):
            attention = torch.softmax(logits.float(), -1)
            read = (attention * scores.float()).sum(-1)
            hidden = torch.bmm(attention.transpose(0, 1).to(expanded.dtype), expanded).float()
        ctx.save_for_backward(attention, scores, expanded, read, hidden)
        return read, hidden

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the derivatives by logits, scores and expanded tokens."""
        attention, scores, expanded, read, hidden = ctx.saved_tensors
        to_read, to_hidden = upstream
        narrow = to_hidden.to(expanded.dtype)
        centre = read * to_read + torch.einsum("ivh,ivh->vi", hidden, to_hidden)
        to_attention = scores.float() * to_read.unsqueeze(-1)
        if expanded.shape[-1]:
            to_attention += torch.bmm(narrow, expanded.transpose(1, 2)).transpose(0, 1)
        to_logits = to_attention.sub_(centre.unsqueeze(-1)).mul_(attention)
        to_scores = attention * to_read.unsqueeze(-1)
        to_expanded = torch.bmm(attention.permute(1, 2, 0).to(expanded.dtype), narrow)
        return to_logits.to(scores.dtype), to_scores.to(scores.dtype), to_expanded


def make_keys(prepared: Prepared, shared: Weights) -> Float[Tensor, "head image_patch key"]:
    """Keys of all tokens, key = token @ key_map, head by head, images and patches in one axis."""
    return torch.einsum("ipf,fhk->hipk", prepared.tokens, shared["key_map"]).flatten(1, 2)


def respond(
    keys: Float[Tensor, "head image_patch key"], prepared: Prepared, shared: Weights, voxels: Weights
) -> Float[Tensor, "image voxel"]:
    """What attention reads for each image and voxel, in SD of the responses.

    a_h = softmax_p(query_h . key_hp + place_hp); o_h = n_patches * sum_p a_hp value_p + rest;
    y = intercept + sum_h readout_h . o_h + (sum_h readout_h) . contract' GELU(sum_h o_h @ expand_h + query @ expand_query + bias).

    With uniform attention o_h is the value of the pooled embedding, centred. Attention is linear in the values, so tokens
    are read out and expanded before they are attended, and o_h itself is never formed.
    """
    n_images, n_patches, _ = prepared.values.shape
    by_patch = (n_images, n_patches)
    flat = prepared.values.flatten(0, 1)
    answer = voxels["intercept"].unsqueeze(-1)  # [voxel, image] until the end
    hidden = voxels["query"].flatten(1) @ shared["expand_query"] + shared["expand_bias"]  # [voxel, hidden], then [image, voxel, hidden]
    for head, head_keys in enumerate(keys):
        query, readout, expand = voxels["query"][:, head], voxels["readout"][:, head], shared["expand"][head]
        logits = (query @ head_keys.T).unflatten(1, by_patch) + voxels["place"][:, head].unsqueeze(1)
        scores = (readout @ flat.T).unflatten(1, by_patch)
        read, attended = Attend.apply(logits, scores, prepared.values @ expand)
        answer = answer + n_patches * read + readout @ prepared.rest.T
        hidden = hidden + n_patches * attended + (prepared.rest @ expand).unsqueeze(1)
    if hidden.shape[-1]:
        contracted = voxels["readout"].sum(1) @ shared["contract"].T
        answer = answer + torch.einsum("ivh,vh->vi", F.gelu(hidden, approximate="tanh"), contracted)
    return answer.T


def place_basis(grid: tuple[int, int], frequencies: int) -> Float[Tensor, "cosine patch"]:
    """Cosines over the grid without the constant, row-major patches, low frequencies larger: 2 cos cos / sqrt(a² + b²).

    At most as many along a side as it has cells: more would be the same cosines again.
    """
    rows, cols = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in grid)
    made = [
        torch.outer(torch.cos(torch.pi * down * rows), torch.cos(torch.pi * across * cols)).flatten()
        * ((2.0 if down and across else 2.0**0.5) / (down**2 + across**2) ** 0.5)
        for down in range(min(frequencies, grid[0]))
        for across in range(min(frequencies, grid[1]))
        if down or across
    ]
    empty = torch.empty(0, grid[0] * grid[1])
    return torch.stack(made).float() if made else empty
