"""Embeddings that outlive the process that made them: what a killed extraction had done is not done again."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.artifacts import canonical_json, hash_text, library_versions, sync
from mine_core.backbones.base import Backbone, Embedding
from mine_core.types import IsCancelled, OnProgress

if TYPE_CHECKING:  # opening stored features must not wait for torch
    import torch

LIBRARIES = ("numpy", "torch", "open_clip_torch", "transformers")
LARGEST = float(np.finfo(np.float16).max)


class KeptEmbeddings(Backbone):
    """A backbone that keeps what it embeds in `directory`, a file for each batch, and embeds no batch twice.

    A file is named by the SHA-256 of the batch's images and lies in a folder named by the backbone (name, weights' hash, grid,
    width ...), its device and the versions of the libraries: another backbone, image, batch or machine finds nothing. It is
    written under a temporary name and renamed; a damaged one (CRC-32 of each array) is made again.

    Parts are kept and returned as float16, which is what features are stored in, so that features made of kept embeddings
    are the same bytes as those of an unbroken run. Embeddings beyond the range of float16 are handed on as they are.
    `reused` counts images that were not embedded again. For one extraction at a time.
    """

    def __init__(self, backbone: Backbone, directory: Path) -> None:
        self.backbone, self.reused = backbone, 0
        self.spec, self.tokenizer = backbone.spec, backbone.tokenizer
        self.device, self.image_size = backbone.device, backbone.image_size
        told = [asdict(backbone.spec), str(backbone.device), library_versions(LIBRARIES)]
        self.folder = directory / hash_text(canonical_json(told))
        self.folder.mkdir(parents=True, exist_ok=True)

    def embed(
        self,
        images: UInt8[np.ndarray, "image height width 3"],
        batch_size: int = 32,
        on_progress: OnProgress | None = None,
        cancelled: IsCancelled | None = None,
    ) -> Embedding:
        """Embeddings of a batch of images, read where they were kept; parts are float16."""
        path = self.folder / f"{_identity(images)}.npz"
        found = _read(path)
        if found is not None:
            self.reused += len(images)
            return found
        made = self.backbone.embed(images, batch_size, on_progress, cancelled)
        if not np.maximum(made.patches.max(), -made.patches.min()) <= LARGEST:
            return made
        made = made._replace(patches=made.patches.astype(np.float16))
        _write(path, made)
        return made

    def preprocess(self, images: UInt8[np.ndarray, "image height width 3"]) -> "Float[torch.Tensor, 'image 3 side side']":
        """As the backbone does."""
        return self.backbone.preprocess(images)

    def pooled(self, pixels: "Float[torch.Tensor, 'image 3 side side']") -> "Float[torch.Tensor, 'image feature']":
        """As the backbone does."""
        return self.backbone.pooled(pixels)

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """As the backbone does."""
        return self.backbone.encode_text(texts)

    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> list[str]:
        """As the backbone does."""
        return self.backbone.caption(images)


def _identity(images: np.ndarray) -> str:
    digest = hashlib.sha256(f"{images.dtype.str}{images.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:32]


def _read(path: Path) -> Embedding | None:
    """What was kept, or None if there is nothing that can be read whole."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return Embedding(**{name: arrays[name] for name in Embedding._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, made: Embedding) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.savez(stream, **made._asdict())
    sync(temporary)
    temporary.replace(path)
