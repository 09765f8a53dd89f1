"""A concept tested on a whole cortex: its images, its edits, and every voxel's scores and verdict."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mine_core.artifacts import ArtifactStore
from mine_core.counterfactual.concept_test import ConceptEvidence, ConceptScores, EditedImage, score_concept
from mine_core.instrument.concept_edits import ImageEdits, edit_images
from mine_core.instrument.concept_stimuli import ConceptStimuli, choose_stimuli
from mine_core.instrument.instrument import Instrument
from mine_core.types import IsCancelled, OnProgress

SEED = 7308


@dataclass(frozen=True)
class ConceptTest:
    """A concept's images, edits and scores; `n_asked`, `n_verified` count the edits that were made and those that hold."""

    chosen: ConceptStimuli
    removals: tuple[ImageEdits, ...]
    insertions: tuple[ImageEdits, ...]
    scores: ConceptScores

    @property
    def n_asked(self) -> int:
        """Removals and insertions that were made."""
        return sum(len(one.verified) for one in (*self.removals, *self.insertions))

    @property
    def n_verified(self) -> int:
        """Those of them that the backbone recognises."""
        return sum(int(one.verified.sum()) for one in (*self.removals, *self.insertions))

    @property
    def failures(self) -> tuple[str, ...]:
        """Why edits were left out, each with its image."""
        told = []
        for one in (*self.removals, *self.insertions):
            if one.refused:
                told.append(f"image {one.stimulus}: {one.refused}")
            told += [f"image {one.stimulus}: {why}" for why, holds in zip(one.reasons, one.verified, strict=True) if not holds]
        return tuple(told)


def run_concept(
    instrument: Instrument,
    store: ArtifactStore,
    concept: str,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> ConceptTest:
    """Choose a concept's images, edit them or find them edited, and score every voxel; see `score_concept`.

    Raises
    ------
    EditError
        If the concept names no thing, or too few held-out images show it or what it is compared with.
    BackboneError
        If the backbone cannot read the phrase.
    Cancelled
        If `cancelled()` became True; the images that are finished are kept.
    """
    chosen = choose_stimuli(instrument, concept)
    removals, insertions = edit_images(instrument, store, chosen, on_progress=on_progress, cancelled=cancelled)
    evidence = evidence_of(instrument, chosen, removals, insertions)
    scores = score_concept(evidence, instrument.reliable, np.random.default_rng(SEED))
    return ConceptTest(chosen, removals, insertions, scores)


def evidence_of(
    instrument: Instrument, chosen: ConceptStimuli, removals: tuple[ImageEdits, ...], insertions: tuple[ImageEdits, ...]
) -> ConceptEvidence:
    """Measured responses to the images, and predictions of verified edits, in SD of each voxel."""
    splits = instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    row = {int(stimulus): position for position, stimulus in enumerate(held_out)}
    rows = np.vectorize(row.__getitem__, otypes=[np.int64])
    measured = np.asarray(instrument.subject.responses.values[held_out], np.float32)
    spread = measured.std(axis=0)
    return ConceptEvidence(
        measured=(measured - measured.mean(axis=0)) / np.where(spread > 0, spread, np.inf).astype(np.float32),
        predicted=_predicted(instrument, np.asarray(instrument.features.pooled[held_out], np.float32)),
        positives=rows(chosen.positives),
        apart=rows(chosen.apart),
        negatives=rows(chosen.negatives),
        removed=tuple(_as_predicted(instrument, one) for one in removals if one.verified.any()),
        inserted=tuple(_as_predicted(instrument, one) for one in insertions if one.verified.any()),
    )


def _predicted(instrument: Instrument, pooled: Float[np.ndarray, "image feature"]) -> Float[np.ndarray, "image voxel"]:
    """Predictions in SD of each voxel's over training images, from that of the mean training image; 0 where they do not vary."""
    sd = np.asarray(instrument.model.prediction_sd)
    return ((pooled - instrument.mean_pooled) @ instrument.model.coef / np.where(sd > 0, sd, np.inf)).astype(np.float32)


def _as_predicted(instrument: Instrument, edits: ImageEdits) -> EditedImage:
    """An image's verified edits and what they are compared with, as predictions of every voxel."""
    edited, compared = edits.edited[edits.verified], edits.compared[edits.compared_verified]
    values = _predicted(instrument, np.concatenate([edits.before[None], edited, compared]))
    return EditedImage(values[0], values[1 : 1 + len(edited)], values[1 + len(edited) :])
