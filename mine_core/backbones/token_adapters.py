"""Models without a pooled embedding as a `Backbone`: the mean of their image tokens stands for it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from mine_core.backbones.base import Embedding, image_batches
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import BackboneSpec, IsCancelled, OnProgress

# Parameters that embed nothing: published weights may lack them.
UNUSED = ("mask_token",)


class TokenBackbone(ABC):
    """A transformers model with one token per patch, whose embedding is the mean of its tokens.

    pooled = mean_i t_i,  patches_i = t_i / n,  remainder = 0,  so that pooled = remainder + sum_i patches_i.

    Ridge on `pooled`, the exact decomposition and query attention over `patches` hold for it as for any other backbone; a
    method that wants the tokens themselves multiplies `patches` by n. Dividing by n also keeps residual streams, whose
    largest activations reach thousands, far within float16 (the stored t_i may reach 65504 n). Tokens are taken as the
    model has them: `tokens` of each kind of model says whether they are normalised. The mean is a choice of this project:
    it weighs a token by its length, and nothing trained the model to make it meaningful.

    Parameters
    ----------
    model : a transformers model on `device`, put into eval mode here; its weights are never changed.
    processor : the model's own image processor, with a central square crop.
    spec : what is said of the model; see `grid_of`.
    at_once : images in one forward pass at most, whatever `batch_size` says: bounds the memory of activations.

    Raises
    ------
    BackboneError
        If the processor crops no square.
    """

    def __init__(self, model: Any, processor: Any, *, spec: BackboneSpec, device: str | torch.device, at_once: int) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._processor = processor
        self._at_once = at_once
        self._dtype = next(self._model.parameters()).dtype
        self.spec = spec
        self.device = torch.device(device)
        self.image_size = crop_side(processor)
        self.tokenizer: Callable[..., torch.Tensor] = self.token_ids

    @abstractmethod
    def tokens(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image patch feature"]:
        """Tokens of the patches of preprocessed images, row by row, in the model's precision."""

    def token_ids(self, texts: Sequence[str]) -> Int[torch.Tensor, "text token"]:
        """Ids of the tokens of texts; raises BackboneError where the model reads none."""
        raise self._wordless(f"{len(texts)} texts cannot be read")

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """Raise BackboneError: a model of images alone reads no text."""
        raise self._wordless(f"{len(texts)} texts cannot be embedded")

    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> list[str]:
        """Raise BackboneError: a model of images alone writes no captions."""
        raise self._wordless(f"{len(images)} images cannot be captioned")

    def preprocess(self, images: UInt8[np.ndarray, "image height width 3"]) -> Float[torch.Tensor, "image 3 side side"]:
        """Resize, crop centrally and normalise RGB images with the model's own image processor."""
        if not len(images):
            raise BackboneError("No image was given; give at least one.")
        # a copy, since stored images are read-only and torch shares memory
        return self._processor(list(np.array(images)), return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    @torch.inference_mode()
    def embed(
        self,
        images: UInt8[np.ndarray, "image height width 3"],
        batch_size: int = 32,
        on_progress: OnProgress | None = None,
        cancelled: IsCancelled | None = None,
    ) -> Embedding:
        """Mean tokens of images, not L2-normalised, and each token's share: `t_i / n`; the remainder is 0.

        Raises
        ------
        Cancelled
            When `cancelled()` becomes True between batches.
        """
        n_patches, n_features = math.prod(self.spec.grid), self.spec.n_features
        pooled = np.empty((len(images), n_features), np.float32)
        patches = np.empty((len(images), n_patches, n_features), np.float32)
        for rows in image_batches(len(images), min(batch_size, self._at_once)):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped after {rows.start} of {len(images)} images; start again to embed them all.")
            parts = self.tokens(self._to_model(self.preprocess(images[rows]))).float() / n_patches
            pooled[rows], patches[rows] = parts.sum(dim=1).cpu().numpy(), parts.cpu().numpy()
            if on_progress is not None:
                on_progress(rows.stop, len(images), "embedding images")
        return Embedding(pooled, patches, np.zeros_like(pooled))

    def pooled(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image feature"]:
        """Mean token of preprocessed images, float32, differentiable with respect to `pixels`."""
        return self.tokens(self._to_model(pixels)).float().mean(dim=1)

    def _to_model(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image 3 side side"]:
        return pixels.to(self.device, self._dtype)

    def _wordless(self, what: str) -> BackboneError:
        return BackboneError(f"Backbone '{self.spec.name}' has no words: {what}; use one that reads text, such as ViT-B-16.")


def crop_side(processor: Any) -> int:
    """Side of the square that an image processor crops, in pixels; raises BackboneError if it crops none."""
    crop = processor.crop_size if processor.do_center_crop else None
    if crop is None or not crop["height"] or crop["height"] != crop["width"]:
        raise BackboneError(f"The image processor crops {crop}; a central square crop is needed.")
    return int(crop["height"])


def grid_of(processor: Any, patch: Any) -> tuple[int, int]:
    """Rows and columns of patches in the square that a processor crops; raises BackboneError if patches do not fill it."""
    side = crop_side(processor)
    if not isinstance(patch, int) or side % patch:
        raise BackboneError(f"Patches of {patch} pixels do not fill a square of {side}; the crop must be a multiple of them.")
    return side // patch, side // patch


def require_layer(layer: int, last: int, why: str) -> None:
    """Raise BackboneError unless there is a layer of that number, counted from 1."""
    if not 1 <= layer <= last:
        raise BackboneError(f"Tokens after layer {layer} were asked for; there are layers 1 to {last}{why}.")


def load_published(kind: Any, snapshot: Path, dtype: torch.dtype) -> Any:
    """Load a transformers model from a folder: safetensors only, no code of the folder's, every weight there.

    Raises
    ------
    BackboneError
        If a file cannot be read, or the weights lack something that the model computes with.
    """
    from safetensors import SafetensorError

    try:
        model, found = kind.from_pretrained(
            snapshot, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BackboneError(f"its weights cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    # transformers fills what is missing with random numbers
    missing = sorted(name for name in found["missing_keys"] if not name.endswith(UNUSED))
    if missing:
        raise BackboneError(f"its weights lack {len(missing)} of the model's arrays (first: {missing[0]})")
    return model
