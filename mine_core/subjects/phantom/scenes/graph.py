"""The scene graph: which objects, where, with which attributes; and the labels that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mine_core.subjects.phantom.scenes.concepts import (
    ATTRIBUTES,
    BACKGROUND_INDEX,
    BACKGROUNDS,
    CONCEPT_INDEX,
    CONCEPTS,
    LARGE_FROM,
)

CENTRE_WITHIN = 0.13


@dataclass(frozen=True)
class SceneObject:
    """One object: centre (x, y) and larger side `size` as fractions of the image (y down), drawn attributes, seed of details."""

    concept: str
    x: float
    y: float
    size: float
    attributes: tuple[tuple[str, str], ...]
    seed: int

    @property
    def labels(self) -> Mapping[str, str]:
        """Drawn attributes together with the two that follow from the geometry, `size` and `position`."""
        size = "large" if self.size >= LARGE_FROM else "small"
        return dict(self.attributes) | {"size": size, "position": position_name(self.x, self.y)}


@dataclass(frozen=True)
class Scene:
    """A background and 1 to 4 objects from back to front; `light` is +1 for light from the left and -1 from the right."""

    seed: int
    background: str
    objects: tuple[SceneObject, ...]
    light: int

    @property
    def labels(self) -> Mapping[str, str]:
        """The two attributes of the surroundings, `indoor` and `natural`."""
        background = BACKGROUNDS[BACKGROUND_INDEX[self.background]]
        return {
            "indoor": "indoor" if background.indoor else "outdoor",
            "natural": "built" if background.built else "natural",
        }


@dataclass(frozen=True)
class SceneLabels:
    """A scene as numbers: concept presence, background, and per object its concept and attribute values (-1 = does not apply).

    Columns follow `CONCEPTS` and `ATTRIBUTES`; values index `ATTRIBUTES[name]`; rows follow `scene.objects`.
    """

    present: Bool[np.ndarray, " concept"]
    background: int
    concepts: Int[np.ndarray, " object"]
    attributes: Int[np.ndarray, "object attribute"]


def position_name(x: float, y: float) -> str:
    """Name of a place in the image: centre within 0.13 of the middle, else the side it is farthest towards."""
    dx, dy = x - 0.5, y - 0.5
    if max(abs(dx), abs(dy)) < CENTRE_WITHIN:
        return "centre"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def scene_labels(scene: Scene) -> SceneLabels:
    """Labels of a scene for supervision and evaluation, read from the graph alone (not from pixels)."""
    concepts = np.array([CONCEPT_INDEX[item.concept] for item in scene.objects], dtype=np.int64)
    present = np.zeros(len(CONCEPTS), dtype=bool)
    present[concepts] = True
    attributes = np.full((len(scene.objects), len(ATTRIBUTES)), -1, dtype=np.int64)
    surroundings = scene.labels
    for row, item in enumerate(scene.objects):
        labels = {**item.labels, **surroundings}
        for column, (name, values) in enumerate(ATTRIBUTES.items()):
            if name in labels:
                attributes[row, column] = values.index(labels[name])
    return SceneLabels(present, BACKGROUND_INDEX[scene.background], concepts, attributes)
