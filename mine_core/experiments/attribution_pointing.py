"""Pointing game, mass in mask and receptive fields: heatmaps beside what was planted in a phantom."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.attribution.receptive_field import covariance_shares, field_of
from mine_core.errors import EncodingError
from mine_core.experiments.attribution_curves import difference
from mine_core.experiments.planted import driving_mask
from mine_core.instrument import Instrument
from mine_core.subjects.phantom.scenes.concepts import CONCEPTS
from mine_core.subjects.phantom.truth import PlantedTruth

N_VOXELS, MOST_IMAGES, CEILING_FLOOR, SMALL = 400, 12, 0.1, 0.2
N_FIELD_VOXELS, N_FIELD_IMAGES = 200, 600
SIZES = {"below 5 %": (0.0, 0.05), "5 to 10 %": (0.05, 0.1), "10 to 20 %": (0.1, 0.2), "20 % and more": (0.2, 1.01)}
HeatOf = Callable[[int, int], Float[np.ndarray, "row col"]]


class Planted(NamedTuple):
    """A voxel, a stimulus in which an object that drives it is visible, where, and another voxel's number."""

    voxel: int
    stimulus: int
    mask: Bool[np.ndarray, "size size"]
    stranger: int


def planted_pairs(instrument: Instrument, truth: PlantedTruth, rng: np.random.Generator) -> list[Planted]:
    """Draw pairs: category voxels with a noise ceiling of at least 0.1, whether predicted or not, and at most 12 test stimuli each."""
    category = truth.of_kind("category")
    category = category[instrument.score.noise_ceiling[category] >= CEILING_FLOOR]
    voxels = np.sort(rng.choice(category, min(N_VOXELS, len(category)), replace=False))
    strangers, test = np.flatnonzero(instrument.reliable), instrument.subject.splits.test
    pairs: list[Planted] = []
    for voxel in voxels:
        found = {int(s): driving_mask(instrument, truth, int(voxel), int(s)) for s in test}
        masks = {s: mask for s, mask in found.items() if mask is not None and mask.any()}
        chosen = np.sort(rng.permutation(np.array(list(masks), np.int64))[:MOST_IMAGES])
        stranger = int(rng.choice(strangers))
        pairs += [Planted(int(voxel), int(s), masks[int(s)], stranger) for s in chosen]
    return pairs


class Scored(NamedTuple):
    """Of each pair: hit of the highest pixel, share of the positive attribution on the object, and area of the object."""

    hit: Float[np.ndarray, " pair"]
    mass: Float[np.ndarray, " pair"]
    area: Float[np.ndarray, " pair"]


def score_pairs(pairs: Sequence[Planted], heat: HeatOf) -> Scored:
    """Compare heatmaps `heat(stimulus, voxel)` with the masks of pairs."""
    rows = [(points_at(values, pair.mask), mass_on(values, pair.mask), pair.mask.mean()) for pair, values in _heated(pairs, heat)]
    hit, mass, area = np.array(rows, np.float64).reshape(-1, 3).T
    return Scored(hit, mass, area)


def _heated(pairs: Sequence[Planted], heat: HeatOf) -> Any:
    return ((pair, heat(pair.stimulus, pair.voxel)) for pair in pairs)


def pointing_entry(
    pairs: Sequence[Planted], scored: Scored, reliable: Bool[np.ndarray, " voxel"], rng: np.random.Generator
) -> dict[str, Any]:
    """Hits, chance and mass: over all pairs, reliable voxels, and reliable voxels with small objects; intervals resample images."""
    stimuli = np.array([pair.stimulus for pair in pairs])
    sure = np.array([bool(reliable[pair.voxel]) for pair in pairs], bool)
    small = sure & (scored.area < SMALL)
    return {
        **_summary(scored, np.ones(len(pairs), bool), stimuli, rng),
        "reliable": _summary(scored, sure, stimuli, rng),
        "small_objects": _summary(scored, small, stimuli, rng),
    }


def _summary(scored: Scored, chosen: np.ndarray, stimuli: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    if not chosen.any():
        return {"n_pairs": 0, "pointing_game": None, "pointing_game_interval": None, "chance": None, "mass_in_mask": None}
    return {
        "n_pairs": int(chosen.sum()),
        "pointing_game": float(scored.hit[chosen].mean()),
        "pointing_game_interval": difference(scored.hit[chosen], stimuli[chosen], rng)["interval"],
        "chance": float(scored.area[chosen].mean()),
        "mass_in_mask": float(scored.mass[chosen].mean()),
    }


def breakdown(instrument: Instrument, truth: PlantedTruth, pairs: Sequence[Planted], scored: Scored) -> Mapping[str, Any]:
    """Hits of reliable voxels by concept (the one that drives the voxel most), size of the object, and region."""
    sure = np.array([bool(instrument.reliable[pair.voxel]) for pair in pairs])
    concept = np.array([CONCEPTS[int(np.argmax(truth.concept_weights[pair.voxel]))].name for pair in pairs])
    voxels, regions = np.array([pair.voxel for pair in pairs]), instrument.subject.responses.voxels
    sets = {
        "by_concept": {name: concept == name for name in sorted(set(concept))},
        "by_size": {name: (scored.area >= low) & (scored.area < high) for name, (low, high) in SIZES.items()},
        "by_region": {name: inside[voxels] for name, inside in zip(regions.regions, regions.membership, strict=True)},
    }
    return {
        kind: {
            name: {
                "n_pairs": int((sure & chosen).sum()),
                "pointing_game": float(scored.hit[sure & chosen].mean()),
                "chance": float(scored.area[sure & chosen].mean()),
                "mass_in_mask": float(scored.mass[sure & chosen].mean()),
            }
            for name, chosen in members.items()
            if (sure & chosen).any()
        }
        for kind, members in sets.items()
    }


def points_at(values: Float[np.ndarray, "row col"], mask: np.ndarray) -> bool:
    """Whether the highest pixel of the interpolated heatmap lies in the mask."""
    smooth = cv2.resize(values.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return bool(mask[np.unravel_index(np.argmax(smooth), smooth.shape)])


def mass_on(values: Float[np.ndarray, "row col"], mask: np.ndarray) -> float:
    """Share of the positive attribution that falls in the mask, each patch counted by how much of it the mask covers."""
    covered = cv2.resize(mask.astype(np.float32), values.shape[::-1], interpolation=cv2.INTER_AREA)
    positive = np.maximum(values, 0)
    return float((positive * covered).sum() / max(positive.sum(), 1e-12))


def receptive_field_error(
    instrument: Instrument, truth: PlantedTruth, heat: HeatOf, train: Int[np.ndarray, " image"], rng: np.random.Generator
) -> dict[str, Any]:
    """Distance in patches between estimated and planted centres of reliable early voxels, and with the planted ones shuffled.

    Estimated by `covariance_shares` of heatmaps `heat(stimulus, voxel)` over these training stimuli. Null: the planted centres of
    other early voxels.
    """
    early = truth.of_kind("early")
    early = np.sort(rng.permutation(early[instrument.reliable[early]])[:N_FIELD_VOXELS])
    grid, found = np.array(instrument.features.backbone.grid), []
    for voxel in early:
        values = np.stack([heat(int(stimulus), int(voxel)) for stimulus in train])
        try:
            estimate = field_of(covariance_shares(values, instrument.measured(int(voxel))[train]))
        except EncodingError:
            continue
        found.append((estimate.x, estimate.y, estimate.size, int(voxel)))
    if not found:
        return {"n_voxels": 0, "median": None}
    estimates = np.array([item[:3] for item in found])
    planted = np.asarray(truth.receptive_field[[item[3] for item in found]], np.float64)
    apart = np.hypot(*((estimates[:, :2] - planted[:, :2]) * grid[::-1]).T)
    shuffled = np.hypot(*((estimates[:, :2] - rng.permutation(planted[:, :2])) * grid[::-1]).T)
    return {
        "n_voxels": len(found),
        "n_images": len(train),
        "median": float(np.median(apart)),
        "interval": _median_interval(apart, rng),
        "null_median": float(np.median(shuffled)),
        "size_correlation": _correlation(estimates[:, 2], planted[:, 2], rng),
        "median_size": [float(np.median(sizes[:, 2])) for sizes in (estimates, planted)],
        "unit": "patches",
    }


def _correlation(found: Float[np.ndarray, " voxel"], truth: Float[np.ndarray, " voxel"], rng: np.random.Generator) -> Any:
    """Pearson's r with a percentile interval that resamples voxels; None for fewer than three."""
    if len(found) < 3:
        return None
    drawn = [np.corrcoef(found[rows], truth[rows])[0, 1] for rows in rng.integers(0, len(found), (1000, len(found)))]
    ends = [float(end) for end in np.nanquantile(drawn, [0.025, 0.975])]
    return {"r": float(np.corrcoef(found, truth)[0, 1]), "interval": ends}


def _median_interval(values: Float[np.ndarray, " voxel"], rng: np.random.Generator) -> list[float]:
    drawn = np.median(values[rng.integers(0, len(values), (1000, len(values)))], axis=1)
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]


def pool_of(stimuli: Sequence[int], n: int, rng: np.random.Generator) -> Int[np.ndarray, " image"]:
    """A fixed modest set of stimuli."""
    return np.sort(rng.permutation(np.unique(stimuli))[:n])
