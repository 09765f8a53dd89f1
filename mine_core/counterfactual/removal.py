"""Taking something out of an image: finding the borders of what is to go, and filling the place it leaves."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mine_core.attribution.decomposition import attributed_region
from mine_core.counterfactual.compositing import contrast
from mine_core.counterfactual.editors import LARGEST_SHARE, OnStep, check_mask, finish_edit, stop_if
from mine_core.counterfactual.filling import fill_hole
from mine_core.errors import EditError
from mine_core.types import ImageEdit, IsCancelled

FILL_NAMES: dict[str, str] = {"patches": "patch-fill", "navier-stokes": "smooth-fill", "telea": "telea-fill"}

WORKING_SIDE = 160  # pixels; the cut is found at this size, which is what an attribution of some patches can support
GRABCUT_ROUNDS = 2
GRABCUT_SEED = 7  # OpenCV starts its colour clusters from a generator of the thread
UNDECIDED_BAND = 0.6  # width of the band around the seed that may turn out to be object, in radii of the seed
SURE_CORE = 0.6  # pixels deeper in the seed than this share of its greatest depth are taken for object
CORE = 0.25  # pixels deeper in the seed than this share of its greatest depth are removed whatever the cut says
# Of the positive attribution, weighted by contrast; chosen on phantom 0. Exact decompositions leak around an object, and less of
# them is taken; of traced maps, removals of 40 pairs were beyond all controls in 88 % at 0.45, 95 % at 0.6, 93 % at 0.75.
DRIVING_SHARE, TRACED_SHARE = 0.45, 0.65
CONTRAST_REACH = 0.17  # SD of the neighbourhood that contrast is averaged over, in patch sides
LEAST_OF_SEED, MOST_OF_SEED = 0.25, 3.0  # a cut outside these areas, relative to the seed, has not found the object


@dataclass(frozen=True)
class InpaintRemover:
    """Removes what is under the mask by filling it from the rest of the image.

    `patches` copies coherent texture (`filling.fill_hole`), `navier-stokes` (Bertalmio et al. 2001) and `telea` (2004) are
    OpenCV's, which continue colours smoothly. None knows what was behind the object.
    """

    method: str = "patches"

    def __post_init__(self) -> None:
        if self.method not in FILL_NAMES:
            raise EditError(f"There is no fill '{self.method}'; choose one of {', '.join(FILL_NAMES)}.")

    @property
    def name(self) -> str:
        """Name under which edits are recorded."""
        return FILL_NAMES[self.method]

    def edit(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        edit_mask: Bool[np.ndarray, "height width"],
        instruction: str,
        *,
        seed: int,
        on_step: OnStep | None = None,
        cancelled: IsCancelled | None = None,
    ) -> ImageEdit:
        """Fill `edit_mask`; deterministic, so `seed` is recorded and changes nothing.

        Raises
        ------
        EditError : if the mask is empty, of another shape, or covers more than 60 % of the image.
        Cancelled : if `cancelled()` became true.
        """
        check_mask(image, edit_mask)
        stop_if(cancelled)
        if self.method == "patches":
            edited = fill_hole(image, edit_mask, on_step=on_step, cancelled=cancelled)
        else:
            flag = cv2.INPAINT_NS if self.method == "navier-stokes" else cv2.INPAINT_TELEA
            filled = cv2.inpaint(image, edit_mask.astype(np.uint8), 3, flag)
            edited = np.where(edit_mask[..., None], filled, image)
            if on_step is not None:
                on_step(1, 1, edited)
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance={"method": self.method})


@dataclass(frozen=True)
class ObjectMask:
    """The region of an object and how it was found: `grabcut` followed its borders, `dilated` is the seed, grown."""

    mask: Bool[np.ndarray, "height width"]
    method: Literal["grabcut", "dilated"]
    reason: str


def driving_mask(
    image: UInt8[np.ndarray, "height width 3"], values: Float[np.ndarray, "row col"], share: float = DRIVING_SHARE
) -> ObjectMask:
    """Find the object that drives a voxel: where attribution is high and there is something to take away.

    weight[p] = max(values[p], 0) * sqrt(contrast[p]); the seed is the smallest set of patches that carries `share` of all
    weight, and the image's own borders do the rest (`object_mask`).

    Late patches mix what their neighbours hold, so attribution leaks into the ground around an object, and half of it may
    span half the image. Ground filled with ground is no edit: hence the weight by contrast, the gradient of the image around
    the patch. It uses the image alone, and the attribution that is shown stays as it is.

    Parameters
    ----------
    values : patch values of one voxel and image, positive where they raise the prediction.
    share : above 0 and at most 1.

    Raises
    ------
    EditError : if nothing raises the prediction, or the region is more than 60 % of the image.
    """
    height, width = image.shape[:2]
    rows, cols = values.shape
    around = cv2.GaussianBlur(contrast(image), (0, 0), CONTRAST_REACH * max(height / rows, width / cols))
    events = cv2.resize(around, (cols, rows), interpolation=cv2.INTER_AREA)
    seed = attributed_region(np.maximum(values, 0) * np.sqrt(events), height, width, share)
    if not seed.any():
        raise EditError("No patch raises this voxel's prediction, so nothing that drives it can be removed; choose another image.")
    return object_mask(image, seed)


def object_mask(
    image: UInt8[np.ndarray, "height width 3"], seed_mask: Bool[np.ndarray, "height width"], margin: float = 0.016
) -> ObjectMask:
    """Extend a coarse region to the borders of the object it lies on, so that removing it leaves no rim.

    GrabCut (Rother, Kolmogorov, Blake 2004, 10.1145/1015706.1015720) starts with the core of the seed as object, the rest of
    it as probable object, a band around it as undecided and everything else as background. The parts that meet the seed
    are kept, joined with the seed's core, their holes closed, and the border moved out by `margin`.

    Parameters
    ----------
    seed_mask : True on the attributed patches.
    margin : share of the image's longer side, 0 to 0.1.

    Returns
    -------
    ObjectMask : where the cut loses most of the seed or runs far beyond it, the seed itself, grown, with the reason.

    Raises
    ------
    EditError : if the seed does not pass `check_mask`, or the margin is out of range.

    Notes
    -----
    It follows colours and edges. Where object and surroundings share them the mask is wrong: look at it, or draw your own.
    """
    check_mask(image, seed_mask)
    if not 0 <= margin <= 0.1:
        raise EditError(f"A margin of {margin} was given; it is a share of the longer side, 0 to 0.1.")
    height, width = seed_mask.shape
    shrink = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small_seed = cv2.resize(seed_mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    cut, reason = _cut(cv2.resize(image, size, interpolation=cv2.INTER_AREA), small_seed)
    grow = round(margin * max(height, width))
    if not reason:
        large = cv2.resize(cut.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        found = ndimage.binary_fill_holes(_grown(large | _core(seed_mask), grow))
        if found.mean() <= LARGEST_SHARE:
            return ObjectMask(found, "grabcut", "")
        reason = f"the cut covers {found.mean():.0%} of the image"
    found = _grown(seed_mask, 2 * grow)
    return ObjectMask(found if found.mean() <= LARGEST_SHARE else seed_mask, "dilated", reason)


def _cut(
    image: UInt8[np.ndarray, "height width 3"], seed: Bool[np.ndarray, "height width"]
) -> tuple[Bool[np.ndarray, "height width"], str]:
    """Object found by GrabCut, and why it cannot be used (empty when it can)."""
    if not seed.any() or seed.all():
        return seed, "the region is too thin to cut"
    radius = float(np.sqrt(seed.sum() / np.pi))
    beyond = cv2.distanceTransform((~seed).astype(np.uint8), cv2.DIST_L2, 5)
    depth = cv2.distanceTransform(seed.astype(np.uint8), cv2.DIST_L2, 5)
    labels = np.full(seed.shape, cv2.GC_BGD, np.uint8)
    labels[beyond <= max(4.0, UNDECIDED_BAND * radius)] = cv2.GC_PR_BGD
    labels[seed] = cv2.GC_PR_FGD
    labels[depth > SURE_CORE * depth.max()] = cv2.GC_FGD
    if not np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        return seed, "nothing is left to compare the region with"
    cv2.setRNGSeed(GRABCUT_SEED)
    cv2.grabCut(image, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    cut = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    parts, _ = ndimage.label(cut)
    cut = np.isin(parts, np.unique(parts[seed & cut]))
    share = cut.sum() / seed.sum()
    if (cut & seed).sum() < LEAST_OF_SEED * seed.sum():
        return cut, f"the cut keeps {(cut & seed).sum() / seed.sum():.0%} of the region"
    if share > MOST_OF_SEED:
        return cut, f"the cut is {share:.1f} times the region"
    return cut, ""


def _disc(radius: int) -> UInt8[np.ndarray, "side side"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _grown(mask: Bool[np.ndarray, "height width"], radius: int) -> Bool[np.ndarray, "height width"]:
    return cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0


def _core(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return depth > CORE * depth.max()
