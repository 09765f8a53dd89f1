"""Captioners other than the backbone itself: vision-language models of transformers, through their own processors.

No published code is run and no pickle is read: the classes are those of the transformers library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mine_core.errors import BackboneError

CaptionerKind = Literal["florence2", "qwen-vl"]
MOST_TOKENS = 40
ASK = "Describe this image in one short sentence."
TASK = "<CAPTION>"


@dataclass(frozen=True)
class TransformersCaptioner:
    """A Florence-2 or Qwen-VL model with its processor; a `Captioner`.

    Parameters
    ----------
    kind : `florence2` is given its caption task, `qwen-vl` is asked for one sentence through its chat template.
    n_beams : 1 decodes greedily.

    Notes
    -----
    What a model says of an image, learnt from its training captions: no measurement of a brain, and not of the image either.
    """

    model: Any
    processor: Any
    kind: CaptionerKind
    n_beams: int = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.kind not in get_args(CaptionerKind):
            raise BackboneError(f"There is no captioner of kind '{self.kind}'; expected one of {', '.join(get_args(CaptionerKind))}.")

    @torch.inference_mode()
    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> list[str]:
        """One caption per image."""
        captions: list[str] = []
        for start in range(0, len(images), self.batch_size):
            pictures = [Image.fromarray(image) for image in images[start : start + self.batch_size]]
            given = self._given(pictures)
            written = self.model.generate(**given, max_new_tokens=MOST_TOKENS, do_sample=False, num_beams=self.n_beams)
            # an encoder-decoder writes the caption alone, a decoder goes on from the question
            new = written if self.kind == "florence2" else written[:, given["input_ids"].shape[1] :]
            captions += [" ".join(text.split()) for text in self.processor.batch_decode(new, skip_special_tokens=True)]
        return captions

    def _given(self, pictures: list[Image.Image]) -> Any:
        if self.kind == "florence2":
            asked: str | list[str] = [TASK] * len(pictures)
        else:
            content = [{"type": "image"}, {"type": "text", "text": ASK}]
            said = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            asked = [said] * len(pictures)
        given = self.processor(images=pictures, text=asked, return_tensors="pt", padding=True)
        return given.to(self.model.device, self.model.dtype)


def load_captioner(kind: str, source: str | Path, device: str = "cpu") -> TransformersCaptioner:
    """Load a captioner from a folder, or by its name on the hub from the user's cache.

    Raises
    ------
    BackboneError
        If the kind is unknown, or its files are not here or are of another kind of model.
    """
    import transformers

    classes = {
        "florence2": ("Florence2ForConditionalGeneration", "Florence2Processor"),
        "qwen-vl": ("AutoModelForImageTextToText", "AutoProcessor"),
    }
    if kind not in classes:
        raise BackboneError(f"There is no captioner of kind '{kind}'; expected one of {', '.join(classes)}.")
    model, processor = (getattr(transformers, name) for name in classes[kind])
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        return TransformersCaptioner(
            model.from_pretrained(source, use_safetensors=True, **safe).eval().to(device),
            processor.from_pretrained(source, **safe),
            cast(CaptionerKind, kind),
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BackboneError(
            f"Captioner '{source}' of kind '{kind}' cannot be loaded ({' '.join(str(error).split())[:200]}); get it with "
            f"`hf download {source}` while online."
        ) from error
