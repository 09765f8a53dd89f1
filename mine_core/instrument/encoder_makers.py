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
from mine_core.encoding.query_attention import QueryAttentionConfig
from mine_core.encoding.query_attention.fit import fit_query_attention
from mine_core.encoding.scoring import score_predictions
from mine_core.features import load_features
from mine_core.instrument.makers import PERMUTATION_SEED, Work, ceiling_of
from mine_core.instrument.persist import load_encoding, save_score
from mine_core.instrument.subjects import subject_of
from mine_core.types import Subject


def query_attention(config: InstrumentConfig, scratch: Path) -> Callable[[Work], None]:
    """Train the paper's encoder from ridge, with checkpoints in `scratch`, on a GPU where there is one."""

    def make(work: Work) -> None:
        subject, features = subject_of(work.made["subject"]), load_features(work.made["features"].path)
        ridge, _ = load_encoding(work.made["ridge"].path, subject.responses.voxels)
        encoder = fit_query_attention(
            features,
            subject.responses,
            subject.splits,
            _settings(),
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


def _settings() -> QueryAttentionConfig:
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
