"""What makes the evidence for words; beside `makers`, whose text is part of the key of every encoding model."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mine_core.config import InstrumentConfig
from mine_core.description.contrast import contrast_energy, predict_from_contrast
from mine_core.description.decoding import VoxelWords, open_voxel_words
from mine_core.description.evidence import Evidence, find_evidence, no_evidence, save_evidence
from mine_core.description.vocabulary import Vocabulary, open_vocabulary
from mine_core.features import load_features
from mine_core.instrument.makers import Work
from mine_core.instrument.subjects import subject_of
from mine_core.types import Features, IsCancelled, OnProgress

# With more words than this, alternatives are looked at only where a voxel may name the word.
ALL_DESCRIBED = 300


def evidence(_config: InstrumentConfig) -> Any:
    """Find how surely each stimulus shows each word, and which alternatives its things have."""

    def make(work: Work) -> None:
        found, subject = load_features(work.made["features"].path), subject_of(work.made["subject"])
        vocabulary = open_vocabulary(work.made["words"].path)
        if not len(vocabulary):
            save_evidence(no_evidence(len(found.stimulus_ids), found.stimulus_ids), work.directory)
            return
        seen = find_evidence_of(
            found,
            work.made["encoding"].array("mean_patches"),
            vocabulary,
            open_voxel_words(work.made["words"].path),
            subject.splits.train,
            on_progress=work.on_progress,
            cancelled=work.cancelled,
        )
        save_evidence(seen, work.directory)

    return make


def contrast(_config: InstrumentConfig) -> Any:
    """Predict held-out responses from contrast alone."""

    def make(work: Work) -> None:
        subject = subject_of(work.made["subject"])
        energy = contrast_energy(subject.stimuli.images, work.on_progress, work.cancelled)
        np.save(work.directory / "predicted.npy", predict_from_contrast(energy, subject.responses, subject.splits))

    return make


def find_evidence_of(
    features: Features,
    mean_patches: Float[np.ndarray, "patch feature"],
    vocabulary: Vocabulary,
    words: VoxelWords,
    train: Int[np.ndarray, " train"],
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Evidence:
    """Find the evidence for a vocabulary whose words were chosen for voxels: a large one has alternatives only where told."""
    return find_evidence(
        features,
        mean_patches,
        vocabulary,
        train,
        described=None if len(vocabulary) <= ALL_DESCRIBED else np.unique(words.candidates),
        on_progress=on_progress,
        cancelled=cancelled,
    )
