"""Did the edit really take out, or put in, what it was asked to? A shift of an edit that failed says nothing of the concept."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mine_core.counterfactual.instant import patch_overlap
from mine_core.errors import AlignmentError, EditError
from mine_core.types import ImageEdit

PRESENT_FROM = 0.9


@dataclass(frozen=True)
class PresenceScale:
    """What presence means to a backbone: the patches of many images, against which a region is read.

    Parameters
    ----------
    patches : of stimuli that are not edited (some hundred are enough; memory-mapped ones are read in full).
    grid : of the backbone.
    """

    patches: Float[np.ndarray, "stimulus patch feature"]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        if self.patches.shape[1] != self.grid[0] * self.grid[1]:
            raise AlignmentError(f"Images have {self.patches.shape[1]} patches, the grid {self.grid}; give both of one backbone.")


@dataclass(frozen=True)
class Verification:
    """Presence of a concept in the edited region before and after, and whether the edit did what was asked.

    `before` and `after` are percentiles (0 to 1): the share of images that show the concept less in this very region.
    """

    concept: str
    verified: bool
    before: float
    after: float
    reason: str


def presence_percentile(
    patches: Float[np.ndarray, "patch feature"],
    text: Float[np.ndarray, " feature"],
    overlap: Float[np.ndarray, " patch"],
    scale: PresenceScale,
) -> float:
    """Share of the scale's images whose same region agrees less with the text; ties count half.

    agreement = sum_p overlap[p] patches[p] . text
    """
    weights = np.outer(overlap, text).astype(np.float32)
    reference = np.tensordot(np.asarray(scale.patches, np.float32), weights, 2)
    found = np.tensordot(patches.astype(np.float32), weights, 2)
    return float(((reference < found) + 0.5 * (reference == found)).mean())


def verify_edit(
    edit: ImageEdit,
    concept: str,
    text: Float[np.ndarray, " feature"],
    patches_before: Float[np.ndarray, "patch feature"],
    patches_after: Float[np.ndarray, "patch feature"],
    scale: PresenceScale,
    *,
    direction: int,
    present_from: float = PRESENT_FROM,
) -> Verification:
    """Read the concept's presence in the edited region before and after.

    Removed is what was present before (percentile `present_from` or above) and is not after; inserted is what was not
    present before and is after.

    Parameters
    ----------
    text : embedding of the concept.
    patches_before, patches_after : additive parts of the embeddings of the original and the edited image.
    direction : -1 for a removal, +1 for an insertion.

    Raises
    ------
    EditError : if the direction is neither.

    Notes
    -----
    The judge is a backbone: give one that did not guide the edit where there is one. It reads the region alone, so a second
    object of the kind elsewhere in the image does not matter.
    """
    if direction not in (-1, 1):
        raise EditError(f"Direction {direction} was given; verify a removal (-1) or an insertion (1).")
    overlap = patch_overlap(edit.edit_mask, scale.grid)
    before = presence_percentile(patches_before, text, overlap, scale)
    after = presence_percentile(patches_after, text, overlap, scale)
    was, is_now = before >= present_from, after >= present_from
    verified = (was and not is_now) if direction < 0 else (is_now and not was)
    return Verification(concept, verified, before, after, _reason(concept, was, is_now, before, after, direction))


def with_verification(edit: ImageEdit, verification: Verification) -> ImageEdit:
    """Return the edit with the verdict and its numbers recorded in it."""
    record = {
        "concept": verification.concept,
        "presence_before": verification.before,
        "presence_after": verification.after,
        "reason": verification.reason,
    }
    return replace(edit, verified=verification.verified, provenance={**edit.provenance, "verification": record})


def _reason(concept: str, was: bool, is_now: bool, before: float, after: float, direction: int) -> str:
    moved = f"more '{concept}' here than in {before:.0%} of images before, in {after:.0%} after"
    if direction < 0:
        verdict = "removed" if was and not is_now else "still there" if was else "it was not there to remove"
    else:
        verdict = "inserted" if is_now and not was else "it was there already" if was else "not recognised"
    return f"{verdict}: {moved}"
