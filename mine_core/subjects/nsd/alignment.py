"""Proof that responses and region files speak of the same places: what was measured must fit the published map there alone."""

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from mine_core.errors import SubjectError
from mine_core.subjects.nsd.labels import Map, Places

LEAST, LEAD = 0.5, 0.1
"""Rank correlation that is asked for, and by how much it must exceed that of every other orientation."""
LEAST_PLACES = 20


def prove_alignment(measured: Float[np.ndarray, " voxel"], published: Map, places: Places) -> tuple[float, float]:
    """Check that ratios of signal to noise measured from the responses follow the published map as it lies, not otherwise laid.

    Rank correlation over the mask with the map as it is, against the map flipped and turned in every way that keeps its shape.
    Equal shapes prove nothing: a flip keeps them.

    Returns
    -------
    The correlation as it lies, and the largest of any other orientation.

    Raises
    ------
    SubjectError
        If fewer than 20 places are known, the correlation is below 0.5, or another orientation comes within 0.1 of it.
    """
    ours = places.take(published)
    known = np.isfinite(measured) & np.isfinite(ours)
    if known.sum() < LEAST_PLACES:
        raise SubjectError(
            f"The ratio of signal to noise is known at {int(known.sum())} of {len(measured)} places; {LEAST_PLACES} are needed to show "
            "that responses and regions are aligned. Add sessions, so that images repeat."
        )
    own = _correlation(measured, ours)
    others = [_correlation(measured, places.take(turned)) for turned in orientations(published)]
    rival = max(others, default=-1.0)
    if own < LEAST or own < rival + LEAD:
        raise SubjectError(
            f"Signal to noise of the responses follows the published map with a rank correlation of {own:.2f}, and {rival:.2f} where "
            f"that is flipped or turned; expected at least {LEAST} and {LEAD} more than any other. The axes of responses and regions "
            "cannot be shown to agree: copy both from one release, and all sessions."
        )
    return own, rival


def orientations(volume: Map) -> Iterator[Map]:
    """Every other way to lay a map that keeps its shape: flips, and turns of axes of equal length."""
    axes = range(volume.ndim)
    for order in permutations(axes):
        turned = volume.transpose(order)
        if turned.shape != volume.shape:
            continue
        for flipped in product((False, True), repeat=volume.ndim):
            if order == tuple(axes) and not any(flipped):
                continue
            yield np.flip(turned, tuple(axis for axis, flip in enumerate(flipped) if flip))


def _correlation(first: Float[np.ndarray, " voxel"], second: Float[np.ndarray, " voxel"]) -> float:
    """Rank correlation over places that both know; -1 where those are too few to tell."""
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < LEAST_PLACES:
        return -1.0
    a, b = rankdata(first[known]), rankdata(second[known])
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else -1.0
