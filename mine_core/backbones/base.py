"""What every backbone can do: images and texts to one joint space, and images to parts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.types import BackboneSpec, IsCancelled, OnProgress

if TYPE_CHECKING:  # opening stored features must not wait for torch
    import torch


class Embedding(NamedTuple):
    """Embeddings of images and their additive parts: `pooled = remainder + patches.sum(axis=1)` to rounding.

    float32, not L2-normalised, patches row by row of the backbone's grid.
    """

    pooled: Float[np.ndarray, "image feature"]
    patches: Float[np.ndarray, "image patch feature"]
    remainder: Float[np.ndarray, "image feature"]


@runtime_checkable
class Backbone(Protocol):
    """A model whose image embedding is an exact sum over patches, and which reads words unless `spec.has_words` is False.

    One backbone may be shared by threads: it keeps no state of a call. `spec` names it, with its grid, the width of the joint
    space and a hash of its weights; `tokenizer(texts)` gives token ids; `device` is where it computes; `image_size` is the
    side of the square it sees, in pixels.

    A model without a pooled embedding has the mean of its tokens for one, each part a token divided by their number. One
    without words raises BackboneError where it is asked for them.
    """

    spec: BackboneSpec
    tokenizer: Callable[..., "torch.Tensor"]
    device: "torch.device"
    image_size: int

    def preprocess(self, images: UInt8[np.ndarray, "image height width 3"]) -> "Float[torch.Tensor, 'image 3 side side']":
        """Resize, crop centrally and normalise RGB images as this backbone was trained to see them."""

    def embed(
        self,
        images: UInt8[np.ndarray, "image height width 3"],
        batch_size: int = 32,
        on_progress: OnProgress | None = None,
        cancelled: IsCancelled | None = None,
    ) -> Embedding:
        """Joint-space embeddings of images and their parts; raises Cancelled when asked to stop."""

    def pooled(self, pixels: "Float[torch.Tensor, 'image 3 side side']") -> "Float[torch.Tensor, 'image feature']":
        """Embed preprocessed images, not L2-normalised, differentiable with respect to `pixels`."""

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """Joint-space embeddings of texts, L2-normalised; raises BackboneError when the model reads none."""

    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> list[str]:
        """One caption per image; raises BackboneError when the model has no text decoder."""


def image_batches(n_images: int, batch_size: int) -> list[slice]:
    """Slices that cover `n_images` in order."""
    return [slice(start, min(start + batch_size, n_images)) for start in range(0, n_images, batch_size)]
