"""Which of a subject's images test a concept: those that show it, and beside each the nearest that show related things instead."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.search import embed_texts
from mine_core.instrument.things import thing_in, things_of
from mine_core.profiles import wordless_text

SHOWN, ABSENT, NEUTRAL = 1.5, 1.0, 0.5  # SD of the similarity over training images; chosen on phantom 0
N_POSITIVE, LEAST_POSITIVE = 20, 8
N_COMPANY, LEAST_APART = 3, 8  # of 2, 3, 5 and 10 words with 8 and 12 images; measured activation and negatives, phantom 0
N_NEGATIVE, N_WITHIN, LEAST_NEGATIVE = 10, 5, 3
LEAST_SHOWING = 3  # held-out images that must show a word and not the concept
N_NEUTRAL = 8


@dataclass(frozen=True)
class ConceptStimuli:
    """The images that test a concept. All are held out: the encoding model was not fit on them, nor were they seen by a choice.

    `thing` is the word of the vocabulary that the concept speaks of, `text` its direction. `positives` show the concept best;
    `apart` show it without its usual `company`, or with as little of that as can be had. Rows of `negatives` are those apart,
    columns the `words`: the image that shows the word and not the concept, nearest in context. `neutral` show neither the concept
    nor any of the words. All numbers are stimuli of the subject, counted from 0.
    """

    concept: str
    thing: str
    text: Float[np.ndarray, " feature"]
    positives: Int[np.ndarray, " positive"]
    apart: Int[np.ndarray, " apart"]
    company: tuple[str, ...]
    words: tuple[str, ...]
    negatives: Int[np.ndarray, "apart word"]
    neutral: Int[np.ndarray, " neutral"]
    n_held_out: int


def choose_stimuli(instrument: Instrument, concept: str) -> ConceptStimuli:
    """Choose the images of a concept by text alone; no response, measured or predicted, takes part.

    z[i, w] = (cos(pooled[i], text[w]) - its mean over training images) / its SD over training images

    An image shows a word from z = 1.5 on and does not show it below 1. Positives: the 20 held-out images of highest z. Words: up
    to five of the concept's own group and others of the vocabulary's things, ten in all, by the cosine of their texts with the
    concept's, where three held-out images or more show the word and not the concept. Company: the three things whose cosine over
    training images rises most with the concept's (Pearson's r), whether or not images show them without it. Apart are the images
    that show the concept and no company, the 20 of highest z; where there are fewer than 8, the 8 that show least of it.
    Beside each of these and for each word stands the image with the word and without the concept that is nearest to it in cosine,
    once the directions of both texts are taken out: what else it shows is as like as can be found.

    Parameters
    ----------
    concept : a thing of the vocabulary, or a phrase that names one, as in "a red ball".

    Raises
    ------
    EditError
        If the backbone has no words, the concept names no thing, or too few held-out images show it or what it is compared with.
    BackboneError
        If the backbone cannot read the phrase.

    Notes
    -----
    What an image shows is what the backbone takes it to show: look at the images. Where two things hardly come apart in the
    subject's images, no matching sets them apart; the edits are for that.
    """
    if not len(instrument.vocabulary):
        raise EditError(f"{wordless_text(instrument.features.backbone.name)} A concept cannot be tested by name.")
    concept = " ".join(concept.split())
    thing = thing_in(instrument, concept)
    groups = things_of(instrument.vocabulary)
    own = next((words for words in groups.values() if thing in words), None)
    if own is None:
        raise EditError(f"'{thing}' is no thing that could be taken out of an image; test a thing, such as '{_first_thing(groups)}'.")
    others = tuple(word for words in groups.values() for word in words if word != thing)
    texts = embed_texts(instrument, (concept, *others))
    splits = instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    z, seen, company = _presence(instrument, texts, held_out)
    positives = _positives(concept, z[:, 0])
    near = np.argsort(-(texts[1:] @ texts[0]), kind="stable")
    showing = {int(w): np.flatnonzero((z[:, 1 + w] >= SHOWN) & (z[:, 0] < ABSENT)) for w in near}
    chosen = _related([int(w) for w in near if len(showing[int(w)]) >= LEAST_SHOWING], [word in own for word in others])
    if len(chosen) < LEAST_NEGATIVE:
        raise EditError(
            f"Images without '{concept}' show {len(chosen)} other things clearly, and {LEAST_NEGATIVE} are needed to compare it with; "
            "use a vocabulary of more words, or hold out more images."
        )
    apart = _apart(z[:, 0], z[:, 1 + company].max(axis=1))
    matched = [_nearest_context(seen, texts[[0, 1 + w]], apart, showing[w]) for w in chosen]
    quiet = np.asarray((z[:, [0, *(1 + w for w in chosen)]] < NEUTRAL).all(axis=1))
    return ConceptStimuli(
        concept,
        thing,
        texts[0],
        held_out[positives],
        held_out[apart],
        tuple(others[w] for w in company),
        tuple(others[w] for w in chosen),
        held_out[np.stack(matched, axis=1)],
        held_out[_spread(quiet)],
        len(held_out),
    )


def _first_thing(groups: dict[str, list[str]]) -> str:
    return next((words[0] for words in groups.values() if words), "dog")


def _presence(
    instrument: Instrument, texts: Float[np.ndarray, "text feature"], held_out: Int[np.ndarray, " image"]
) -> tuple[Float[np.ndarray, "image text"], Float[np.ndarray, "image feature"], Int[np.ndarray, " company"]]:
    """How much held-out images show each text, in SD over training images; their embeddings, of length 1 before centring; company.

    The company of the first text are the others that training images show most where they show it.
    """
    train = instrument.subject.splits.train
    parts = [np.asarray(instrument.features.pooled[rows], np.float32) for rows in (train, held_out)]
    before, after = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts)
    scores = before @ texts.T
    z = (after @ texts.T - scores.mean(axis=0)) / scores.std(axis=0)
    together = np.corrcoef(scores.T)[0, 1:]
    return z, after - before.mean(axis=0), np.argsort(-together, kind="stable")[:N_COMPANY]


def _positives(concept: str, z: Float[np.ndarray, " image"]) -> Int[np.ndarray, " positive"]:
    order = np.argsort(-z, kind="stable")[:N_POSITIVE]
    found = order[z[order] >= SHOWN]
    if len(found) < LEAST_POSITIVE:
        raise EditError(
            f"{len(found)} of {len(z)} held-out images show '{concept}', and at least {LEAST_POSITIVE} are needed; "
            "test a concept that is shown more often, or hold out more images."
        )
    return found


def _apart(z: Float[np.ndarray, " image"], company: Float[np.ndarray, " image"]) -> Int[np.ndarray, " apart"]:
    """Images that show the concept and none of its company, best first; of too few, those that show least of it."""
    shown = np.flatnonzero(z >= SHOWN)
    alone = shown[company[shown] < ABSENT]
    if len(alone) < LEAST_APART:
        alone = shown[np.argsort(company[shown], kind="stable")[:LEAST_APART]]
    return alone[np.argsort(-z[alone], kind="stable")][:N_POSITIVE]


def _related(near: list[int], within: list[bool]) -> list[int]:
    """The nearest words, up to five of the concept's own group among them, in order of nearness."""
    inside = [w for w in near if within[w]][:N_WITHIN]
    outside = [w for w in near if not within[w]][: N_NEGATIVE - len(inside)]
    return [w for w in near if w in {*inside, *outside}]


def _nearest_context(
    seen: Float[np.ndarray, "image feature"],
    texts: Float[np.ndarray, "2 feature"],
    apart: Int[np.ndarray, " apart"],
    showing: Int[np.ndarray, " shown"],
) -> Int[np.ndarray, " apart"]:
    """For each image apart the one that shows the other word and is nearest once both texts' directions are taken out."""
    basis = np.linalg.qr(texts.T)[0]
    context = seen - seen @ basis @ basis.T
    context /= np.maximum(np.linalg.norm(context, axis=1, keepdims=True), 1e-12)
    return showing[np.argmax(context[apart] @ context[showing].T, axis=1)]


def _spread(quiet: Bool[np.ndarray, " image"]) -> Int[np.ndarray, " neutral"]:
    """Up to N_NEUTRAL of the marked images, evenly spaced."""
    found = np.flatnonzero(quiet)
    return found if len(found) <= N_NEUTRAL else found[np.linspace(0, len(found) - 1, N_NEUTRAL).astype(int)]
