"""Random numbers by the block: a scene needs dozens of small draws, and one call per draw would cost more than the drawing."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
SCENE_TAG = 0x5CE7E
OBJECT_TAG = 0x0B1EC7
CAPTION_TAG = 0xCA97


class Dice:
    """Uniform draws from PCG64(SeedSequence([tag, seed])), in a fixed order."""

    __slots__ = ("_left", "_rng")

    def __init__(self, tag: int, seed: int, block: int = 48) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([tag, seed])))
        self._left = self._rng.random(block).tolist()

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._left:
            self._left = self._rng.random(48).tolist()
        return self._left.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[int(self.unit() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def seed(self) -> int:
        """A new seed in [0, 2**32)."""
        return int(self.unit() * 4294967296.0)
