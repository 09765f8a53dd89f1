"""Tokens of images as the layer reads them: held in memory where they fit a stated budget, else read from disk at each step."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from mine_core.encoding.query_attention.layer import Prepared, Statistics, prepare
from mine_core.errors import EncodingError
from mine_core.types import Features

IMAGES_PER_READ = 64
BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class TokenSource:
    """Prepared tokens by position of the stimulus; `held` is None where they did not fit."""

    features: Features
    statistics: Statistics
    place: Int[np.ndarray, " stimulus"]
    held: Prepared | None

    def take(self, positions: Int[np.ndarray, " image"]) -> Prepared:
        """Prepared tokens of some stimuli, in the order given, on the statistics' device."""
        if self.held is None:
            return read_tokens(self.features, positions, self.statistics)
        rows = torch.from_numpy(self.place[positions]).to(self.held.values.device)
        return Prepared(*(part[rows] for part in self.held))


def read_tokens(features: Features, positions: Int[np.ndarray, " image"], statistics: Statistics) -> Prepared:
    """Read patches and remainder of some stimuli from the memory-mapped store and prepare them.

    Raises
    ------
    EncodingError
        If a value is not finite.
    """
    device, read = statistics.basis.device, []
    for name in ("patches", "remainder"):
        values = np.asarray(getattr(features, name)[positions], np.float32)
        wrong = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if wrong.any():
            raise EncodingError(
                f"The {name} of {int(wrong.sum())} stimuli are NaN or infinite (first: position {positions[np.argmax(wrong)]}); "
                "extract the features again."
            )
        read.append(torch.from_numpy(values).to(device))
    patches, remainder = read
    return prepare(patches, remainder, statistics)


def bytes_of(n_images: int, features: Features, value_width: int) -> int:
    """Memory that the prepared tokens of so many images take."""
    n_patches, n_features = features.patches.shape[1:]
    return BYTES_PER_NUMBER * n_images * (n_patches * (n_features + value_width) + value_width)


def open_tokens(features: Features, positions: Int[np.ndarray, " image"], statistics: Statistics, budget: int) -> TokenSource:
    """Tokens of these stimuli, prepared once if they take at most `budget` bytes."""
    n_stimuli, value_width = len(features.stimulus_ids), statistics.basis.shape[1]
    place = np.full(n_stimuli, -1)
    place[positions] = np.arange(len(positions))
    if bytes_of(len(positions), features, value_width) > budget:
        return TokenSource(features, statistics, place, None)
    n_patches, n_features = features.patches.shape[1:]
    shapes = ((n_patches, n_features), (n_patches, value_width), (value_width,))
    # filled in place, so that there is never a second copy of them
    held = Prepared(*(torch.empty(len(positions), *shape, device=statistics.basis.device) for shape in shapes))
    for first in range(0, len(positions), IMAGES_PER_READ):
        rows = slice(first, first + IMAGES_PER_READ)
        for kept, part in zip(held, read_tokens(features, positions[rows], statistics), strict=True):
            kept[rows] = part
    return TokenSource(features, statistics, place, held)
