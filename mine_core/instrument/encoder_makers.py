"""What makes each encoder beside ridge. Imported only when one is fit: it pulls in torch or himalaya."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mine_core.artifacts import write_text
from mine_core.config import InstrumentConfig
from mine_core.encoding.banded import fit_banded, split_variance
from mine_core.encoding.query_attention import QueryAttentionConfig
from mine_core.encoding.query_attention.fit import fit_query_attention
from mine_core.encoding.scoring import score_predictions
from mine_core.features import load_features
from mine_core.instrument.makers import PERMUTATION_SEED, Work, ceiling_of
from mine_core.instrument.persist import load_encoding, save_score
from mine_core.instrument.subjects import subject_of
from mine_core.types import Subject

BANDS_SEED = 7303


def query_attention(config: InstrumentConfig, scratch: Path) -> Callable[[Work], None]:
    """Train the paper's encoder from ridge, with checkpoints in `scratch`, on a GPU where there is one."""

    def make(work: Work) -> None:
        subject, features = subject_of(work.made["subject"]), load_features(work.made["features"].path)
        ridge, _ = load_encoding(work.made["ridge"].path, subject.responses.voxels)
        encoder = fit_query_attention(
            features,
            subject.responses,
            subject.splits,
            attention_settings(),
            scratch,
            ridge=ridge,
            on_progress=work.on_progress,
            cancelled=work.cancelled,
        )
        encoder.save(work.directory)
        predicted = encoder.predict(features, subject.splits.test)
        _keep(work.directory, config, subject, predicted, encoder.provenance)
        shutil.rmtree(scratch, ignore_errors=True)

    return make


def banded(config: InstrumentConfig, _scratch: Path) -> Callable[[Work], None]:
    """Fit ridge over the embeddings of two backbones, and keep how much of the variance each explains."""

    def make(work: Work) -> None:
        subject = subject_of(work.made["subject"])
        found = [load_features(work.made[name].path) for name in ("features", "features of the second")]
        spaces = {features.backbone.name: features for features in found}
        rng = np.random.default_rng(BANDS_SEED)
        model = fit_banded(
            spaces, subject.responses, subject.splits, rng=rng, on_progress=work.on_progress, cancelled=work.cancelled
        )
        test = subject.splits.test
        pooled = {name: np.asarray(features.pooled[test], np.float64) for name, features in spaces.items()}
        split = split_variance(model, spaces, subject.responses, test)
        np.save(work.directory / "r2_of_band.npy", split.r2_of_band)
        for name, coef in model.coef.items():
            np.save(work.directory / f"coef_{name}.npy", coef)
        for name in ("offset", "average", "alpha", "share"):
            np.save(work.directory / f"{name}.npy", getattr(model, name))
        medians = {name: float(np.median(r2)) for name, r2 in zip(split.bands, split.r2_of_band, strict=True)}
        _keep(work.directory, config, subject, model.predict(pooled), dict(model.provenance) | {"median_r2_of_band": medians})

    return make


def attention_settings() -> QueryAttentionConfig:
    """How query attention is trained on this machine: in bfloat16 on a GPU where there is one."""
    import torch

    return QueryAttentionConfig(device="cuda", precision="bf16") if torch.cuda.is_available() else QueryAttentionConfig()


def _keep(
    directory: Path,
    config: InstrumentConfig,
    subject: Subject,
    predicted: Float[np.ndarray, "test voxel"],
    provenance: Mapping[str, Any],
) -> None:
    """Score predictions of the test stimuli as ridge's are scored, by the same permutations, and keep both."""
    scored = score_predictions(
        predicted,
        subject.responses,
        subject.splits.test,
        n_permutations=config.n_permutations,
        rng=np.random.default_rng(PERMUTATION_SEED),
        noise_ceiling=ceiling_of(subject),
    )
    save_score(directory, scored)
    np.save(directory / "predicted_test.npy", np.asarray(predicted, np.float32))
    write_text(directory / "provenance.json", json.dumps(dict(provenance)))
