"""What makes each stage's artifact. Imported only when something is made: it pulls in torch and scikit-learn."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import Artifact, ArtifactStore, write_text
from mine_core.backbones.presets import load_backbone, vocabulary_of
from mine_core.config import InstrumentConfig
from mine_core.cortex.flatmap import save_flatmap
from mine_core.cortex.layout import similarity_layout
from mine_core.cortex.s1 import CortexVoxels, make_s1, retinotopic_coordinates
from mine_core.description.captioning import caption_stimuli
from mine_core.description.decoding import LEAST_HELD_OUT, describe_voxels, no_words, save_voxel_words
from mine_core.description.vocabulary import calibrate, embed_vocabulary, load_vocabulary, save_vocabulary, wordless
from mine_core.encoding.alignment import check_images_apart
from mine_core.encoding.noise_ceiling import ceiling_for_test
from mine_core.encoding.ridge import fit_ridge
from mine_core.encoding.scoring import score
from mine_core.errors import BackboneError, Cancelled
from mine_core.features import load_features, mean_patch
from mine_core.instrument.persist import load_encoding, save_encoding
from mine_core.instrument.stages import FitOn
from mine_core.instrument.subjects import subject_of
from mine_core.subjects.phantom.build import PhantomCortex, build_phantom
from mine_core.types import IsCancelled, OnProgress, Splits, Subject


@dataclass(frozen=True)
class Work:
    """What a maker is given: an empty directory to write into, the artifacts made before, and whom to tell and ask."""

    directory: Path
    made: Mapping[str, Artifact]
    on_progress: OnProgress
    cancelled: IsCancelled


PERMUTATION_SEED, WORDS_SEED = 7301, 7302
LAYOUT_COMPONENTS = 20


def cortex(store: ArtifactStore) -> Any:
    """Make S1's voxels and flatmap."""

    def make(work: Work) -> dict[str, Any]:
        return make_s1(store.root, work.directory)

    return make


def layout(subject_artifact: Artifact) -> Any:
    """Lay out the units of a subject without a cortex by the similarity of their training responses."""

    def make(work: Work) -> None:
        subject = subject_of(subject_artifact)
        train = np.asarray(subject.responses.values[subject.splits.train], np.float64)
        centred = train - train.mean(axis=0)
        scaled = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
        left, strength, _ = np.linalg.svd(scaled.T, full_matrices=False)
        vectors = (left * strength)[:, :LAYOUT_COMPONENTS]
        save_flatmap(similarity_layout(vectors, subject=subject.name), work.directory)

    return make


def phantom(config: InstrumentConfig) -> Any:
    """Render the phantom's stimuli and simulate its responses; the planted truth lies beside them, sealed."""

    def make(work: Work) -> None:
        voxels = CortexVoxels.load(work.made["cortex"].path)
        planted = PhantomCortex(voxels.index, voxels.hemisphere < 0, retinotopic_coordinates(voxels), voxels.mm)
        for name in ("subject", "truth"):
            (work.directory / name).mkdir()
        build_phantom(
            work.directory / "subject",
            work.directory / "truth",
            seed=config.seed,
            cortex=planted,
            on_progress=work.on_progress,
            cancelled=work.cancelled,
        )

    return make


def encoding(given: tuple[InstrumentConfig, FitOn]) -> Any:
    """Fit ridge per voxel on training (or validation) stimuli, score it on test stimuli, keep what attribution compares with."""
    config, fit_on = given

    def make(work: Work) -> None:
        subject, found = subject_of(work.made["subject"]), load_features(work.made["features"].path)
        work.on_progress(0, 3, "fitting")
        splits = subject.splits
        check_images_apart(subject.stimuli, splits)
        if fit_on == "validation":
            splits = Splits(train=splits.validation, validation=splits.train, test=splits.test)
        model = fit_ridge(found, subject.responses, splits)
        if work.cancelled():
            raise Cancelled("Stopped after fitting; finished stages are kept.")
        work.on_progress(1, 3, "scoring")
        rng = np.random.default_rng(PERMUTATION_SEED)
        scored = score(
            model,
            found,
            subject.responses,
            subject.splits.test,
            n_permutations=config.n_permutations,
            rng=rng,
            noise_ceiling=ceiling_of(subject),
        )
        save_encoding(work.directory, model, scored)
        np.save(work.directory / "mean_patches.npy", mean_patch(found, splits.train))

    return make


def ceiling_of(subject: Subject) -> np.ndarray:
    """Noise ceiling of every voxel's test responses: as given, else from repeats, else NaN (unknown)."""
    return ceiling_for_test(subject.responses, subject.splits, subject.noise_ceiling).values


def words(config: InstrumentConfig) -> Any:
    """Embed the vocabulary, choose words for every voxel on training stimuli and score them on validation and test ones.

    A backbone that reads no text leaves no word to choose from; fewer than 20 held-out stimuli leave none that could be scored.
    """

    def make(work: Work) -> None:
        subject, found = subject_of(work.made["subject"]), load_features(work.made["features"].path)
        held_out = np.concatenate([subject.splits.validation, subject.splits.test])
        if not found.backbone.has_words:
            save_vocabulary(wordless(found.backbone.n_features), work.directory)
            save_voxel_words(no_words(len(subject.responses.voxels), len(held_out)), work.directory)
            return
        model, _ = load_encoding(work.made["encoding"].path, subject.responses.voxels)
        mean_patches = work.made["encoding"].array("mean_patches")
        work.on_progress(0, 2, "embedding the vocabulary")
        vocabulary = embed_vocabulary(load_vocabulary(vocabulary_of(config.backbone)), load_backbone(config.backbone))
        vocabulary = calibrate(vocabulary, found, subject.splits.train, mean_patches)
        save_vocabulary(vocabulary, work.directory)
        if len(held_out) < LEAST_HELD_OUT:
            save_voxel_words(no_words(len(subject.responses.voxels), len(held_out)), work.directory)
            return
        work.on_progress(1, 2, "scoring")
        described = describe_voxels(
            found,
            subject.responses,
            model,
            vocabulary,
            train=subject.splits.train,
            held_out=held_out,
            rng=np.random.default_rng(WORDS_SEED),
            n_permutations=config.n_permutations,
        )
        save_voxel_words(described, work.directory)

    return make


def captions(config: InstrumentConfig) -> Any:
    """Write one caption per stimulus, or none where the backbone writes none."""

    def make(work: Work) -> None:
        stimuli, backbone = subject_of(work.made["subject"]).stimuli, load_backbone(config.backbone)
        try:
            written = caption_stimuli(stimuli, backbone, work.on_progress, work.cancelled)
        except BackboneError:
            written = ("",) * len(stimuli)
        write_text(work.directory / "captions.json", json.dumps(written))

    return make
