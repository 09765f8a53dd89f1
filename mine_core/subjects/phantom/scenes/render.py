"""From a scene graph to pixels and masks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8

from mine_core.errors import SubjectError
from mine_core.subjects.phantom.scenes import draw_animals, draw_bodies, draw_faces, draw_food, draw_others, draw_places, draw_tools
from mine_core.subjects.phantom.scenes.backgrounds import paint_background
from mine_core.subjects.phantom.scenes.canvas import Pen, drop_shadow, relief
from mine_core.subjects.phantom.scenes.concepts import BACKGROUND_INDEX, CONCEPTS, FACES, LAYOUT
from mine_core.subjects.phantom.scenes.dice import OBJECT_TAG, Dice
from mine_core.subjects.phantom.scenes.graph import Scene, SceneObject

SMALLEST, LARGEST = 32, 768
_HALF = 127

Draw = Callable[[Pen, Mapping[str, str], Dice], None]
_MODULES = (draw_faces, draw_bodies, draw_places, draw_food, draw_animals, draw_tools, draw_others)
_DRAW: dict[str, Draw] = {
    concept.name: next(getattr(module, f"draw_{concept.name}") for module in _MODULES if hasattr(module, f"draw_{concept.name}"))
    for concept in CONCEPTS
}


@dataclass(frozen=True)
class RenderedScene:
    """A drawn scene: RGB pixels, the index of the front object at each pixel (-1: background), visible share per object."""

    image: UInt8[np.ndarray, "size size 3"]
    object_map: Int8[np.ndarray, "size size"]
    visible: Float[np.ndarray, " object"]


def render(scene: Scene, size: int = 192) -> RenderedScene:
    """Draw a scene: a pure function of its graph and of `size` (pixels, 32 to 768).

    Objects are drawn back to front with a soft shadow and a relief lit from the scene's side; edges are anti-aliased, and
    a pixel belongs to the front object that covers more than half of it.

    Raises
    ------
    SubjectError : if `size` is out of range.
    """
    if not SMALLEST <= size <= LARGEST:
        raise SubjectError(f"Scenes were asked for at {size} pixels; they are drawn at {SMALLEST} to {LARGEST}.")
    image = paint_background(scene.background, size, Dice(OBJECT_TAG, scene.seed, block=96))
    object_map = np.full((size, size), -1, np.int8)
    drawn = np.zeros(len(scene.objects))
    for index, item in enumerate(scene.objects):
        drawn[index] = _draw_object(image, object_map, index, item, scene.light)
    seen = np.bincount(object_map[object_map >= 0], minlength=len(scene.objects))[: len(scene.objects)]
    visible = seen / np.maximum(drawn, 1)
    return RenderedScene(np.ascontiguousarray(image[..., :3]), object_map, visible)


def render_isolated(
    concept: str, attributes: Mapping[str, str], *, seed: int, size: int = 192, background: str = "office"
) -> RenderedScene:
    """Draw one object alone, large and in the middle; raises SubjectError for an unknown concept or background."""
    if concept not in LAYOUT or background not in BACKGROUND_INDEX:
        raise SubjectError(f"'{concept}' on '{background}' was asked for; see CONCEPTS and BACKGROUNDS for what there is.")
    item = SceneObject(concept, 0.5, 0.52, 0.8 if concept in FACES else 0.7, tuple(attributes.items()), seed)
    return render(Scene(seed, background, (item,), 1), size)


def masks(rendered: RenderedScene) -> Bool[np.ndarray, "object size size"]:
    """Visible pixels of each object; disjoint by construction."""
    return rendered.object_map[None] == np.arange(len(rendered.visible), dtype=np.int8)[:, None, None]


def _draw_object(image: np.ndarray, object_map: np.ndarray, index: int, item: SceneObject, light: int) -> int:
    """Draw one object in place; returns how many pixels its silhouette has inside the frame."""
    size = image.shape[0]
    scale, x, y = item.size * size / 2, item.x * size, item.y * size
    layout = LAYOUT[item.concept]
    if layout.ground and item.concept not in FACES:
        drop_shadow(image, x, y + layout.half_height * scale * 0.97, layout.half_width * scale * 1.05, 0.13 * scale)
        image[..., 3] = 0
    _DRAW[item.concept](Pen(image, x, y, scale), dict(item.attributes), Dice(OBJECT_TAG, item.seed))
    reach = 1.3 * scale + 2
    top, bottom = max(0, int(y - reach)), min(size, int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(size, int(x + reach) + 1)
    region = image[top:bottom, left:right]
    silhouette = region[..., 3].copy()
    relief(region, silhouette, max(3, int(scale * 0.3)), light)
    covered = silhouette > _HALF
    object_map[top:bottom, left:right][covered] = index
    region[..., 3] = 0
    return int(np.count_nonzero(covered))
