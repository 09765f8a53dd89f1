"""Control edits: what else the same amount of editing does to the same image, so that a shift has a null.

What a control must share with the edit, and what it must not, decides what it tells.

To *removal* (does the prediction fall because this content is gone?) the controls are
- *elsewhere*: an equally large region that does not overlap, removed by the same editor. Regions that hold something are
  preferred to empty ones; regions that hold half as much of the drive are avoided, for they would remove another driver.
  Tells: would the loss of any content, or any filling, do the same?
- *put back*: the content is taken out and laid back mirrored, turned, smaller or in another light, over the same filling and
  with the same seam. Tells: would any disturbance of this region do the same, though what drives it stays?
Filling the region with something else (a mean colour, scrambled pixels, another object) removes the driver as well. It
repeats the edit with another filling, so it must agree with it, and is no control: `make_replications`.

To *insertion* (does the prediction rise because this concept came in?) the controls are
- *another concept here*: exemplars of other words in the same place at the same size. Tells: would any object do?
- *scrambled here*: the inserted pixels with their order destroyed. Tells: would these colours do?
- *another concept elsewhere*. Tells: would any object anywhere do?
The same concept elsewhere, or another exemplar of it, is no control for a read-out of the whole image but a replication.
*Related concepts here* (`make_related`) are the hardest comparison, and a question of their own: is it this thing, or its kind? A
voxel that wants animals answers a cat as it does a dog, so they enter no p-value of the insertion.

To a *painted* edit there is one control more, whatever it does: the *round trip*, the same region through the painter's
autoencoder and back, with nothing asked. Tells: is it the painter's hand alone?
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mine_core.counterfactual.alterations import DESTROYING, KEEPING, Destroying, destroy_content, put_back, rms_change
from mine_core.counterfactual.editors import Editor, Encodes, stop_if
from mine_core.counterfactual.insertion import Exemplar, blend_in, insertion_mask
from mine_core.counterfactual.placements import places_elsewhere
from mine_core.errors import EditError
from mine_core.types import ImageEdit, IsCancelled

ELSEWHERE = "same size, elsewhere"
KEPT = "same place, content kept"
OTHER_HERE = "another concept, same place"
SCRAMBLED = "scrambled, same place"
OTHER_ELSEWHERE = "another concept, elsewhere"
ROUND_TRIP = "same place, encoded and decoded"
RELATED = "related concept, same place"
SAME_HERE = "same concept, same place"
REFILLED = "same place, filled otherwise"
PLACES_TRIED = 24


@dataclass(frozen=True)
class ControlEdit:
    """One control edit of an image.

    `name` is its kind, as it is to be shown; `detail` what was done in this one; `change` the root mean square of the pixel
    change over `edit_mask` in grey levels (0-255), to be compared with the edit's own.
    """

    name: str
    detail: str
    image: UInt8[np.ndarray, "height width 3"]
    edit_mask: Bool[np.ndarray, "height width"]
    change: float


def make_controls(
    edit: ImageEdit,
    attribution: Float[np.ndarray, "row col"],
    editor: Editor,
    exemplar_pool: Sequence[Exemplar] = (),
    *,
    direction: int,
    n_elsewhere: int = 8,
    n_content: int = 8,
    seed: int,
    cancelled: IsCancelled | None = None,
) -> list[ControlEdit]:
    """Matched control edits of one edit.

    Parameters
    ----------
    attribution : patch values of the voxel for the original image.
    editor : the one that made the edit; used for removals elsewhere.
    exemplar_pool : cut-outs of several words; those of the inserted word are left out. Not needed for a removal.
    direction : -1 for a removal, +1 for an insertion.
    n_elsewhere, n_content : how many of each kind; of the first fewer where fewer fit (a region may fill most of the image).
    seed : decides the details; the same seed gives the same bytes.

    Raises
    ------
    EditError : if the direction is neither, or an insertion has no exemplar of another word to compare with.
    Cancelled : if `cancelled()` became true.
    """
    if direction not in (-1, 1):
        raise EditError(f"Direction {direction} was given; controls are made for -1 (removal) or 1 (insertion).")
    rng = np.random.default_rng(seed)
    through = _round_trip(edit, editor)
    if direction < 0:
        controls = _removed_elsewhere(edit, attribution, editor, n_elsewhere, seed, cancelled)
        return controls + _kept_here(edit, n_content, rng) + through
    others = _of_other_words(edit, exemplar_pool, rng)
    n_scrambled = n_content // 2
    controls = [_inserted_elsewhere(edit, others[i % len(others)], attribution, rng) for i in range(n_elsewhere)]
    stop_if(cancelled)
    controls += [_inserted_here(edit, others[i % len(others)], OTHER_HERE) for i in range(n_content - n_scrambled)]
    return controls + [_scrambled_here(edit, DESTROYING[i % len(DESTROYING)], rng) for i in range(n_scrambled)] + through


def make_related(edit: ImageEdit, exemplars: Sequence[Exemplar]) -> list[ControlEdit]:
    """Each exemplar laid where an insertion is, at its size; `detail` is its word.

    Raises EditError if one of them is of the word that was inserted.
    """
    word = edit.provenance.get("word")
    if any(exemplar.word == word for exemplar in exemplars):
        raise EditError(f"'{word}' was given as related to itself; give exemplars of other words.")
    return [_inserted_here(edit, exemplar, RELATED) for exemplar in exemplars]


def make_replications(
    edit: ImageEdit, exemplar_pool: Sequence[Exemplar] = (), *, direction: int, n_exemplars: int = 4, seed: int
) -> list[ControlEdit]:
    """Edits that say the same in another way, so that their shifts should agree with the edit's; they enter no p-value.

    A removal is repeated with the region's pixels in random order, with scrambled phases, with its mean colour, and covered by
    exemplars of the pool (other than what is removed). An insertion is repeated with the pool's other exemplars of its word.

    Raises
    ------
    EditError : if the direction is neither -1 nor 1.
    """
    if direction not in (-1, 1):
        raise EditError(f"Direction {direction} was given; replications are made for -1 (removal) or 1 (insertion).")
    rng = np.random.default_rng(seed)
    if direction > 0:
        word = edit.provenance.get("word")
        same = [item for item in exemplar_pool if item.word == word and item.source != edit.provenance.get("exemplar")]
        return [_inserted_here(edit, exemplar, SAME_HERE) for exemplar in same[:n_exemplars]]
    replications = []
    for how in DESTROYING:
        image = destroy_content(edit.original, edit.edited, edit.edit_mask, how, rng)
        replications.append(_control(edit, REFILLED, how, image, edit.edit_mask))
    return replications + [_inserted_here(edit, item, REFILLED, edit.edited) for item in exemplar_pool[:n_exemplars]]


def _control(
    edit: ImageEdit,
    name: str,
    detail: str,
    image: UInt8[np.ndarray, "height width 3"],
    edit_mask: Bool[np.ndarray, "height width"],
) -> ControlEdit:
    image.flags.writeable = False
    return ControlEdit(name, detail, image, edit_mask, rms_change(edit.original, image, edit_mask))


def _round_trip(edit: ImageEdit, editor: Editor) -> list[ControlEdit]:
    if not isinstance(editor, Encodes):
        return []
    image = editor.round_trip(edit.original, edit.edit_mask)
    return [_control(edit, ROUND_TRIP, editor.name, image, edit.edit_mask)]


def _removed_elsewhere(
    edit: ImageEdit,
    attribution: Float[np.ndarray, "row col"],
    editor: Editor,
    n: int,
    seed: int,
    cancelled: IsCancelled | None,
) -> list[ControlEdit]:
    controls = []
    for place in places_elsewhere(edit.original, edit.edit_mask, attribution, n):
        stop_if(cancelled)
        removed = editor.edit(edit.original, place.mask, edit.instruction, seed=seed, cancelled=cancelled)
        size = place.mask.sum() / edit.edit_mask.sum()
        detail = f"{place.shape}, {size:.0%} of the edit's size, holds {place.attribution_share:.0%} of its drive"
        controls.append(_control(edit, ELSEWHERE, detail, removed.edited.copy(), place.mask))
    return controls


def _kept_here(edit: ImageEdit, n: int, rng: np.random.Generator) -> list[ControlEdit]:
    change = rms_change(edit.original, edit.edited, edit.edit_mask)
    controls = []
    for i in range(n):
        how = KEEPING[i % len(KEEPING)]
        image, mask = put_back(edit.original, edit.edited, edit.edit_mask, how, change, rng)
        controls.append(_control(edit, KEPT, f"put back, {how}", image, mask))
    return controls


def _of_other_words(edit: ImageEdit, pool: Sequence[Exemplar], rng: np.random.Generator) -> list[Exemplar]:
    """The pool without the inserted word, in random order but each word once before any comes again."""
    word = edit.provenance.get("word")
    by_word: dict[str, list[Exemplar]] = {}
    for exemplar in pool:
        if exemplar.word != word:
            by_word.setdefault(exemplar.word, []).append(exemplar)
    if not by_word:
        raise EditError(
            f"None of the {len(pool)} exemplars shows another concept than '{word}'; give some of other words to compare with."
        )
    words = [str(name) for name in rng.permutation(sorted(by_word))]
    rounds = max(len(chosen) for chosen in by_word.values())
    return [by_word[name][i] for i in range(rounds) for name in words if i < len(by_word[name])]


def _touched(edit: ImageEdit) -> Bool[np.ndarray, "height width"]:
    """What the edit really covered: its changed pixels without holes, or its mask where nothing changed."""
    changed = ndimage.binary_fill_holes((edit.original != edit.edited).any(-1)) & edit.edit_mask
    return changed if changed.any() else edit.edit_mask


def _matched_size(exemplar: Exemplar, area: int, shape: tuple[int, ...]) -> float:
    """Size at which an exemplar covers `area` pixels of an image of this shape, at most the whole of it."""
    share = exemplar.cutout.sum() / max(exemplar.cutout.shape) ** 2
    return float(min(1.0, np.sqrt(area / share) / min(shape[:2])))


def _inserted_here(
    edit: ImageEdit, exemplar: Exemplar, name: str, base: UInt8[np.ndarray, "height width 3"] | None = None
) -> ControlEdit:
    touched = _touched(edit)
    rows, cols = np.nonzero(touched)
    height, width = touched.shape
    size = _matched_size(exemplar, int(touched.sum()), touched.shape)
    x, y = (cols.min() + cols.max() + 1) / 2 / width, (rows.min() + rows.max() + 1) / 2 / height
    mask = insertion_mask(exemplar, height, width, x=float(x), y=float(y), size=size)
    image = blend_in(edit.original if base is None else base, exemplar, mask)
    return _control(edit, name, exemplar.word, image, mask if base is None else mask | edit.edit_mask)


def _inserted_elsewhere(
    edit: ImageEdit, exemplar: Exemplar, attribution: Float[np.ndarray, "row col"], rng: np.random.Generator
) -> ControlEdit:
    """Where, of some random places, it covers least of the edit's region and of what drives the voxel already."""
    touched = _touched(edit)
    height, width = touched.shape
    drive = cv2.resize(np.maximum(attribution, 0).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    drive /= max(float(drive.sum()), 1e-12)
    size = _matched_size(exemplar, int(touched.sum()), touched.shape)
    best, least = touched, np.inf
    for x, y in rng.uniform(0.1, 0.9, (PLACES_TRIED, 2)):
        mask = insertion_mask(exemplar, height, width, x=float(x), y=float(y), size=size)
        covered = (mask & touched).sum() / touched.sum() + float(drive[mask].sum())
        if covered < least:
            best, least = mask, covered
    return _control(edit, OTHER_ELSEWHERE, exemplar.word, blend_in(edit.original, exemplar, best), best)


def _scrambled_here(edit: ImageEdit, how: Destroying, rng: np.random.Generator) -> ControlEdit:
    touched = _touched(edit)
    return _control(edit, SCRAMBLED, how, destroy_content(edit.edited, edit.original, touched, how, rng), touched)
