"""The last two blocks of an image tower taken apart: where content was before attention spread it, and how it spread.

All is spelled out block by block instead of read off with hooks: nothing is attached to a model, so one model may serve
many threads, and nothing is left behind when a call fails or is stopped.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from mine_core.backbones.base import Backbone
from mine_core.backbones.decomposition import require_additive
from mine_core.errors import BackboneError

DEPTH = 2  # blocks that are traced; their attention is credited to the patch it was read from


class Block(NamedTuple):
    """What one block did: tokens it read, their LayerNorm, its attention, tokens after attention, and what the MLP added."""

    tokens: Float[Tensor, "image token width"]
    normed: Float[Tensor, "image token width"]
    attention: Float[Tensor, "image head token token"]
    attended: Float[Tensor, "image token width"]
    mlp: Float[Tensor, "image token width"]


def image_tower(backbone: Backbone) -> VisionTransformer:
    """Return the image tower of a backbone whose blocks can be spelled out; raises BackboneError for any other."""
    visual = getattr(backbone, "_visual", None)
    if not isinstance(visual, VisionTransformer):
        raise BackboneError(
            f"Backbone '{backbone.spec.name}' is no vision transformer of open_clip, and its attention cannot be traced; "
            "use the decomposition, integrated gradients or occlusion."
        )
    require_additive(visual)
    return visual


def run_block(block: ResidualAttentionBlock, tokens: Float[Tensor, "image token width"], watched: bool = False) -> Block:
    """Run one block with its attention written out; with `watched`, gradients reach the attention."""
    normed = block.ln_1(tokens)
    n_images, n_tokens, width = tokens.shape
    heads = block.attn.num_heads

    def by_head(rows: Tensor) -> Tensor:
        return rows.reshape(n_images, n_tokens, heads, -1).transpose(1, 2)

    joined = nn.functional.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
    query, key, value = (by_head(part) for part in joined.chunk(3, dim=-1))
    attention = ((query * block.attn.head_dim**-0.5) @ key.transpose(2, 3)).softmax(dim=-1)
    if watched and not attention.requires_grad:
        attention = attention.requires_grad_()
    mixed = (attention @ value).transpose(1, 2).reshape(n_images, n_tokens, width)
    attended = tokens + block.ls_1(block.attn.out_proj(mixed))
    return Block(tokens, normed, attention, attended, block.ls_2(block.mlp(block.ln_2(attended))))


def run_blocks(visual: VisionTransformer, tokens: Float[Tensor, "image token width"], watched: bool = False) -> list[Block]:
    """Run all blocks of a tower from its input tokens (the class token first)."""
    blocks: list[Block] = []
    for block in visual.transformer.resblocks:
        blocks.append(run_block(block, tokens, watched))
        tokens = blocks[-1].attended + blocks[-1].mlp
    return blocks


def pool_tokens(visual: VisionTransformer, tokens: Float[Tensor, "image token width"]) -> Float[Tensor, "image feature"]:
    """Final tokens to the embedding, as the tower does it; not L2-normalised."""
    return visual._pool(tokens)[0] @ visual.proj


@torch.inference_mode()
def trace(
    visual: VisionTransformer, pixels: Float[Tensor, "image 3 side side"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    """Split each embedding over the patches that its content came from, looking back through the last two blocks.

    A final token is x_i = y_i + m_i + sum_kh A_hik O_h V_h LN(y_k): y what the block read, m what its MLP added there. The
    attention term is credited to the source k instead of the place i, and y_k in turn to the sources of the block before;
    an MLP stays where it acts. pooled = remainder + sum_p patches_p, exact to rounding.

    Parameters
    ----------
    visual : an image tower that `require_additive` accepts, of at least two blocks, in eval mode.
    pixels : preprocessed images, in the dtype and on the device of the tower.

    Returns
    -------
    pooled, patches and remainder; the remainder holds biases and what came from the class token.

    Raises
    ------
    BackboneError
        If the tower is of another kind, or has fewer than two blocks.

    Notes
    -----
    Attention and the SD of every LayerNorm are held at this image's values, as in `decompose`. Blocks before the last two have
    mixed patches already, and an MLP may turn one patch's content into another's: a part is nearer to what was seen at its
    place than a final token is, and still no experiment.

    References
    ----------
    Gandelsman, Efros, Steinhardt (2024), arXiv:2310.05916, for the credit to sources; Kobayashi et al. (2021),
    arXiv:2109.07152, for norms and residuals in such accounts.
    """
    require_additive(visual)
    if len(visual.transformer.resblocks) < DEPTH:
        raise BackboneError(f"The image tower has {len(visual.transformer.resblocks)} block; tracing needs {DEPTH}.")
    *_, before, last = run_blocks(visual, visual._embeds(pixels))
    modules = list(visual.transformer.resblocks)[-DEPTH:]
    final = last.attended + last.mlp
    read = _read_by_pooling(visual, final)
    own = before.tokens + before.mlp
    # how much of each source token every head of the last block reads, its LayerNorm's SD included; the row after them is direct
    per_head = torch.einsum("bi,bhik->bhk", read, last.attention) / _sd(last.tokens, modules[1].ln_1)[:, None]
    rows = torch.cat([per_head, read[:, None]], dim=1)
    spread = torch.einsum("brk,bhkj->brhj", rows, before.attention)
    content = _written(modules[0], _scaled(before.tokens, modules[0].ln_1))
    sources = torch.einsum("brhj,bhjw->brjw", spread, content) + rows[..., None] * own[:, None]
    through = _centre(sources[:, :-1]) * modules[1].ln_1.weight
    total = sources[:, -1] + read[..., None] * last.mlp + _written(modules[1], through).sum(dim=1)
    patches = (_centre(total) * visual.ln_post.weight @ visual.proj)[:, 1:]
    pooled = pool_tokens(visual, final)
    return pooled, patches, pooled - patches.sum(dim=1)


def _read_by_pooling(visual: VisionTransformer, final: Float[Tensor, "image token width"]) -> Float[Tensor, "image token"]:
    """How much of each final token enters the embedding: its share of the pooling over the SD of the last LayerNorm."""
    read = final.new_zeros(final.shape[:2])
    if visual.pool_type != "avg":
        read[:, 0] = 1 / _sd(final[:, 0], visual.ln_post)
    elif visual.final_ln_after_pool:
        read[:, 1:] = 1 / (final.shape[1] - 1) / _sd(final[:, 1:].mean(dim=1), visual.ln_post)[:, None]
    else:
        read[:, 1:] = 1 / (final.shape[1] - 1) / _sd(final[:, 1:], visual.ln_post)
    return read


def _written(block: ResidualAttentionBlock, rows: Any) -> Float[Tensor, "image head token width"]:
    """What each head would write if it read `rows` alone, without biases: O_h V_h row; rows are per token or per head and token."""
    heads, width = block.attn.num_heads, block.attn.embed_dim
    value = block.attn.in_proj_weight[2 * width :].reshape(heads, -1, width)
    output = block.attn.out_proj.weight.reshape(width, heads, -1).permute(1, 0, 2)
    per_head = rows if rows.ndim == 4 else rows[:, None]
    return block.ls_1((per_head @ value.transpose(1, 2)) @ output.transpose(1, 2))


def _scaled(tokens: Float[Tensor, "image token width"], norm: nn.LayerNorm) -> Float[Tensor, "image token width"]:
    """A LayerNorm without its bias."""
    return _centre(tokens) / _sd(tokens, norm)[..., None] * norm.weight


def _centre(tokens: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
    return tokens - tokens.mean(dim=-1, keepdim=True)


def _sd(tokens: Float[Tensor, "*axes width"], norm: nn.LayerNorm) -> Float[Tensor, "*axes"]:
    return (tokens.var(dim=-1, unbiased=False) + norm.eps).sqrt()


def mean_input_tokens(visual: VisionTransformer, batches: Sequence[Float[Tensor, "_ 3 side side"]]) -> Float[Tensor, "token width"]:
    """Average input token at each place over preprocessed images: the baseline of integrated gradients over tokens."""
    with torch.inference_mode():
        total = sum(visual._embeds(pixels.to(visual.proj.device, visual.proj.dtype)).sum(dim=0) for pixels in batches)
    return total / sum(len(pixels) for pixels in batches)
