"""Does the heatmap point at what really drives the voxel?"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.decomposition import attribute, attribute_images
from mine_core.config import InstrumentConfig
from mine_core.experiments.planted import driving_mask, truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.statistics import bootstrap_mean_interval
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

N_VOXELS, MOST_IMAGES, N_COMPLETENESS = 400, 12, 20
CEILING_FLOOR, SMALL = 0.1, 0.2


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Pointing game over (voxel, held-out image) pairs in which an object that drives the voxel is visible.

    A hit is a heatmap whose highest pixel, after cubic interpolation to the image, lies on such an object (Zhang et al.
    2018, 10.1007/s11263-017-1059-x). Chance is the mean share of the image that those objects cover; the shuffled score
    points with another voxel's heatmap at the same objects. Voxels are a random draw of category voxels with a noise
    ceiling of at least 0.1, whether the encoder predicts them or not.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    truth, rng = truth_of(instrument), np.random.default_rng(5)
    category = truth.of_kind("category")
    category = category[instrument.score.noise_ceiling[category] >= CEILING_FLOOR]
    voxels = np.sort(rng.choice(category, min(N_VOXELS, len(category)), replace=False))
    found = []
    for number, voxel in enumerate(voxels):
        on_progress(number, len(voxels), "comparing heatmaps with what was planted")
        found.append(_pairs(instrument, truth, voxel, rng))
    pairs = np.concatenate(found)
    hit, mass, area, reliable, foreign = pairs.T
    small = area < SMALL
    sure = reliable > 0
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "localisation": instrument.features.backbone.supervision,
        "n_voxels": len(voxels),
        "n_pairs": len(pairs),
        "pointing_game": _mean(hit),
        "pointing_game_interval": _interval(hit),
        "chance": _mean(area),
        "pointing_game_of_another_voxel": _mean(foreign),
        "mass_in_mask": _mean(mass),
        "reliable": {"n_pairs": int(sure.sum()), "pointing_game": _mean(hit[sure]), "chance": _mean(area[sure])},
        "small_objects": {"n_pairs": int(small.sum()), "pointing_game": _mean(hit[small]), "chance": _mean(area[small])},
        "completeness_error_max": _completeness(instrument, rng),
    }


def _pairs(instrument: Instrument, truth: PlantedTruth, voxel: int, rng: np.random.Generator) -> Float[np.ndarray, "pair 5"]:
    """For each pair: hit, share of positive attribution on the object, area of the object, reliability, hit of a stranger."""
    test = instrument.subject.splits.test
    found = {int(s): driving_mask(instrument, truth, int(voxel), int(s)) for s in test}
    masks = {s: mask for s, mask in found.items() if mask is not None and mask.any()}
    present = np.array(list(masks), dtype=np.int64)
    if not len(present):
        return np.empty((0, 5))
    chosen = np.sort(rng.choice(present, min(MOST_IMAGES, len(present)), replace=False))
    stranger = int(rng.choice(np.flatnonzero(instrument.reliable)))
    own, other = (_heat(instrument, chosen, v) for v in (int(voxel), stranger))
    sure = float(instrument.reliable[voxel])
    rows = [
        (points_at(heat, masks[int(s)]), mass_on(heat, masks[int(s)]), masks[int(s)].mean(), sure, points_at(alien, masks[int(s)]))
        for s, heat, alien in zip(chosen, own, other, strict=True)
    ]
    return np.array(rows, np.float64)


def _heat(instrument: Instrument, stimuli: Int[np.ndarray, " image"], voxel: int) -> Float[np.ndarray, "image row col"]:
    return attribute_images(instrument.model, instrument.features, stimuli, voxel, instrument.mean_patches)


def points_at(values: Float[np.ndarray, "row col"], mask: np.ndarray) -> bool:
    """Whether the highest pixel of the interpolated heatmap lies in the mask."""
    smooth = cv2.resize(values.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return bool(mask[np.unravel_index(np.argmax(smooth), smooth.shape)])


def mass_on(values: Float[np.ndarray, "row col"], mask: np.ndarray) -> float:
    """Share of the positive attribution that falls in the mask, each patch counted by how much of it the mask covers."""
    covered = cv2.resize(mask.astype(np.float32), values.shape[::-1], interpolation=cv2.INTER_AREA)
    positive = np.maximum(values, 0)
    return float((positive * covered).sum() / max(positive.sum(), 1e-12))


def _completeness(instrument: Instrument, rng: np.random.Generator) -> float:
    """Largest deviation of the stored parts from the prediction over all voxels and some images, in SD of predictions."""
    stimuli = rng.choice(len(instrument.subject.stimuli), N_COMPLETENESS, replace=False)
    found = [attribute(instrument.model, instrument.features, int(s), instrument.mean_patches).completeness_error for s in stimuli]
    return max(error for error in found if error is not None)


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _interval(values: np.ndarray) -> list[float] | None:
    if not len(values):
        return None
    low, high = bootstrap_mean_interval(values.astype(np.float64), rng=np.random.default_rng(12))
    return [float(low), float(high)]
