"""An encoding model and its scores as plain files."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mine_core.artifacts import write_text
from mine_core.types import BackboneSpec, EncodingModel, EncodingScore, VoxelIndex

SCORES = ("r", "r2", "noise_ceiling", "p", "q")


def save_encoding(directory: Path, model: EncodingModel, scored: EncodingScore) -> None:
    """Write an encoding model and its scores as npy files and JSON."""
    for name in ("coef", "intercept", "alpha", "prediction_sd"):
        np.save(directory / f"{name}.npy", getattr(model, name))
    save_score(directory, scored)
    record = {"kind": model.kind, "backbone": asdict(model.backbone), "provenance": dict(model.provenance)}
    write_text(directory / "encoding.json", json.dumps(record))


def load_encoding(directory: Path, voxels: VoxelIndex) -> tuple[EncodingModel, EncodingScore]:
    """Read what `save_encoding` wrote; arrays are memory-mapped and read-only."""
    record = json.loads((directory / "encoding.json").read_text())
    spec = BackboneSpec(**record["backbone"] | {"grid": tuple(record["backbone"]["grid"])})
    arrays = {name: _array(directory, name) for name in ("coef", "intercept", "alpha", "prediction_sd")}
    provenance = record["provenance"] | {"key": directory.name}
    model = EncodingModel(kind=record["kind"], voxels=voxels, backbone=spec, provenance=provenance, **arrays)
    return model, load_score(directory)


def save_score(directory: Path, scored: EncodingScore) -> None:
    """Write an encoder's held-out scores as npy files and JSON."""
    for name in SCORES:
        np.save(directory / f"score_{name}.npy", getattr(scored, name))
    write_text(directory / "score.json", json.dumps({"n_test": scored.n_test, "n_permutations": scored.n_permutations}))


def load_score(directory: Path) -> EncodingScore:
    """Read what `save_score` wrote; arrays are memory-mapped and read-only."""
    counts = json.loads((directory / "score.json").read_text())
    r, r2, noise_ceiling, p, q = (_array(directory, f"score_{name}") for name in SCORES)
    return EncodingScore(r, r2, noise_ceiling, p, q, counts["n_test"], counts["n_permutations"])


def _array(directory: Path, name: str) -> np.ndarray:
    return np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
