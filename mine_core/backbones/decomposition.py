"""The joint-space embedding of an image as an exact sum over its patches.

For a linear read-out w of the embedding, `w . pooled = w . remainder + sum_i w . patches_i`: the parts of a voxel's
prediction follow from one matrix product, without a gradient. The identity is exact for the vision transformers of
open_clip, CLIP's, CoCa's and SigLIP's; which question it answers depends on how the tower pools (see `decompose`).

The forward pass is spelled out here block by block, instead of read off with hooks: nothing is attached to the model, so
one model may serve many threads.
"""

import torch
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import LayerScale, PatchDropout, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from mine_core.backbones.attention_pooling import (
    decompose_pooled_by_latent,
    decompose_pooled_by_query,
    require_pooling_latent,
    require_pooling_query,
)
from mine_core.backbones.held import centred_columns, norm_sd
from mine_core.errors import BackboneError

POOLINGS = ("avg", "tok")


def require_additive(visual: nn.Module) -> None:
    """Refuse, by name, an image tower for which the decomposition is not an identity.

    Raises
    ------
    BackboneError
        If the tower is neither SigLIP's nor an open_clip VisionTransformer (ModifiedResNet, other towers of timm ...), pools by
        attention otherwise than CoCa or SigLIP do, has other blocks than ResidualAttentionBlock, an attention other than torch's
        self-attention, or drops patches at random.
    """
    holds = "the exact patch decomposition holds for the vision transformers of CLIP, CoCa and SigLIP in open_clip."
    advice = f"{holds} Use a backbone such as ViT-B-32, ViT-B-16 or ViT-L-14."
    if isinstance(visual, TimmModel):
        require_pooling_latent(visual, advice)
        return
    if not isinstance(visual, VisionTransformer):
        raise BackboneError(f"The image tower is a {type(visual).__name__}; {advice}")
    if visual.attn_pool is not None:
        require_pooling_query(visual, advice)
    if visual.pool_type not in POOLINGS:
        raise BackboneError(f"The image tower has pool_type '{visual.pool_type}'; {advice}")
    if not isinstance(visual.ln_post, nn.LayerNorm):
        raise BackboneError(f"The image tower ends in a {type(visual.ln_post).__name__}, not a LayerNorm; {advice}")
    if visual.proj is None:
        raise BackboneError(f"The image tower has no projection into the joint space (pruned?); {advice}")
    if isinstance(visual.patch_dropout, PatchDropout) and visual.training:
        raise BackboneError("The image tower is in training mode and drops patches at random; call eval() first.")
    for number, block in enumerate(visual.transformer.resblocks):
        if type(block) is not ResidualAttentionBlock:
            raise BackboneError(f"Block {number} of the image tower is a {type(block).__name__}; {advice}")
        _require_plain_attention(number, block, advice)


def _require_plain_attention(number: int, block: ResidualAttentionBlock, advice: str) -> None:
    attention = block.attn
    if type(attention) is not nn.MultiheadAttention or attention.in_proj_weight is None:
        raise BackboneError(f"Block {number} of the image tower attends with a {type(attention).__name__}; {advice}")
    if attention.bias_k is not None or attention.add_zero_attn:
        raise BackboneError(f"Block {number} of the image tower attends to an extra token; {advice}")
    if type(block.ls_1) not in (LayerScale, nn.Identity):
        raise BackboneError(f"Block {number} scales its attention with a {type(block.ls_1).__name__}; {advice}")


def decompose(
    visual: VisionTransformer | TimmModel, pixels: Float[Tensor, "image channel height width"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    """Embed preprocessed images and split each embedding over its patches.

    pooled = remainder + sum_i patches_i, exact to rounding; `pooled` is not L2-normalised. Patches run row by row.

    Average pooling: patches_i = LN(x_i) @ proj / n, remainder 0 (when the LayerNorm comes after the pooling: the
    remainder is its bias, and the parts share this image's mean and SD).
    CLS pooling (Gandelsman et al. 2024): the CLS stream is a sum over blocks, x_cls = embedding + sum_l attention_l +
    sum_l mlp_l, and attention_l a sum over source tokens; patches_i collects the attention terms of token i over all
    blocks and heads. Embedding, MLPs, CLS to CLS, and every bias go to the remainder.
    Pooling by attention (CoCa, SigLIP): patches_i is what the pooling query takes from the final token of place i; a class
    token's part and every bias go to the remainder. Where an MLP follows the pooling (SigLIP), its gates are held as well.

    Parameters
    ----------
    visual : an image tower that `require_additive` accepts, in eval mode.
    pixels : preprocessed images, in the dtype and on the device of the tower.

    Raises
    ------
    BackboneError
        If the decomposition does not hold for this tower.

    Notes
    -----
    The last LayerNorm's mean and SD are those of this image and are held fixed: the parts say how this embedding is
    composed, not how it would change without a patch.
    CLS pooling: direct effects only. What a patch does through other patches or through MLPs is counted where it arrives.
    Average pooling, and pooling by attention: the total effect of the *final token* at each position, attention and MLPs
    included; late tokens mix what other patches hold, so a part may carry content from elsewhere in the image.

    References
    ----------
    Gandelsman, Efros, Steinhardt (2024), arXiv:2310.05916. Zhai et al. (2023), arXiv:2303.15343 (SigLIP). Yu et al. (2022),
    arXiv:2205.01917 (CoCa). Achtibat et al. (2024), arXiv:2402.05602, for activations as gates.
    """
    require_additive(visual)
    if isinstance(visual, TimmModel):
        return decompose_pooled_by_latent(visual, pixels)
    tokens = visual._embeds(pixels)
    if visual.attn_pool is not None:
        return decompose_pooled_by_query(visual, tokens)
    if visual.pool_type == "avg":
        return _decompose_average(visual, visual.transformer(tokens))
    return _decompose_cls(visual, tokens)


def _decompose_average(
    visual: VisionTransformer, tokens: Float[Tensor, "image token width"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    patch_tokens = tokens[:, 1:]
    n_patches = patch_tokens.shape[1]
    if not visual.final_ln_after_pool:
        patches = visual.ln_post(patch_tokens) @ visual.proj / n_patches
        pooled = visual.ln_post(patch_tokens).mean(dim=1) @ visual.proj
        return pooled, patches, torch.zeros_like(pooled)
    mean_token = patch_tokens.mean(dim=1)
    patches = _centre(patch_tokens / n_patches) * visual.ln_post.weight @ visual.proj
    patches = patches / norm_sd(mean_token, visual.ln_post)[:, None, None]
    bias = (visual.ln_post.bias @ visual.proj).expand(len(tokens), -1)
    return visual.ln_post(mean_token) @ visual.proj, patches, bias.clone()


def _decompose_cls(
    visual: VisionTransformer, tokens: Float[Tensor, "image token width"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image feature"]]:
    readout = centred_columns(visual.ln_post.weight[:, None] * visual.proj)
    direct = tokens.new_zeros(len(tokens), tokens.shape[1] - 1, readout.shape[1])
    rest = tokens[:, 0]  # what reaches the CLS stream from elsewhere than a patch's attention term
    for block in visual.transformer.resblocks:
        normed = block.ln_1(tokens)
        attended = tokens + block.ls_1(block.attention(normed))
        mlp = block.ls_2(block.mlp(block.ln_2(attended)))
        values, out_weight, bias = _cls_attention_terms(block, normed)
        # each block's terms go to the joint space at once: [image, patch, feature] instead of one width per block
        direct += values[:, 1:] @ (out_weight @ readout)
        rest = rest + values[:, 0] @ out_weight + bias + mlp[:, 0]
        tokens = attended + mlp
    sd = norm_sd(tokens[:, 0], visual.ln_post)[:, None]
    pooled = visual.ln_post(tokens[:, 0]) @ visual.proj
    return pooled, direct / sd[:, None], rest @ readout / sd + visual.ln_post.bias @ visual.proj


def _cls_attention_terms(
    block: ResidualAttentionBlock, normed: Float[Tensor, "image token width"]
) -> tuple[Float[Tensor, "image token width"], Float[Tensor, "width width"], Float[Tensor, " width"]]:
    """The CLS row of one block's attention as `sum_token values[token] @ out_weight + bias`."""
    attention = block.attn
    n_images, n_tokens, width = normed.shape
    query_weight, key_weight, value_weight = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)

    def by_head(rows: Float[Tensor, "image some width"]) -> Float[Tensor, "image head some per_head"]:
        return rows.reshape(n_images, -1, attention.num_heads, attention.head_dim).transpose(1, 2)

    query = by_head(normed[:, :1] @ query_weight.T + query_bias) * attention.head_dim**-0.5
    key = by_head(normed @ key_weight.T + key_bias)
    share = (query @ key.transpose(2, 3)).softmax(dim=3)  # [image, head, 1, token]
    values = by_head(normed @ value_weight.T) * share.transpose(2, 3)
    # the shares sum to 1 over tokens, so the value bias belongs to no token
    bias = block.ls_1(attention.out_proj(value_bias))
    out_weight = block.ls_1(attention.out_proj.weight.T.clone())
    return values.transpose(1, 2).reshape(n_images, n_tokens, width), out_weight, bias


def _centre(tokens: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
    return tokens - tokens.mean(dim=-1, keepdim=True)
