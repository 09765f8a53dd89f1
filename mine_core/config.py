"""Settings of an instrument: frozen, hashable, and refused when a key is unknown."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mine_core.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class InstrumentConfig:
    """Which brain, seen through which backbone.

    Parameters
    ----------
    subject : name of a subject; `phantom` is built in.
    seed : which phantom; the planted answers of each differ. Other subjects take no seed.
    backbone : name of a preset in assets/models.toml.
    n_permutations : permutations of the held-out stimuli behind each p (at least 99).
    """

    subject: str = "phantom"
    seed: int = 0
    backbone: str = "phantom"
    n_permutations: int = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 90:
            raise ConfigError(f"Seed {self.seed} was given; phantoms have seeds 0 to 89.")
        if self.n_permutations < 99:
            raise ConfigError(f"{self.n_permutations} permutations were given; p-values need at least 99.")
        if self.subject != "phantom" and self.seed:
            raise ConfigError(f"Seed {self.seed} was given for subject '{self.subject}'; only the phantom is drawn by seed.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for keys and provenance."""
        return asdict(self)


def config_from(values: Mapping[str, Any]) -> InstrumentConfig:
    """Settings from plain values; raises ConfigError naming unknown keys."""
    known = {entry.name for entry in fields(InstrumentConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"Unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    return InstrumentConfig(**values)


def cache_directory() -> Path:
    """Where rebuildable things are kept: `cache/` of the project, or the folder named by MINE_CACHE."""
    return Path(os.environ.get("MINE_CACHE") or PROJECT / "cache")


def notebook_directory() -> Path:
    """Where the notebook is kept: `notebook/` of the project, or the folder named by MINE_NOTEBOOK. Nothing rebuilds it."""
    return Path(os.environ.get("MINE_NOTEBOOK") or PROJECT / "notebook")
