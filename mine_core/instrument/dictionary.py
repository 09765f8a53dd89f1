"""The voxel dictionary of a subject: its stages, opened as one thing, and what a page asks of it.

Nothing here is part of the build of an instrument: it takes minutes and is made when asked for (`fit --dictionary`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version
from mine_core.config import InstrumentConfig
from mine_core.dictionary.autoencoder import (
    KINDS,
    TOKEN_KINDS,
    Autoencoder,
    AutoencoderConfig,
    Kind,
    TokenKind,
    load_autoencoder,
)
from mine_core.dictionary.hierarchy import LayerPreference, load_preference
from mine_core.dictionary.matching import Halves, Matches
from mine_core.dictionary.persist import UsedColumns, load_columns, load_matches
from mine_core.dictionary.quality import Quality, Stability, stability
from mine_core.dictionary.tokens import LayerTokens, load_layers
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.regions import known_group
from mine_core.instrument.stages import RIDGE_CODE, SCORING_CODE, Run, Stage, encoding_stages, find_maker, given_of
from mine_core.types import IsCancelled, OnProgress

SEEDS = (0, 1)
"""Autoencoders are trained from two seeds: the first is the dictionary, the second says how much of it is chance."""
PATCHES = {"expansion": 4, "active": 16, "epochs": 3}
POOLED = {"expansion": 2, "active": 16, "epochs": 60, "tokens_per_step": 128}
TRAINING_CODE = ("dictionary/autoencoder.py", "dictionary/training.py", "dictionary/quality.py")
MATCHING_CODE = ("dictionary/matching.py", "dictionary/activations.py", "dictionary/persist.py", *SCORING_CODE)
WHERE: Final = "dictionary_makers"
MAKERS = f"instrument/{WHERE}.py"
EARLY = ("V1", "V2", "V3", "hV4")
LAST_STAGE = len(EARLY)
LARGEST_Q = 0.05
STABILITY_SEED = 31


@dataclass(frozen=True)
class Dictionary:
    """Autoencoders of every layer's patch tokens, their units matched to voxels, and the layer each voxel is like.

    `matched` are voxels whose first unit's held-out correlation is above chance (q <= 0.05); `placed` those whose best layer
    predicts them above chance.
    """

    tokens: LayerTokens
    autoencoders: tuple[Autoencoder, ...]
    matches: Matches
    halves: Halves
    columns: tuple[UsedColumns, ...]
    whole: tuple[Float[np.ndarray, "stimulus unit"], ...]
    preference: LayerPreference
    preference_q: Float[np.ndarray, " voxel"]
    quality: tuple[Quality, ...]
    key: str

    @property
    def matched(self) -> Bool[np.ndarray, " voxel"]:
        """Voxels with a unit."""
        return np.asarray(self.matches.q <= LARGEST_Q)

    @property
    def placed(self) -> Bool[np.ndarray, " voxel"]:
        """Voxels with a layer."""
        return np.asarray(self.preference_q <= LARGEST_Q)


def dictionary_stages(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    """Stages of everything that is evaluated of a dictionary, after the subject's features."""
    before = encoding_stages(config, store)[:-1]
    features = before[-1].recipe.key
    read = Recipe("layers", {}, (features,), code_version("dictionary/tokens.py", "backbones/layers.py"))
    stages = [*before, Stage("layers", read, 50, "Reading the layers of the backbone", find_maker("layers", config, WHERE))]
    for tokens in TOKEN_KINDS:
        for kind in KINDS:
            stages += [_training_stage(store, read, tokens, kind, seed) for seed in SEEDS]
    for tokens in TOKEN_KINDS:
        stages += [_matching_stage(config, store, read, tokens, kind) for kind in KINDS]
    code = code_version("dictionary/hierarchy.py", *RIDGE_CODE, MAKERS)
    preference = Recipe("layer_preference", {"n_permutations": config.n_permutations}, (read.key,), code)
    return [*stages, Stage("preference", preference, 60, "Predicting voxels from every layer", find_maker("preference", config, WHERE))]


def page_stages(config: InstrumentConfig, store: ArtifactStore) -> list[Stage]:
    """Stages that a page needs: without the second seed, and with one kind of autoencoder alone."""
    wanted = {stage_name("patch", "topk", SEEDS[0]), match_name("patch", "topk"), "layers", "preference"}
    stages = dictionary_stages(config, store)
    before = {stage.name for stage in encoding_stages(config, store)[:-1]}
    return [stage for stage in stages if stage.name in wanted | before]


def stage_name(tokens: TokenKind, kind: Kind, seed: int) -> str:
    """Name of the stage of autoencoders."""
    return f"autoencoders {tokens} {kind} {seed}"


def match_name(tokens: TokenKind, kind: Kind) -> str:
    """Name of the stage of matches."""
    return f"matches {tokens} {kind}"


def _training_stage(store: ArtifactStore, read: Recipe, tokens: TokenKind, kind: Kind, seed: int) -> Stage:
    settings = AutoencoderConfig(kind=kind, seed=seed, **(PATCHES if tokens == "patch" else POOLED))
    recipe = Recipe("autoencoders", {"tokens": tokens, **settings.__dict__}, (read.key,), code_version(*TRAINING_CODE))
    scratch = store.root / "unfinished" / recipe.key
    title = f"Training sparse autoencoders of {tokens} tokens ({kind}, seed {seed})"
    weight = 60 if tokens == "patch" else 15
    return Stage(stage_name(tokens, kind, seed), recipe, weight, title, find_maker("autoencoders", (settings, tokens, scratch), WHERE))


def _matching_stage(config: InstrumentConfig, store: ArtifactStore, read: Recipe, tokens: TokenKind, kind: Kind) -> Stage:
    trained = _training_stage(store, read, tokens, kind, SEEDS[0])
    settings = {"n_permutations": config.n_permutations}
    recipe = Recipe("matches", settings, (trained.recipe.key,), code_version(*MATCHING_CODE, MAKERS))
    make = find_maker("matches", (tokens, trained.name, config.n_permutations), WHERE)
    return Stage(match_name(tokens, kind), recipe, 30, f"Matching units of {tokens} tokens ({kind}) to voxels", make)


def build_dictionary(
    config: InstrumentConfig,
    store: ArtifactStore,
    *,
    whole: bool = True,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> dict[str, Artifact]:
    """Make whatever of a dictionary is not in the store yet; a run that is stopped goes on at the epoch where it was.

    Parameters
    ----------
    whole : everything that is evaluated; else what a page needs.

    Raises
    ------
    BackboneError
        If the backbone's layers cannot be read.
    EncodingError
        If there are fewer than 40 training stimuli.
    Cancelled
        If `cancelled()` became True; finished stages and checkpoints are kept.
    """
    stages = (dictionary_stages if whole else page_stages)(config, store)
    return Run(store, on_progress, cancelled).make(stages, given_of(config, store))


def dictionary_is_built(config: InstrumentConfig, store: ArtifactStore) -> bool:
    """Whether a page can open the dictionary without making anything."""
    return all(store.find(stage.recipe) is not None for stage in page_stages(config, store))


def open_dictionary(made: Mapping[str, Artifact], tokens: TokenKind = "patch", kind: Kind = "topk") -> Dictionary:
    """Open a dictionary that was made; its arrays are memory-mapped and read-only."""
    layers, matched = load_layers(made["layers"].path), made[match_name(tokens, kind)]
    folder = made[stage_name(tokens, kind, SEEDS[0])].path
    trained = tuple(load_autoencoder(folder / f"layer_{layer + 1:02d}") for layer in range(len(layers)))
    found, halves = load_matches(matched.path)
    read = [load_columns(matched.path, layer) for layer in range(len(layers))]
    return Dictionary(
        tokens=layers,
        autoencoders=trained,
        matches=found,
        halves=halves,
        columns=tuple(used for used, _ in read),
        whole=tuple(values for _, values in read),
        preference=load_preference(made["preference"].path),
        preference_q=made["preference"].array("q"),
        quality=read_quality(made[stage_name(tokens, kind, SEEDS[0])]),
        key=matched.key,
    )


def read_quality(trained: Artifact) -> tuple[Quality, ...]:
    """How good the autoencoders of every layer are on validation images."""
    names = [part.name for part in fields(Quality)]
    return tuple(Quality(**{name: layer[name] for name in names}) for layer in trained.json("quality"))


def stability_of_layers(config: InstrumentConfig, store: ArtifactStore, dictionary: Dictionary) -> tuple[Stability, ...] | None:
    """Whether autoencoders of another seed hold the same units, layer by layer; None while no second seed has been trained."""
    stages = {stage.name: stage for stage in dictionary_stages(config, store)}
    again = store.find(stages[stage_name("patch", "topk", SEEDS[1])].recipe)
    if again is None:
        return None
    others = [load_autoencoder(again.path / f"layer_{layer + 1:02d}") for layer in range(len(dictionary.autoencoders))]
    pairs = zip(dictionary.autoencoders, others, strict=True)
    return tuple(stability(one, other, np.random.default_rng(STABILITY_SEED)) for one, other in pairs)


def stages_of_path(regions: tuple[str, ...]) -> dict[str, int]:
    """How far each region is on the path from early visual cortex to regions of one category; others are not on it.

    V1, V2, V3, hV4 in this order, then all regions that localisers find, as `known_group` knows them.
    """
    found = {}
    for region in regions:
        early = next((stage for stage, name in enumerate(EARLY) if region.startswith(name)), None)
        if early is not None:
            found[region] = early
        elif known_group(region):
            found[region] = LAST_STAGE
    return found


def unit_numbers(dictionary: Dictionary) -> Int[np.ndarray, " voxel"]:
    """First unit of every voxel, numbered over all layers; the same unit at two places is one."""
    first = np.concatenate([[0], np.cumsum([autoencoder.n_units for autoencoder in dictionary.autoencoders])])
    return first[dictionary.matches.layer[:, 0]] + dictionary.matches.unit[:, 0]


def regions_of(instrument: Instrument) -> dict[str, Bool[np.ndarray, " voxel"]]:
    """Members of every region that holds a voxel."""
    voxels = instrument.subject.responses.voxels
    found = dict(zip(voxels.regions, np.asarray(voxels.membership), strict=True))
    return {name: inside for name, inside in found.items() if inside.any()}
