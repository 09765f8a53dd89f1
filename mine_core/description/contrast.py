"""What contrast alone says of a voxel: an account by orientation, scale and place that words must beat to be told."""

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft
from jaxtyping import Float, UInt8

from mine_core.encoding.ridge import fit_ridge
from mine_core.errors import Cancelled
from mine_core.types import BackboneSpec, Features, IsCancelled, OnProgress, Responses, Splits

# Side that images are looked at with, in pixels; cells on each side; cycles per image; orientations; widths of the filters.
SIDE, CELLS = 64, 8
CYCLES, N_ORIENTATIONS = (5.0, 10.0, 20.0), 4
OCTAVES, RADIANS = 0.45, 0.4
BATCH = 64
# Words that contrast predicts better than are told where they add this many standard errors to it: one in 2,000 by chance.
ADDS = 3.29


@dataclass(frozen=True)
class BesideContrast:
    """One voxel on held-out stimuli: correlation of contrast's prediction, and what the words add to it (partial correlation).

    `outdone` is True where contrast predicts better than the words and they add nothing: then they are not told.
    """

    r: float
    added: float
    outdone: bool


def contrast_energy(
    images: UInt8[np.ndarray, "stimulus height width 3"],
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Float[np.ndarray, "stimulus feature"]:
    """Root mean square amplitude of 12 log-Gabor filters in each of 8 x 8 cells: 768 numbers an image.

    a[i, f, k] = sqrt(mean over the pixels of cell k of |F^-1(F(luminance_i) H_f)|²)
    H_f(radius, angle) = 2 exp(-ln(radius / c)² / (2 0.45²)) exp(-(angle - o)² / (2 0.4²)), c = 5, 10, 20 cycles, o = 0, 45, 90, 135°

    Raises Cancelled if `cancelled()` became True.

    References
    ----------
    Field (1987), 10.1364/JOSAA.4.002379. As an account of voxels: Kay, Naselaris, Prenger, Gallant (2008), 10.1038/nature06713.
    """
    filters, found = _filters(), np.empty((len(images), len(CYCLES) * N_ORIENTATIONS * CELLS**2), np.float32)
    for start in range(0, len(images), BATCH):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {start} of {len(images)} images; start again to measure them all.")
        grey = np.stack([_luminance(np.asarray(image)) for image in images[start : start + BATCH]])
        spectra = scipy.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))
        amplitude = np.abs(scipy.fft.ifft2(spectra[:, None] * filters))
        by_cell = np.square(amplitude).reshape(*amplitude.shape[:2], CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean(axis=(3, 5))
        found[start : start + BATCH] = np.sqrt(by_cell).reshape(len(grey), -1)
        if on_progress is not None:
            on_progress(min(start + BATCH, len(images)), len(images), "measuring contrast")
    return found


def _luminance(image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "side side"]:
    resized = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return resized.astype(np.float32) / 255


def _filters() -> Float[np.ndarray, "filter side side"]:
    rows, cols = (np.fft.fftfreq(SIDE) * SIDE for _ in range(2))
    radius, angle = np.hypot(rows[:, None], cols[None]), np.arctan2(rows[:, None], cols[None])
    scales = [np.exp(-(np.log(np.maximum(radius, 1e-3) / cycles) ** 2) / (2 * OCTAVES**2)) for cycles in CYCLES]
    turns = [np.angle(np.exp(1j * (angle - np.pi * k / N_ORIENTATIONS))) for k in range(N_ORIENTATIONS)]
    oriented = [np.exp(-(turn**2) / (2 * RADIANS**2)) for turn in turns]
    return np.stack([2 * scale * part for scale in scales for part in oriented]).astype(np.float32)


def predict_from_contrast(
    energy: Float[np.ndarray, "stimulus feature"], responses: Responses, splits: Splits
) -> Float[np.ndarray, "held_out voxel"]:
    """Predict responses to validation and test stimuli, in this order, by ridge on training stimuli, as the encoder is fit."""
    n, width = energy.shape
    spec = BackboneSpec("contrast", (CELLS, CELLS), width, "", "none", has_words=False)
    features = Features(energy, np.zeros((n, 0, width), np.float32), np.zeros_like(energy), responses.stimulus_ids, spec)
    model = fit_ridge(features, responses, splits)
    return model.predict(energy[np.concatenate([splits.validation, splits.test])]).astype(np.float32)


def beside_contrast(
    words: Float[np.ndarray, " held_out"], answers: Float[np.ndarray, " held_out"], contrast: Float[np.ndarray, " held_out"]
) -> BesideContrast:
    """Compare what words predict of a voxel with what contrast predicts, on stimuli that fit neither.

    added = (r_w - r_c c) / sqrt((1 - r_c²) (1 - c²)), r_w and r_c the correlations of words and contrast with the responses, c theirs

    Parameters
    ----------
    words, contrast : predictions; `answers` measured responses.

    Notes
    -----
    Contrast and things go together in photographs. A voxel that is told by neither alone keeps its words: they go where contrast
    predicts better *and* they add nothing that is 3.29 standard errors above 0. What else is early (colour, texture) is not
    looked at.
    """
    columns = np.stack([words, answers, contrast], axis=1).astype(np.float64)
    columns -= columns.mean(axis=0)
    length = np.linalg.norm(columns, axis=0)
    if not (length > 0).all():
        return BesideContrast(0.0, 0.0, False)
    columns /= length
    of_words, of_contrast, together = (float(columns[:, i] @ columns[:, j]) for i, j in ((0, 1), (2, 1), (0, 2)))
    left = (1 - of_contrast**2) * (1 - together**2)
    added = (of_words - of_contrast * together) / np.sqrt(left) if left > 1e-9 else 0.0
    return BesideContrast(of_contrast, float(added), bool(of_contrast > of_words and added < ADDS / np.sqrt(len(words))))
