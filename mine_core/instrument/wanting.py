"""One voxel's whole profile: its words, attributes, images and caveats, from stored arrays alone."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from mine_core.description.attributes import AttributeGround, attribute_of, prepare_attributes
from mine_core.description.contrast import beside_contrast
from mine_core.description.decoding import LEAST_HELD_OUT
from mine_core.description.wants import Ground, VoxelWants, prepare, want
from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument, Keyed
from mine_core.profiles import profile_voxel, withheld_text
from mine_core.types import AttributeScore, VoxelProfile


@dataclass(frozen=True)
class Wanting:
    """What the words and the attributes of any voxel need, computed once for an instrument."""

    ground: Ground
    attributes: AttributeGround


def wanting_of(instrument: Instrument) -> Wanting | None:
    """Return what telling a voxel's words needs; None where there is no word, or too few held-out stimuli to score one."""
    if not len(instrument.vocabulary) or instrument.words.n_held_out < LEAST_HELD_OUT:
        return None
    return _wanting(Keyed.of(instrument, *instrument.vocabulary.words))


@lru_cache(maxsize=3)
def _wanting(keyed: Keyed) -> Wanting:
    instrument = keyed.instrument
    splits, evidence = instrument.subject.splits, instrument.evidence.get()
    held_out = np.concatenate([splits.validation, splits.test])
    ground = prepare(evidence, instrument.words, splits.train, held_out, instrument.by_contrast)
    return Wanting(ground, prepare_attributes(evidence, instrument.vocabulary))


def wants_of(instrument: Instrument, wanting: Wanting, voxels: Int[np.ndarray, " chosen"]) -> tuple[VoxelWants, ...]:
    """Words of some voxels, chosen on training and scored on held-out stimuli."""
    return want(wanting.ground, instrument.words, instrument.subject.responses, voxels)


def first_words(instrument: Instrument, voxels: Int[np.ndarray, " chosen"], among: Collection[str]) -> dict[int, str]:
    """The first word of each voxel's description that is `among` some, in the order of the voxels; without those that have none.

    Raises EditError where no voxel can be described: the backbone has no words, or too few images are held out to score one.
    """
    wanting = wanting_of(instrument)
    if wanting is None:
        raise EditError("This backbone has no words, or too few images are held out to score one: nothing can be described.")
    found = {}
    for voxel, wants in zip(voxels.tolist(), wants_of(instrument, wanting, voxels), strict=True):
        named = [word for word in wants.description.phrases if word in among]
        if named:
            found[voxel] = named[0]
    return found


def outdone_by_contrast(instrument: Instrument) -> Bool[np.ndarray, " voxel"]:
    """Voxels whose best word contrast alone outdoes (see `beside_contrast`), before words are put together; False where none passes."""
    if not len(instrument.vocabulary) or instrument.by_contrast is None:
        return np.zeros(len(instrument.score.r), bool)
    return _outdone(Keyed.of(instrument, *instrument.vocabulary.words))


@lru_cache(maxsize=3)
def _outdone(keyed: Keyed) -> Bool[np.ndarray, " voxel"]:
    instrument, words = keyed.instrument, keyed.instrument.words
    splits = instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    measured = np.asarray(instrument.subject.responses.values[held_out], np.float32)
    likeness = np.asarray(instrument.features.pooled[held_out], np.float32) @ np.asarray(instrument.vocabulary.embedded(), np.float32).T
    contrast, found = np.asarray(instrument.by_contrast, np.float32), np.zeros(len(words.passes), bool)
    best = np.where(words.passes, words.scores, -np.inf).argmax(axis=1) if words.passes.size else np.zeros(len(found), int)
    for voxel in np.flatnonzero(words.passes.any(axis=1) & instrument.reliable):
        word = words.candidates[voxel, best[voxel]]
        found[voxel] = beside_contrast(likeness[:, word], measured[:, voxel], contrast[:, voxel]).outdone
    found.flags.writeable = False
    return found


def attributes_of(instrument: Instrument, wanting: Wanting, voxel: int, wants: VoxelWants) -> tuple[AttributeScore, ...]:
    """Best attribute of what a voxel wants, and best place in the image, whether they stand or not."""
    responses = np.asarray(instrument.subject.responses.values[:, voxel], np.float64)
    phrases = wants.description.phrases
    found = [attribute_of(wanting.attributes, phrases, responses, places=places) for places in (False, True)]
    return tuple(entry for entry in found if entry is not None)


def full_profile(instrument: Instrument, voxel: int, wants: VoxelWants | None = None) -> VoxelProfile:
    """Put together everything that is known of one voxel; `wants` may be given where it is at hand.

    Raises AlignmentError if there is no such voxel.
    """
    score = instrument.score
    told: tuple[AttributeScore, ...] = ()
    inside = 0 <= voxel < len(score.r)
    if inside and not withheld_text(float(score.r[voxel]), float(score.q[voxel]), score.n_test):
        wanting = wanting_of(instrument)
        if wanting is not None:
            wants = wants or wants_of(instrument, wanting, np.array([voxel]))[0]
            told = attributes_of(instrument, wanting, voxel, wants)
    return profile_voxel(
        voxel,
        subject=instrument.subject,
        features=instrument.features,
        model=instrument.model,
        score=score,
        vocabulary=instrument.vocabulary,
        words=instrument.words,
        wants=wants,
        attributes=told,
    )
