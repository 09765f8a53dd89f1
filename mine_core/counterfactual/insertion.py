"""Putting something into an image: a cut-out of the concept from another image, laid where it is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.counterfactual.compositing import feather, match_light, paste, sums_under
from mine_core.counterfactual.editors import OnStep, check_mask, finish_edit, stop_if
from mine_core.errors import EditError
from mine_core.types import ImageEdit, IsCancelled

LIGHT_STRENGTH = 0.25
FEATHER = 1.5  # pixels over which a cut-out's border becomes opaque
SEARCH_SIDE = 48  # pixels; places are compared on an attribution of this size


@dataclass(frozen=True)
class Exemplar:
    """A concept as a picture: `cutout` is True on its pixels of `image`; `source` is the stimulus it came from."""

    word: str
    image: UInt8[np.ndarray, "height width 3"]
    cutout: Bool[np.ndarray, "height width"]
    source: str
    score: float = 0.0


@dataclass(frozen=True)
class ExemplarInserter:
    """Pastes an exemplar of the word that the instruction names into the mask.

    Parameters
    ----------
    exemplars : per word, cut-outs to choose from; the seed chooses.
    """

    exemplars: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict)
    name: str = "exemplar"

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
        """Fit the exemplar into the bounding box of `edit_mask`, keeping its proportions, and blend it in.

        Parameters
        ----------
        instruction : holds one of the words of `exemplars`, as in "insert a dog".
        seed : exemplar number `seed` modulo how many there are of the word.

        Raises
        ------
        EditError : if the mask does not pass `check_mask`, or the instruction names none of the words.
        Cancelled : if `cancelled()` became true.
        """
        check_mask(image, edit_mask)
        stop_if(cancelled)
        word = self._word(instruction)
        chosen = self.exemplars[word]
        exemplar = chosen[seed % len(chosen)]
        edited = blend_in(image, exemplar, edit_mask)
        if on_step is not None:
            on_step(1, 1, edited)
        provenance = {"word": word, "exemplar": exemplar.source}
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance=provenance)

    def _word(self, instruction: str) -> str:
        asked = f" {' '.join(instruction.lower().split())} "
        named = [word for word, chosen in self.exemplars.items() if chosen and f" {word.lower()} " in asked]
        if not named:
            known = ", ".join(self.exemplars) or "no words"
            raise EditError(f"'{instruction}' names nothing that can be inserted; exemplars are at hand of {known}.")
        return max(named, key=len)


def cut_out(
    word: str,
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "height width"],
    source: str,
    score: float = 0.0,
) -> Exemplar:
    """Crop an image to a mask and keep both; raises EditError if the mask is empty."""
    if not mask.any():
        raise EditError(f"The cut-out of '{word}' from stimulus '{source}' is empty; choose another image.")
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return Exemplar(word, image[box].copy(), mask[box].copy(), source, score)


def insert_at(image: UInt8[np.ndarray, "height width 3"], exemplar: Exemplar, *, x: float, y: float, size: float) -> ImageEdit:
    """Lay one exemplar into an image at a place and a size, as in `insertion_mask`; raises EditError as that and the inserter do."""
    mask = insertion_mask(exemplar, *image.shape[:2], x=x, y=y, size=size)
    return ExemplarInserter({exemplar.word: (exemplar,)}).edit(image, mask, f"insert {exemplar.word}", seed=0)


def oval_mask(height: int, width: int, *, x: float, y: float, size: float) -> Bool[np.ndarray, "height width"]:
    """Pixels of a disc at a place and a size, as in `insertion_mask`: what a painter may fill."""
    return insertion_mask(disc(height, width, size), height, width, x=x, y=y, size=size)


def disc(height: int, width: int, size: float) -> Exemplar:
    """A disc of `size` times the image's shorter side, which shows nothing: to find a place for what is not painted yet."""
    side = 2 * round(size * min(height, width) / 2)
    y, x = np.indices((side, side)) + 0.5 - side / 2
    return Exemplar("", np.zeros((side, side, 3), np.uint8), x**2 + y**2 <= (side / 2) ** 2, "oval")


def insertion_mask(exemplar: Exemplar, height: int, width: int, *, x: float, y: float, size: float) -> Bool[np.ndarray, "height width"]:
    """Pixels that an exemplar covers when it is laid into an image.

    Parameters
    ----------
    height, width : of the image, in pixels.
    x, y : where its centre goes, as shares of width and height (0 to 1, y down); moved inwards until all of it is in the image.
    size : its longer side as a share of the image's shorter side, above 0 and at most 1.

    Raises
    ------
    EditError : if x, y or size is out of range.
    """
    if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < size <= 1):
        raise EditError(f"x={x:g}, y={y:g}, size={size:g} were given; x and y are 0 to 1, size is above 0 and at most 1.")
    tall, wide = exemplar.cutout.shape
    scale = size * min(height, width) / max(tall, wide)
    tall, wide = max(1, round(tall * scale)), max(1, round(wide * scale))
    top = min(max(0, round(y * height - tall / 2)), height - tall)
    left = min(max(0, round(x * width - wide / 2)), width - wide)
    mask = np.zeros((height, width), bool)
    mask[top : top + tall, left : left + wide] = _resized(exemplar.cutout.astype(np.float32), tall, wide) > 0.5
    return mask


def blend_in(
    image: UInt8[np.ndarray, "height width 3"], exemplar: Exemplar, edit_mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay an exemplar over the bounding box of a mask, in its proportions, with soft borders, inside the mask alone."""
    rows, cols = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    top, left = int(rows[0]), int(cols[0])
    tall, wide = int(rows[-1]) + 1 - top, int(cols[-1]) + 1 - left
    scale = min(tall / exemplar.cutout.shape[0], wide / exemplar.cutout.shape[1])
    inner = [max(1, round(side * scale)) for side in exemplar.cutout.shape]
    top, left = top + (tall - inner[0]) // 2, left + (wide - inner[1]) // 2
    box = np.s_[top : top + inner[0], left : left + inner[1]]
    cutout = np.zeros(edit_mask.shape, bool)
    overlay = image.copy()
    cutout[box] = _resized(exemplar.cutout.astype(np.float32), *inner) > 0.5
    overlay[box] = _resized(_bled(exemplar), *inner)
    cutout &= edit_mask
    if not cutout.any():
        raise EditError(f"The mask is too thin for the exemplar of '{exemplar.word}'; mark a wider region.")
    ring = cv2.dilate(edit_mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~edit_mask
    around = image[ring if ring.any() else edit_mask].mean(0).astype(np.float64)
    lit = match_light(overlay, cutout, around, LIGHT_STRENGTH)
    return paste(image, lit, feather(cutout, FEATHER))


def least_attributed_place(
    attribution: Float[np.ndarray, "row col"],
    exemplar: Exemplar,
    *,
    size: float,
    avoid: Bool[np.ndarray, "height width"] | None = None,
) -> tuple[float, float]:
    """Where an exemplar fits and covers least of what raises the prediction now.

    Parameters
    ----------
    attribution : patch values of the voxel for the image that is to be edited; an image is taken to be square.
    size : as in `insertion_mask`.
    avoid : pixels that it must not cover, for instance an earlier edit.

    Returns
    -------
    (x, y) as shares of the image; of equal places the one nearest the middle of the lower half, where things stand.

    Raises
    ------
    EditError : if it fits nowhere.
    """
    silhouette = insertion_mask(exemplar, SEARCH_SIDE, SEARCH_SIDE, x=0.5, y=0.5, size=size)
    rows, cols = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
    kernel = silhouette[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.float32)
    field_ = cv2.resize(np.maximum(attribution, 0).astype(np.float32), (SEARCH_SIDE, SEARCH_SIDE), interpolation=cv2.INTER_LINEAR)
    covered = sums_under(field_, kernel)
    if avoid is not None:
        forbidden = cv2.resize(avoid.astype(np.float32), (SEARCH_SIDE, SEARCH_SIDE), interpolation=cv2.INTER_AREA)
        covered[sums_under(forbidden, kernel) > 0.02 * kernel.sum()] = np.inf
    if not np.isfinite(covered).any():
        raise EditError(f"The exemplar of '{exemplar.word}' at size {size:g} fits nowhere beside what is to be kept; make it smaller.")
    centres_y = (np.arange(covered.shape[0]) + kernel.shape[0] / 2) / SEARCH_SIDE
    centres_x = (np.arange(covered.shape[1]) + kernel.shape[1] / 2) / SEARCH_SIDE
    apart = np.hypot(centres_y[:, None] - 0.65, centres_x - 0.5)
    near_least = covered <= covered.min() + 1e-3 * max(float(field_.sum()), 1e-12)
    best = np.where(near_least, apart, np.inf).argmin()
    row, col = np.unravel_index(best, covered.shape)
    return float(centres_x[col]), float(centres_y[row])


def _resized(array: np.ndarray, tall: int, wide: int) -> np.ndarray:
    shrinks = tall * wide < array.shape[0] * array.shape[1]
    return cv2.resize(array, (wide, tall), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _bled(exemplar: Exemplar) -> UInt8[np.ndarray, "height width 3"]:
    """Carry the cut-out's colours a few pixels outwards, so that resizing mixes no old background into its border."""
    outside = ~exemplar.cutout
    if not outside.any():
        return exemplar.image
    near = cv2.dilate(exemplar.cutout.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & outside
    return np.where(near[..., None], cv2.inpaint(exemplar.image, outside.astype(np.uint8), 3, cv2.INPAINT_TELEA), exemplar.image)
