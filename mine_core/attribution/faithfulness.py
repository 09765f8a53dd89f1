"""Does a heatmap tell the truth? Patches are taken away and put back in its order, and in others, and the prediction looked at.

Images are altered in pixels and go through the backbone again: what is measured is the model, not the bookkeeping.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import stats

from mine_core.attribution.base import Encoder, predict_parts
from mine_core.attribution.occlusion import patch_masks
from mine_core.errors import EncodingError

ReplacementName = Literal["mean", "blur", "inpainting"]
Square = UInt8[np.ndarray, "side side 3"]
Replace = Callable[[Square, Bool[np.ndarray, "side side"]], Square]
# Shares of the patches that are taken away; symmetric, so that the same images serve for deletion and insertion.
SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0)
BLUR_SHARE = 1 / 12  # SD of the blur over the image's side: a patch or so
INPAINTING_RADIUS = 3


def replacements(mean_image: Square) -> Mapping[ReplacementName, Replace]:
    """Ways to fill what is taken away: the average training image, the image's own blur, or its surroundings carried inwards.

    Each has its own artefact: the average image an edge, blur a trace of what was there, inpainting (Telea 2004,
    10.1080/10867651.2004.10487596) smears. Nothing is left to inpaint from when all is taken away: then the average image shows.
    """

    def mean(image: Square, gone: Bool[np.ndarray, "side side"]) -> Square:
        return np.where(gone[..., None], mean_image, image)

    def blur(image: Square, gone: Bool[np.ndarray, "side side"]) -> Square:
        return np.where(gone[..., None], cv2.GaussianBlur(image, (0, 0), BLUR_SHARE * len(image)), image)

    def inpainting(image: Square, gone: Bool[np.ndarray, "side side"]) -> Square:
        return mean_image.copy() if gone.all() else cv2.inpaint(image, gone.astype(np.uint8), INPAINTING_RADIUS, cv2.INPAINT_TELEA)

    return {"mean": mean, "blur": blur, "inpainting": inpainting}


def highest_first(values: Float[np.ndarray, "row col"]) -> Int[np.ndarray, " patch"]:
    """Patches by value, highest first, ties in their order; raises EncodingError if a value is not finite."""
    if not np.isfinite(values).all():
        raise EncodingError(f"{int((~np.isfinite(values)).sum())} of {values.size} patch values are not finite; refit the model.")
    return np.argsort(-np.asarray(values, np.float64), axis=None, kind="stable")


def counts_of(n_patches: int, shares: tuple[float, ...] = SHARES) -> Int[np.ndarray, " step"]:
    """How many patches are gone at each step."""
    return np.rint(np.array(shares) * n_patches).astype(np.int64)


def taken_away(
    image: Square, order: Int[np.ndarray, " patch"], counts: Int[np.ndarray, " step"], grid: tuple[int, int], replace: Replace
) -> UInt8[np.ndarray, "step side side 3"]:
    """The image with the first `counts[step]` patches of `order` replaced, step by step."""
    masks = patch_masks(grid, len(image))
    none = np.zeros(masks.shape[1:], bool)
    steps = (masks[order[:count]].any(axis=0) if count else none for count in counts)
    return np.stack([replace(image, gone) if gone.any() else image for gone in steps])


class Areas(NamedTuple):
    """Areas under the curves of one voxel and image, as shares of the way from the empty to the whole image's prediction.

    Deletion takes away the highest first: low is faithful. Insertion puts back the highest first: high is faithful. In random
    order both areas are one number, for what one random order takes away its reverse puts back; and in reverse order
    deletion is insertion and insertion deletion.
    """

    deletion: float
    insertion: float
    random: float


def curve_areas(
    highest: Float[np.ndarray, " step"], lowest: Float[np.ndarray, " step"], random: Float[np.ndarray, "order step"]
) -> Areas:
    """Areas from predictions after taking patches away highest first, lowest first, and in random orders, at `SHARES`.

    area = integral over the share taken away of (y(share) - y(1)) / (y(0) - y(1)), by trapezoids.

    Raises
    ------
    EncodingError
        If the whole image is not predicted above the empty one: there is nothing to take away.
    """
    drop = highest[0] - highest[-1]
    if not drop > 0:
        raise EncodingError(
            f"The image's prediction ({highest[0]:.3g}) is not above that of the empty image ({highest[-1]:.3g}); choose one that is."
        )
    deletion, insertion = (float(np.trapezoid((curve - highest[-1]) / drop, SHARES)) for curve in (highest, lowest))
    # putting back highest first is taking away lowest first, read backwards, and the shares are symmetric
    chance = float(np.mean([np.trapezoid((curve - highest[-1]) / drop, SHARES) for curve in random]))
    return Areas(deletion, insertion, chance)


# --- tokens: necessity and sufficiency as the paper defines them -----------------------------------------------------


def patched_predictions(
    encoder: Encoder,
    patches: Float[np.ndarray, "image patch feature"],
    pooled: Float[np.ndarray, "image feature"],
    mean_patches: Float[np.ndarray, "patch feature"],
    kept: Bool[np.ndarray, "image patch"],
    voxel: int,
) -> Float[np.ndarray, " image"]:
    """Predictions of one voxel from images whose other tokens are the average token of their place (mean-token patching)."""
    beyond = np.where(kept[..., None], 0, np.asarray(patches, np.float32) - mean_patches)
    return predict_parts(
        encoder, (patches - beyond).astype(np.float32), (pooled - beyond.sum(axis=1)).astype(np.float32), np.array([voxel])
    )[:, 0]


def r_squared(predicted: Float[np.ndarray, " image"], measured: Float[np.ndarray, " image"]) -> float:
    """Explained variance, 1 - sum of squared errors over the sum of squares around the mean; below 0 where the mean is better."""
    return float(1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


class TokenTest(NamedTuple):
    """R² against measured responses with all tokens, without the highest k, and with k alone: highest, random, lowest."""

    whole: float
    without_highest: float
    highest_alone: float
    random_alone: float
    lowest_alone: float


def token_test(
    encoder: Encoder,
    patches: Float[np.ndarray, "image patch feature"],
    pooled: Float[np.ndarray, "image feature"],
    mean_patches: Float[np.ndarray, "patch feature"],
    values: Float[np.ndarray, "image patch"],
    measured: Float[np.ndarray, " image"],
    voxel: int,
    k: int,
    *,
    rng: np.random.Generator,
) -> TokenTest:
    """Necessity and sufficiency of the k highest-attributed tokens of each image for one voxel.

    necessity = 1 - R²(without them) / R²(all); sufficiency compares R²(them alone) with R²(k random tokens alone).

    References
    ----------
    Grosbard, Geva, Yovel (2026), arXiv:2605.16468, section 4.2: there, random tokens alone predicted better.
    """
    rank = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
    n_patches = values.shape[1]
    shuffled = np.argsort(rng.random(values.shape), axis=1)
    sets = (rank >= 0, rank >= k, rank < k, shuffled < k, rank >= n_patches - k)
    return TokenTest(*(r_squared(patched_predictions(encoder, patches, pooled, mean_patches, kept, voxel), measured) for kept in sets))


# --- agreement -------------------------------------------------------------------------------------------------------


def rank_agreement(first: Float[np.ndarray, "row col"], second: Float[np.ndarray, "row col"]) -> float:
    """Spearman correlation of two heatmaps over patches; 0 where one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)
