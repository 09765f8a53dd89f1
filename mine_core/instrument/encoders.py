"""The encoders of one subject: fitting another beside ridge, and finding those that were fitted.

All are scored on the same test stimuli, and what each predicts for them is kept, so that two can be compared stimulus by
stimulus without opening either.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version
from mine_core.config import InstrumentConfig
from mine_core.encoding.query_attention import QueryAttentionEncoder, load_query_attention
from mine_core.errors import ConfigError, EncodingError
from mine_core.features import load_features
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.persist import load_encoding, load_score
from mine_core.instrument.second import second_backbone
from mine_core.instrument.stages import SCORING_CODE, Run, Stage, encoding_stages, given_of
from mine_core.instrument.subjects import subject_of
from mine_core.types import EncodingModel, EncodingScore, IsCancelled, OnProgress, Provenance

EncoderKind = Literal["ridge", "query_attention", "banded"]
KINDS: tuple[EncoderKind, ...] = get_args(EncoderKind)
TITLES = {
    "ridge": "Ridge on the pooled embedding",
    "query_attention": "Query attention over image tokens",
    "banded": "Banded ridge over two backbones",
}


@dataclass(frozen=True)
class FittedEncoder:
    """An encoder's accuracy on the test stimuli, what it predicts for them (in the responses' units), and how it was made."""

    kind: EncoderKind
    score: EncodingScore
    predicted: Float[np.ndarray, "test voxel"]
    provenance: Provenance


def fit_encoder(
    config: InstrumentConfig,
    store: ArtifactStore,
    kind: EncoderKind,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> FittedEncoder:
    """Fit and score an encoder, or find it done; a fit that is killed goes on from its last checkpoint.

    Raises
    ------
    ConfigError
        If there is no encoder of that kind.
    EncodingError
        If it cannot be fit on this subject.
    Cancelled
        If `cancelled()` became True; finished stages and checkpoints are kept.
    """
    stages = encoder_stages(config, store, kind)
    made = Run(store, on_progress, cancelled).make(stages, given_of(config, store))
    return _open(kind, made)


def fitted_encoders(config: InstrumentConfig, store: ArtifactStore) -> dict[EncoderKind, FittedEncoder]:
    """Encoders of this subject and backbone that are in the store, ridge first."""
    found: dict[EncoderKind, FittedEncoder] = {}
    for kind in KINDS:
        if kind == "banded" and second_backbone(config) is None:
            continue
        stages = encoder_stages(config, store, kind)
        artifacts = {stage.name: store.find(stage.recipe) for stage in stages}
        present = {name: artifact for name, artifact in artifacts.items() if artifact is not None}
        if len(present) == len(stages):
            found[kind] = _open(kind, given_of(config, store) | present)
    return found


def open_encoders(instrument: Instrument, store: ArtifactStore) -> dict[EncoderKind, EncodingModel | QueryAttentionEncoder]:
    """Encoders of this instrument that can be explained: ridge, and query attention where it was fitted."""
    found: dict[EncoderKind, EncodingModel | QueryAttentionEncoder] = {"ridge": instrument.model}
    made = store.find(encoder_stages(instrument.config, store, "query_attention")[-1].recipe)
    if made is not None:
        found["query_attention"] = load_query_attention(made.path, instrument.subject.responses.voxels)
    return found


def encoder_stages(config: InstrumentConfig, store: ArtifactStore, kind: EncoderKind) -> list[Stage]:
    """Stages up to a fitted and scored encoder; the last is the encoder's own, named `encoding`."""
    if kind not in KINDS:
        raise ConfigError(f"There is no encoder '{kind}'; expected one of {', '.join(KINDS)}.")
    *before, ridge = encoding_stages(config, store)
    if kind == "ridge":
        return [*before, ridge]
    settings = {"kind": kind, "n_permutations": config.n_permutations}
    if kind == "query_attention":
        code = code_version("encoding/query_attention", *SCORING_CODE, "instrument/encoder_makers.py")
        recipe = Recipe("encoder", settings, (ridge.recipe.key,), code)
        return [
            *before,
            replace(ridge, name="ridge"),
            Stage("encoding", recipe, 400, TITLES[kind], _maker(kind, config, store, recipe)),
        ]
    other = second_backbone(config)
    if other is None:
        raise EncodingError(
            f"Banded ridge needs a second feature space, and no backbone of the vocabulary of '{config.backbone}' is here beside it; "
            "get another (python -m mine_core doctor lists them), or fit ridge."
        )
    more = replace(encoding_stages(replace(config, backbone=other), store)[-2], name="features of the second")
    code = code_version("encoding/banded.py", "encoding/gram.py", *SCORING_CODE, "instrument/encoder_makers.py")
    recipe = Recipe("encoder", settings, (before[-1].recipe.key, more.recipe.key), code)
    return [*before, more, Stage("encoding", recipe, 60, TITLES[kind], _maker(kind, config, store, recipe))]


def _maker(kind: EncoderKind, config: InstrumentConfig, store: ArtifactStore, recipe: Recipe) -> Any:
    """Find a maker when it is needed: it pulls in torch or himalaya."""

    def make(directory: Any, made: Any, on_progress: OnProgress, cancelled: IsCancelled) -> dict[str, Any] | None:
        from mine_core.instrument import encoder_makers
        from mine_core.instrument.makers import Work

        # checkpoints outlive a kill: they lie beside the artifacts, by the same key
        scratch = store.root / "unfinished" / recipe.key
        return getattr(encoder_makers, kind)(config, scratch)(Work(directory, made, on_progress, cancelled))

    return make


def _open(kind: EncoderKind, made: dict[str, Artifact]) -> FittedEncoder:
    path = made["encoding"].path
    if kind != "ridge":
        score = load_score(path)
        predicted = np.load(path / "predicted_test.npy", mmap_mode="r", allow_pickle=False)
        return FittedEncoder(kind, score, predicted, made["encoding"].json("provenance") | {"key": path.name})
    subject, features = subject_of(made["subject"]), load_features(made["features"].path)
    model, score = load_encoding(path, subject.responses.voxels)
    return FittedEncoder(kind, score, model.predict(np.asarray(features.pooled[subject.splits.test])), model.provenance)
