"""The square window of an image that a generative editor works on: a mask's box and its surroundings, at the editor's size."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from mine_core.errors import EditError

SURROUNDINGS = 0.22  # of the longer side of the mask's box, kept on each side


@dataclass(frozen=True)
class Window:
    """A square of an image, in pixels; it may reach beyond the image, which is then continued by its border pixels."""

    top: int
    left: int
    side: int


def window_around(edit_mask: Bool[np.ndarray, "height width"], surroundings: float = SURROUNDINGS) -> Window:
    """The square about a mask's box with `surroundings` (share of its longer side) on each side, moved into the image.

    Where it is larger than the image it lies about the image's middle.

    Raises
    ------
    EditError : if the mask is empty.
    """
    if not edit_mask.any():
        raise EditError("The mask is empty; mark where the image may change.")
    rows, cols = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    longer = int(max(rows[-1] - rows[0], cols[-1] - cols[0])) + 1
    side = min(int(np.ceil(longer * (1 + 2 * surroundings))), max(longer, min(edit_mask.shape)))
    top = _placed((rows[0] + rows[-1] + 1) / 2, side, edit_mask.shape[0])
    return Window(top, _placed((cols[0] + cols[-1] + 1) / 2, side, edit_mask.shape[1]), side)


def _placed(centre: float, side: int, length: int) -> int:
    if side >= length:
        return -((side - length) // 2)
    return min(max(0, round(centre - side / 2)), length - side)


def cut(image: UInt8[np.ndarray, "height width 3"], window: Window, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Pixels of a window at `size`, by area where it shrinks and cubic where it grows."""
    return _resized(_taken(image, window), size)


def cut_mask(edit_mask: Bool[np.ndarray, "height width"], window: Window, size: int) -> Bool[np.ndarray, "size size"]:
    """A mask in a window at `size`: True where any part of it is marked; beyond the image nothing is."""
    inside = _taken(edit_mask.astype(np.uint8), window, cv2.BORDER_CONSTANT)
    interpolation = cv2.INTER_AREA if window.side > size else cv2.INTER_LINEAR
    grown = cv2.resize(inside.astype(np.float32), (size, size), interpolation=interpolation)
    return grown > 1e-3


def whole_cells(inside: Bool[np.ndarray, "size size"], cell: int) -> Bool[np.ndarray, "rows cols"]:
    """Cells of `cell` pixels of which any pixel is marked: what a latent editor is asked to repaint."""
    rows = inside.shape[0] // cell
    return np.asarray(inside.reshape(rows, cell, rows, cell).any(axis=(1, 3)))


def laid_back(
    image: UInt8[np.ndarray, "height width 3"], painted: UInt8[np.ndarray, "size size 3"], window: Window
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of the image whose window holds `painted`, at the image's own size."""
    height, width = image.shape[:2]
    full = _resized(painted, window.side)
    top, left = max(0, window.top), max(0, window.left)
    bottom, right = min(height, window.top + window.side), min(width, window.left + window.side)
    out = image.copy()
    out[top:bottom, left:right] = full[top - window.top : bottom - window.top, left - window.left : right - window.left]
    return out


def settled(
    painted: UInt8[np.ndarray, "size size 3"],
    original: UInt8[np.ndarray, "size size 3"],
    inside: Bool[np.ndarray, "size size"],
    reach: float,
) -> UInt8[np.ndarray, "size size 3"]:
    """Move colours inside a mask smoothly so that they meet the original at its border.

    The difference original - painted outside the mask is carried inwards by normalised smoothing at growing widths: close to
    the border it is what is found there, further in a mean along the rim. It takes out the colour cast of an autoencoder.

    Parameters
    ----------
    reach : widest smoothing, in pixels; further inside colours stay as painted.
    """
    known = (~inside).astype(np.float32)
    gap = (original.astype(np.float32) - painted) * known[..., None]
    carried = np.zeros_like(gap)
    left = np.ones(inside.shape, np.float32)
    for width in (reach / 15, reach / 6, reach / 2.5, reach):
        weight = cv2.GaussianBlur(known, (0, 0), max(width, 0.5))
        mean = cv2.GaussianBlur(gap, (0, 0), max(width, 0.5)) / np.maximum(weight, 1e-6)[..., None]
        share = left * np.minimum(1.0, 4 * weight)
        carried += share[..., None] * mean
        left = left - share
    return np.clip(np.rint(painted + carried), 0, 255).astype(np.uint8)


def _taken(image: np.ndarray, window: Window, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    height, width = image.shape[:2]
    before = [max(0, -window.top), max(0, -window.left)]
    after = [max(0, window.top + window.side - height), max(0, window.left + window.side - width)]
    padded = cv2.copyMakeBorder(image, before[0], after[0], before[1], after[1], border, value=0)
    top, left = window.top + before[0], window.left + before[1]
    return padded[top : top + window.side, left : left + window.side]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[0] == size:
        return image.copy()
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_CUBIC)
