"""The cortex that a phantom is planted in, and which tuning its regions are given."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial import cKDTree

from mine_core.errors import SubjectError
from mine_core.types import VoxelIndex

N_WAVES = 64
PATCH_MM = 9.0

# Share of voxels per group of concepts; "early" is contrast energy. Where a region has several names the first listed here holds.
# 15-25 % of a category region's voxels are tuned to something else, as in real localisers with a liberal threshold
# (NSD Data Manual: floc regions are drawn at t > 0).
REGION_TUNING: dict[str, dict[str, float]] = {
    "V1": {"early": 1.0},
    "V2": {"early": 1.0},
    "V3": {"early": 1.0},
    "OFA": {"faces": 0.80, "animals": 0.10, "bodies": 0.05, "words": 0.05},
    "FFA": {"faces": 0.80, "animals": 0.10, "bodies": 0.05, "words": 0.05},
    "EBA": {"bodies": 0.82, "faces": 0.06, "tools and vehicles": 0.08, "animals": 0.04},
    "PPA": {"places": 0.82, "other": 0.08, "food": 0.05, "words": 0.05},
    "OPA": {"places": 0.80, "tools and vehicles": 0.08, "other": 0.12},
    "RSC": {"places": 0.84, "other": 0.08, "tools and vehicles": 0.08},
    "IPS": {"tools and vehicles": 0.80, "words": 0.05, "places": 0.15},
}
# Unnamed cortex takes after the named region it is nearest to; words lie beside the left FFA, food on both sides of it
# (Jain et al. 2023, 10.1038/s42003-023-04546-2).
SURROUND_TUNING: dict[str, dict[str, float]] = {
    "V1": {"early": 0.30, "places": 0.25, "other": 0.25, "animals": 0.20},
    "V2": {"early": 0.30, "food": 0.20, "other": 0.25, "animals": 0.25},
    "V3": {"early": 0.25, "food": 0.20, "other": 0.25, "animals": 0.30},
    "OFA": {"animals": 0.40, "faces": 0.20, "food": 0.20, "words": 0.20},
    "FFA": {"food": 0.30, "animals": 0.35, "faces": 0.15, "words": 0.20},
    "EBA": {"bodies": 0.30, "tools and vehicles": 0.30, "animals": 0.20, "other": 0.20},
    "PPA": {"places": 0.30, "food": 0.30, "other": 0.30, "words": 0.10},
    "OPA": {"places": 0.30, "other": 0.35, "tools and vehicles": 0.35},
    "RSC": {"places": 0.40, "other": 0.35, "words": 0.25},
    "IPS": {"tools and vehicles": 0.50, "other": 0.30, "words": 0.20},
}
LEFT_SURROUND_TUNING: dict[str, dict[str, float]] = {
    "OFA": {"words": 0.50, "animals": 0.25, "faces": 0.10, "food": 0.15},
    "FFA": {"words": 0.50, "food": 0.25, "animals": 0.15, "faces": 0.10},
}
# RF size (sigma, fraction of the image width) at the centre of gaze and its growth with eccentricity, after the increase
# along the visual hierarchy of Dumoulin & Wandell 2008, 10.1016/j.neuroimage.2007.09.034.
EARLY_RF: dict[str, tuple[float, float]] = {
    "V1": (0.040, 0.10),
    "V2": (0.055, 0.16),
    "V3": (0.080, 0.22),
}
BESIDE_EARLY_RF = (0.11, 0.26)


@dataclass(frozen=True)
class PhantomCortex:
    """The voxels that a phantom is planted in, as the cortex layer gives them.

    `left` is True in the left hemisphere (which sees the right visual field). `retinotopic[voxel] = (u, v)` is smooth along
    the cortical sheet and NaN outside the early visual areas: u from -1 (ventral, the upper visual field) to 1 (dorsal, the
    lower), v from 0 (centre of gaze) to 1 (periphery). `positions` are in mm, in any frame; only distances are used.
    """

    voxels: VoxelIndex
    left: Bool[np.ndarray, " voxel"]
    retinotopic: Float[np.ndarray, "voxel 2"]
    positions: Float[np.ndarray, "voxel 3"]

    def __len__(self) -> int:
        return len(self.voxels)


def check_cortex(cortex: PhantomCortex) -> None:
    """Refuse a cortex that no phantom can be planted in; raises SubjectError with the numbers found."""
    known = [name for name in cortex.voxels.regions if name in REGION_TUNING]
    if not len(cortex) or not known:
        raise SubjectError(
            f"The cortex has {len(cortex)} voxels and regions {', '.join(cortex.voxels.regions) or 'none'}; "
            f"a phantom needs voxels and one of {', '.join(REGION_TUNING)}."
        )
    outside = np.argwhere((cortex.retinotopic < (-1, 0)) | (cortex.retinotopic > 1))
    if len(outside) or not np.isfinite(cortex.positions).all():
        raise SubjectError(
            f"{len(outside)} retinotopic coordinates are out of range (u from -1 to 1, v from 0 to 1) and "
            f"{int((~np.isfinite(cortex.positions)).sum())} positions are not finite; give NaN only where there is no retinotopy."
        )


def region_of(cortex: PhantomCortex) -> tuple[tuple[str, ...], Bool[np.ndarray, " voxel"]]:
    """Name of each voxel's own or, where it has none, nearest region that `REGION_TUNING` knows; and True where it is its own."""
    known = [name for name in REGION_TUNING if name in cortex.voxels.regions]
    inside = np.stack([cortex.voxels.membership[cortex.voxels.regions.index(name)] for name in known])
    named = np.asarray(inside.any(axis=0))
    if not named.any():
        raise SubjectError(f"None of the cortex's {len(cortex)} voxels lies in {', '.join(known)}; check its region membership.")
    first = inside.argmax(axis=0)
    members = np.flatnonzero(named)
    nearest = cKDTree(cortex.positions[members]).query(cortex.positions)[1]
    return tuple(known[index] for index in first[members[nearest]]), named


def tuning_shares(region: str, own: bool, left: bool) -> dict[str, float]:
    """Probability of each kind of tuning for a voxel in (`own`) or beside a region."""
    if own:
        return REGION_TUNING[region]
    if left and region in LEFT_SURROUND_TUNING:
        return LEFT_SURROUND_TUNING[region]
    return SURROUND_TUNING[region]


def smooth_field(
    positions: Float[np.ndarray, "voxel 3"], *, length_mm: float, rng: np.random.Generator
) -> Float[np.ndarray, " voxel"]:
    """A Gaussian random field of unit variance whose correlation falls as exp(-d² / (2 length²)) with distance d in mm.

    Sum of random waves (Rahimi & Recht 2007, Random features for large-scale kernel machines).
    """
    waves = rng.normal(scale=1.0 / length_mm, size=(3, N_WAVES))
    phases = rng.uniform(0, 2 * np.pi, size=N_WAVES)
    return np.sqrt(2.0 / N_WAVES) * np.cos(positions @ waves + phases).sum(axis=1)


def ranks(values: Float[np.ndarray, " voxel"]) -> Float[np.ndarray, " voxel"]:
    """Rank of each value as a number in (0, 1), evenly spaced."""
    order = np.empty(len(values))
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return (order + 0.5) / len(values)


def early_receptive_fields(
    cortex: PhantomCortex, regions: tuple[str, ...], *, rng: np.random.Generator
) -> Float32[np.ndarray, "voxel 3"]:
    """Receptive fields (x, y, sigma) in fractions of the image width, x to the right and y down, from the map of the visual field.

    u gives the polar angle, v the eccentricity, sparser towards the periphery as in cortex (the complex logarithm of
    Schwartz 1977, 10.1007/BF01885636): angle = -u π/2 from the horizontal meridian of the opposite half-field,
    eccentricity = 0.5 (e^(1.5 v) - 1) / (e^1.5 - 1). Where u and v are unknown they are smooth random fields.
    """
    drawn = [ranks(smooth_field(cortex.positions, length_mm=PATCH_MM, rng=rng)) for _ in range(2)]
    unknown = np.isnan(cortex.retinotopic)
    u, v = np.where(unknown, np.stack([2 * drawn[0] - 1, drawn[1]], axis=1), cortex.retinotopic).T
    angle = -u * np.pi / 2
    eccentricity = 0.5 * np.expm1(1.5 * v) / np.expm1(1.5)
    scatter = rng.normal(scale=0.015, size=(len(cortex), 2))
    side = np.where(cortex.left, 1.0, -1.0)
    x = 0.5 + side * eccentricity * np.cos(angle) + scatter[:, 0]
    y = 0.5 - eccentricity * np.sin(angle) + scatter[:, 1]
    base, growth = np.array([EARLY_RF.get(name, BESIDE_EARLY_RF) for name in regions]).T
    sigma = (base + growth * eccentricity) * rng.lognormal(sigma=0.15, size=len(cortex))
    return np.stack([x, y, sigma], axis=1).astype(np.float32)


def broad_receptive_fields(
    cortex: PhantomCortex, low: float, high: float, *, rng: np.random.Generator
) -> Float32[np.ndarray, "voxel 3"]:
    """Receptive fields (x, y, sigma) of category voxels: sigma from `low` to `high`, centres a little to the opposite side."""
    side = np.where(cortex.left, 1.0, -1.0)
    x = 0.5 + 0.10 * side + 0.07 * smooth_field(cortex.positions, length_mm=PATCH_MM, rng=rng)
    y = 0.5 + 0.07 * smooth_field(cortex.positions, length_mm=PATCH_MM, rng=rng)
    sigma = low + (high - low) * ranks(smooth_field(cortex.positions, length_mm=PATCH_MM, rng=rng) + rng.normal(size=len(cortex)))
    return np.stack([x, y, sigma], axis=1).astype(np.float32)


def place_near(
    wanted: int,
    eligible: Bool[np.ndarray, " voxel"],
    inside: Bool[np.ndarray, " voxel"],
    cortex: PhantomCortex,
    *,
    share_inside: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, " chosen"]:
    """`wanted` eligible voxels in and around the voxels `inside`: at most `share_inside` of those inside, the rest beside them."""
    within, beside = np.flatnonzero(eligible & inside), np.flatnonzero(eligible & ~inside)
    n_within = min(wanted, int(round(share_inside * len(within))))
    chosen = rng.choice(within, size=n_within, replace=False)
    if not inside.any() or n_within == wanted or not len(beside):
        return np.sort(chosen)
    distance = cKDTree(cortex.positions[inside]).query(cortex.positions[beside])[0]
    # a jitter keeps the border ragged, so that other tuning remains between
    order = np.argsort(distance + rng.exponential(scale=4.0, size=len(beside)), kind="stable")
    return np.sort(np.concatenate([chosen, beside[order[: wanted - n_within]]]))
