"""Captions from a CoCa model, decoded greedily without transformers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from open_clip.coca_model import CoCa
from torch import Tensor, nn

from mine_core.errors import BackboneError


@torch.inference_mode()
def greedy_captions(model: nn.Module, pixels: Float[Tensor, "image 3 side side"], tokenizer: Callable[..., Tensor]) -> list[str]:
    """One caption per preprocessed image: at each step the likeliest next token, until the end token.

    token_t = argmax p(token | image, token_0 ... token_{t-1})

    The image is encoded once; rows that have ended leave the batch. Padding and start are never chosen, so a caption has
    at most the context's length.

    Raises
    ------
    BackboneError
        If the model has no text decoder, or the tokenizer does not name its start and end tokens.

    References
    ----------
    Yu et al. (2022), CoCa, arXiv:2205.01917.
    """
    if not isinstance(model, CoCa):
        raise BackboneError(f"A {type(model).__name__} has no text decoder; captions need a CoCa model.")
    start, end, never = _special_ids(tokenizer, model.pad_id)
    latent, embs = model._encode_image(pixels)
    ids = torch.full((len(pixels), 1), start, dtype=torch.long, device=pixels.device)
    longest = min(model.context_length, model.text.context_length)
    finished: dict[int, list[int]] = {}
    rows = torch.arange(len(pixels), device=pixels.device)  # which image each row still being written belongs to
    while len(rows) and ids.shape[1] < longest:
        output = model(None, ids, image_latent=latent[rows], image_embs=embs[rows], output_labels=False)
        logits = output["logits"][:, -1]
        logits[:, never] = float("-inf")
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
        going = ids[:, -1] != end
        finished |= {int(row): row_ids.tolist() for row, row_ids in zip(rows[~going], ids[~going], strict=True)}
        rows, ids = rows[going], ids[going]
    finished |= {int(row): row_ids.tolist() for row, row_ids in zip(rows, ids, strict=True)}
    return [_words(tokenizer, finished[image], {start, end}) for image in range(len(pixels))]


def _special_ids(tokenizer: Callable[..., Tensor], pad: int) -> tuple[int, int, list[int]]:
    """Start, end, and the ids that a caption never holds; word tokenizers and open_clip's use different names."""
    for start_name, end_name in (("start_id", "end_id"), ("sot_token_id", "eot_token_id")):
        if hasattr(tokenizer, start_name) and hasattr(tokenizer, end_name):
            start, end = getattr(tokenizer, start_name), getattr(tokenizer, end_name)
            return start, end, sorted({pad, start} - {end})
    raise BackboneError(f"The tokenizer {type(tokenizer).__name__} names no start and end tokens; captions need them.")


def _words(tokenizer: Callable[..., Tensor], ids: list[int], special: set[int]) -> str:
    return tokenizer.decode([index for index in ids if index not in special]).strip()
