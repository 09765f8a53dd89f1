"""Any open_clip model whose embedding decomposes exactly, as a `Backbone`."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from mine_core.backbones.base import Embedding, image_batches
from mine_core.backbones.captioning import greedy_captions
from mine_core.backbones.decomposition import decompose, require_additive
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import BackboneSpec, IsCancelled, OnProgress

ImageTransform = Callable[[UInt8[np.ndarray, "height width 3"]], Float[torch.Tensor, "3 side side"]]


class OpenClipBackbone:
    """An open_clip model (CLIP, SigLIP or CoCa) with its tokenizer and its preprocessing.

    Parameters
    ----------
    model : an open_clip module (the kinds share no class that declares their towers); put into eval mode here and moved to
        `device`; its weights are never changed.
    tokenizer : `tokenizer(texts) -> ids`.
    transform : one RGB image to what the model's image tower takes; see `area_transform`, `open_clip_transform`.
    name, supervision : what the spec says of the model: its preset's name, and what taught it where things are.

    Raises
    ------
    BackboneError
        If the patch decomposition does not hold for the image tower.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[..., torch.Tensor],
        transform: ImageTransform,
        *,
        name: str,
        supervision: str,
        device: str | torch.device = "cpu",
    ) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        require_additive(self._model.visual)
        self._visual: VisionTransformer | TimmModel = self._model.visual
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self._transform = transform
        height, width = self._visual.image_size
        if height != width:
            raise BackboneError(f"The image tower sees {height}x{width} pixels; a square one is needed.")
        self.image_size = height
        grid, n_features = _tower_shape(self._visual)
        self.spec = BackboneSpec(
            name=name,
            grid=grid,
            n_features=n_features,
            weights_hash=hash_weights(model),
            supervision=supervision,
        )

    def preprocess(self, images: UInt8[np.ndarray, "image height width 3"]) -> Float[torch.Tensor, "image 3 side side"]:
        """Resize, crop centrally and normalise RGB images as this backbone was trained to see them."""
        if not len(images):
            raise BackboneError("No image was given; give at least one.")
        return torch.stack([self._transform(image) for image in images])

    @torch.inference_mode()
    def embed(
        self,
        images: UInt8[np.ndarray, "image height width 3"],
        batch_size: int = 32,
        on_progress: OnProgress | None = None,
        cancelled: IsCancelled | None = None,
    ) -> Embedding:
        """Joint-space embeddings of images, not L2-normalised, and their parts over patches.

        pooled = remainder + patches.sum(axis=1), exact to float32 rounding; `decompose` says what a part means.

        Raises
        ------
        Cancelled
            When `cancelled()` becomes True between batches.
        """
        n_patches, n_features = self.spec.grid[0] * self.spec.grid[1], self.spec.n_features
        embedding = Embedding(
            np.empty((len(images), n_features), np.float32),
            np.empty((len(images), n_patches, n_features), np.float32),
            np.empty((len(images), n_features), np.float32),
        )
        for rows in image_batches(len(images), batch_size):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped after {rows.start} of {len(images)} images; start again to embed them all.")
            parts = decompose(self._visual, self._to_model(images[rows]))
            for kept, part in zip(embedding, parts, strict=True):
                kept[rows] = part.float().cpu().numpy()
            if on_progress is not None:
                on_progress(rows.stop, len(images), "embedding images")
        return embedding

    def pooled(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image feature"]:
        """Embed preprocessed images, not L2-normalised, differentiable with respect to `pixels`."""
        output = self._visual(pixels)
        return output[0] if isinstance(output, tuple) else output

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """Joint-space embeddings of texts, L2-normalised, float32.

        Raises
        ------
        BackboneError
            If there is no text, or the tokenizer has never read one of the words.
        """
        if not len(texts):
            raise BackboneError("No text was given; give at least one.")
        ids = self.tokenizer(list(texts)).to(self.device)
        rows = [self._model.encode_text(ids[batch], normalize=True) for batch in image_batches(len(ids), 256)]
        return torch.cat(rows).float().cpu().numpy()

    def caption(self, images: UInt8[np.ndarray, "image height width 3"], batch_size: int = 64) -> list[str]:
        """One caption per image, decoded greedily.

        A model's words for an image, learnt from its training captions: no measurement of a brain, nor of the image.

        Raises
        ------
        BackboneError
            If the model has no text decoder (only CoCa has one).
        """
        captions: list[str] = []
        for rows in image_batches(len(images), batch_size):
            captions += greedy_captions(self._model, self._to_model(images[rows]), self.tokenizer)
        return captions

    def _to_model(self, images: UInt8[np.ndarray, "image height width 3"]) -> Float[torch.Tensor, "image 3 side side"]:
        return self.preprocess(images).to(self.device, next(self._visual.parameters()).dtype)


def _tower_shape(visual: VisionTransformer | TimmModel) -> tuple[tuple[int, int], int]:
    """Rows and columns of patches, and the width of the embedding."""
    if isinstance(visual, TimmModel):
        grid, n_features = visual.trunk.patch_embed.grid_size, visual.trunk.num_features
    else:
        grid, n_features = visual.grid_size, visual.proj.shape[1]
    return (int(grid[0]), int(grid[1])), int(n_features)


def area_transform(side: int, mean: Sequence[float], sd: Sequence[float]) -> ImageTransform:
    """Shrink the shorter side to `side` by area averaging, crop the centre, and normalise: `(rgb / 255 - mean) / sd`."""
    scale = np.float32(1) / (np.float32(255) * np.asarray(sd, np.float32))
    offset = np.asarray(mean, np.float32) / np.asarray(sd, np.float32)

    def transform(image: UInt8[np.ndarray, "height width 3"]) -> Float[torch.Tensor, "3 side side"]:
        height, width = image.shape[:2]
        ratio = side / min(height, width)
        size = (max(side, round(width * ratio)), max(side, round(height * ratio)))
        # area averaging is only defined for shrinking
        method = cv2.INTER_AREA if ratio <= 1 else cv2.INTER_CUBIC
        resized = image if size == (width, height) else cv2.resize(image, size, interpolation=method)
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        cropped = resized[top : top + side, left : left + side] * scale - offset
        return torch.from_numpy(np.ascontiguousarray(cropped.transpose(2, 0, 1)))

    return transform


def open_clip_transform(visual: Any) -> ImageTransform:
    """Preprocess as open_clip says that this tower's weights want it (antialiased bicubic, their mean and SD)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    settings = PreprocessCfg(**visual.preprocess_cfg | {"size": visual.image_size})
    composed = image_transform_v2(settings, is_train=False)

    def transform(image: UInt8[np.ndarray, "height width 3"]) -> Float[torch.Tensor, "3 side side"]:
        return composed(Image.fromarray(image))

    return transform


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
