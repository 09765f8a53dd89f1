"""Text search over a subject's voxels: embedding the texts, and the responses made ready once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from mine_core.description.scoring import standardised
from mine_core.description.search import TextQuery, TextSearch, search, text_score
from mine_core.description.vocabulary import USER_GROUP, Vocabulary, embed_vocabulary
from mine_core.errors import EncodingError
from mine_core.instrument.instrument import Instrument, Keyed
from mine_core.profiles import wordless_text

SEED = 7306


@dataclass(frozen=True)
class _Ready:
    pooled: Float[np.ndarray, "stimulus feature"]
    answers: Float[np.ndarray, "stimulus voxel"]


@lru_cache(maxsize=2)
def _ready(keyed: Keyed) -> _Ready:
    splits = keyed.instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    pooled = np.asarray(keyed.instrument.features.pooled[held_out], np.float32)
    return _Ready(pooled, standardised(np.asarray(keyed.instrument.subject.responses.values[held_out], np.float32)))


def search_text(instrument: Instrument, query: TextQuery) -> TextSearch:
    """Find the voxels that go with a text; words of the vocabulary need no model, other texts load the backbone once.

    Raises
    ------
    EncodingError
        If the backbone has no words, too few stimuli are held out, or the text's score does not vary.
    BackboneError
        If the backbone cannot read a text.
    """
    if not len(instrument.vocabulary):
        raise EncodingError(wordless_text(instrument.features.backbone.name))
    ready = _ready(Keyed.of(instrument))
    score = text_score(ready.pooled, embed_texts(instrument, query.wanted), embed_texts(instrument, query.unwanted))
    return search(query, score, ready.answers, np.random.default_rng(SEED))


def embed_texts(instrument: Instrument, texts: tuple[str, ...]) -> Float[np.ndarray, "text feature"]:
    """Joint-space directions of texts: of the vocabulary's words as they are there, of others by its templates."""
    vocabulary = instrument.vocabulary
    known = {word: place for place, word in enumerate(vocabulary.words)}
    others = tuple(text for text in texts if text not in known)
    directions = np.asarray(vocabulary.embedded(), np.float32)
    if others:
        phrases = tuple(tuple(template.format(text) for template in vocabulary.templates) for text in others)
        own = Vocabulary(others, (USER_GROUP,) * len(others), phrases, vocabulary.templates)
        directions = np.concatenate([directions, embed_vocabulary(own, instrument.backbone.get()).embedded()])
        known |= {text: len(vocabulary) + i for i, text in enumerate(others)}
    return directions[[known[text] for text in texts]] if texts else np.zeros((0, directions.shape[1]), np.float32)
