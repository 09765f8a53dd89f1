"""What training images are on average: the image, its traced parts and its input tokens."""

import numpy as np
from jaxtyping import UInt8

from mine_core.attribution.base import Averages
from mine_core.attribution.seeing import as_seen
from mine_core.attribution.traced import trace_images
from mine_core.backbones.base import Backbone, image_batches
from mine_core.errors import BackboneError
from mine_core.types import IsCancelled, OnProgress

BATCH = 16


def average_image(images: UInt8[np.ndarray, "train height width 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Mean of images as a backbone sees them, rounded; raises BackboneError if there is none."""
    if not len(images):
        raise BackboneError("0 training images were given to average; give at least one.")
    total = np.zeros((side, side, 3))
    for image in images:
        total += as_seen(image, side)
    return np.rint(total / len(images)).astype(np.uint8)


def make_averages(
    backbone: Backbone,
    images: UInt8[np.ndarray, "train height width 3"],
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Averages:
    """Average training images, as far as the backbone allows: traced parts and tokens are None where it cannot be traced.

    Raises
    ------
    BackboneError
        If there is no image.
    Cancelled
        If `cancelled()` became True between batches.
    """
    image = average_image(images, backbone.image_size)
    try:
        traced = trace_images(backbone, images, on_progress=on_progress, cancelled=cancelled).mean(axis=0, dtype=np.float64)
    except BackboneError:
        return Averages(image, None, None)
    from mine_core.backbones.tracing import image_tower, mean_input_tokens

    batches = [backbone.preprocess(images[rows]) for rows in image_batches(len(images), BATCH)]
    tokens = mean_input_tokens(image_tower(backbone), batches).float().cpu().numpy()
    return Averages(image, traced.astype(np.float32), tokens)
