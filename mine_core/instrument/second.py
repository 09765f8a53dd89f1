"""The second encoder: it never guides an edit and always checks it.

It sees through another backbone, one that reads the same vocabulary and whose weights are here; where there is none, it
uses the same backbone but is fit on the validation stimuli, which took no part in fitting the first. Its accuracy is
scored on the same test stimuli as the first's.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.backbones.base import Backbone
from mine_core.backbones.presets import backbone_available, find_preset, load_backbone, load_presets
from mine_core.config import InstrumentConfig
from mine_core.errors import EncodingError
from mine_core.instrument.instrument import Lazy
from mine_core.instrument.persist import load_encoding
from mine_core.instrument.stages import FitOn, Run, Stage, encoding_stages, given_of
from mine_core.instrument.subjects import PHANTOM, custom_artifact, subject_of
from mine_core.profiles import LARGEST_Q, LEAST_R
from mine_core.types import EncodingModel, EncodingScore, IsCancelled, OnProgress

LEAST_TO_FIT = 100  # stimuli; a ridge on fewer says little of a voxel


@dataclass(frozen=True)
class SecondEncoder:
    """An encoding model that took no part in choosing an edit, with its own backbone and its own held-out accuracy."""

    model: EncodingModel
    score: EncodingScore
    backbone: Lazy[Backbone]
    independence: str

    @property
    def key(self) -> str:
        """Name of the artifact that holds the model."""
        return str(self.model.provenance["key"])

    @property
    def reliable(self) -> Bool[np.ndarray, " voxel"]:
        """Voxels that this encoder predicts well enough to check anything: held-out r >= 0.15 and q <= 0.05."""
        return (self.score.r >= LEAST_R) & (self.score.q <= LARGEST_Q)


def second_backbone(config: InstrumentConfig) -> str | None:
    """Name of another backbone of the same vocabulary whose weights are here; None where there is none."""
    wanted = find_preset(config.backbone).vocabulary
    others = (preset.name for preset in load_presets().values() if preset.vocabulary == wanted and preset.name != config.backbone)
    return next((name for name in others if backbone_available(name).ready), None)


def build_second(
    config: InstrumentConfig,
    store: ArtifactStore,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> SecondEncoder:
    """Make whatever of the second encoder is not in the store yet, and open it.

    Raises
    ------
    EncodingError
        If there is no other backbone and there are fewer than 100 validation stimuli to fit on.
    Cancelled
        If `cancelled()` became True; finished stages are kept.
    """
    stages, backbone, independence = _plan(config, store)
    made = Run(store, on_progress, cancelled).make(stages, given_of(config, store))
    subject = subject_of(made["subject"])
    model, score = load_encoding(made["encoding"].path, subject.responses.voxels)
    return SecondEncoder(model, score, Lazy(partial(load_backbone, backbone)), independence)


def second_stages(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    """Stages of the second encoder; raises EncodingError as `build_second`."""
    return _plan(config, store)[0]


def second_is_built(config: InstrumentConfig, store: ArtifactStore) -> bool:
    """Whether the second encoder can be opened without building anything; raises EncodingError as `build_second`."""
    return all(store.find(stage.recipe) is not None for stage in _plan(config, store)[0])


def find_second(config: InstrumentConfig, store: ArtifactStore) -> SecondEncoder | None:
    """Open the second encoder if it is in the store; None where it is not, or where this subject can have none."""
    try:
        return build_second(config, store) if second_is_built(config, store) else None
    except EncodingError:
        return None


def _plan(config: InstrumentConfig, store: ArtifactStore) -> tuple[list[Stage], str, str]:
    """Stages, backbone, and in what the second encoder is independent of the first."""
    other = second_backbone(config)
    fit_on: FitOn = "validation" if other is None else "train"
    stages = encoding_stages(config if other is None else replace(config, backbone=other), store, fit_on)
    if other is not None:
        return stages, other, f"sees through another backbone, '{other}'"
    n_validation = _n_validation(config, store)
    if n_validation < LEAST_TO_FIT:
        raise EncodingError(
            f"There is no second encoder: no other backbone's weights are here, and {n_validation} validation images are too few "
            f"to fit one on ({LEAST_TO_FIT} are needed). Edits are shown unchecked."
        )
    return stages, config.backbone, f"sees through the same backbone, but was fit on {n_validation} other images"


def _n_validation(config: InstrumentConfig, store: ArtifactStore) -> int:
    found = encoding_stages(config, store)
    artifact = (
        custom_artifact(config.subject, store)
        if config.subject != PHANTOM
        else store.find(next(stage.recipe for stage in found if stage.name == "subject"))
    )
    return len(subject_of(artifact).splits.validation) if artifact is not None else 0
