"""Captions from a CoCa model by beam search, beside the greedy ones; no transformers is needed."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mine_core.backbones.base import image_batches
from mine_core.backbones.captioning import _require_causal_coca, _special_ids, _words, _Writer
from mine_core.errors import BackboneError

MOST_BEAMS, BATCH = 16, 32


@torch.inference_mode()
def beam_captions(
    model: Any, pixels: Float[Tensor, "image 3 side side"], tokenizer: Any, n_beams: int = 4, length_power: float = 0.7
) -> list[str]:
    """One caption per preprocessed image: the best of `n_beams` that are kept side by side.

    best = argmax over kept captions of sum_t log p(token_t | image, tokens before) / length^length_power

    At each step every unfinished caption is continued by every token, and the `n_beams` of highest total log-probability are
    kept; a finished one keeps its total. With one beam it is greedy decoding.

    Parameters
    ----------
    n_beams : 1 to 16.
    length_power : 0 prefers short captions, 1 the highest mean log-probability.

    Raises
    ------
    BackboneError
        If the model has no such text decoder (see `greedy_captions`), or `n_beams` is out of range.

    References
    ----------
    Wu et al. (2016), arXiv:1609.08144 (length normalisation). Yu et al. (2022), CoCa, arXiv:2205.01917.
    """
    if not 1 <= n_beams <= MOST_BEAMS:
        raise BackboneError(f"{n_beams} beams were asked for; between 1 and {MOST_BEAMS} can be kept.")
    _require_causal_coca(model)
    start, end, never = _special_ids(tokenizer, model.pad_id)
    n_images = len(pixels)
    writer = _Writer(model, model._encode_image(pixels)[1].repeat_interleave(n_beams, dim=0))
    written = torch.full((n_images, n_beams, 1), start, dtype=torch.long, device=pixels.device)
    totals = torch.full((n_images, n_beams), float("-inf"), device=pixels.device)
    totals[:, 0] = 0  # all beams begin alike: but one is out of the first draw
    lengths = torch.zeros_like(totals)
    ended = torch.zeros_like(totals, dtype=torch.bool)
    while written.shape[2] < min(model.context_length, model.text.context_length) and not ended.all():
        logits = writer.next_logits(written[:, :, -1].flatten())
        logits[:, never] = float("-inf")
        steps = torch.log_softmax(logits.float(), dim=1).unflatten(0, (n_images, n_beams))
        steps = steps.masked_fill(ended[:, :, None], float("-inf"))
        steps[:, :, end] = steps[:, :, end].masked_fill(ended, 0.0)
        totals, flat = (totals[:, :, None] + steps).flatten(1).topk(n_beams, dim=1)
        parents, tokens = flat // steps.shape[2], flat % steps.shape[2]
        _follow(writer, parents)
        written = torch.cat([written.gather(1, parents[:, :, None].expand_as(written)), tokens[:, :, None]], dim=2)
        lengths = lengths.gather(1, parents) + (~ended.gather(1, parents)).float()
        ended = tokens == end
    best = (totals / lengths.clamp(min=1) ** length_power).argmax(dim=1)
    chosen = written[torch.arange(n_images, device=pixels.device), best]
    return [_words(tokenizer, ids, {start, end}) for ids in chosen.tolist()]


def _follow(writer: _Writer, parents: Int[Tensor, "image beam"]) -> None:
    """Let every beam remember what its parent has read; what is seen of the image is the same for all of its beams."""
    n_images, n_beams = parents.shape
    rows = (parents + n_beams * torch.arange(n_images, device=parents.device)[:, None]).flatten()
    for past in (*writer._text_past, *writer._decoder_past):
        past._keys = [part[rows] for part in past._keys]
        past._values = [part[rows] for part in past._values]


class BeamCaptioner:
    """Captions by beam search of an open_clip backbone that has a text decoder; a `Captioner`."""

    def __init__(self, backbone: Any, n_beams: int = 4) -> None:
        self._backbone, self._n_beams = backbone, n_beams

    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> list[str]:
        """One caption per image; raises BackboneError where the backbone is no CoCa."""
        model = getattr(self._backbone, "_model", None)
        found: list[str] = []
        for rows in image_batches(len(images), BATCH):
            pixels = self._backbone.preprocess(images[rows]).to(self._backbone.device)
            found += beam_captions(model, pixels, self._backbone.tokenizer, self._n_beams)
        return found
