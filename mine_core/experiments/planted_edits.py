"""What an edit would do to the planted brain: the noiseless response to the scene that it makes."""

from dataclasses import replace

import cv2
import numpy as np

from mine_core.subjects.phantom.responses import signal_scale
from mine_core.subjects.phantom.scenes.concepts import CONCEPT_INDEX
from mine_core.subjects.phantom.scenes.graph import Scene, SceneObject
from mine_core.subjects.phantom.truth import PlantedTruth, drive, object_masks, scene_of
from mine_core.types import ImageEdit

GONE, UNTOUCHED = 0.7, 0.1  # share of an object under the mask from which it is gone, and up to which it is all there


def true_shift(truth: PlantedTruth, stimulus: str, edit: ImageEdit, voxel: int) -> float:
    """Change of a voxel's noiseless response by an edit, in SD of its signal over training stimuli; NaN where no scene says.

    Objects that the mask covers by 70 % are taken out of the scene; one that it covers by 10 to 70 % makes the edit one that no
    scene describes. What was inserted joins the scene where the mask lies, as drawn in the scene that it was cut from.
    """
    scene = scene_of(stimulus)
    covered = np.array([(mask & edit.edit_mask).sum() / max(1, mask.sum()) for mask in object_masks(stimulus, len(edit.original))])
    if ((covered > UNTOUCHED) & (covered < GONE)).any():
        return float("nan")
    objects = tuple(item for item, share in zip(scene.objects, covered, strict=True) if share <= UNTOUCHED)
    if edit.instruction.startswith("insert"):
        added = _inserted(edit)
        if added is None:
            return float("nan")
        objects = (*objects, added)
    elif len(objects) == len(scene.objects):
        return float("nan")
    return _in_sd(truth, scene, replace(scene, objects=objects), voxel)


def _in_sd(truth: PlantedTruth, before: Scene, after: Scene, voxel: int) -> float:
    chosen = np.array([voxel])
    scale = float(signal_scale(truth.ncsnr[chosen])[0])
    return float((drive(after, truth, chosen) - drive(before, truth, chosen))[0] / scale) if scale > 0 else 0.0


def _inserted(edit: ImageEdit) -> SceneObject | None:
    """The object that an insertion put in, with the attributes that it has in the scene it was cut from."""
    word, source = str(edit.provenance.get("word", "")), str(edit.provenance.get("exemplar", ""))
    if word not in CONCEPT_INDEX:
        return None
    drawn = [item for item in scene_of(source).objects if item.concept == word]
    if len(drawn) != 1:
        return None
    left, top, wide, tall = cv2.boundingRect(edit.edit_mask.astype(np.uint8))
    side = len(edit.edit_mask)
    return replace(drawn[0], x=(left + wide / 2) / side, y=(top + tall / 2) / side, size=max(tall, wide) / side)
