"""What a phantom's planted truth says of its voxels and stimuli, in the terms the experiments need."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from mine_core.errors import SubjectError
from mine_core.instrument import Instrument
from mine_core.subjects.phantom.scenes.concepts import CONCEPT_INDEX
from mine_core.subjects.phantom.truth import PlantedTruth, load_truth, object_masks, scene_of

DRIVING_SHARE = 0.5


def truth_of(instrument: Instrument) -> PlantedTruth:
    """Open the planted truth of a phantom; raises SubjectError for a subject whose answer no one knows."""
    if instrument.truth_path is None:
        raise SubjectError(f"Subject '{instrument.subject.name}' has no planted truth; this measurement needs the phantom.")
    return load_truth(instrument.truth_path)


def driving_concepts(truth: PlantedTruth, voxel: int) -> Int[np.ndarray, " concept"]:
    """Concepts that drive a voxel at least half as much as its strongest one."""
    weights = truth.concept_weights[voxel]
    return np.flatnonzero((weights > 0) & (weights >= DRIVING_SHARE * weights.max()))


@lru_cache(maxsize=4096)
def _masks(stimulus: str, size: int) -> tuple[tuple[int, ...], Bool[np.ndarray, "object size size"]]:
    concepts = tuple(CONCEPT_INDEX[item.concept] for item in scene_of(stimulus).objects)
    return concepts, object_masks(stimulus, size)


def driving_mask(instrument: Instrument, truth: PlantedTruth, voxel: int, stimulus: int) -> Bool[np.ndarray, "size size"] | None:
    """Visible pixels of the objects in a stimulus that drive a voxel, or None if there are none."""
    size = instrument.subject.stimuli.images.shape[1]
    concepts, masks = _masks(instrument.subject.stimuli.ids[stimulus], size)
    chosen = np.isin(concepts, driving_concepts(truth, voxel))
    return np.asarray(masks[chosen].any(axis=0)) if chosen.any() else None
