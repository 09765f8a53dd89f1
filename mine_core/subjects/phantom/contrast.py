"""Contrast energy of an image at a few orientations and scales: what the phantom's early visual voxels see."""

from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import fft

ENERGY_SIZE = 96
BORDER = 16
ORIENTATIONS = np.pi * np.arange(4) / 4
FREQUENCIES = np.array([6.0, 12.0, 24.0])
ORIENTATION_SD = np.deg2rad(25.0)
OCTAVE_SD = 0.55
ORIENTATION_SHARPNESS = 2.0
FREQUENCY_SD = 0.5


@cache
def quadrature_filters() -> Float32[np.ndarray, "channel row col"]:
    """Transfer functions of the log-Gabor pairs, `channel = 3 * orientation + frequency`, for a luminance image with its border.

    exp(-log2(f / f0)² / (2 s²)) exp(-(angle - angle0)² / (2 sd²)) on one half-plane, so that the inverse transform
    is the even filter's response plus i times the odd one's (Field 1987, 10.1364/JOSAA.4.002379). An orientation is that
    of the bars: 0 horizontal, π/2 vertical, counter-clockwise as seen.
    """
    side = ENERGY_SIZE + 2 * BORDER
    frequency_y, frequency_x = np.meshgrid(fft.fftfreq(side), fft.fftfreq(side), indexing="ij")
    radius = np.hypot(frequency_x, frequency_y) * ENERGY_SIZE  # cycles per image
    # bars along (cos o, -sin o) in image coordinates have their wave vector along (sin o, cos o)
    angle = np.arctan2(frequency_x, frequency_y)
    filters = np.zeros((len(ORIENTATIONS), len(FREQUENCIES), side, side), dtype=np.float32)
    octaves = np.log2(np.where(radius > 0, radius, 1e-6))
    for row, orientation in enumerate(ORIENTATIONS):
        away = np.angle(np.exp(1j * (angle - orientation)))
        tuned = np.exp(-(away**2) / (2 * ORIENTATION_SD**2)) * (np.abs(away) < np.pi / 2)
        for col, frequency in enumerate(FREQUENCIES):
            filters[row, col] = 2 * tuned * np.exp(-((octaves - np.log2(frequency)) ** 2) / (2 * OCTAVE_SD**2))
    bank = filters.reshape(-1, side, side)
    bank.flags.writeable = False
    return bank


def contrast_energy(
    image: UInt8[np.ndarray, "size size 3"], filters: Float32[np.ndarray, "channel row col"], grid: int
) -> Float32[np.ndarray, "channel cell"]:
    """Energy |even + i odd|² of the luminance (0 to 1) per channel, averaged in each cell of a `grid` x `grid` division.

    The image is brought to 96 x 96 by area; its border is mirrored, so that the frame is no edge.
    """
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if luminance.shape[0] != ENERGY_SIZE:
        shrinking = luminance.shape[0] > ENERGY_SIZE
        method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        luminance = cv2.resize(luminance, (ENERGY_SIZE, ENERGY_SIZE), interpolation=method)
    framed = cv2.copyMakeBorder(luminance, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REFLECT_101)
    spectrum = fft.fft2(framed.astype(np.float32) / np.float32(255))
    pairs = fft.ifft2(spectrum * filters, axes=(1, 2), overwrite_x=True)
    inner = pairs[:, BORDER:-BORDER, BORDER:-BORDER]
    energy = inner.real**2 + inner.imag**2
    cells = np.kron(np.eye(grid, dtype=np.float32), np.full(ENERGY_SIZE // grid, grid / ENERGY_SIZE, dtype=np.float32))
    return (cells @ energy @ cells.T).reshape(len(filters), grid * grid)


def channel_weights(
    orientation: Float[np.ndarray, " voxel"], frequency: Float[np.ndarray, " voxel"]
) -> Float32[np.ndarray, "channel voxel"]:
    """Weight of each channel for voxels that prefer an orientation (radians) and a frequency (cycles per image); sums to 1.

    exp(k (cos 2(o - o_c) - 1)) exp(-log2(f / f_c)² / (2 s²)), k = 2, s = half an octave.
    """
    tuned = np.exp(ORIENTATION_SHARPNESS * (np.cos(2 * (orientation[None] - ORIENTATIONS[:, None])) - 1))
    scaled = np.exp(-(np.log2(frequency[None] / FREQUENCIES[:, None]) ** 2) / (2 * FREQUENCY_SD**2))
    weights = (tuned[:, None] * scaled[None]).reshape(-1, len(orientation))
    return (weights / weights.sum(axis=0)).astype(np.float32)
