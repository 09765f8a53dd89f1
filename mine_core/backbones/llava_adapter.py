"""LLaVA-1.5 as a `Backbone`: image tokens of a language model's residual stream, read in its own vocabulary."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch.nn import functional

from mine_core.backbones.base import image_batches
from mine_core.backbones.token_adapters import TokenBackbone, grid_of, load_published, require_layer
from mine_core.errors import BackboneError
from mine_core.types import BackboneSpec

# While 8 captions are written, keys and values of 32 layers, 617 tokens and 4096 dimensions take 2.6 GB in float16.
AT_ONCE = 8
CAPTION_TOKENS = 40
PROMPT = "USER: {image}\nDescribe this image in one short sentence. ASSISTANT:"
WORD_START = "▁"


class LlavaBackbone(TokenBackbone):
    """A LLaVA-1.5 model (CLIP image tower, projector, LLaMA) as the paper uses it.

    The model reads its start token and then the image's tokens, nothing else: attention is causal, so a question after the
    image could not change them. Its parts are the residual stream at the image tokens after layer `layer`, counted from 1,
    as it is: no RMSNorm is applied, since the stream is what later layers add to, and the paper attributes to it. The start
    token is left out.

    Parameters
    ----------
    model : LlavaForConditionalGeneration of transformers, with a CLIP tower without its class token and a LLaMA.
    processor, tokenizer : the model's own.
    layer : 1 to the number of the LLaMA's layers less 1; the paper takes 30 of 32.
    weights_hash : SHA-256 that names the weights.

    Raises
    ------
    BackboneError
        If the model is of another kind, has no such layer, or its image tokens are no grid of patches.

    References
    ----------
    Liu et al. (2023), LLaVA-1.5, arXiv:2310.03744; Grosbard, Geva, Yovel (2026), MINE, arXiv:2605.16468.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        tokenizer: Any,
        *,
        name: str,
        supervision: str,
        layer: int,
        weights_hash: str,
        device: str | torch.device = "cpu",
    ) -> None:
        _require_llava(model)
        config = model.config.text_config
        require_layer(layer, config.num_hidden_layers - 1, " (after the last one transformers gives the stream only normalised)")
        if tokenizer.bos_token_id is None:
            raise BackboneError("The tokenizer names no start token; LLaVA reads one before the image.")
        self._layer, self._reader = layer, tokenizer
        spec = BackboneSpec(
            name=name,
            grid=grid_of(processor, model.config.vision_config.patch_size),
            n_features=config.hidden_size,
            weights_hash=weights_hash,
            supervision=supervision,
        )
        super().__init__(model, processor, spec=spec, device=device, at_once=AT_ONCE)
        if self.image_size != model.config.vision_config.image_size:
            raise BackboneError(
                f"The image processor crops {self.image_size} pixels, the image tower sees {model.config.vision_config.image_size}; "
                "use the processor that was published with the model."
            )

    def tokens(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image patch feature"]:
        """Residual stream at the image tokens after the layer, not normalised."""
        inner = self._model.model
        seen = torch.stack(tuple(inner.get_image_features(pixel_values=pixels).pooler_output))
        start = torch.full((len(pixels), 1), self._reader.bos_token_id, dtype=torch.long, device=self.device)
        sequence = torch.cat([inner.get_input_embeddings()(start), seen], dim=1)
        # recorded per thread by transformers; the other layers' streams are not kept
        read = inner.language_model(inputs_embeds=sequence, use_cache=False, output_hidden_states=[self._layer])
        return read.hidden_states[self._layer][:, 1:]

    def token_ids(self, texts: Sequence[str]) -> Int[torch.Tensor, "text token"]:
        """Ids of the tokens of texts as they stand within a sentence, after a space; short ones are filled up with -1."""
        ids = [torch.tensor(self._ids(text)) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)

    @torch.inference_mode()
    def encode_words(self, words: Sequence[str]) -> Float[np.ndarray, "word feature"]:
        """Directions of the residual stream that speak for words: the logit lens, L2-normalised, float32.

        t_w = g * mean over the word's tokens k of U[k], scaled to length 1

        U is the head that turns the stream into logits and g the weight of the final RMSNorm, which precedes it. For a word
        of one token, `t @ t_w` is the token's logit as if the stream t were the last layer's, up to t's own RMS and a
        factor of the word. A word of several tokens gets their mean; no model reads it so.

        This is no embedding of a text: it knows no context, no synonym and no word order, and the layers after `layer`,
        which could still change the stream, are skipped. It is the model's reading of a patch, learnt from captions and
        questions, and no measurement of a brain.

        Raises
        ------
        BackboneError
            If there is no word, or one of them has no token.

        References
        ----------
        Dar et al. (2023), arXiv:2209.02535; Neo et al. (2024), arXiv:2410.07149.
        """
        if not len(words):
            raise BackboneError("No text was given; give at least one.")
        head = self._model.lm_head.weight
        rows = torch.stack([head[self._ids(word)].float().mean(dim=0) for word in words])
        gained = rows * self._model.model.language_model.norm.weight.float()
        return functional.normalize(gained, dim=-1).cpu().numpy()

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """`encode_words` of texts: all tokens of a text count alike, so that a prompt around a word only dilutes it."""
        return self.encode_words(texts)

    @torch.inference_mode()
    def caption(self, images: UInt8[np.ndarray, "image height width 3"], batch_size: int = AT_ONCE) -> list[str]:
        """One sentence per image, decoded greedily, at most 40 tokens.

        The prompt is of the form that the model was trained on. A model's words for an image: no measurement of a brain.

        Raises
        ------
        BackboneError
            If the tokenizer does not know the model's image token.
        """
        captions: list[str] = []
        asked = self._asked()
        for rows in image_batches(len(images), batch_size):
            pixels = self._to_model(self.preprocess(images[rows]))
            ids = asked.expand(len(pixels), -1)
            written = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                do_sample=False,
                max_new_tokens=CAPTION_TOKENS,
                pad_token_id=self._reader.pad_token_id or self._reader.eos_token_id,
            )
            captions += [text.strip() for text in self._reader.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)]
        return captions

    def _asked(self) -> Int[torch.Tensor, "1 token"]:
        """Ids of the start token and the prompt, with one image token per patch."""
        image, n_patches = self._model.config.image_token_id, math.prod(self.spec.grid)
        token = self._reader.convert_ids_to_tokens(image)
        prompt = PROMPT.format(image=(token or "") * n_patches)
        ids = self._reader(prompt, add_special_tokens=False).input_ids
        if ids.count(image) != n_patches:
            raise BackboneError(
                f"The tokenizer makes {ids.count(image)} image tokens (id {image}) of a prompt for {n_patches}; use the tokenizer "
                "that was published with the model."
            )
        return torch.tensor([[self._reader.bos_token_id, *ids]], device=self.device)

    def _ids(self, text: str) -> list[int]:
        """Tokens of a text after a space, without the start token and without a space that stands alone."""
        words = " ".join(text.split())
        ids = self._reader(words, add_special_tokens=False).input_ids
        pieces = self._reader.convert_ids_to_tokens(ids)
        if pieces and not pieces[0].startswith(WORD_START):
            ids = self._reader(f" {words}", add_special_tokens=False).input_ids
            pieces = self._reader.convert_ids_to_tokens(ids)
        kept = [index for index, piece in zip(ids, pieces, strict=True) if piece != WORD_START]
        if not kept or self._reader.unk_token_id in kept:
            raise BackboneError(f"Backbone '{self.spec.name}' has no token for all of '{text}'; use other words.")
        return kept


def _require_llava(model: Any) -> None:
    from transformers import CLIPVisionModel, LlamaModel, LlavaForConditionalGeneration

    if not isinstance(model, LlavaForConditionalGeneration):
        raise BackboneError(f"A {type(model).__name__} was given; expected LlavaForConditionalGeneration.")
    tower, reader = model.model.vision_tower, model.model.language_model
    if not isinstance(tower, CLIPVisionModel) or not isinstance(reader, LlamaModel):
        raise BackboneError(
            f"This LLaVA is a {type(tower).__name__} and a {type(reader).__name__}; expected CLIPVisionModel and LlamaModel."
        )
    if model.config.vision_feature_select_strategy != "default":
        raise BackboneError(
            f"This LLaVA takes image tokens by '{model.config.vision_feature_select_strategy}'; 'default' is needed, one token "
            "per patch."
        )


def load_llava(snapshot: Path, *, name: str, supervision: str, layer: int, weights_hash: str, device: str) -> LlavaBackbone:
    """Load a LLaVA-1.5 model from a folder of published files: float16, as published, on a GPU, else float32.

    Raises
    ------
    BackboneError
        If its files cannot be read or do not fit together.
    """
    from transformers import CLIPImageProcessor, LlamaTokenizer, LlavaForConditionalGeneration

    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    model = load_published(LlavaForConditionalGeneration, snapshot, dtype)
    return LlavaBackbone(
        model,
        CLIPImageProcessor.from_pretrained(snapshot, local_files_only=True),
        LlamaTokenizer.from_pretrained(snapshot, local_files_only=True),
        name=name,
        supervision=supervision,
        layer=layer,
        weights_hash=weights_hash,
        device=device,
    )
