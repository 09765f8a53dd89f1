"""Builds a phantom subject: renders its stimuli, plants its tuning, and writes noisy responses and the sealed truth."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.phantom.anatomy import PhantomCortex, check_cortex
from mine_core.subjects.phantom.contrast import quadrature_filters
from mine_core.subjects.phantom.responses import N_REPEATS, UNITS, gather_evidence, noisy_repeats, raw_drive
from mine_core.subjects.phantom.scenes import captions, render, sample_scene
from mine_core.subjects.phantom.truth import PlantedTruth, save_truth, standardise, stimulus_id
from mine_core.subjects.phantom.tuning import Tuning, plant_tuning
from mine_core.subjects.store import save_subject
from mine_core.types import IsCancelled, OnProgress, Responses, Splits, StimulusSet, Subject

__all__ = ["PhantomCortex", "build_phantom"]

SCENES_PER_SEED = 10_000
LARGEST_SEED = 89
NOISE_TAG = 0x90153
BLOCK = 50
CAPTION_SOURCE = "phantom scene captions"


def build_phantom(
    directory: Path,
    truth_directory: Path,
    *,
    seed: int,
    cortex: PhantomCortex,
    n_train: int = 2000,
    n_validation: int = 250,
    n_test: int = 250,
    image_size: int = 192,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> None:
    """Write a phantom subject into `directory`, and what was planted into `truth_directory` (both exist).

    signal[stimulus, voxel] = (drive - mean) / SD over training stimuli
    repeat = (ncsnr * signal + noise) / sqrt(ncsnr² + 1/3), noise ~ N(0, 1), three of them
    values = mean of the three

    so that the average's expected variance is 1 in every voxel, and ncsnr² / (ncsnr² + 1/3) of it is signal. The
    same arguments give the same bytes.

    Parameters
    ----------
    directory, truth_directory : where `load_subject` and the experiments will look; the truth must not lie open to the
        instrument.
    seed : 0 to 89. Subjects of different seeds share no scene, and none with a backbone's training (seeds from 10 000 000) or
        the evaluation of its quality (from 1 000 000).
    cortex : where the voxels lie.
    n_train, n_validation, n_test : stimuli per split, 10 000 at most together; training stimuli set the scale of the responses.
    image_size : side of the stimuli in pixels, at least 48.
    on_progress : called with (done, total, message).
    cancelled : asked between blocks of 50 stimuli.

    Raises
    ------
    SubjectError : if the seed, a number of stimuli, the size or the cortex is out of range, or a voxel's signal is the same for
        every training stimulus.
    Cancelled : if `cancelled()` becomes True; the caller discards the directories.
    """
    splits = _make_splits(seed, n_train, n_validation, n_test, image_size)
    check_cortex(cortex)
    n_stimuli = n_train + n_validation + n_test
    watch = _Watch(2 * n_stimuli, on_progress, cancelled)
    seeds = [seed * SCENES_PER_SEED + index for index in range(n_stimuli)]
    images = _create(directory, "images", np.uint8, (n_stimuli, image_size, image_size, 3))
    values = _create(directory, "values", np.float32, (n_stimuli, len(cortex)))
    repeats = _create(directory, "repeats", np.float16, (N_REPEATS, n_stimuli, len(cortex)))
    tuning = plant_tuning(cortex, seed=seed)
    sentences = _show(seeds, tuning, images, values, watch)
    mean, sd = _scale_of(values[: len(splits.train)], tuning)
    _answer(tuning, mean, sd, values, repeats, seed, watch)
    ids = tuple(stimulus_id(scene_seed) for scene_seed in seeds)
    save_truth(truth_directory, PlantedTruth(**_arrays(tuning), signal_mean=mean, signal_sd=sd, seed=seed, image_size=image_size))
    save_subject(
        directory,
        Subject(
            name=f"phantom-{seed}",
            kind="phantom",
            stimuli=StimulusSet(ids, images, sentences, CAPTION_SOURCE),
            responses=Responses(values, repeats, ids, cortex.voxels, UNITS),
            splits=splits,
            cortex=cortex.voxels.subject,
            noise_ceiling=None,
            provenance={"source": "simulated from rendered scenes", "seed": seed, "image_size": image_size, "repeats": N_REPEATS},
        ),
    )


class _Watch:
    """Counts what is done, tells it, and stops when asked."""

    def __init__(self, total: int, on_progress: OnProgress | None, cancelled: IsCancelled | None) -> None:
        self.done, self.total = 0, total
        self._on_progress, self._cancelled = on_progress, cancelled

    def blocks(self, n_stimuli: int, message: str) -> Iterator[slice]:
        """Slices of 50 stimuli, reporting after each."""
        for start in range(0, n_stimuli, BLOCK):
            if self._cancelled is not None and self._cancelled():
                raise Cancelled(f"Cancelled after {self.done} of {self.total} steps; nothing was kept.")
            block = slice(start, min(start + BLOCK, n_stimuli))
            yield block
            self.done += block.stop - block.start
            if self._on_progress is not None:
                self._on_progress(self.done, self.total, message)


def _make_splits(seed: int, n_train: int, n_validation: int, n_test: int, image_size: int) -> Splits:
    counts = (n_train, n_validation, n_test)
    if not 0 <= seed <= LARGEST_SEED:
        raise SubjectError(f"Phantom seed {seed} is out of range; choose 0 to {LARGEST_SEED}.")
    if min(counts) < 1 or sum(counts) > SCENES_PER_SEED:
        raise SubjectError(
            f"{n_train} training, {n_validation} validation and {n_test} test stimuli; give at least one of each and at most "
            f"{SCENES_PER_SEED} together."
        )
    if image_size < 48:
        raise SubjectError(f"An image size of {image_size} pixels is too small to tell objects; give 48 or more.")
    edges = np.cumsum((0, *counts))
    return Splits(*(np.arange(low, high) for low, high in zip(edges[:-1], edges[1:], strict=True)))


def _create(directory: Path, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(directory / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def _show(seeds: list[int], tuning: Tuning, images: np.memmap, values: np.memmap, watch: _Watch) -> tuple[tuple[str, ...], ...]:
    """Draw every scene into `images` and its raw drive into `values`; return the captions."""
    sentences: list[tuple[str, ...]] = []
    for block in watch.blocks(len(seeds), "drawing scenes"):
        scenes = [sample_scene(scene_seed) for scene_seed in seeds[block]]
        rendered = [render(scene, images.shape[1]) for scene in scenes]
        images[block] = [picture.image for picture in rendered]
        values[block] = raw_drive(tuning, gather_evidence(scenes, rendered, quadrature_filters()))
        sentences += [captions(scene) for scene in scenes]
    return tuple(sentences)


def _scale_of(
    raw: Float32[np.ndarray, "train voxel"], tuning: Tuning
) -> tuple[Float32[np.ndarray, " voxel"], Float32[np.ndarray, " voxel"]]:
    """Mean and SD of the raw drive over the training stimuli, NaN in null voxels; raises SubjectError for a constant drive."""
    mean = raw.mean(axis=0, dtype=np.float64)
    sd = np.sqrt(sum(((row - mean) ** 2 for row in raw), start=np.zeros_like(mean)) / len(raw))
    driven = tuning.ncsnr > 0
    constant = np.flatnonzero(driven & (sd < 1e-6))
    if len(constant):
        raise SubjectError(
            f"The signal of {len(constant)} voxels (first: {constant[0]}) is the same for all {len(raw)} training stimuli; "
            "draw more training stimuli."
        )
    return np.where(driven, mean, np.nan).astype(np.float32), np.where(driven, sd, np.nan).astype(np.float32)


def _answer(
    tuning: Tuning,
    mean: Float32[np.ndarray, " voxel"],
    sd: Float32[np.ndarray, " voxel"],
    values: np.memmap,
    repeats: np.memmap,
    seed: int,
    watch: _Watch,
) -> None:
    """Turn the raw drive in `values` into three noisy repeats and their mean, each block with noise of its own seed."""
    for block in watch.blocks(len(values), "simulating responses"):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([NOISE_TAG, seed, block.start])))
        shown = noisy_repeats(standardise(values[block], mean, sd, tuning.ncsnr), tuning.ncsnr, rng=rng)
        repeats[:, block] = shown
        values[block] = shown.mean(axis=0, dtype=np.float32)


def _arrays(tuning: Tuning) -> dict[str, np.ndarray]:
    return {name: getattr(tuning, name) for name in Tuning.__dataclass_fields__}
