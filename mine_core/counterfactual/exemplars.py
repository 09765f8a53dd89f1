"""Finding exemplars: images that show a word clearly, and what of them to cut out."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.attribution.decomposition import attributed_region
from mine_core.counterfactual.insertion import Exemplar, cut_out
from mine_core.counterfactual.removal import object_mask
from mine_core.errors import AlignmentError, EditError

SHARE = 0.6  # of the word's attribution that the region to cut out must carry
SMALLEST, LARGEST = 0.02, 0.4  # shares of the image that a cut-out may cover
CANDIDATES = 12
HeatOf = Callable[[Int[np.ndarray, " image"]], Float[np.ndarray, "image row col"]]
"""Where in stimuli a word is seen: values on any grid, positive where they raise the agreement with it."""


@dataclass(frozen=True)
class WordView:
    """The images that exemplars are taken from, and their embeddings; rows of all parts are the same stimuli."""

    stimulus_ids: tuple[str, ...]
    images: UInt8[np.ndarray, "stimulus height width 3"]
    pooled: Float[np.ndarray, "stimulus feature"]

    def __post_init__(self) -> None:
        counts = {len(part) for part in (self.stimulus_ids, self.images, self.pooled)}
        if len(counts) != 1:
            raise AlignmentError(f"Ids, images and embeddings are of {sorted(counts)} stimuli; give all of the same.")


def find_exemplars(
    word: str,
    text: Float[np.ndarray, " feature"],
    view: WordView,
    heat: HeatOf,
    *,
    n: int = 3,
    candidates: int = CANDIDATES,
) -> tuple[Exemplar, ...]:
    """Cut-outs of a word from the images that show it best.

    Of the `candidates` images whose pooled embedding is nearest in angle to the text, those are kept whose region of the word
    has borders that can be found and a size to work with, and of these the n with the largest

    quality = (share of the word's attribution inside the cut-out) * (1 - share of its rim that the image's border cuts off).

    Parameters
    ----------
    text : embedding of the word, of length 1.
    view : training images; never the image that is to be edited, or it would be pasted into itself.
    heat : the word's attribution in images of the view, by their rows; asked for the candidates alone.

    Returns
    -------
    Best first, `score` = quality; fewer than n where fewer pass.

    Raises
    ------
    EditError : if no image passes.

    Notes
    -----
    The attribution of the word chooses and cuts, so an exemplar is what the backbone takes the word for. Look at it.
    """
    nearness = view.pooled @ text / np.linalg.norm(view.pooled, axis=1)
    found, nearest = [], np.argsort(-nearness, kind="stable")[:candidates]
    for stimulus, values in zip(nearest, heat(nearest), strict=True):
        exemplar = _try(word, view, int(stimulus), values)
        if exemplar is not None:
            found.append(exemplar)
    if not found:
        raise EditError(
            f"None of the {min(candidates, len(nearness))} images nearest to '{word}' shows it so that it can be cut out; "
            "try another word, or cut one out by hand."
        )
    return tuple(sorted(found, key=lambda exemplar: -exemplar.score)[:n])


def _try(word: str, view: WordView, stimulus: int, values: Float[np.ndarray, "row col"]) -> Exemplar | None:
    image = view.images[stimulus]
    height, width = image.shape[:2]
    seed = attributed_region(values, height, width, SHARE)
    if not SMALLEST <= seed.mean() <= LARGEST:
        return None
    found = object_mask(image, seed, margin=0.0)
    if found.method != "grabcut":
        return None
    positive = np.maximum(values, 0)
    mask, inside = _one_piece(found.mask, positive)
    if not SMALLEST <= mask.mean() <= LARGEST:
        return None
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).sum()
    cut_off = min(1.0, border / (4 * np.sqrt(mask.sum())))
    return cut_out(word, image, mask, view.stimulus_ids[stimulus], inside * (1 - cut_off))


def _one_piece(
    mask: Bool[np.ndarray, "height width"], positive: Float[np.ndarray, "row col"]
) -> tuple[Bool[np.ndarray, "height width"], float]:
    """The connected piece of a mask that carries most of the attribution, and its share: another is another thing."""
    n_pieces, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    shares = (_per_patch((pieces == piece).astype(np.float32), positive.shape) for piece in range(1, n_pieces))
    carried = [float((share * positive).sum()) for share in shares]
    best = int(np.argmax(carried))
    return np.asarray(pieces == best + 1), carried[best] / float(positive.sum())


def _per_patch(mask: Float[np.ndarray, "height width"], grid: tuple[int, ...]) -> Float[np.ndarray, "row col"]:
    return cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA)
