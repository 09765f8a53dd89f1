"""What an edit would do to the planted brain: the noiseless response to the scene that it makes."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

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
    ncsnr = float(truth.ncsnr[voxel])
    if ncsnr <= 0:
        return 0.0
    scale = ncsnr / np.sqrt(ncsnr**2 + 1 / 3)  # SD of the signal in the units of responses
    return float((drive(after, truth, chosen) - drive(before, truth, chosen))[0] / scale)


def _inserted(edit: ImageEdit) -> SceneObject | None:
    """The object that an insertion put in, with the attributes that it has in the scene it was cut from."""
    word, source = str(edit.provenance.get("word", "")), str(edit.provenance.get("exemplar", ""))
    if word not in CONCEPT_INDEX:
        return None
    drawn = [item for item in scene_of(source).objects if item.concept == word]
    if len(drawn) != 1:
        return None
    top, left, bottom, right = _box(edit.edit_mask)
    side = len(edit.edit_mask)
    x, y = (left + right) / 2 / side, (top + bottom) / 2 / side
    return replace(drawn[0], x=float(x), y=float(y), size=float(max(bottom - top, right - left) / side))


def _box(region: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1
