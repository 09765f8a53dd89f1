"""Where a picture says what it says: the pixels that would be others if one attribute of a face were another.

A mouth is a hundredth of a face, and its whole expression. An error that counts all pixels alike trades it for a shade of the hair;
here each attribute counts the same, in however few pixels it shows.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mine_core.counterfactual.train_pairs import SCENE_SIZE, CropChunks, EditPair, draw_scene, rng_of
from mine_core.counterfactual.windows import cut_mask, window_around
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.concepts import DRAWN

TellingChunk = tuple[
    UInt8[Tensor, "edit row col 3"], Bool[Tensor, "edit y x"], list[scenes.SceneObject | None], UInt8[Tensor, "edit row col"]
]
LEAST_CHANGE = 24  # of 255, in any channel
SCALE = 8  # maps are kept as whole eighths, up to 31.9


def telling_pixels(scene: scenes.Scene, item: scenes.SceneObject | None) -> dict[str, Bool[np.ndarray, "size size"]]:
    """Pixels of a scene that change with each attribute of one of its faces; nothing for what is no face."""
    values = DRAWN.get(item.concept, {}) if item is not None else {}
    if item is None or "expression" not in values:
        return {}
    before = scenes.render(scene, SCENE_SIZE).image.astype(int)
    found = {}
    for name, choices in values.items():
        other = next((value for value in choices if value != dict(item.attributes)[name]), None)
        if other is not None:
            changed = replace(item, attributes=tuple((key, other if key == name else value) for key, value in item.attributes))
            objects = tuple(changed if each == item else each for each in scene.objects)
            after = scenes.render(replace(scene, objects=objects), SCENE_SIZE).image.astype(int)
            found[name] = np.asarray(np.abs(after - before).max(-1) >= LEAST_CHANGE)
    return found


def telling_map(
    pair: EditPair, pixels: dict[str, Bool[np.ndarray, "size size"]], size: int, surroundings: float
) -> Float[np.ndarray, "row col"]:
    """How much each pixel of a pair's window tells: shares of the attributes that show in it, with a mean of 1; 0 without any.

    w = n_pixels mean over attributes a of m_a / sum(m_a), m_a the pixels under the mask that change with a
    """
    window = window_around(pair.edit_mask, surroundings)
    masks = [cut_mask(changed & pair.edit_mask, window, size).astype(np.float32) for changed in pixels.values()]
    shares = [mask / mask.sum() for mask in masks if mask.any()]
    return size**2 * np.mean(shares, axis=0) if shares else np.zeros((size, size), np.float32)


class TellingChunks(CropChunks):
    """Chunk number -> what `CropChunks` makes, and maps of what tells, in `SCALE`ths; a pure function of the number."""

    def __getitem__(self, number: int) -> TellingChunk:  # type: ignore[override]
        """Render chunk `number`."""
        pairs, pixels = self.pairs(number), cache(telling_pixels)
        told = [(pair, pixels(draw_scene(rng_of(seed), seed), pair.item)) for seed, pair in pairs]
        return *self.crops([pair for _, pair in pairs]), self.maps(told)

    def maps(self, told: Sequence[tuple[EditPair, dict[str, Bool[np.ndarray, "size size"]]]]) -> UInt8[Tensor, "edit row col"]:
        """How much each pixel of each pair's window tells, in `SCALE`ths."""
        maps = [telling_map(pair, pixels, self.size, self.surroundings) for pair, pixels in told]
        return torch.from_numpy(np.minimum(np.rint(SCALE * np.stack(maps)), 255).astype(np.uint8))
