"""From scenes to planted responses: evidence in the pixels, drive of each voxel, noisy repeats.

Sealed like `tuning`: only this package, the experiments and the tests may import it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int

from mine_core.subjects.phantom.contrast import channel_weights, contrast_energy
from mine_core.subjects.phantom.scenes import RenderedScene, Scene, scene_labels
from mine_core.subjects.phantom.tuning import EARLY, NULL, Tuning

GRID = 24
N_REPEATS = 3
CONJUNCTION_LEAK = 0.1
UNITS = "expected SD of the voxel's average over three repeats"


@dataclass(frozen=True)
class Evidence:
    """What the voxels may know of some scenes.

    Rows of `coverage` are first all objects, then one background per scene: the share of each of 24 x 24 cells
    that shows it. `concept` and `attributes` (indices, -1: does not apply) describe the objects, `background` the scenes;
    `scene` tells whose each row is. `energy` is contrast energy per scene, channel and cell.
    """

    coverage: Float32[np.ndarray, "row cell"]
    scene: Int[np.ndarray, " row"]
    concept: Int[np.ndarray, " object"]
    attributes: Int[np.ndarray, "object attribute"]
    background: Int[np.ndarray, " scene"]
    energy: Float32[np.ndarray, "scene channel cell"]


def gather_evidence(
    scenes: Sequence[Scene], rendered: Sequence[RenderedScene], filters: Float32[np.ndarray, "channel row col"]
) -> Evidence:
    """Coverage, labels and contrast energy of rendered scenes; what is hidden behind something else covers nothing."""
    labels = [scene_labels(scene) for scene in scenes]
    owners = np.repeat(np.arange(len(scenes)), [len(scene.objects) for scene in scenes])
    shown = [
        _coverage(picture.object_map == index)
        for scene, picture in zip(scenes, rendered, strict=True)
        for index in range(len(scene.objects))
    ]
    surroundings = [_coverage(picture.object_map < 0) for picture in rendered]
    return Evidence(
        coverage=np.stack([*shown, *surroundings]),
        scene=np.concatenate([owners, np.arange(len(scenes))]),
        concept=np.concatenate([label.concepts for label in labels]),
        attributes=np.concatenate([label.attributes for label in labels]),
        background=np.array([label.background for label in labels]),
        energy=np.stack([contrast_energy(picture.image, filters, GRID) for picture in rendered]),
    )


def raw_drive(tuning: Tuning, evidence: Evidence) -> Float32[np.ndarray, "scene voxel"]:
    """Noiseless drive before it is scaled to unit variance; 0 in null voxels.

    Category and confounded voxels: tanh(gain * sum over objects and background of `contributions`). Early voxels:
    sqrt(sum over channels and cells of channel weight * receptive field * energy).
    """
    drive = np.zeros((len(evidence.background), len(tuning)), dtype=np.float32)
    early = np.flatnonzero(tuning.kind == EARLY)
    if len(early):
        drive[:, early] = _early_drive(select(tuning, early), evidence)
    driven = np.flatnonzero((tuning.kind != EARLY) & (tuning.kind != NULL))
    if len(driven):
        chosen = select(tuning, driven)
        totals = np.zeros((len(evidence.background), len(driven)), dtype=np.float32)
        for scene, added in zip(evidence.scene, contributions(chosen, evidence), strict=True):
            totals[scene] += added
        drive[:, driven] = np.tanh(chosen.gain * totals)
    return drive


def contributions(tuning: Tuning, evidence: Evidence) -> Float32[np.ndarray, "row voxel"]:
    """What each object, and each scene's background, adds to the voxels' drive before the final tanh.

    weight * share / (share + semi_saturation) * factor, where share is the part of the receptive field that shows the
    object, and factor 1 + attribute_gain where it has the voxel's attribute (else 1); for a conjunction 1 and 0.1. Early
    voxels see no objects: their contributions are 0.
    """
    n_objects = len(evidence.concept)
    shares = evidence.coverage @ receptive_field_weights(tuning.receptive_field)
    added = shares / (shares + tuning.semi_saturation)
    added[:n_objects] *= tuning.concept_weights[:, evidence.concept].T
    added[n_objects:] *= tuning.background_weights[:, evidence.background].T
    picky = np.flatnonzero(tuning.attribute >= 0)
    has = evidence.attributes[:, tuning.attribute[picky]] == tuning.attribute_value[picky]
    gained = np.where(has, 1 + tuning.attribute_gain[picky], 1)
    factor = np.where(tuning.conjunction[picky], np.where(has, 1, CONJUNCTION_LEAK), gained)
    added[:n_objects, picky] *= factor.astype(np.float32)
    return added


def receptive_field_weights(fields_of_voxels: Float32[np.ndarray, "voxel 3"]) -> Float32[np.ndarray, "cell voxel"]:
    """Gaussian weight of each of 24 x 24 cells, row by row; sums to 1 over the image."""
    x, y, sigma = fields_of_voxels.T
    centres = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    # beyond exp(-30) a weight is nothing but a denormal number, which slows the products tenfold
    across = np.exp(-np.minimum((centres[:, None] - x) ** 2 / (2 * sigma**2), 30))
    down = np.exp(-np.minimum((centres[:, None] - y) ** 2 / (2 * sigma**2), 30))
    across /= across.sum(axis=0)
    down /= down.sum(axis=0)
    return (down[:, None] * across[None]).reshape(GRID * GRID, -1)


def select(tuning: Tuning, voxels: Int[np.ndarray, " chosen"]) -> Tuning:
    """The tuning of some voxels, in the order given."""
    return Tuning(**{field.name: getattr(tuning, field.name)[voxels] for field in fields(Tuning)})


def signal_scale(ncsnr: Float32[np.ndarray, " voxel"]) -> Float32[np.ndarray, " voxel"]:
    """SD of the signal in `UNITS`: ncsnr / sqrt(ncsnr² + 1/3), the root of the noise ceiling."""
    return (ncsnr / np.sqrt(ncsnr**2 + 1 / N_REPEATS)).astype(np.float32)


def noise_scale(ncsnr: Float32[np.ndarray, " voxel"]) -> Float32[np.ndarray, " voxel"]:
    """SD of the noise of one showing in `UNITS`: 1 / sqrt(ncsnr² + 1/3), so that signal over noise is ncsnr."""
    return (1 / np.sqrt(ncsnr**2 + 1 / N_REPEATS)).astype(np.float32)


def noisy_repeats(
    signal: Float32[np.ndarray, "stimulus voxel"], ncsnr: Float32[np.ndarray, " voxel"], *, rng: np.random.Generator
) -> Float[np.ndarray, "repeat stimulus voxel"]:
    """Three showings of each stimulus, float16: the signal (in `UNITS`) plus independent normal noise."""
    noise = rng.standard_normal((N_REPEATS, *signal.shape), dtype=np.float32)
    noise *= noise_scale(ncsnr)
    noise += signal
    return noise.astype(np.float16)


def _coverage(shown: np.ndarray) -> Float32[np.ndarray, " cell"]:
    return cv2.resize(shown.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()


def _early_drive(tuning: Tuning, evidence: Evidence) -> Float32[np.ndarray, "scene voxel"]:
    n_scenes, n_channels, n_cells = evidence.energy.shape
    pooled = evidence.energy.reshape(-1, n_cells) @ receptive_field_weights(tuning.receptive_field)
    pooled = pooled.reshape(n_scenes, n_channels, -1) * channel_weights(tuning.orientation, tuning.frequency)
    return np.sqrt(pooled.sum(axis=1))
