"""Altering what is under a mask: keeping its content but disturbing it, or keeping its colours but destroying its content."""

from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.counterfactual.compositing import feather, paste

Keeping = Literal["mirrored", "turned left", "turned right", "smaller", "lighter", "darker", "uneven light", "grain"]
Destroying = Literal["phases scrambled", "tiles scrambled", "pixels scrambled", "mean colour"]
KEEPING: tuple[Keeping, ...] = get_args(Keeping)
DESTROYING: tuple[Destroying, ...] = get_args(Destroying)

TURN = 12.0  # degrees
SMALLER = 0.85
MOST_LIGHT = 40.0  # grey levels; a larger change of light would burn the content out, and with it what drives the voxel
# The mildest Gaussian noise of ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), 0.08 of the range. Stronger grain
# hides content rather than keeps it: at 40 grey levels it alone did half of what removal did to the phantom backbone.
MOST_GRAIN = 20.0
FEATHER = 1.5  # pixels
TILES = 4  # along the longer side of the mask's box

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]


def rms_change(before: Image, after: Image, mask: Mask) -> float:
    """Root mean square of the change over the pixels and colours under a mask, in grey levels (0-255)."""
    return float(np.sqrt(((after[mask].astype(np.float64) - before[mask]) ** 2).mean()))


def put_back(original: Image, removed: Image, mask: Mask, how: Keeping, change: float, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Lay what was removed back over the filling: the same content, moved or lit a little differently, with a new seam.

    Parameters
    ----------
    original, removed : the image before and after a removal under `mask`.
    change : the root mean square of the removal, in grey levels; changes of light are as large, but at most 40,
        and grain at most 20.

    Returns
    -------
    The image, and the pixels that may differ from `original`.
    """
    if how in ("mirrored", "turned left", "turned right", "smaller"):
        content, shape = _moved(original, mask, how)
    else:
        most = MOST_GRAIN if how == "grain" else MOST_LIGHT
        content, shape = _relit(original, mask, how, min(change, most), rng), mask
    return paste(removed, content, feather(shape, FEATHER)), mask | shape


def _moved(original: Image, mask: Mask, how: Keeping) -> tuple[Image, Mask]:
    """Mirror, turn or shrink the image about the middle of the mask, and the mask with it."""
    rows, cols = np.nonzero(mask)
    x, y = float(cols.mean()), float(rows.mean())
    if how == "mirrored":
        matrix = np.array([[-1.0, 0.0, 2 * x], [0.0, 1.0, 0.0]])
    else:
        angle = {"turned left": TURN, "turned right": -TURN, "smaller": 0.0}[how]
        matrix = cv2.getRotationMatrix2D((x, y), angle, SMALLER if how == "smaller" else 1.0)
    size = original.shape[1::-1]
    content = cv2.warpAffine(original, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shape = cv2.warpAffine(mask.astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR, borderValue=0) > 0.5
    return content, shape


def _relit(original: Image, mask: Mask, how: Keeping, change: float, rng: np.random.Generator) -> Image:
    """Add light of a root mean square `change` under the mask: even, slowly varying in colour and place, or grain."""
    height, width = mask.shape
    if how in ("lighter", "darker"):
        light = np.full(original.shape, change if how == "lighter" else -change)
    elif how == "uneven light":
        light = cv2.resize(rng.normal(size=(4, 4, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        light = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 0.8)
    light = light * (change / max(float(np.sqrt((light[mask] ** 2).mean())), 1e-12))
    return np.clip(np.rint(original + light), 0, 255).astype(np.uint8)


def destroy_content(content: Image, base: Image, mask: Mask, how: Destroying, rng: np.random.Generator) -> Image:
    """Lay the pixels of `content` under the mask over `base`, with their colours kept and their order destroyed.

    Phases: the power spectrum of the mask's box stays, each spatial frequency is moved by a random phase, equal in all
    colours, and mean and SD per colour under the mask are restored. Tiles: squares of a quarter of the box change places.
    Pixels: all change places. Mean colour: one colour is left.
    """
    overlay = base.copy()
    inside = content[mask].astype(np.float64)
    if how == "pixels scrambled":
        overlay[mask] = rng.permutation(content[mask])
    elif how == "mean colour":
        overlay[mask] = np.rint(inside.mean(0)).astype(np.uint8)
    else:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        filled = np.where(mask[box][..., None], content[box].astype(np.float64), inside.mean(0))
        overlay[box] = _with_statistics_of(inside, _reordered(filled, how, rng), mask[box])
    return paste(base, overlay, feather(mask, FEATHER))


def _reordered(filled: Float[np.ndarray, "rows cols 3"], how: Destroying, rng: np.random.Generator) -> Float[np.ndarray, "rows cols 3"]:
    if how == "phases scrambled":
        spectrum = np.fft.rfft2(filled, axes=(0, 1))
        phases = np.exp(1j * np.angle(np.fft.rfft2(rng.normal(size=filled.shape[:2]))))
        return np.fft.irfft2(spectrum * phases[..., None], s=filled.shape[:2], axes=(0, 1))
    side = max(2, -(-max(filled.shape[:2]) // TILES))
    tall, wide = (-(-length // side) for length in filled.shape[:2])
    padded = np.pad(filled, ((0, tall * side - filled.shape[0]), (0, wide * side - filled.shape[1]), (0, 0)), mode="reflect")
    tiles = padded.reshape(tall, side, wide, side, 3).swapaxes(1, 2).reshape(tall * wide, side, side, 3)
    tiles = rng.permutation(tiles).reshape(tall, wide, side, side, 3).swapaxes(1, 2)
    return tiles.reshape(padded.shape)[: filled.shape[0], : filled.shape[1]]


def _with_statistics_of(
    wanted: Float[np.ndarray, "pixel 3"], found: Float[np.ndarray, "rows cols 3"], mask: Bool[np.ndarray, "rows cols"]
) -> UInt8[np.ndarray, "rows cols 3"]:
    inside = found[mask]
    scale = wanted.std(0) / np.maximum(inside.std(0), 1e-9)
    return np.clip(np.rint((found - inside.mean(0)) * scale + wanted.mean(0)), 0, 255).astype(np.uint8)
