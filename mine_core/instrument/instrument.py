"""A subject seen through a backbone: everything that a click needs, opened from the store and read-only."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from mine_core.artifacts import hash_text
from mine_core.backbones.base import Backbone
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import FlatMap
from mine_core.description.decoding import VoxelWords
from mine_core.description.evidence import Evidence
from mine_core.description.vocabulary import Vocabulary
from mine_core.features import Likeness
from mine_core.profiles import LARGEST_Q, LEAST_R
from mine_core.types import EncodingModel, EncodingScore, Features, Subject

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Keyed:
    """An instrument that a cache can be keyed by: equal when its encoding model is, and whatever else is named."""

    instrument: "Instrument"
    key: tuple[str, ...]

    @classmethod
    def of(cls, instrument: "Instrument", *more: str) -> "Keyed":
        """Key an instrument by its model, and by `more` where a cache depends on more than that."""
        return cls(instrument, (str(instrument.model.provenance.get("key", "")), *more))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class Lazy(Generic[T]):
    """Something heavy that is made when first asked for, once, whichever thread asks."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._lock = threading.Lock()

    def get(self) -> T:
        """Return it, making it first if need be."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


@dataclass(frozen=True)
class Instrument:
    """Everything that explains and edits need of one subject and one backbone.

    `mean_patches[patch, feature]` is the average patch at each place over training stimuli, the baseline of attribution;
    `words` are the scored words per voxel, `evidence` what the backbone sees in each stimulus; `backbone` is loaded when an image
    has to be embedded, and not before. `own_words` are those words of the vocabulary that the user brought. `by_contrast` is what
    contrast alone predicts of responses to validation and test stimuli.
    `truth_path` is where a phantom's planted answers lie; nothing but experiments opens it.
    """

    config: InstrumentConfig
    subject: Subject
    flatmap: FlatMap
    features: Features
    mean_patches: Float[np.ndarray, "patch feature"]
    model: EncodingModel
    score: EncodingScore
    vocabulary: Vocabulary
    words: VoxelWords
    evidence: Lazy[Evidence]
    captions: tuple[str, ...]
    likeness: Lazy[Likeness]
    backbone: Lazy[Backbone]
    truth_path: Path | None = None
    own_words: tuple[str, ...] = ()
    by_contrast: Float[np.ndarray, "held_out voxel"] | None = None

    @property
    def key(self) -> str:
        """What tells instruments apart that give other answers: the key of the encoding model, and a user's own words."""
        return "-".join([str(self.model.provenance.get("key", "")), *([hash_text(*self.own_words)] if self.own_words else [])])

    def predicted(self, voxel: int) -> Float[np.ndarray, " stimulus"]:
        """Predicted response to every stimulus, in SD of the voxel's predictions from their mean over training stimuli."""
        raw = self.features.pooled @ self.model.coef[:, voxel] + self.model.intercept[voxel]
        return raw / self.sd(voxel) - self.mean_prediction(voxel)

    def mean_prediction(self, voxel: int) -> float:
        """Mean predicted response over training stimuli, in SD of the voxel's predictions."""
        return float(self.mean_pooled @ self.model.coef[:, voxel] + self.model.intercept[voxel]) / self.sd(voxel)

    @cached_property
    def mean_pooled(self) -> Float[np.ndarray, " feature"]:
        """Mean embedding over training stimuli: read once, for every click asks for it."""
        return np.asarray(self.features.pooled[self.subject.splits.train].mean(axis=0))

    def measured(self, voxel: int) -> Float[np.ndarray, " stimulus"]:
        """Measured response to every stimulus, z-scored over stimuli; constant voxels give zeros."""
        values = np.asarray(self.subject.responses.values[:, voxel], np.float64)
        return (values - values.mean()) / (values.std() or 1.0)

    def sd(self, voxel: int) -> float:
        """SD of the voxel's predictions over training stimuli, the unit of predictions and shifts."""
        return float(self.model.prediction_sd[voxel]) or 1.0

    @property
    def held_out(self) -> Bool[np.ndarray, " stimulus"]:
        """True for stimuli that the encoding model was not fit on."""
        inside = np.ones(len(self.subject.stimuli), bool)
        inside[self.subject.splits.train] = False
        return inside

    @property
    def reliable(self) -> Bool[np.ndarray, " voxel"]:
        """Voxels of which something may be said: held-out r >= 0.15 and q <= 0.05."""
        return (self.score.r >= LEAST_R) & (self.score.q <= LARGEST_Q)
