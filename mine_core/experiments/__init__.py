"""Measurements of the instrument: on known answers where there are any, against nulls always."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.types import OnProgress

Experiment = Callable[[InstrumentConfig, ArtifactStore, OnProgress], dict[str, Any]]

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


def experiment(name: str) -> Experiment:
    """Find an experiment by name; each is the function `measure` of a module of this package."""
    return import_module(f"mine_core.experiments.{EXPERIMENTS[name]}").measure
