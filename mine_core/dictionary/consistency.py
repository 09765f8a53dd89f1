"""Do the voxels of a region share units more than chance?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mine_core.errors import EncodingError
from mine_core.statistics import false_discovery_rate, permutation_p

LEAST_VOXELS = 10


@dataclass(frozen=True)
class Consistency:
    """Chance that two voxels of a region have the same unit, its mean over regions, and what labels dealt anew give.

    `p_exchanged` deals the voxels' labels at random; `p_shifted` moves all labels along the order of the voxels, which leaves
    neighbours beside each other, as neighbours are alike whatever region they are in. `chance` and `q` are of each region: the mean
    over moved labels, and Benjamini and Hochberg's q over regions of the p against them.
    """

    shared: Mapping[str, float]
    chance: Mapping[str, float]
    q: Mapping[str, float]
    mean: float
    exchanged: float
    shifted: float
    p_exchanged: float
    p_shifted: float
    n_voxels: int


def sharing(unit: Int[np.ndarray, " voxel"]) -> float:
    """Chance that two different voxels have the same unit: sum_u n_u (n_u - 1) / (n (n - 1)) (Simpson 1949, 10.1038/163688a0)."""
    counts = np.unique(unit, return_counts=True)[1].astype(np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


def region_consistency(
    unit: Int[np.ndarray, " voxel"],
    matched: Bool[np.ndarray, " voxel"],
    regions: Mapping[str, Bool[np.ndarray, " voxel"]],
    rng: np.random.Generator,
    n_permutations: int = 1000,
) -> Consistency:
    """Compare how often voxels of one region share their first unit with how often they would by chance.

    Parameters
    ----------
    unit : first unit of every voxel, numbered over all layers.
    matched : voxels that have one; others do not count. Voxels are in the order of the scan, so that neighbours in it are near.
    regions : members of each; those with fewer than 10 matched voxels are left out.

    Raises
    ------
    EncodingError
        If no region has 10 matched voxels.

    Notes
    -----
    Sharing says that voxels of a region are alike, as seen through these units; a coarser dictionary shares more. The order of the
    scan keeps some of the neighbourhood of voxels, not all of it: `p_shifted` is the stricter, and still not exact.
    """
    members = {name: np.flatnonzero(inside & matched) for name, inside in regions.items()}
    members = {name: found for name, found in members.items() if len(found) >= LEAST_VOXELS}
    if not members:
        raise EncodingError(f"No region has {LEAST_VOXELS} matched voxels; consistency needs one.")
    observed = np.array([sharing(unit[found]) for found in members.values()])
    places = np.flatnonzero(matched)
    rank = [np.searchsorted(places, found) for found in members.values()]
    exchanged = np.array([_sharing(unit, places[rng.permutation(len(places))], rank) for _ in range(n_permutations)])
    shifts = rng.integers(1, len(places), n_permutations) if len(places) > 1 else np.zeros(n_permutations, int)
    shifted = np.array([_sharing(unit, np.roll(places, shift), rank) for shift in shifts])
    mean = observed.mean(keepdims=True)
    q = false_discovery_rate(permutation_p(observed, shifted))
    return Consistency(
        shared=dict(zip(members, observed.tolist(), strict=True)),
        chance=dict(zip(members, shifted.mean(axis=0).tolist(), strict=True)),
        q=dict(zip(members, q.tolist(), strict=True)),
        mean=float(mean[0]),
        exchanged=float(exchanged.mean()),
        shifted=float(shifted.mean()),
        p_exchanged=float(permutation_p(mean, exchanged.mean(axis=1, keepdims=True))[0]),
        p_shifted=float(permutation_p(mean, shifted.mean(axis=1, keepdims=True))[0]),
        n_voxels=len(places),
    )


def _sharing(unit: Int[np.ndarray, " voxel"], dealt: Int[np.ndarray, " place"], rank: list[Int[np.ndarray, " member"]]) -> list[float]:
    return [sharing(unit[dealt[found]]) for found in rank]
