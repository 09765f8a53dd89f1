"""The stages that an instrument is built of: what each depends on and how it is made.

cortex -> subject -> features -> encoding -> words -> evidence; subject -> contrast; features -> captions. Each is an artifact
whose key follows from the settings and the code alone, so the whole chain of keys is known before anything is made: a build that
is stopped goes on at the stage where it was, and a changed setting rebuilds only what depends on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version, hash_file, library_versions
from mine_core.backbones.presets import adapter_code, vocabulary_of, weights_key
from mine_core.config import InstrumentConfig
from mine_core.cortex.s1 import s1_recipe
from mine_core.description.vocabulary import VOCABULARIES
from mine_core.errors import Cancelled
from mine_core.instrument.subjects import PHANTOM, custom_artifact
from mine_core.types import IsCancelled, OnProgress

SCORING_CODE = (
    "encoding/scoring.py",
    "encoding/noise_ceiling.py",
    "encoding/alignment.py",
    "statistics.py",
    "instrument/persist.py",
)
RIDGE_CODE = ("encoding/ridge.py", "encoding/gram.py", "encoding/blocks.py", *SCORING_CODE)
WORDS_CODE = ("description/decoding.py", "description/scoring.py", "description/vocabulary.py")
EVIDENCE_CODE = ("description/evidence.py", "description/vocabulary.py")
CONTRAST_CODE = ("description/contrast.py", "encoding/ridge.py", "encoding/gram.py", "encoding/blocks.py", "encoding/alignment.py")
LAYOUT_CODE = ("instrument/layouts.py", "instrument/own_cortex.py")
FitOn = Literal["train", "validation"]
MakersIn = Literal["makers", "feature_makers", "layouts", "word_makers", "dictionary_makers"]
Made = Mapping[str, Artifact]
Make = Callable[[Path, Made, OnProgress, IsCancelled], dict[str, Any] | None]


@dataclass(frozen=True)
class Stage:
    """One artifact to be made: its recipe, how long it takes beside the others, what to call it, and what makes it."""

    name: str
    recipe: Recipe
    weight: int
    title: str
    make: Make


def stages_of(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    """All stages of an instrument in the order they are made."""
    before = encoding_stages(config, store)
    features, encoding = before[-2].recipe, before[-1].recipe
    vocabulary = hash_file(VOCABULARIES / f"{vocabulary_of(config.backbone)}.toml")
    words = Recipe("words", {"n_permutations": config.n_permutations}, (encoding.key, vocabulary), code_version(*WORDS_CODE))
    evidence = Recipe("evidence", {}, (words.key,), code_version(*EVIDENCE_CODE))
    contrast = Recipe("contrast", {}, features.inputs[:1], code_version(*CONTRAST_CODE))
    captions = Recipe("captions", {}, (features.key,), code_version("backbones/captioning.py"))
    return [
        *before,
        Stage("words", words, 15, "Scoring words for every voxel", find_maker("words", config)),
        Stage("evidence", evidence, 5, "Looking for every word in every image", find_maker("evidence", config, "word_makers")),
        Stage("contrast", contrast, 10, "Measuring contrast", find_maker("contrast", config, "word_makers")),
        Stage("captions", captions, 15, "Writing captions", find_maker("captions", config)),
    ]


def encoding_stages(config: InstrumentConfig, store: ArtifactStore, fit_on: FitOn = "train") -> list[Stage]:
    """Stages up to a fitted and scored encoding model; `fit_on` says which part of the stimuli it is fit on."""
    before = _phantom_stages(config, store) if config.subject == "phantom" else _custom_stages(config, store)
    subject = before[-1].recipe.key if config.subject == "phantom" else custom_artifact(config.subject, store).key
    features = Recipe(
        "features",
        {"backbone": config.backbone},
        (subject, weights_key(config.backbone)),
        code_version("features.py", *adapter_code(config.backbone)),
    )
    embed = find_maker("kept_features", (config, store.root / "unfinished" / features.key), "feature_makers")
    encoding = Recipe(
        "encoding",
        {"kind": "ridge", "n_permutations": config.n_permutations, "fit_on": fit_on},
        (features.key,),
        code_version(*RIDGE_CODE, "instrument/makers.py"),
    )
    return [
        *before,
        Stage("features", features, 20, "Embedding the stimuli", embed),
        Stage("encoding", encoding, 15, "Fitting and scoring the encoding model", find_maker("encoding", (config, fit_on))),
    ]


def given_of(config: InstrumentConfig, store: ArtifactStore) -> dict[str, Artifact]:
    """What the stages begin with: nothing for the phantom, the imported subject for any other."""
    return {} if config.subject == PHANTOM else {"subject": custom_artifact(config.subject, store)}


def _phantom_stages(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    cortex = s1_recipe()
    subject = Recipe("subject", {"name": "phantom", "seed": config.seed}, (cortex.key,), code_version("subjects/phantom"))
    return [
        Stage("cortex", cortex, 15, "Flattening the cortex", find_maker("cortex", store)),
        Stage("subject", subject, 35, "Rendering scenes and simulating responses", find_maker("phantom", config)),
    ]


def _custom_stages(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    found = custom_artifact(config.subject, store)
    kind = map_kind(found)
    given: Any = found
    if kind == "pycortex":
        versions = library_versions(("pycortex",))
        recipe = Recipe("cortex", {"kind": kind, **versions}, (found.key,), code_version("cortex", *LAYOUT_CODE))
        given, title = (found, store.root), "Flattening the cortex"
    elif kind == "mapper":
        recipe = Recipe("mapper", {}, (found.key,), code_version("cortex/flatmap.py", "cortex/projection.py", *LAYOUT_CODE))
        title = "Reading the flatmap"
    elif kind == "slices":
        recipe = Recipe("slices", {}, (found.key,), code_version("cortex/slices.py", "instrument/layouts.py"))
        title = "Laying out slices"
    elif kind == "fsaverage":
        recipe = Recipe("surface", {}, (found.key,), code_version("cortex/fsaverage.py", "instrument/layouts.py"))
        title = "Laying the average surface flat"
    else:
        recipe = Recipe("layout", {}, (found.key,), code_version("cortex/layout.py", "instrument/makers.py"))
        return [Stage("cortex", recipe, 5, "Laying out units by similarity", find_maker("layout", found))]
    maker = "surface" if kind == "fsaverage" else kind
    return [Stage("cortex", recipe, 15 if kind == "pycortex" else 5, title, find_maker(maker, given, "layouts"))]


def map_kind(subject: Artifact) -> str:
    """Kind of map that an imported subject is drawn on: none (by similarity), slices, fsaverage, pycortex or mapper."""
    settings = subject.manifest["config"]
    if "import" in settings:
        return str(settings["import"].get("cortex", {"kind": "none"})["kind"])
    return "slices" if settings["space"] == "func1pt8mm" else "fsaverage"


def find_maker(name: str, given: Any, where: MakersIn = "makers") -> Make:
    """Find a maker when it is needed: opening what is in the store must not wait for the libraries that make it."""

    def make(directory: Path, made: Made, on_progress: OnProgress, cancelled: IsCancelled) -> dict[str, Any] | None:
        from importlib import import_module

        from mine_core.instrument.makers import Work

        maker = getattr(import_module(f"mine_core.instrument.{where}"), name)
        return maker(given)(Work(directory, made, on_progress, cancelled))

    return make


class Run:
    """Makes stages in order and reports one progress over all of them."""

    def __init__(self, store: ArtifactStore, on_progress: OnProgress | None, cancelled: IsCancelled | None) -> None:
        self.store, self.done, self.total = store, 0, 1
        self.on_progress = on_progress or (lambda *_: None)
        self.cancelled = cancelled or (lambda: False)

    def make(self, stages: list[Stage], made: dict[str, Artifact]) -> dict[str, Artifact]:
        """Make every stage that is not in the store; raises Cancelled between and within stages."""
        self.done, self.total = 0, sum(stage.weight for stage in stages)
        for stage in stages:
            if self.cancelled():
                raise Cancelled(f"Stopped before: {stage.title}. What was finished is kept.")
            self.on_progress(self.done, self.total, stage.title)
            made[stage.name] = self.store.build(stage.recipe, partial(self._one, stage, made), self.cancelled)
            self.done += stage.weight
        self.on_progress(self.total, self.total, "Ready")
        return made

    def _one(self, stage: Stage, made: Made, path: Path) -> dict[str, Any] | None:
        def within(done: int, total: int, message: str = "") -> None:
            detail = stage.title if message.lower() in stage.title.lower() else f"{stage.title}: {message}"
            self.on_progress(100 * self.done + round(100 * stage.weight * done / max(total, 1)), 100 * self.total, detail)

        return stage.make(path, made, within, self.cancelled)
