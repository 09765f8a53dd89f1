"""An image as a backbone sees it: a square whose patches are whole pixels, and what may stand in for a patch of it."""

import cv2
import numpy as np
from jaxtyping import UInt8


def as_seen(image: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Shrink and crop an image to the square that a backbone sees, so that its patches are whole pixels."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    ratio = side / min(height, width)
    size = (max(side, round(width * ratio)), max(side, round(height * ratio)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio <= 1 else cv2.INTER_CUBIC)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return np.ascontiguousarray(resized[top : top + side, left : left + side])
