"""The frozen records that travel between modules, and the words for their axes.

Axis names: `stimulus` an image shown; `voxel` a measured place in cortex (or a neuron); `repeat` one showing of a
stimulus; `feature` a dimension of the backbone's joint image-text space; `patch` a cell of the backbone's image grid,
row by row; `row`, `col` the same cell in two dimensions; `region` a named set of voxels.

Equality of length is not alignment: records carry `stimulus_ids` and a `VoxelIndex`, and whoever joins two compares them.
Signs: `shift = after - before`; an `edit_mask` is True where a pixel may change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.errors import AlignmentError

Provenance = Mapping[str, Any]
OnProgress = Callable[[int, int, str], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class VoxelIndex:
    """Which voxels these are.

    `flat_index` is the position in the C-ordered volume of `grid_shape` (-1 where there is no volume); `regions` are the
    names, and `membership[region, voxel]` is True where the voxel belongs to the region (regions may overlap).
    """

    subject: str
    flat_index: Int[np.ndarray, " voxel"]
    grid_shape: tuple[int, ...]
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]

    def __len__(self) -> int:
        return len(self.flat_index)

    def region_names(self, voxel: int) -> tuple[str, ...]:
        """Names of the regions that hold `voxel` (0-based)."""
        return tuple(name for name, inside in zip(self.regions, self.membership[:, voxel], strict=True) if inside)

    def in_region(self, region: str) -> Int[np.ndarray, " member"]:
        """Voxels (0-based) of `region`; raises AlignmentError if there is no region of that name."""
        if region not in self.regions:
            raise AlignmentError(f"Region '{region}' was asked for; this subject has {', '.join(self.regions) or 'none'}.")
        return np.flatnonzero(self.membership[self.regions.index(region)])


@dataclass(frozen=True)
class StimulusSet:
    """The images that were shown, square and of one size, with their captions (none is an empty tuple)."""

    ids: tuple[str, ...]
    images: UInt8[np.ndarray, "stimulus height width 3"]
    captions: tuple[tuple[str, ...], ...]
    caption_source: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Splits:
    """Positions of the training, validation and test stimuli; disjoint, split by image and never by trial."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


@dataclass(frozen=True)
class Responses:
    """Responses averaged over repeats, `values[stimulus, voxel]`, and the single repeats where they exist (NaN: not shown)."""

    values: Float[np.ndarray, "stimulus voxel"]
    repeats: Float[np.ndarray, "repeat stimulus voxel"] | None
    stimulus_ids: tuple[str, ...]
    voxels: VoxelIndex
    units: str


@dataclass(frozen=True)
class Subject:
    """A brain: what it saw, how it answered, how its stimuli are split, and which cortex it is drawn on."""

    name: str
    kind: str
    stimuli: StimulusSet
    responses: Responses
    splits: Splits
    cortex: str
    noise_ceiling: Float[np.ndarray, " voxel"] | None
    provenance: Provenance = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneSpec:
    """Which model made the features: name, grid of patches, width of the joint space, hash of its weights.

    `has_words` is False for a model of images alone: it embeds no text, and nothing seen through it has words.
    """

    name: str
    grid: tuple[int, int]
    n_features: int
    weights_hash: str
    supervision: str
    has_words: bool = True


@dataclass(frozen=True)
class Features:
    """Image embeddings and their exact additive parts: `pooled = remainder + patches.sum(axis=1)` to rounding.

    `pooled` is not L2-normalised, so that a linear read-out of it is a sum over patches.
    """

    pooled: Float[np.ndarray, "stimulus feature"]
    patches: Float[np.ndarray, "stimulus patch feature"]
    remainder: Float[np.ndarray, "stimulus feature"]
    stimulus_ids: tuple[str, ...]
    backbone: BackboneSpec


@dataclass(frozen=True)
class EncodingModel:
    """A linear read-out of the pooled embedding per voxel, `prediction = pooled @ coef + intercept`, standardisation folded in.

    `prediction_sd` is the SD of each voxel's predictions over the training stimuli: the unit of a predicted shift.
    """

    kind: str
    coef: Float[np.ndarray, "feature voxel"]
    intercept: Float[np.ndarray, " voxel"]
    alpha: Float[np.ndarray, " voxel"]
    prediction_sd: Float[np.ndarray, " voxel"]
    voxels: VoxelIndex
    backbone: BackboneSpec
    provenance: Provenance = field(default_factory=dict)

    def predict(self, pooled: Float[np.ndarray, "stimulus feature"]) -> Float[np.ndarray, "stimulus voxel"]:
        """Predicted responses, in the units of the responses that the model was fit on."""
        return pooled @ self.coef + self.intercept


@dataclass(frozen=True)
class EncodingScore:
    """Accuracy on held-out stimuli: Pearson r, R², noise ceiling (share of variance, 0-1), permutation p, FDR q."""

    r: Float[np.ndarray, " voxel"]
    r2: Float[np.ndarray, " voxel"]
    noise_ceiling: Float[np.ndarray, " voxel"]
    p: Float[np.ndarray, " voxel"]
    q: Float[np.ndarray, " voxel"]
    n_test: int
    n_permutations: int


@dataclass(frozen=True)
class PatchAttribution:
    """One predicted response per voxel split over patches: `prediction = baseline + remainder + values.sum()`.

    `completeness_error` is the largest absolute deviation from that identity in SD of the predictions; None for a method that
    does not claim it.
    """

    values: Float[np.ndarray, "voxel row col"]
    remainder: Float[np.ndarray, " voxel"]
    baseline: Float[np.ndarray, " voxel"]
    prediction: Float[np.ndarray, " voxel"]
    method: str
    completeness_error: float | None


@dataclass(frozen=True)
class Description:
    """Words for a voxel with scores on stimuli that did not choose them (`held_out`), and p against a shuffled baseline."""

    phrases: tuple[str, ...]
    words: tuple[str, ...]
    scores: Float[np.ndarray, " word"]
    p: Float[np.ndarray, " word"]
    held_out: bool


@dataclass(frozen=True)
class Company:
    """A word that goes with a voxel's responses by coming together with `phrase`: its correlation alone, and what is left."""

    word: str
    phrase: str
    alone: float
    left: float


@dataclass(frozen=True)
class AttributeScore:
    """The best of several alternatives for one voxel: its word, set, score on stimuli that did not choose it, and p.

    `agreement` is the share of folds that chose the same word; `stands` is True where it may be told.
    """

    word: str
    attribute: str
    score: float
    p: float
    agreement: float
    stands: bool


@dataclass(frozen=True)
class VoxelProfile:
    """What one voxel wants, how sure that is, what speaks against it; `withheld` says why nothing is claimed, or is empty.

    `attributes` are those that were tried, and say whether they stand; `words_r` is the correlation of all phrases together with
    held-out responses (NaN: unknown); `text` is one sentence and `features` 3 to 10 words or short phrases, empty where nothing
    is told; `words_withheld` says why words that pass their null are not told, or is empty.
    """

    voxel: int
    regions: tuple[str, ...]
    r: float
    noise_ceiling: float
    q: float
    reliability: str
    withheld: str
    description: Description | None
    exemplars: tuple[int, ...]
    counter_exemplars: tuple[int, ...]
    caveats: tuple[str, ...]
    attributes: tuple[AttributeScore, ...] = ()
    company: tuple[Company, ...] = ()
    words_r: float = float("nan")
    text: str = ""
    features: tuple[str, ...] = ()
    words_withheld: str = ""


@dataclass(frozen=True)
class ImageEdit:
    """An image before and after; outside `edit_mask` no pixel differs (`changed_outside_mask` counts those that do)."""

    original: UInt8[np.ndarray, "height width 3"]
    edited: UInt8[np.ndarray, "height width 3"]
    edit_mask: Bool[np.ndarray, "height width"]
    instruction: str
    editor: str
    seed: int
    changed_outside_mask: int
    verified: bool | None
    provenance: Provenance = field(default_factory=dict)


@dataclass(frozen=True)
class PredictedShift:
    """Change of the predicted response by an edit, in SD of each voxel's predictions, beside its matched controls.

    `p[voxel] = (1 + #{controls at least as extreme in the edit's direction}) / (1 + n_controls)`; `rank` is 1 when the edit
    exceeds every control. A prediction of a model, not a change of a brain.
    """

    before: Float[np.ndarray, " voxel"]
    after: Float[np.ndarray, " voxel"]
    shift: Float[np.ndarray, " voxel"]
    controls: Float[np.ndarray, "control voxel"]
    control_names: tuple[str, ...]
    p: Float[np.ndarray, " voxel"]
    rank: Int[np.ndarray, " voxel"]
    guided_by: str
    checked_by: str | None
