"""What the phantom's editor learns from: rendered scenes with and without an object, under masks like those it will be given.

The true picture behind an object is the same scene drawn without it, so removal and insertion are both supervised exactly.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch.utils.data import Dataset

from mine_core.counterfactual.asked import GROUP_NOUNS
from mine_core.counterfactual.windows import SURROUNDINGS, cut, cut_mask, whole_cells, window_around
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.captions import with_article
from mine_core.subjects.phantom.scenes.concepts import DRAWN, LAYOUT

SCENE_SIZE = 192
REMOVED = "background"  # the prompt that asks for what is behind
FACE_WEIGHT = 2.5  # faces have most to be told apart
LEAST_VISIBLE = 0.97
MOST_OF_IMAGE = 0.6
INSERTIONS = 2  # regions under which each object is inserted
P_REMOVAL, P_NOTHING = 0.5, 0.2
P_BLOB, P_OVAL = 0.12, 0.4  # of the regions; the rest are boxes
MARGIN = 0.04  # between an object and its region, of the object's side
EDGE = 6.0  # pixels by which a region may reach beyond the scene and be cut off
_COUNTS = (1, 1, 2, 2, 2, 3, 3)
_MOST_COVERED = 0.3


@dataclass(frozen=True)
class EditPair:
    """One edit as it should come out: the picture after it, where it was allowed, and what was asked.

    `before` is the picture that is edited, equal to `after` outside `edit_mask`; `item` is what was inserted, None where
    something was removed.
    """

    before: UInt8[np.ndarray, "size size 3"]
    after: UInt8[np.ndarray, "size size 3"]
    edit_mask: Bool[np.ndarray, "size size"]
    item: scenes.SceneObject | None
    background: str


def rng_of(seed: int) -> np.random.Generator:
    """Randomness of the scene of a seed, which it draws first, and of the regions of its edits."""
    return np.random.default_rng([0xED17, seed])


def draw_scene(rng: np.random.Generator, seed: int) -> scenes.Scene:
    """A scene of one to three objects, any of them anywhere: an editor is asked for things where they do not belong, too."""
    names = [concept.name for concept in scenes.CONCEPTS]
    weights = np.array([FACE_WEIGHT if concept.group == "faces" else 1.0 for concept in scenes.CONCEPTS])
    count = int(rng.choice(_COUNTS))
    objects: list[scenes.SceneObject] = []
    for name in rng.choice(names, count, replace=False, p=weights / weights.sum()):
        placed = _placed(str(name), objects, rng)
        if placed is not None:
            objects.append(placed)
    background = scenes.BACKGROUNDS[rng.integers(len(scenes.BACKGROUNDS))].name
    return scenes.Scene(seed, background, tuple(objects), 1 if rng.random() < 0.5 else -1)


def _placed(name: str, others: list[scenes.SceneObject], rng: np.random.Generator) -> scenes.SceneObject | None:
    layout = LAYOUT[name]
    drawn = tuple((attribute, str(rng.choice(values))) for attribute, values in DRAWN.get(name, {}).items())
    for _ in range(12):
        size = rng.uniform(0.9 * layout.smallest, 1.1 * layout.largest)
        half = np.array([layout.half_width, layout.half_height]) * size / 2
        room = np.maximum(0.5 - 0.9 * half, 0.0)
        x, y = 0.5 + rng.uniform(-room, room)
        item = scenes.SceneObject(name, float(x), float(y), float(size), drawn, int(rng.integers(2**32)))
        if all(_overlap(item, other) <= _MOST_COVERED for other in others):
            return item
    return None


def _overlap(first: scenes.SceneObject, second: scenes.SceneObject) -> float:
    """Share of the smaller box that lies in the other."""
    halves = [np.array([LAYOUT[item.concept].half_width, LAYOUT[item.concept].half_height]) * item.size / 2 for item in (first, second)]
    apart = np.abs([first.x - second.x, first.y - second.y])
    shared = np.clip(np.minimum(halves[0] + halves[1] - apart, 2 * np.minimum(*halves)), 0, None)
    return float(shared.prod() / min(4 * half.prod() for half in halves))


def pairs_of(seed: int) -> list[EditPair]:
    """All edits of the scene of this seed: each object inserted, each removed, and a place where nothing was."""
    rng = rng_of(seed)
    scene = draw_scene(rng, seed)
    if not scene.objects:
        return []
    full = scenes.render(scene, SCENE_SIZE)
    pairs = []
    for index, item in enumerate(scene.objects):
        rest = tuple(other for number, other in enumerate(scene.objects) if number != index)
        without = scenes.render(scenes.Scene(scene.seed, scene.background, rest, scene.light), SCENE_SIZE).image
        silhouette = full.object_map == index
        if full.visible[index] >= LEAST_VISIBLE:
            for _ in range(INSERTIONS):
                mask = insertion_region(silhouette, rng)
                pairs.append(_pair(without, full.image, mask, item, scene.background))
        if rng.random() < P_REMOVAL:
            mask = removal_region(silhouette, rng)
            pairs.append(_pair(full.image, without, mask, None, scene.background))
    if rng.random() < P_NOTHING:
        pairs.append(_pair(full.image, full.image, somewhere(rng), None, scene.background))
    return [pair for pair in pairs if 64 <= pair.edit_mask.sum() <= MOST_OF_IMAGE * pair.edit_mask.size]


def _pair(before: np.ndarray, after: np.ndarray, mask: np.ndarray, item: scenes.SceneObject | None, background: str) -> EditPair:
    return EditPair(before, np.where(mask[..., None], after, before), mask, item, background)


def insertion_region(silhouette: Bool[np.ndarray, "size size"], rng: np.random.Generator) -> Bool[np.ndarray, "size size"]:
    """A region to insert into, as somebody would mark it: a box or an oval of any aspect, or a blob, that the object just fits.

    The object lies in the middle of its region and touches it: where a region says exactly where and how large a thing is to be,
    a small network learns to draw it several times sooner than where it has to guess.
    """
    top, left, bottom, right = _box(silhouette)
    longer = max(bottom - top, right - left)
    kind = rng.random()
    if kind < P_BLOB:
        hull = cv2.convexHull(np.argwhere(silhouette)[:, ::-1].astype(np.int32))
        filled = cv2.fillConvexPoly(np.zeros(silhouette.shape, np.uint8), hull, 1)
        return _grown(filled > 0, MARGIN * longer)
    for _ in range(8):
        aspect = 2.0 ** rng.uniform(-1.0, 1.0)
        tall = max(bottom - top, (right - left) / aspect) * (1 + 2 * MARGIN)
        wide = tall * aspect
        box = ((top + bottom - tall) / 2, (left + right - wide) / 2, (top + bottom + tall) / 2, (left + right + wide) / 2)
        if kind < P_BLOB + P_OVAL:
            box = _about(box, silhouette)
        if min(box[:2]) >= -EDGE and max(box[2:]) <= len(silhouette) + EDGE:
            break
    return _oval(box, silhouette, 1.0) if kind < P_BLOB + P_OVAL else _boxed(box, silhouette.shape)


def _about(box: tuple[float, float, float, float], silhouette: Bool[np.ndarray, "size size"]) -> tuple[float, float, float, float]:
    """Box of the oval of this box's aspect and middle that just holds the silhouette."""
    rows, cols = np.nonzero(silhouette)
    middle, half = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), ((box[2] - box[0]) / 2, (box[3] - box[1]) / 2)
    radius = np.sqrt(np.quantile(((rows - middle[0]) / half[0]) ** 2 + ((cols - middle[1]) / half[1]) ** 2, 0.995)) * (1 + MARGIN)
    tall, wide = half[0] * radius, half[1] * radius
    return middle[0] - tall, middle[1] - wide, middle[0] + tall, middle[1] + wide


def removal_region(silhouette: Bool[np.ndarray, "size size"], rng: np.random.Generator) -> Bool[np.ndarray, "size size"]:
    """A region to remove: the object's outline with a margin, mostly; its box, an oval, or only a part of it."""
    grown = _grown(silhouette, rng.uniform(0.01, 0.05) * len(silhouette))
    kind = rng.random()
    if kind < 0.65:
        return grown
    box = _box(grown)
    if kind < 0.78:
        return _boxed(box, silhouette.shape)
    if kind < 0.88:
        return _oval(box, silhouette, rng.uniform(1.0, 1.25))
    rows, cols = np.indices(silhouette.shape)
    angle = rng.uniform(0, 2 * np.pi)
    middle = np.argwhere(grown).mean(0)
    part = grown & ((rows - middle[0]) * np.sin(angle) + (cols - middle[1]) * np.cos(angle) > 0)
    return part if part.sum() > 100 else grown


def somewhere(rng: np.random.Generator) -> Bool[np.ndarray, "size size"]:
    """An oval anywhere: a place that is filled although nothing was taken from it."""
    tall, wide = rng.uniform(0.15, 0.6, 2) * SCENE_SIZE
    top, left = rng.uniform(-0.1, 1.0 - 0.1, 2) * SCENE_SIZE
    nothing = np.zeros((SCENE_SIZE, SCENE_SIZE), bool)
    return _oval((top, left, top + tall, left + wide), nothing, 1.0)


def _box(region: np.ndarray) -> tuple[float, float, float, float]:
    rows, cols = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(rows[0]), float(cols[0]), float(rows[-1] + 1), float(cols[-1] + 1)


def _boxed(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> Bool[np.ndarray, "size size"]:
    top, left, bottom, right = (round(edge) for edge in box)
    region = np.zeros(shape, bool)
    region[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return region


def _oval(
    box: tuple[float, float, float, float], silhouette: Bool[np.ndarray, "size size"], swell: float
) -> Bool[np.ndarray, "size size"]:
    """Oval in a box, made larger until it holds nearly all of the silhouette."""
    rows, cols = (np.asarray(axis) for axis in np.indices(silhouette.shape))
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    half = (max(1.0, (box[2] - box[0]) / 2), max(1.0, (box[3] - box[1]) / 2))
    radius = np.asarray(((rows - centre[0]) / half[0]) ** 2 + ((cols - centre[1]) / half[1]) ** 2)
    needed = float(np.quantile(radius[silhouette], 0.98)) if silhouette.any() else 1.0
    return np.asarray(radius <= max(swell**2, needed))


def _grown(region: Bool[np.ndarray, "size size"], radius: float) -> Bool[np.ndarray, "size size"]:
    reach = max(1, round(radius))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(region.astype(np.uint8), disc) > 0


def prompt_of(item: scenes.SceneObject | None, rng: np.random.Generator, *, told: float = 0.85) -> str:
    """What was asked, in words: the concept with each attribute told with probability `told`; `background` for a removal."""
    if item is None:
        return REMOVED
    drawn = dict(item.attributes)
    noun = item.concept
    group = next(concept.group for concept in scenes.CONCEPTS if concept.name == noun)
    if group in GROUP_NOUNS and rng.random() < 0.1:
        noun = GROUP_NOUNS[group]
    before = [drawn[name] for name in ("expression", "age", "pose", "colour") if name in drawn and rng.random() < told]
    things = [f"{drawn['hair']} hair"] if "hair" in drawn and rng.random() < told else []
    for name, thing in (("glasses", "glasses"), ("hat", "a hat")):
        if drawn.get(name) == "yes" and rng.random() < told:
            things.append(thing)
    words = [with_article(" ".join([*before, noun]))]
    if things:
        words.append("with " + " and ".join(things))
    for name, thing in (("glasses", "glasses"), ("hat", "a hat")):
        if drawn.get(name) == "no" and rng.random() < 0.25 * told:
            words.append(f"without {thing}")
    if "view" in drawn and rng.random() < 0.6 * told:
        words.append("looking " + ("ahead" if drawn["view"] == "front" else drawn["view"]))
    opening = "a photo of " if rng.random() < 0.1 else ""
    return opening + " ".join(words)


def written_items(items: Sequence[scenes.SceneObject | None]) -> str:
    """Inserted objects as JSON; None where something was removed."""
    return json.dumps([None if item is None else asdict(item) for item in items])


def read_items(text: str) -> tuple[scenes.SceneObject | None, ...]:
    """What `written_items` wrote."""
    return tuple(None if values is None else _item(values) for values in json.loads(text))


def _item(values: dict[str, Any]) -> scenes.SceneObject:
    return scenes.SceneObject(**{**values, "attributes": tuple((name, value) for name, value in values["attributes"])})


def prompt_words() -> tuple[str, ...]:
    """Every word that a prompt may hold, sorted."""
    values = {value for attributes in DRAWN.values() for values in attributes.values() for value in values}
    words = {concept.name for concept in scenes.CONCEPTS} | set(GROUP_NOUNS.values()) | values - {"yes", "no", "front"}
    return tuple(sorted(words | set(f"{REMOVED} a an photo of with without and hair glasses hat looking ahead left right".split())))


@dataclass(frozen=True)
class Crop:
    """A pair as the editor sees it: the window about its mask at the editor's size, and the cells that it may repaint."""

    after: UInt8[np.ndarray, "size size 3"]
    cells: Bool[np.ndarray, "rows cols"]


def crop_of(pair: EditPair, size: int, cell: int, surroundings: float = SURROUNDINGS) -> Crop:
    """Cut a pair to the window about its mask."""
    window = window_around(pair.edit_mask, surroundings)
    return Crop(cut(pair.after, window, size), whole_cells(cut_mask(pair.edit_mask, window, size), cell))


def pixels_of(cells: Bool[torch.Tensor, "*edit row col"], cell: int) -> Bool[torch.Tensor, "*edit y x"]:
    """Pixels of cells that are `cell` pixels wide."""
    return cells.repeat_interleave(cell, -2).repeat_interleave(cell, -1)


class CropChunks(Dataset):
    """Chunk number -> (pictures after their edits, cells that may change, what was inserted), a pure function of the number."""

    def __init__(self, first_seed: int, size: int, cell: int, n_scenes: int = 8, surroundings: float = SURROUNDINGS) -> None:
        self.first_seed, self.size, self.cell, self.n_scenes, self.surroundings = first_seed, size, cell, n_scenes, surroundings

    def pairs(self, number: int) -> list[tuple[int, EditPair]]:
        """Edits of chunk `number`, each with the seed of its scene."""
        cv2.setNumThreads(1)
        seeds = range(self.first_seed + number * self.n_scenes, self.first_seed + (number + 1) * self.n_scenes)
        return [(seed, pair) for seed in seeds for pair in pairs_of(seed)]

    def crops(
        self, pairs: Sequence[EditPair]
    ) -> tuple[UInt8[torch.Tensor, "edit row col 3"], Bool[torch.Tensor, "edit y x"], list[scenes.SceneObject | None]]:
        """Edits as they are learnt from."""
        crops = [crop_of(pair, self.size, self.cell, self.surroundings) for pair in pairs]
        images, cells = np.stack([crop.after for crop in crops]), np.stack([crop.cells for crop in crops])
        return torch.from_numpy(images), torch.from_numpy(cells), [pair.item for pair in pairs]

    def __getitem__(
        self, number: int
    ) -> tuple[UInt8[torch.Tensor, "edit row col 3"], Bool[torch.Tensor, "edit y x"], list[scenes.SceneObject | None]]:
        """Render chunk `number`."""
        return self.crops([pair for _, pair in self.pairs(number)])


class TileBatches(Dataset):
    """Batch number -> (tiles of scenes, share of each pixel that shows an object), a pure function of the number.

    Tiles are `side` pixels wide and show a quarter of a scene's side up to all of it.
    """

    def __init__(self, first_seed: int, batch_size: int, side: int = 64, per_scene: int = 4) -> None:
        self.first_seed, self.batch_size, self.side, self.per_scene = first_seed, batch_size, side, per_scene

    def __getitem__(self, number: int) -> tuple[UInt8[torch.Tensor, "tile row col 3"], Float[torch.Tensor, "tile row col"]]:
        """Render batch `number`."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.first_seed, number])
        tiles = np.empty((self.batch_size, self.side, self.side, 3), np.uint8)
        objects = np.empty((self.batch_size, self.side, self.side), np.float32)
        for row in range(self.batch_size):
            if row % self.per_scene == 0:
                rendered = scenes.render(draw_scene(rng, self.first_seed + number * self.batch_size + row), SCENE_SIZE)
                shows = (rendered.object_map >= 0).astype(np.float32)
            wide = int(rng.integers(SCENE_SIZE // 4, SCENE_SIZE + 1))
            top, left = rng.integers(0, SCENE_SIZE - wide + 1, 2)
            place, how = np.s_[top : top + wide, left : left + wide], cv2.INTER_AREA if wide > self.side else cv2.INTER_CUBIC
            tiles[row] = cv2.resize(rendered.image[place], (self.side, self.side), interpolation=how)
            objects[row] = cv2.resize(shows[place], (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(tiles), torch.from_numpy(objects)
