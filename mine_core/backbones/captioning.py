"""Captions from a CoCa model, decoded greedily without transformers."""

from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip.coca_model import CoCa
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torch.nn import functional

from mine_core.errors import BackboneError


@torch.inference_mode()
def greedy_captions(model: Any, pixels: Float[Tensor, "image 3 side side"], tokenizer: Any) -> list[str]:
    """One caption per preprocessed image: at each step the likeliest next token, until the end token.

    token_t = argmax p(token | image, token_0 ... token_{t-1})

    The image is encoded once, and keys and values of earlier tokens are kept, so that a step costs one token. Padding and
    start are never chosen; a caption has at most the context's length.

    Raises
    ------
    BackboneError
        If the model has no text decoder, its text tower is no causal TextTransformer of plain blocks, or the tokenizer does
        not name its start and end tokens.

    References
    ----------
    Yu et al. (2022), CoCa, arXiv:2205.01917.
    """
    _require_causal_coca(model)
    start, end, never = _special_ids(tokenizer, model.pad_id)
    writer = _Writer(model, model._encode_image(pixels)[1])
    tokens = torch.full((len(pixels),), start, dtype=torch.long, device=pixels.device)
    written = [tokens]
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    while len(written) < min(model.context_length, model.text.context_length) and not ended.all():
        logits = writer.next_logits(tokens)
        logits[:, never] = float("-inf")
        # what follows the end of a caption is not read
        tokens = logits.argmax(dim=1).masked_fill(ended, end)
        ended |= tokens == end
        written.append(tokens)
    return [_words(tokenizer, ids, {start, end}) for ids in torch.stack(written, dim=1).tolist()]


class _Writer:
    """The text side of one CoCa model for one batch of images, one token at a time; lives for one call."""

    def __init__(self, model: CoCa, image_tokens: Float[Tensor, "image token width"]) -> None:
        self._text, self._decoder = model.text, model.text_decoder
        self._place = 0
        self._text_past = [_Past() for _ in self._text.transformer.resblocks]
        self._decoder_past = [_Past() for _ in self._decoder.resblocks]
        self._seen = []
        for block in self._decoder.cross_attn:
            normed = block.ln_1_kv(image_tokens)
            self._seen.append((_project(block.attn, normed, 1), _project(block.attn, normed, 2)))

    def next_logits(self, tokens: Int[Tensor, " image"]) -> Float[Tensor, "image vocabulary"]:
        """Read one more token of each caption and score the next."""
        x = (self._text.token_embedding(tokens) + self._text.positional_embedding[self._place])[:, None]
        self._place += 1
        for block, past in zip(self._text.transformer.resblocks, self._text_past, strict=True):
            x = past.read(block, x)
        if self._text.cls_emb is None:
            x = self._text.ln_final(x)
        layers = zip(self._decoder.resblocks, self._decoder_past, self._decoder.cross_attn, self._seen, strict=True)
        for block, past, cross, (keys, values) in layers:
            x = past.read(block, x)
            x = _through(cross, x, _project(cross.attn, cross.ln_1(x), 0), keys, values)
        return self._decoder.ln_final(x)[:, 0] @ self._decoder.text_projection


class _Past:
    """Keys and values of the tokens that one causal block has read."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def read(self, block: ResidualAttentionBlock, x: Float[Tensor, "image 1 width"]) -> Float[Tensor, "image 1 width"]:
        """What the block makes of one more token."""
        normed = block.ln_1(x)
        self._keys.append(_project(block.attn, normed, 1))
        self._values.append(_project(block.attn, normed, 2))
        return _through(block, x, _project(block.attn, normed, 0), torch.cat(self._keys, 2), torch.cat(self._values, 2))


def _project(
    attention: nn.MultiheadAttention, x: Float[Tensor, "image token width"], part: int
) -> Float[Tensor, "image head token per_head"]:
    """Queries (part 0), keys (1) or values (2) of tokens."""
    weight, bias = attention.in_proj_weight.chunk(3)[part], attention.in_proj_bias.chunk(3)[part]
    projected = functional.linear(x, weight, bias)
    return projected.reshape(*x.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _through(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "image 1 width"],
    query: Float[Tensor, "image head 1 per_head"],
    keys: Float[Tensor, "image head source per_head"],
    values: Float[Tensor, "image head source per_head"],
) -> Float[Tensor, "image 1 width"]:
    """Pass one token through a block, given whom it attends to."""
    attended = functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _require_causal_coca(model: nn.Module) -> None:
    if not isinstance(model, CoCa):
        raise BackboneError(f"A {type(model).__name__} has no text decoder; captions need a CoCa model.")
    if type(model.text) is not TextTransformer or model.text.attn_mask is None:
        raise BackboneError(
            f"The text tower of this CoCa is a {type(model.text).__name__} without a causal mask; captions need a causal "
            "TextTransformer, such as that of coca_ViT-B-32."
        )
    strange = [type(block).__name__ for block in model.text.transformer.resblocks if type(block) is not ResidualAttentionBlock]
    if strange:
        raise BackboneError(f"The text tower of this CoCa has {strange[0]} blocks; captions need ResidualAttentionBlock.")


def _special_ids(tokenizer: Any, pad: int) -> tuple[int, int, list[int]]:
    """Start, end, and the ids that a caption never holds; word tokenizers and open_clip's use different names."""
    for start_name, end_name in (("start_id", "end_id"), ("sot_token_id", "eot_token_id")):
        if hasattr(tokenizer, start_name) and hasattr(tokenizer, end_name):
            start, end = getattr(tokenizer, start_name), getattr(tokenizer, end_name)
            return start, end, sorted({pad, start} - {end})
    raise BackboneError(f"The tokenizer {type(tokenizer).__name__} names no start and end tokens; captions need them.")


def _words(tokenizer: Any, ids: list[int], special: set[int]) -> str:
    return tokenizer.decode([index for index in ids if index not in special]).strip()
