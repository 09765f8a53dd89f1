"""The words that a voxel or a patch may be described with, and their places in the joint image-text space."""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from mine_core.config import PROJECT
from mine_core.errors import ArtifactError, BackboneError, ConfigError
from mine_core.types import Features

VOCABULARIES = PROJECT / "assets" / "vocabularies"
KEYS, GROUP_KEYS = {"about", "templates", "group", "alternatives"}, {"name", "templates", "words"}
ALTERNATIVES_KEYS = {"name", "words", "of", "kind"}
AlternativesKind = Literal["thing", "scene", "place"]
USER_GROUP = "your words"
# Training images whose patches set the scale of a word: the SD over 500 images of 64 patches is good to about 1 %.
CALIBRATION_IMAGES = 500


@runtime_checkable
class TextEncoder(Protocol):
    """The part of a backbone that reads text."""

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """Joint-space embeddings of texts, L2-normalised; raises BackboneError for words it cannot read."""


@runtime_checkable
class WordEncoder(Protocol):
    """A backbone whose words are directions of their own tokens: a prompt around a word would only dilute it."""

    def encode_words(self, words: Sequence[str]) -> Float[np.ndarray, "word feature"]:
        """Joint-space directions of bare words, L2-normalised; raises BackboneError for words it cannot read."""


@dataclass(frozen=True)
class Alternatives:
    """Words of which a thing, or a scene, shows one: values of an attribute, such as the colours.

    `of` are the groups whose things may have it (none: any). `kind`: an attribute of a "thing", of the whole "scene", or the
    "place" in the image where a thing is.
    """

    name: str
    words: tuple[str, ...]
    of: tuple[str, ...] = ()
    kind: AlternativesKind = "thing"


@dataclass(frozen=True)
class Vocabulary:
    """Words, the group of each, and the prompts that stand for it.

    `embeddings[word, feature]` are L2-normalised means over the prompts of each word; `patch_sd[word]` is the SD of the
    word's score over patches of training images, the unit of a patch's words. None until `embed_vocabulary`, `calibrate`.
    `templates` are what a user's own word is put into. `alternatives` are words that exclude each other.
    """

    words: tuple[str, ...]
    groups: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    embeddings: Float[np.ndarray, "word feature"] | None = None
    patch_sd: Float[np.ndarray, " word"] | None = None
    alternatives: tuple[Alternatives, ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    def embedded(self) -> Float[np.ndarray, "word feature"]:
        """Return the embeddings; raises BackboneError if no backbone has embedded the words."""
        if self.embeddings is None:
            raise BackboneError(f"The {len(self)} words have no embeddings yet; call embed_vocabulary(vocabulary, backbone) first.")
        return self.embeddings

    def calibrated(self) -> Float[np.ndarray, " word"]:
        """Return the SD of each word over training patches; raises BackboneError if `calibrate` was not called."""
        if self.patch_sd is None:
            raise BackboneError(f"The {len(self)} words have no scale yet; call calibrate(vocabulary, features, ...) first.")
        return self.patch_sd

    def positions(self, words: Sequence[str]) -> Int[np.ndarray, " word"]:
        """Where words stand in the vocabulary; raises ConfigError for one that is not in it."""
        places = {word: place for place, word in enumerate(self.words)}
        missing = [word for word in words if word not in places]
        if missing:
            raise ConfigError(f"'{missing[0]}' is not among the {len(self)} words of the vocabulary.")
        return np.array([places[word] for word in words], np.int64)


def vocabulary_names() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return tuple(sorted(path.stem for path in VOCABULARIES.glob("*.toml")))


def load_vocabulary(name: str) -> Vocabulary:
    """Read assets/vocabularies/NAME.toml.

    Raises ConfigError for an unknown name, an unknown key, a word given twice or a template without `{}`.
    """
    path = VOCABULARIES / f"{name}.toml"
    if name not in vocabulary_names():
        raise ConfigError(f"Vocabulary '{name}' was asked for; there are {', '.join(vocabulary_names())}.")
    return parse_vocabulary(tomllib.loads(path.read_text()), path.name)


def parse_vocabulary(table: Mapping[str, Any], source: str) -> Vocabulary:
    """Build a vocabulary from the table of a TOML file.

    A group's `words` are a list, each word its own phrase, or a table of word = [phrases]; every phrase is put into each
    of the group's templates, or the file's.
    """
    _require_keys(table, KEYS, source)
    templates = _templates(table["templates"], source)
    words, groups, phrases = [], [], []
    for group in table["group"]:
        _require_keys(group, GROUP_KEYS, f"{source}, group '{group.get('name')}'")
        given = group["words"]
        entries = given.items() if isinstance(given, dict) else [(word, [word]) for word in given]
        own = _templates(group["templates"], source) if "templates" in group else templates
        for word, said in entries:
            words.append(word)
            groups.append(group["name"])
            phrases.append(tuple(template.format(phrase) for phrase in said for template in own))
    _require_distinct(words, source)
    alternatives = tuple(_alternatives(entry, set(words), set(groups), source) for entry in table.get("alternatives", ()))
    _require_distinct([word for entry in alternatives for word in entry.words], f"{source}, alternatives")
    return Vocabulary(tuple(words), tuple(groups), tuple(phrases), templates, alternatives=alternatives)


def _alternatives(entry: Mapping[str, Any], words: set[str], groups: set[str], source: str) -> Alternatives:
    where = f"{source}, alternatives '{entry.get('name')}'"
    _require_keys(entry, ALTERNATIVES_KEYS, where)
    found = Alternatives(entry["name"], tuple(entry["words"]), tuple(entry.get("of", ())), entry.get("kind", "thing"))
    strange = [word for word in found.words if word not in words] + [group for group in found.of if group not in groups]
    if strange or len(found.words) < 2 or found.kind not in get_args(AlternativesKind):
        raise ConfigError(
            f"{where}: {len(found.words)} words of kind '{found.kind}', of which {strange or 'none'} are no word or group of the "
            f"file; name at least two of its words and a kind of {', '.join(get_args(AlternativesKind))}."
        )
    return found


def _templates(found: Sequence[str], source: str) -> tuple[str, ...]:
    for template in found:
        if template.count("{}") != 1:
            raise ConfigError(f"{source}: template '{template}' must hold {{}} once, where the word goes.")
    return tuple(found)


def _require_keys(table: Mapping[str, Any], known: set[str], source: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{source}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}.")


def _require_distinct(words: Sequence[str], source: str) -> None:
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
    if twice:
        raise ConfigError(f"{source}: {len(twice)} words are given twice (first: '{twice[0]}'); keep each once.")


def embed_vocabulary(vocabulary: Vocabulary, backbone: TextEncoder) -> Vocabulary:
    """Embed every word: t_w = sum over its prompts of encode_text(prompt), scaled to length 1.

    Averaging prompts leaves what they share, the word, and thins out each one's phrasing. A backbone that has directions
    of words (`WordEncoder`) is asked for those instead, and reads no prompt.

    Raises BackboneError if the backbone cannot read a prompt or a word.
    """
    if isinstance(backbone, WordEncoder):
        return replace(vocabulary, embeddings=backbone.encode_words(vocabulary.words), patch_sd=None)
    counts = [len(said) for said in vocabulary.phrases]
    encoded = backbone.encode_text([phrase for said in vocabulary.phrases for phrase in said])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    summed = np.add.reduceat(np.asarray(encoded, np.float64), starts, axis=0)
    embeddings = (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)
    return replace(vocabulary, embeddings=embeddings, patch_sd=None)


def wordless(n_features: int) -> Vocabulary:
    """Vocabulary of no word, embedded and calibrated: what a backbone that reads no text is described with."""
    return Vocabulary((), (), (), (), embeddings=np.zeros((0, n_features), np.float32), patch_sd=np.zeros(0))


def with_words(vocabulary: Vocabulary, extra: Sequence[str], backbone: TextEncoder) -> Vocabulary:
    """Add a user's own words and embed them; the new vocabulary is to be calibrated again.

    Raises ConfigError for an empty word or one that is there already, BackboneError for one that the backbone cannot read.
    """
    cleaned = [" ".join(word.split()) for word in extra]
    if not all(cleaned):
        raise ConfigError(f"{cleaned.count('')} of {len(cleaned)} words are empty; give each at least one letter.")
    _require_distinct([*vocabulary.words, *cleaned], "your words")
    phrases = tuple(tuple(template.format(word) for template in vocabulary.templates) for word in cleaned)
    added = Vocabulary(tuple(cleaned), (USER_GROUP,) * len(cleaned), phrases, vocabulary.templates)
    embeddings = embed_vocabulary(added, backbone).embedded()
    return Vocabulary(
        words=vocabulary.words + added.words,
        groups=vocabulary.groups + added.groups,
        phrases=vocabulary.phrases + added.phrases,
        templates=vocabulary.templates,
        embeddings=np.concatenate([vocabulary.embedded(), embeddings]),
        alternatives=vocabulary.alternatives,
    )


def calibrate(
    vocabulary: Vocabulary,
    features: Features,
    train: Int[np.ndarray, " train"],
    mean_patches: Float[np.ndarray, "patch feature"],
) -> Vocabulary:
    """Measure how much each word's score varies over patches of training images, at most 500 of them, evenly spaced.

    patch_sd[w]² = mean over images and patches of ((patches[p] - mean_patches[p]) @ t_w)²

    Raises BackboneError if a word's score does not vary, or the words are not embedded.
    """
    directions = vocabulary.embedded().T.astype(np.float32)
    step = max(1, len(train) // CALIBRATION_IMAGES)
    squares, n_patches = np.zeros(len(vocabulary)), 0
    for stimulus in train[::step][:CALIBRATION_IMAGES]:
        beyond = np.asarray(features.patches[stimulus], np.float32) - mean_patches.astype(np.float32)
        squares += np.square(beyond @ directions, dtype=np.float64).sum(axis=0)
        n_patches += len(beyond)
    patch_sd = np.sqrt(squares / n_patches)
    if not (patch_sd > 0).all():
        flat = vocabulary.words[int(np.argmin(patch_sd))]
        raise BackboneError(f"The score of '{flat}' is the same in all {n_patches} training patches; leave the word out.")
    return replace(vocabulary, patch_sd=patch_sd)


def save_vocabulary(vocabulary: Vocabulary, directory: Path) -> None:
    """Write an embedded and calibrated vocabulary as vocabulary.json, embeddings.npy and patch_sd.npy."""
    np.save(directory / "embeddings.npy", vocabulary.embedded(), allow_pickle=False)
    np.save(directory / "patch_sd.npy", vocabulary.calibrated(), allow_pickle=False)
    texts = {name: getattr(vocabulary, name) for name in ("words", "groups", "phrases", "templates")}
    texts["alternatives"] = [asdict(entry) for entry in vocabulary.alternatives]
    (directory / "vocabulary.json").write_text(json.dumps(texts))


def open_vocabulary(directory: Path) -> Vocabulary:
    """Read what `save_vocabulary` wrote; arrays are read-only. Raises ArtifactError if they do not fit together."""
    texts = json.loads((directory / "vocabulary.json").read_text())
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("embeddings", "patch_sd")}
    lengths = {len(texts["words"]), len(texts["groups"]), len(texts["phrases"]), *map(len, arrays.values())}
    if len(lengths) > 1:
        raise ArtifactError(f"A vocabulary's parts have {sorted(lengths)} words in {directory.name}; delete it and build again.")
    return Vocabulary(
        words=tuple(texts["words"]),
        groups=tuple(texts["groups"]),
        phrases=tuple(tuple(said) for said in texts["phrases"]),
        templates=tuple(texts["templates"]),
        alternatives=tuple(
            Alternatives(entry["name"], tuple(entry["words"]), tuple(entry["of"]), entry["kind"]) for entry in texts["alternatives"]
        ),
        **arrays,
    )
