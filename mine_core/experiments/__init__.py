"""Measurements of the instrument: on known answers where there are any, against nulls always."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.types import OnProgress

Experiment = Callable[..., dict[str, Any]]

EXPERIMENTS: Mapping[str, str] = {
    "encoding": "encoding_accuracy",
    "description": "description_accuracy",
    "dictionary": "dictionary_accuracy",
    "attribution": "attribution_accuracy",
    "removal": "removal_effect",
    "counterfactual": "counterfactual_effects",
    "concept": "concept_accuracy",
    "explain": "explain_speed",
    "start": "start_speed",
    "encoding-speed": "encoding_speed",
    "claims": "claims",
    "learning": "learning_curve",
    "attribution-speed": "attribution_speed",
    "words-speed": "words_speed",
    "edit": "edit_speed",
}


IN_TASKS = ("description", "learning", "removal", "counterfactual", "concept", "claims")
"""Experiments whose measuring is a list of small tasks; of the others what is measured is made so."""

NEEDED: Mapping[str, tuple[str, ...]] = {"dictionary": ("dictionary",), "removal": ("second",), "counterfactual": ("second",)}
"""What an experiment measures beside the instrument, as `spread_stages` names it."""


def measure(name: str, config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where) -> dict[str, Any]:
    """Run an experiment by name, with what takes long wherever `where` says; see the experiment for what it raises."""
    from mine_core.instrument.spread import spread_stages

    for plan in ("instrument", *NEEDED.get(name, ())):
        spread_stages(config, store, where, plan, on_progress)
    found = experiment(name)
    return found(config, store, on_progress, where) if name in IN_TASKS else found(config, store, on_progress)


def experiment(name: str) -> Experiment:
    """Find an experiment by name: the function `measure` of a module of this package, of (config, store, on_progress).

    Those of IN_TASKS take where their tasks run as well.
    """
    return import_module(f"mine_core.experiments.{EXPERIMENTS[name]}").measure
