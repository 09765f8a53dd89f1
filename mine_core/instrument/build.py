"""Building and opening an instrument."""

import json
from functools import partial
from typing import Any

import numpy as np

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import load_flatmap
from mine_core.description.decoding import open_voxel_words
from mine_core.description.evidence import open_evidence
from mine_core.description.vocabulary import open_vocabulary
from mine_core.features import Likeness, load_features
from mine_core.instrument.instrument import Instrument, Lazy
from mine_core.instrument.persist import load_encoding
from mine_core.instrument.stages import Run, given_of, stages_of
from mine_core.instrument.subjects import PHANTOM, subject_of
from mine_core.types import IsCancelled, OnProgress


def build_instrument(
    config: InstrumentConfig,
    store: ArtifactStore,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Instrument:
    """Make whatever of an instrument is not in the store yet, and open it.

    Raises
    ------
    SubjectError, BackboneError : if there is no such subject, or the backbone's weights are not to be had.
    Cancelled : if `cancelled()` became True; finished stages are kept.
    """
    run = Run(store, on_progress, cancelled)
    return _open(config, run.make(stages_of(config, store), given_of(config, store)))


def is_built(config: InstrumentConfig, store: ArtifactStore) -> bool:
    """Whether every stage is in the store."""
    return all(store.find(stage.recipe) is not None for stage in stages_of(config, store))


def open_instrument(config: InstrumentConfig, store: ArtifactStore) -> Instrument:
    """Open an instrument, building what is missing."""
    return build_instrument(config, store)


def _open(config: InstrumentConfig, made: dict[str, Artifact]) -> Instrument:
    subject, features = subject_of(made["subject"]), load_features(made["features"].path)
    model, score = load_encoding(made["encoding"].path, subject.responses.voxels)
    vocabulary = open_vocabulary(made["words"].path)
    return Instrument(
        config=config,
        subject=subject,
        flatmap=load_flatmap(made["cortex"].path),
        features=features,
        mean_patches=made["encoding"].array("mean_patches"),
        model=model,
        score=score,
        vocabulary=vocabulary,
        words=open_voxel_words(made["words"].path),
        evidence=Lazy(partial(open_evidence, made["evidence"].path, vocabulary)),
        captions=tuple(json.loads((made["captions"].path / "captions.json").read_text())),
        likeness=Lazy(partial(_likeness, subject.splits, features.pooled)),
        backbone=Lazy(partial(_backbone, config.backbone)),
        by_contrast=made["contrast"].array("predicted"),
        truth_path=made["subject"].path / "truth" if config.subject == PHANTOM else None,
    )


def _likeness(splits: Any, pooled: np.ndarray) -> Likeness:
    held_out = np.concatenate([splits.validation, splits.test])
    return Likeness.fit(np.asarray(pooled[splits.train]), np.asarray(pooled[held_out]))


def _backbone(name: str) -> Any:
    # torch and open_clip take seconds to import; a page that only shows stored results never needs them
    from mine_core.backbones.presets import load_backbone

    return load_backbone(name)


def summary(instrument: Instrument) -> dict[str, Any]:
    """What was built, in a few numbers."""
    score, reliable = instrument.score, instrument.reliable
    return {
        "subject": instrument.subject.name,
        "backbone": instrument.config.backbone,
        "n_voxels": len(score.r),
        "n_stimuli": len(instrument.subject.stimuli),
        "n_test": score.n_test,
        "median_r": float(np.median(score.r)),
        "n_reliable": int(reliable.sum()),
        "n_described": int(instrument.words.passes.any(axis=1).sum()),
        "encoding": instrument.model.provenance["key"],
    }
