"""What training images are on average: the image, and its input tokens."""

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.attribution.base import Averages
from mine_core.attribution.seeing import as_seen
from mine_core.backbones.base import Backbone, image_batches
from mine_core.errors import BackboneError, Cancelled
from mine_core.types import IsCancelled

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
    cancelled: IsCancelled | None = None,
) -> Averages:
    """Average training images, as far as the backbone allows: tokens are None where its blocks cannot be traced.

    Raises
    ------
    BackboneError
        If there is no image.
    Cancelled
        If `cancelled()` became True between batches.
    """
    image = average_image(images, backbone.image_size)
    try:
        return Averages(image, mean_tokens(backbone, images, cancelled=cancelled))
    except BackboneError:
        return Averages(image, None)


def mean_tokens(
    backbone: Backbone, images: UInt8[np.ndarray, "train rows cols 3"], *, cancelled: IsCancelled | None = None
) -> Float[np.ndarray, "token width"]:
    """Average over images of the tokens that enter the backbone's blocks, at each place.

    Raises
    ------
    BackboneError
        If the backbone's blocks cannot be traced.
    Cancelled
        If `cancelled()` became True between batches.
    """
    from mine_core.backbones.tracing import image_tower, mean_input_tokens

    visual, batches = image_tower(backbone), []
    for rows in image_batches(len(images), BATCH):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {rows.start} of {len(images)} training images; start again to average them.")
        batches.append(backbone.preprocess(images[rows]))
    return mean_input_tokens(visual, batches).float().cpu().numpy()
