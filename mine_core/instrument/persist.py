"""An encoding model and its scores as plain files."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mine_core.artifacts import write_text
from mine_core.types import BackboneSpec, EncodingModel, EncodingScore, VoxelIndex


def save_encoding(directory: Path, model: EncodingModel, scored: EncodingScore) -> None:
    """Write an encoding model and its scores as npy files and JSON."""
    for name in ("coef", "intercept", "alpha", "prediction_sd"):
        np.save(directory / f"{name}.npy", getattr(model, name))
    for name in ("r", "r2", "noise_ceiling", "p", "q"):
        np.save(directory / f"score_{name}.npy", getattr(scored, name))
    record = {"kind": model.kind, "backbone": asdict(model.backbone), "n_test": scored.n_test, "provenance": dict(model.provenance)}
    write_text(directory / "encoding.json", json.dumps(record | {"n_permutations": scored.n_permutations}))


def load_encoding(directory: Path, voxels: VoxelIndex) -> tuple[EncodingModel, EncodingScore]:
    """Read what `save_encoding` wrote; arrays are memory-mapped and read-only."""

    def array(name: str) -> np.ndarray:
        return np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    record = json.loads((directory / "encoding.json").read_text())
    spec = BackboneSpec(**record["backbone"] | {"grid": tuple(record["backbone"]["grid"])})
    arrays = {name: array(name) for name in ("coef", "intercept", "alpha", "prediction_sd")}
    provenance = record["provenance"] | {"key": directory.name}
    model = EncodingModel(kind=record["kind"], voxels=voxels, backbone=spec, provenance=provenance, **arrays)
    scores = {name: array(f"score_{name}") for name in ("r", "r2", "noise_ceiling", "p", "q")}
    return model, EncodingScore(n_test=record["n_test"], n_permutations=record["n_permutations"], **scores)
