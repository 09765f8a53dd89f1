"""An image tower taken apart: its blocks written out, and the linear network that it is for one image.

All is spelled out block by block instead of read off with hooks: nothing is attached to a model, so one model may serve
many threads, and nothing is left behind when a call fails or is stopped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from mine_core.backbones.base import Backbone
from mine_core.backbones.decomposition import require_additive
from mine_core.backbones.held import centred_columns, gate, norm_sd
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import IsCancelled

ROWS_AT_ONCE = 4096  # token rows in one product on a CPU: they stay in its cache


class Block(NamedTuple):
    """What one block did: tokens it read, its attention, tokens after attention, and what the MLP added."""

    tokens: Float[Tensor, "image token width"]
    attention: Float[Tensor, "image head token token"]
    attended: Float[Tensor, "image token width"]
    mlp: Float[Tensor, "image token width"]


def image_tower(backbone: Backbone) -> VisionTransformer:
    """Return the image tower of a backbone whose blocks can be spelled out; raises BackboneError for any other."""
    visual = getattr(backbone, "_visual", None)
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        raise BackboneError(
            f"Backbone '{backbone.spec.name}' is no vision transformer of open_clip that pools by its class token or by averaging, "
            "and its attention cannot be traced; use the decomposition or occlusion."
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
    return Block(tokens, attention, attended, block.ls_2(block.mlp(block.ln_2(attended))))


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


class HeldBlock(NamedTuple):
    """One block as a linear map of token rows, for given images: what depends on the image is held at its value there.

    rows + mix(rows @ value) @ output, then + (gate * (rows @ expand)) @ contract. LayerNorms are folded in: their centring and
    weights into `value` and `expand`, their SD at the image into `attention` and `gate`.
    """

    value: Float[Tensor, "width width"]
    attention: Float[Tensor, "image head token token"]
    output: Float[Tensor, "width width"]
    expand: Float[Tensor, "width hidden"]
    gate: Float[Tensor, "image token hidden"]
    contract: Float[Tensor, "hidden width"]


class HeldTower(NamedTuple):
    """A tower held at given images: their input tokens, blocks, how pooling weighs final tokens, the projection, the embedding."""

    tokens: Float[Tensor, "image token width"]
    blocks: tuple[HeldBlock, ...]
    read: Float[Tensor, "image token"]
    project: Float[Tensor, "width feature"]
    pooled: Float[Tensor, "image feature"]


@torch.no_grad()
def hold(visual: VisionTransformer, pixels: Float[Tensor, "image 3 height width"], dtype: torch.dtype | None = None) -> HeldTower:
    """Run a tower on images and hold its attention, the SD of its LayerNorms and the gates of its MLPs at what they were.

    An MLP's activation is read as a gate: act(h) = g h with g = act(h) / h. With all three held, the embedding is a linear function
    of the input tokens, but for biases.

    Parameters
    ----------
    visual : an image tower that `require_additive` accepts, in eval mode.
    pixels : preprocessed images, in the dtype and on the device of the tower.
    dtype : of the linear map; the tower's own by default. The run itself is in the tower's.

    Raises
    ------
    BackboneError
        If the tower is of another kind.

    Notes
    -----
    What is held did depend on the patches: the map says how this embedding is composed, not what another image would give.

    References
    ----------
    Ali et al. (2022), arXiv:2202.07304, for holding attention and LayerNorm; Achtibat et al. (2024), arXiv:2402.05602, for
    activations as gates; Elhage et al. (2021), transformer-circuits.pub/2021/framework, for the linear reading of attention.
    """
    require_additive(visual)
    tokens = visual._embeds(pixels)
    kept = dtype or tokens.dtype
    blocks, modules = run_blocks(visual, tokens), list(visual.transformer.resblocks)
    held = tuple(HeldBlock(*(part.to(kept) for part in _held(*both))) for both in zip(modules, blocks, strict=True))
    final = blocks[-1].attended + blocks[-1].mlp
    project = centred_columns(visual.ln_post.weight[:, None] * visual.proj)
    return HeldTower(tokens, held, _read_by_pooling(visual, final).to(kept), project.to(kept), pool_tokens(visual, final))


def through(held: HeldTower, rows: Float[Tensor, "image set token width"]) -> Float[Tensor, "image set feature"]:
    """What sets of token rows contribute to the embeddings of the images at which a tower is held; linear in the rows."""
    for block in held.blocks:
        rows = rows + _mix(block.attention, rows @ block.value) @ block.output
        rows = rows + (block.gate[:, None] * (rows @ block.expand)) @ block.contract
    return torch.einsum("bt,bstw->bsw", held.read, rows) @ held.project


@torch.no_grad()
def trace(
    held: HeldTower, start: Float[Tensor, "token width"], cancelled: IsCancelled | None = None
) -> Float[Tensor, "image patch feature"]:
    """What each patch adds to the embedding over the average token: patches_p = through(token_p - start_p, at place p alone).

    pooled = through(start) + sum_p patches_p + class token's part + biases, exact to rounding.

    Parameters
    ----------
    held : a tower held at images.
    start : tokens that are counted from, such as the average ones of training images.
    cancelled : asked now and then; raises Cancelled when it becomes True.

    Notes
    -----
    As many rows pass the tower as there are patches. For few read-outs, `credit` costs one backward pass each instead.
    """
    n_images, n_tokens, width = held.tokens.shape
    like = held.project
    beyond = (held.tokens - start).to(like.dtype)
    at_once = max(1, (ROWS_AT_ONCE if like.device.type == "cpu" else 64 * ROWS_AT_ONCE) // (n_images * n_tokens))
    patches = []
    for first in range(1, n_tokens, at_once):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped at patch {first} of {n_tokens - 1}; start again to trace them all.")
        places = torch.arange(first, min(first + at_once, n_tokens), device=like.device)
        rows = like.new_zeros(n_images, len(places), n_tokens, width)
        rows[:, torch.arange(len(places)), places] = beyond[:, places]
        patches.append(through(held, rows).float())
    return torch.cat(patches, dim=1)


def credit(
    held: HeldTower, start: Float[Tensor, "token width"], weights: Float[Tensor, "feature readout"]
) -> Float[Tensor, "image readout token"]:
    """What each token adds to linear read-outs over the average token, the class token first: `trace` @ weights without its cost."""
    with torch.enable_grad():
        rows = held.tokens[:, None].detach().clone().requires_grad_()
        read = through(held, rows)[:, 0] @ weights
        totals = read.sum(dim=0)
        slopes = [torch.autograd.grad(total, rows, retain_graph=True)[0][:, 0] for total in totals]
    return torch.stack([((held.tokens - start) * slope).sum(dim=-1) for slope in slopes], dim=1)


def quick_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, float32 elsewhere: three times as fast, and 0.5 % off in a part."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if kind == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32


def _held(module: ResidualAttentionBlock, block: Block) -> tuple[Tensor, ...]:
    """The parts of a `HeldBlock`, in its order."""
    width, mlp = block.tokens.shape[-1], module.mlp
    value = centred_columns(module.ln_1.weight[:, None] * module.attn.in_proj_weight[2 * width :].T)
    attention = block.attention / norm_sd(block.tokens, module.ln_1)[:, None, None, :]
    expand = centred_columns(module.ln_2.weight[:, None] * mlp.c_fc.weight.T)
    hidden = mlp.c_fc(module.ln_2(block.attended))
    gates = gate(mlp.gelu, hidden) / norm_sd(block.attended, module.ln_2)[..., None]
    return value, attention, module.ls_1(module.attn.out_proj.weight.T.clone()), expand, gates, module.ls_2(mlp.c_proj.weight.T.clone())


def _mix(attention: Float[Tensor, "image head token token"], rows: Float[Tensor, "image set token width"]) -> Tensor:
    """Each head's share of the columns, mixed over tokens by its attention."""
    n_images, n_sets, n_tokens, width = rows.shape
    by_head = rows.reshape(n_images, n_sets, n_tokens, attention.shape[1], -1).transpose(2, 3)
    return (attention[:, None] @ by_head).transpose(2, 3).reshape(n_images, n_sets, n_tokens, width)


def _read_by_pooling(visual: VisionTransformer, final: Float[Tensor, "image token width"]) -> Float[Tensor, "image token"]:
    """How much of each final token enters the embedding: its share of the pooling over the SD of the last LayerNorm."""
    read = final.new_zeros(final.shape[:2])
    if visual.pool_type != "avg":
        read[:, 0] = 1 / norm_sd(final[:, 0], visual.ln_post)
    elif visual.final_ln_after_pool:
        read[:, 1:] = 1 / (final.shape[1] - 1) / norm_sd(final[:, 1:].mean(dim=1), visual.ln_post)[:, None]
    else:
        read[:, 1:] = 1 / (final.shape[1] - 1) / norm_sd(final[:, 1:], visual.ln_post)
    return read


def mean_input_tokens(visual: VisionTransformer, batches: Sequence[Float[Tensor, "_ 3 side side"]]) -> Float[Tensor, "token width"]:
    """Average input token at each place over preprocessed images: the baseline of integrated gradients over tokens."""
    with torch.inference_mode():
        total = sum(visual._embeds(pixels.to(visual.proj.device, visual.proj.dtype)).sum(dim=0) for pixels in batches)
    return total / sum(len(pixels) for pixels in batches)
