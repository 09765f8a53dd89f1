"""Laying one picture over another inside a mask, without a seam and without touching a pixel outside."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8


def feather(mask: Bool[np.ndarray, "height width"], width: float) -> Float[np.ndarray, "height width"]:
    """Opacity that is 0 outside the mask and rises inside it to 1 at `width` pixels from its border.

    The border of the image is no border of the mask: a mask that runs off the image is opaque there.
    """
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.where(mask, np.clip(depth / (width + 1.0), 0.0, 1.0), 0.0).astype(np.float32)


def paste(
    image: UInt8[np.ndarray, "height width 3"],
    overlay: UInt8[np.ndarray, "height width 3"],
    opacity: Float[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """`opacity * overlay + (1 - opacity) * image`, rounded; a pixel of opacity 0 keeps its bytes."""
    blended = image.copy()
    inside = opacity > 0
    alpha = opacity[inside][:, None]
    mixed = alpha * overlay[inside].astype(np.float32) + (1 - alpha) * image[inside].astype(np.float32)
    blended[inside] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return blended


def match_light(
    overlay: UInt8[np.ndarray, "height width 3"],
    inside: Bool[np.ndarray, "height width"],
    surroundings: Float[np.ndarray, " 3"],
    strength: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """Move the mean lightness of `overlay` inside a mask towards that of a mean RGB colour, keeping hue and contrast.

    `strength` 0 leaves it, 1 makes the mean CIELAB lightness equal; colours are not tinted, for they may be what matters.
    """
    lab = cv2.cvtColor(overlay, cv2.COLOR_RGB2LAB).astype(np.float32)
    around = cv2.cvtColor(np.clip(np.rint(surroundings), 0, 255).astype(np.uint8)[None, None], cv2.COLOR_RGB2LAB)
    lab[..., 0] += strength * (float(around[0, 0, 0]) - float(lab[..., 0][inside].mean()))
    return cv2.cvtColor(np.clip(np.rint(lab), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def sums_under(field: Float[np.ndarray, "height width"], kernel: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "top left"]:
    """Weighted sum of a field under a kernel at every place where the kernel lies whole; empty where it is larger."""
    tall, wide = field.shape[0] - kernel.shape[0] + 1, field.shape[1] - kernel.shape[1] + 1
    if tall < 1 or wide < 1:
        return np.zeros((max(tall, 0), max(wide, 0)))
    exact, weights = field.astype(np.float64), kernel.astype(np.float64)
    sums = cv2.filter2D(exact, cv2.CV_64F, weights, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    return sums[:tall, :wide]


def contrast(image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width"]:
    """How eventful each pixel is: length of the colour gradient after slight smoothing, in grey levels a pixel (times 8)."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.sqrt((across**2 + down**2).sum(-1))
