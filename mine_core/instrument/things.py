"""Things that can be inserted into an image by name: words for them, and cut-outs of them from training images."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from mine_core.counterfactual.exemplars import WordView, find_exemplars
from mine_core.counterfactual.insertion import Exemplar
from mine_core.description.vocabulary import USER_GROUP, Vocabulary
from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument, Keyed
from mine_core.instrument.where import heat_of_read_out
from mine_core.profiles import wordless_text

OTHER_WORDS = 6
N_RELATED = 5
SAME_THING = 0.9  # cosine above which two words are taken to name the same thing
# Groups of the vocabulary whose words are no things that could be cut out of an image, and a user's own, which would change controls.
NOT_THINGS = ("colour", "size", "position", "attribute", "action", "material", USER_GROUP)


def insertable_words(instrument: Instrument, voxel: int) -> list[str]:
    """Words for things, those that the voxel wants first; none where the backbone has no words."""
    things = [word for words in things_of(instrument.vocabulary).values() for word in words]
    description = instrument.words.description(voxel)
    wanted = [word for word in (*description.phrases, *description.words) if word in things]
    return list(dict.fromkeys([*wanted, *sorted(things)]))


def things_of(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Words that name a thing, by group: one of a word's phrases is the bare noun, or a photo of it."""
    found: dict[str, list[str]] = {}
    for word, group, phrases in zip(vocabulary.words, vocabulary.groups, vocabulary.phrases, strict=True):
        noun = re.compile(f"(a photo of )?(an? )?{re.escape(word)}")
        if not group.startswith(NOT_THINGS) and any(noun.fullmatch(phrase) for phrase in phrases):
            found.setdefault(group, []).append(word)
    return found


def other_words(instrument: Instrument, word: str) -> list[str]:
    """Things of other groups to compare an insertion with: of each group the first that has a clear exemplar."""
    chosen = []
    for words in things_of(instrument.vocabulary).values():
        if word not in words:
            chosen += clear_words(instrument, words, 1)
    return chosen[:OTHER_WORDS]


def related_words(instrument: Instrument, word: str, n: int = N_RELATED) -> list[str]:
    """The things that are hardest to tell from a word and have a clear exemplar: of its own group first, each nearest first.

    Nearness is the cosine of text embeddings less their mean over all things; another name of the same thing (nearness above
    0.9) is left out. Of the own group there are at most `n` - 2, so that something of another group is always among them.
    """
    by_group = things_of(instrument.vocabulary)
    things = [other for words in by_group.values() for other in words]
    if word not in things:
        return []
    own = next(words for words in by_group.values() if word in words)
    texts = np.stack([text_of(instrument, other) for other in things]).astype(np.float64)
    texts -= texts.mean(axis=0)
    texts /= np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
    nearness = texts @ texts[things.index(word)]
    ranked = [things[i] for i in np.argsort(-nearness, kind="stable") if things[i] != word and nearness[i] <= SAME_THING]
    found = clear_words(instrument, [other for other in ranked if other in own], n - 2)
    return found + clear_words(instrument, [other for other in ranked if other not in own], n - len(found))


def clear_words(instrument: Instrument, words: Sequence[str], n: int) -> list[str]:
    """The first `n` of some words that have a clear exemplar; fewer where fewer have."""
    found: list[str] = []
    for word in words:
        if len(found) == n:
            break
        try:
            exemplars_of(instrument, word)
        except EditError:
            continue
        found.append(word)
    return found


def exemplars_of(instrument: Instrument, word: str) -> tuple[Exemplar, ...]:
    """Cut-outs of a word from training images, found once; raises EditError if no image shows it clearly."""
    return _exemplars(Keyed.of(instrument), word)


@lru_cache(maxsize=512)
def _exemplars(keyed: Keyed, word: str) -> tuple[Exemplar, ...]:
    instrument = keyed.instrument
    require_word(instrument, word)
    train, features = instrument.subject.splits.train, instrument.features
    low, high = int(train.min()), int(train.max()) + 1
    rows = slice(low, high) if np.array_equal(train, np.arange(low, high)) else train
    view = WordView(
        tuple(features.stimulus_ids[i] for i in train),
        instrument.subject.stimuli.images[rows],
        np.asarray(features.pooled[rows]),
    )
    text = text_of(instrument, word)
    return find_exemplars(word, text, view, lambda chosen: heat_of_read_out(instrument, train[chosen], text))


def require_word(instrument: Instrument, word: str) -> None:
    """Raise EditError for a word that is not in the vocabulary, or a backbone without words."""
    if not instrument.features.backbone.has_words:
        raise EditError(f"{wordless_text(instrument.features.backbone.name)} Nothing can be inserted by name.")
    if word not in instrument.vocabulary.words:
        raise EditError(f"'{word}' is not in the vocabulary; choose one of its {len(instrument.vocabulary)} words.")


def thing_in(instrument: Instrument, words: str) -> str:
    """The word of the vocabulary that a phrase speaks of: the longest thing that it holds; raises EditError if it holds none."""
    vocabulary = instrument.vocabulary
    if words in vocabulary.words:
        return words
    phrase = f" {' '.join(words.lower().split())} "
    held = [word for named in things_of(vocabulary).values() for word in named if f" {word} " in phrase]
    if not held:
        raise EditError(f"'{words}' names nothing of the vocabulary's {len(vocabulary)} words; name a thing, as in 'a red ball'.")
    return max(held, key=len)


def text_of(instrument: Instrument, words: str) -> Float[np.ndarray, " feature"]:
    """Embedding of a word of the vocabulary, or of any phrase that the backbone reads."""
    vocabulary = instrument.vocabulary
    if words in vocabulary.words:
        return np.asarray(vocabulary.embedded()[vocabulary.words.index(words)])
    return instrument.backbone.get().encode_text([words])[0]
