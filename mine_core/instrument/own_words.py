"""A user's own words for one subject and backbone: scored beside the vocabulary, kept across restarts, taken away again.

The built stages of the vocabulary are left as they are: what own words need is an artifact of its own, made from them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, canonical_json, code_version, hash_text, write_text
from mine_core.config import InstrumentConfig
from mine_core.description.decoding import LEAST_HELD_OUT, describe_voxels, no_words, open_voxel_words, save_voxel_words
from mine_core.description.evidence import open_evidence, save_evidence
from mine_core.description.own_words import read_words, require_new, require_room
from mine_core.description.vocabulary import calibrate, open_vocabulary, save_vocabulary, with_words
from mine_core.errors import ArtifactError, Cancelled, DescriptionError
from mine_core.instrument.instrument import Instrument, Lazy
from mine_core.instrument.stages import stages_of
from mine_core.profiles import wordless_text
from mine_core.types import IsCancelled, OnProgress

CODE = ("instrument/own_words.py", "instrument/word_makers.py")
SEED = 7308


def kept_words(config: InstrumentConfig, store: ArtifactStore) -> tuple[str, ...]:
    """Own words that are kept for a subject and backbone, in the order they were added; raises ArtifactError if unreadable."""
    path = _list_path(config, store)
    if not path.is_file():
        return ()
    try:
        return tuple(str(word) for word in json.loads(path.read_text())["words"])
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"The list of your own words, {path.name}, cannot be read ({error}); delete it and add them again."
        ) from error


def add_words(
    instrument: Instrument,
    store: ArtifactStore,
    content: bytes | str,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[str, ...]:
    """Add words to those kept, score them, and keep the longer list once they are scored; returns it.

    Parameters
    ----------
    instrument : as built, without own words.
    content : text or the bytes of a text file (see `read_words`).

    Raises
    ------
    ConfigError
        If the words cannot be used as given, or are there already.
    DescriptionError
        If the backbone has no words at all.
    BackboneError
        If the backbone cannot read one of them.
    Cancelled
        If `cancelled()` became True; then nothing is kept.
    """
    if not len(instrument.vocabulary):
        raise DescriptionError(f"{wordless_text(instrument.features.backbone.name)} Choose another backbone.")
    words = read_words(content)
    with _locked(instrument.config, store):
        before = kept_words(instrument.config, store)
        require_new(words, (*instrument.vocabulary.words, *before))
        require_room(len(before) + len(words))
        with_own_words(instrument, store, (*before, *words), on_progress=on_progress, cancelled=cancelled)
        _keep(instrument.config, store, (*before, *words))
    return (*before, *words)


def remove_words(
    instrument: Instrument,
    store: ArtifactStore,
    words: tuple[str, ...],
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[str, ...]:
    """Take words away from those kept, scoring what is left; returns what is left. Words that are not kept are passed over."""
    with _locked(instrument.config, store):
        left = tuple(word for word in kept_words(instrument.config, store) if word not in words)
        with_own_words(instrument, store, left, on_progress=on_progress, cancelled=cancelled)
        _keep(instrument.config, store, left)
    return left


def own_recipe(config: InstrumentConfig, store: ArtifactStore, words: tuple[str, ...]) -> Recipe:
    """Name what own words need in the store."""
    keys = tuple(stage.recipe.key for stage in stages_of(config, store) if stage.name in ("words", "evidence"))
    return Recipe("own-words", {"words": list(words)}, keys, code_version(*CODE))


def is_scored(config: InstrumentConfig, store: ArtifactStore, words: tuple[str, ...]) -> bool:
    """Whether own words can be opened without scoring anything."""
    return not words or store.find(own_recipe(config, store, words)) is not None


def with_own_words(
    instrument: Instrument,
    store: ArtifactStore,
    words: tuple[str, ...],
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Instrument:
    """Open an instrument with own words beside its vocabulary, scoring them first if they are not in the store.

    Every word, own or not, competes for every voxel again: own words are chosen on training stimuli and scored on held-out
    ones as all are, and stand in the group 'your words'. The instrument given is not changed.

    Raises BackboneError if the backbone cannot read a word, Cancelled if `cancelled()` became True.
    """
    if not words:
        return instrument
    make = partial(_score, instrument, words, on_progress or (lambda *_: None), cancelled or (lambda: False))
    return _opened(instrument, words, store.build(own_recipe(instrument.config, store, words), make))


def _opened(instrument: Instrument, words: tuple[str, ...], artifact: Artifact) -> Instrument:
    vocabulary = open_vocabulary(artifact.path)
    return replace(
        instrument,
        vocabulary=vocabulary,
        words=open_voxel_words(artifact.path),
        evidence=Lazy(partial(open_evidence, artifact.path, vocabulary)),
        own_words=words,
    )


def _score(
    instrument: Instrument, words: tuple[str, ...], on_progress: OnProgress, cancelled: IsCancelled, directory: Path
) -> dict[str, Any]:
    """Make what the stages `words` and `evidence` make, of the vocabulary with the own words."""
    from mine_core.instrument.word_makers import find_evidence_of

    features, splits = instrument.features, instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    on_progress(0, 3, "Reading your words")
    vocabulary = with_words(instrument.vocabulary, words, instrument.backbone.get())
    vocabulary = calibrate(vocabulary, features, splits.train, instrument.mean_patches)
    save_vocabulary(vocabulary, directory)
    on_progress(1, 3, "Scoring words for every voxel")
    described = no_words(len(instrument.score.r), len(held_out))
    if len(held_out) >= LEAST_HELD_OUT:
        described = describe_voxels(
            features,
            instrument.subject.responses,
            instrument.model,
            vocabulary,
            train=splits.train,
            held_out=held_out,
            rng=np.random.default_rng(SEED),
            n_permutations=instrument.config.n_permutations,
        )
    if cancelled():
        raise Cancelled("Stopped while your words were scored. Nothing of them was kept.")
    save_voxel_words(described, directory)
    on_progress(2, 3, "Looking for every word in every image")
    seen = find_evidence_of(features, instrument.mean_patches, vocabulary, described, splits.train, cancelled=cancelled)
    save_evidence(seen, directory)
    on_progress(3, 3, "Ready")
    return {"n_words": len(words)}


def _list_path(config: InstrumentConfig, store: ArtifactStore) -> Path:
    return store.root / "own-word-lists" / f"{hash_text(config.subject, str(config.seed), config.backbone)}.json"


@contextmanager
def _locked(config: InstrumentConfig, store: ArtifactStore) -> Iterator[None]:
    """Hold the list of a subject and backbone, across processes: two that add at once must not lose a word."""
    locks = store.root / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"own-word-list-{_list_path(config, store).stem}.lock"):
        yield


def _keep(config: InstrumentConfig, store: ArtifactStore, words: tuple[str, ...]) -> None:
    path = _list_path(config, store)
    if not words:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"subject": config.subject, "seed": config.seed, "backbone": config.backbone}
    write_text(path, canonical_json(about | {"words": list(words)}))
