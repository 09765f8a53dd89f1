"""The embedding of towers that pool by attention, as an exact sum over patches: CoCa's and SigLIP's.

A learnt query looks at the final tokens; what it takes from each is linear in that token's value, given how much it looks.
`decompose` of `backbones/decomposition.py` is the way in, and says what a part means.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from mine_core.backbones.held import centred_columns, gate, norm_sd
from mine_core.errors import BackboneError


class Taken(NamedTuple):
    """What a query takes from each token, through the output projection, and what belongs to none: `sum(tokens) + bias`."""

    tokens: Float[Tensor, "image token width"]
    bias: Float[Tensor, " width"]


class Projections(NamedTuple):
    """Weight and bias of an attention's keys, values and output."""

    key: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]


def require_pooling_query(visual: VisionTransformer, advice: str) -> None:
    """Refuse a pooler of another kind than CoCa's of open_clip: one attention whose first query makes the embedding.

    Raises
    ------
    BackboneError
        If there is a second pooler, its queries are averaged, or its attention is no plain one.
    """
    attention = visual.attn_pool.attn
    if visual.attn_pool_contrastive is not None:
        raise BackboneError(f"The image tower pools twice ('{visual.attn_pool_type}'); {advice}")
    if visual.pool_type != "tok":
        raise BackboneError(f"The image tower pools by attention and then has pool_type '{visual.pool_type}', not 'tok'; {advice}")
    plain = type(attention) is nn.MultiheadAttention and attention.in_proj_bias is not None
    if not plain or attention.bias_k is not None or attention.add_zero_attn:
        raise BackboneError(f"The image tower pools with a {type(attention).__name__} that is not a plain one; {advice}")


def require_pooling_latent(tower: TimmModel, advice: str) -> None:
    """Refuse a tower of timm of another kind than SigLIP's: a vision transformer without a class token, pooled by one latent query.

    Raises
    ------
    BackboneError
        If it is no vision transformer, pools otherwise, or something follows the pooling.
    """
    trunk = tower.trunk
    if type(trunk) is not TimmVisionTransformer:
        raise BackboneError(f"The image tower is timm's {type(trunk).__name__}; {advice}")
    pool = trunk.attn_pool
    if type(pool) is not AttentionPoolLatent or trunk.num_prefix_tokens or trunk.global_pool != "map":
        raise BackboneError(f"The image tower is timm's and has global_pool '{trunk.global_pool}'; {advice}")
    follows = [part for part in (trunk.fc_norm, trunk.head, *tower.head) if type(part) is not nn.Identity]
    if follows:
        raise BackboneError(f"A {type(follows[0]).__name__} follows the pooling of timm's image tower; {advice}")
    plain = pool.mlp is not None and isinstance(pool.norm, nn.LayerNorm) and type(pool.mlp.norm) is nn.Identity
    biased = plain and None not in (pool.kv.bias, pool.mlp.fc1.bias)
    if not biased or pool.pos_embed is not None or pool.latent_len != 1 or type(pool.q_norm) is not nn.Identity:
        raise BackboneError(f"The pooling of timm's image tower is not as SigLIP has it; {advice}")
    if tower.training:
        raise BackboneError("The image tower is in training mode, and may drop patches at random; call eval() first.")


def decompose_pooled_by_query(
    visual: VisionTransformer, tokens: Float[Tensor, "image token width"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    """Split the embedding of a tower that `require_pooling_query` accepts, from its input tokens.

    patches_i = centre(sum_head share_i value_i W_output) / sd * weight @ proj, with the SD of the last LayerNorm held; the class
    token's part and all biases are the remainder.
    """
    pooler, norm = visual.attn_pool, visual.ln_post
    attention = pooler.attn
    query_map, key_map, value_map = _input_maps(attention)
    query = functional.linear(pooler.ln_q(pooler.query[:1]), *query_map)
    maps = Projections(key_map, value_map, (attention.out_proj.weight, attention.out_proj.bias))
    taken = _take(query, pooler.ln_k(visual.transformer(tokens)), maps, attention.num_heads)
    pooled = taken.tokens.sum(dim=1) + taken.bias
    readout = centred_columns(norm.weight[:, None] * visual.proj)
    sd = norm_sd(pooled, norm)[:, None]
    parts = taken.tokens @ readout / sd[:, None]
    remainder = parts[:, 0] + taken.bias @ readout / sd + norm.bias @ visual.proj
    return norm(pooled) @ visual.proj, parts[:, 1:], remainder


def decompose_pooled_by_latent(
    tower: TimmModel, pixels: Float[Tensor, "image 3 height width"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    """Split the embedding of a tower that `require_pooling_latent` accepts, from preprocessed images.

    With a = sum_i a_i + bias, what the latent takes: embedding = a + mlp(norm(a)). The norm's SD and the gates of the MLP's
    hidden units are held at what they are for this image, so that the MLP is linear in a: patches_i = a_i + mlp_held(a_i).
    """
    pool = tower.trunk.attn_pool
    width = pool.kv.in_features
    key, value = zip(pool.kv.weight.split(width), pool.kv.bias.split(width), strict=True)
    maps = Projections(key, value, (pool.proj.weight, pool.proj.bias))
    taken = _take(pool.q(pool.latent[0]), tower.trunk.forward_features(pixels), maps, pool.num_heads)
    pooled = taken.tokens.sum(dim=1) + taken.bias
    normed, mlp = pool.norm(pooled), pool.mlp
    expand = centred_columns(pool.norm.weight[:, None] * mlp.fc1.weight.T)
    held = gate(mlp.act, mlp.fc1(normed))
    sd = norm_sd(pooled, pool.norm)[:, None]
    patches = taken.tokens + ((taken.tokens @ expand) * (held / sd)[:, None]) @ mlp.fc2.weight.T
    constant = taken.bias @ expand / sd + mlp.fc1(pool.norm.bias)
    remainder = taken.bias + mlp.fc2(held * constant)
    return pooled + mlp(normed), patches, remainder


def _take(
    query: Float[Tensor, "1 width"], tokens: Float[Tensor, "image token token_width"], maps: Projections, n_heads: int
) -> Taken:
    """One query's attention over tokens, with what it takes from each kept apart."""
    asked = query[0].unflatten(0, (n_heads, -1))
    keys = functional.linear(tokens, *maps.key).unflatten(2, (n_heads, -1))
    share = (torch.einsum("hd,bthd->bth", asked, keys) * asked.shape[1] ** -0.5).softmax(dim=1)
    values = functional.linear(tokens, maps.value[0]).unflatten(2, (n_heads, -1))
    # the shares sum to 1 over tokens, so the bias of values belongs to no token
    bias = functional.linear(maps.value[1], *maps.output)
    return Taken(functional.linear((share[..., None] * values).flatten(2), maps.output[0]), bias)


def _input_maps(attention: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of torch's queries, keys and values, kept in one matrix where all are of one width, else in three."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    return list(zip(weights, attention.in_proj_bias.chunk(3), strict=True))
