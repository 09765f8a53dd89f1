"""Where a result comes from: version, settings, keys of everything it was made of, weights, libraries, time."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from mine_core.artifacts import RECORDED_LIBRARIES, ArtifactStore, hash_array, library_versions
from mine_core.backbones.presets import weights_key
from mine_core.config import PROJECT
from mine_core.errors import ConfigError
from mine_core.instrument import Instrument
from mine_core.instrument.stages import stages_of
from mine_core.subjects.nsd.tree import AGREEMENT

LIBRARIES = (*RECORDED_LIBRARIES, "nibabel", "matplotlib", "diffusers", "transformers")
NSD = AGREEMENT
RESTRICTED = {"nsd": NSD, "algonauts": NSD}
"""Kinds of subject whose images may not be handed on, and the agreement that they were given out under."""


@lru_cache
def version() -> str:
    """Version of this program."""
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def provenance(instrument: Instrument, store: ArtifactStore) -> dict[str, Any]:
    """Everything that it takes to make the same numbers again, as plain values."""
    config, spec, voxels = instrument.config, instrument.features.backbone, instrument.subject.responses.voxels
    return {
        "program": "MINE",
        "version": version(),
        "settings": config.to_dict(),
        "seed": config.seed,
        "artifacts": {stage.name: stage.recipe.key for stage in stages_of(config, store)},
        "own_words": list(instrument.own_words),
        "encoder": {"kind": instrument.model.kind, "key": instrument.model.provenance.get("key", "")},
        "backbone": {**asdict(spec), "grid": list(spec.grid), "revision": weights_key(config.backbone)},
        "voxels": {"n": len(voxels), "grid_shape": list(voxels.grid_shape), "sha256": hash_array(voxels.flat_index)},
        "libraries": library_versions(LIBRARIES),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def require_agreement(kind: str, given: str | None) -> None:
    """Refuse to hand on images of a dataset that forbids it, unless its agreement is named.

    Raises
    ------
    ConfigError
        If the subject is of such a dataset and `given` is not the name of its agreement.
    """
    wanted = RESTRICTED.get(kind)
    if wanted is not None and given != wanted:
        raise ConfigError(
            "Images of this subject are of the Natural Scenes Dataset, which may not be handed on: "
            f"{repr(given) if given else 'no agreement'} was named. Name '{wanted}' if you and whoever gets them are bound by it; "
            "maps and numbers need no agreement."
        )


def jsonable(value: Any) -> Any:
    """Plain JSON values of a record: mappings, lists, text, numbers; what is none of these as text."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)
