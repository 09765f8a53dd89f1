"""NIfTI volumes, read a volume at a time: the header is judged before anything is allocated, and packed files cannot grow in memory."""

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import require_numbers
from mine_core.subjects.custom.limits import GIB, MAX_FRAME_BYTES, MAX_UNPACKED_BYTES, MIB, amount, reason
from mine_core.subjects.custom.responses import lengths
from mine_core.subjects.custom.sources import BRAIN_IMAGES, Source, found, image_kind, label, unpacked

MAX_OFFSET_BYTES = 64 * MIB
MAX_APART_MM = 0.1
WRONG = 30
# What gzip, zlib and the system raise on a damaged or cut-off stream.
DAMAGE = (EOFError, OSError, zlib.error, ValueError)


@dataclass(frozen=True)
class VolumeHeader:
    """What a NIfTI header says: shape (x, y, z and perhaps stimulus), place in mm, and how stored numbers become values."""

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float

    @property
    def grid(self) -> tuple[int, ...]:
        """Lengths of x, y and z."""
        return self.shape[:3]

    @property
    def value_dtype(self) -> np.dtype:
        """Smallest float that holds every stored number: float32 of short numbers that are not scaled, else float64."""
        scaled = (self.slope, self.intercept) != (1.0, 0.0)
        return np.dtype(np.float64 if scaled or self.dtype.itemsize > 4 or self.dtype.kind in "iu" else np.float32)


def read_header(source: Source, what: str) -> VolumeHeader:
    """Read the header of a NIfTI file, packed or not.

    Raises
    ------
    SubjectError : for another kind of file; a header that cannot be read; numbers that are none; more than 16 GiB of values, or
        more than 1 GiB in one volume.
    """
    import nibabel

    if image_kind(source) != "nifti":
        raise SubjectError(f"{label(source)} is {found(source)}. Expected {what} as NIfTI (.nii or .nii.gz).")
    title = f"{what} ({label(source)})"
    with damage_refused(source), unpacked(source) as stream:
        second = stream.read(8)[4:8] == b"n+2\0"
        stream.seek(0)
        kind: Any = nibabel.Nifti2Header if second else nibabel.Nifti1Header
        try:
            header = kind(stream.read(kind.template_dtype.itemsize), check=False)
            # The library would mend these and go on; what its checks call less than wrong (20) is left to it.
            header.check_fix(logging.Logger("nibabel", logging.CRITICAL + 1), error_level=WRONG)
            shape = tuple(int(length) for length in header.get_data_shape())
            slope, intercept = header.get_slope_inter()
            dtype, offset = header.get_data_dtype(), int(header.get_data_offset())
            affine = np.asarray(header.get_best_affine(), np.float64)
        except Exception as error:  # a changed header raises whatever the checks of the library raise
            raise SubjectError(f"{title}: the NIfTI header cannot be read ({reason(error)}); save it again.") from error
    require_numbers(dtype, title)
    _check_claim(shape, dtype, offset, affine, title)
    return VolumeHeader(shape, affine, dtype, offset, 1.0 if slope is None else float(slope), float(intercept or 0.0))


def _check_claim(shape: tuple[int, ...], dtype: np.dtype, offset: int, affine: np.ndarray, title: str) -> None:
    if not shape or any(length < 1 for length in shape):
        raise SubjectError(f"{title} have shape {shape}; expected x, y and z of at least 1 each. Save them again.")
    frame, whole = (math.prod(part) * dtype.itemsize for part in (shape[:3], shape))
    if frame > MAX_FRAME_BYTES or whole > MAX_UNPACKED_BYTES:
        raise SubjectError(
            f"{title} claim {lengths(shape)}, {amount(frame)} a volume and {amount(whole)} in all; at most "
            f"{MAX_FRAME_BYTES // GIB} and {MAX_UNPACKED_BYTES // GIB} GiB are read. Give fewer, or crop them."
        )
    if not 0 <= offset <= MAX_OFFSET_BYTES or not np.isfinite(affine).all():
        raise SubjectError(f"{title}: the NIfTI header places values at byte {offset} or the volume nowhere; save it again.")


@contextmanager
def damage_refused(source: Source) -> Iterator[None]:
    """Turn what a damaged or cut-off file raises into a refusal of one line."""
    try:
        yield
    except DAMAGE as error:
        kind = BRAIN_IMAGES.get(image_kind(source) or "", "a file")
        raise SubjectError(f"{label(source)}, {kind}, is damaged or cut off ({reason(error)}); copy it again.") from error


def frames(source: Source, header: VolumeHeader) -> Iterator[Float[np.ndarray, "x y z"]]:
    """Yield the volumes of a file one after the other: value = slope x stored + intercept.

    Raises SubjectError if the file holds fewer or more bytes than its header claims, or is damaged.
    """
    n_bytes = math.prod(header.grid) * header.dtype.itemsize
    n_frames = math.prod(header.shape[3:])
    with damage_refused(source), unpacked(source) as stream:
        stream.read(header.offset)
        for number in range(n_frames):
            content = stream.read(n_bytes)
            if len(content) != n_bytes:
                raise SubjectError(
                    f"{label(source)} ends in volume {number + 1:,} of {n_frames:,}: {number * n_bytes + len(content):,} of "
                    f"{n_frames * n_bytes:,} bytes are there. It was cut off: copy it again."
                )
            stored = np.frombuffer(content, header.dtype).reshape(header.grid, order="F").astype(header.value_dtype)
            scaled = (header.slope, header.intercept) != (1.0, 0.0)
            yield stored * header.slope + header.intercept if scaled else stored
        if stream.read(1):
            raise SubjectError(
                f"{label(source)} holds more than the {n_frames * n_bytes:,} bytes that its header claims "
                f"({lengths(header.shape)}); its header was changed: save it again."
            )


def read_volume(source: Source, what: str) -> tuple[Float[np.ndarray, "x y z"], VolumeHeader]:
    """Read one volume and its header; raises SubjectError as `read_header`, and for a series of volumes."""
    header = read_header(source, what)
    if len(header.shape) != 3:
        raise SubjectError(
            f"{what} ({label(source)}) are {lengths(header.shape)}; expected one volume, x, y and z. Give that volume alone."
        )
    (values,) = frames(source, header)
    return values, header


def check_same_grid(source: Source, header: VolumeHeader, other: str, grid: tuple[int, ...], affine: Float[np.ndarray, "4 4"]) -> None:
    """Refuse a file that is not on a grid: raises SubjectError with both shapes, or how far apart in mm they put a voxel.

    Corners of the grid may lie 0.1 mm apart, the rounding of headers.
    """
    if header.grid != grid:
        raise SubjectError(
            f"{label(source)} is a volume of {lengths(header.grid)}, {other} one of {lengths(grid)} (x, y, z); "
            "expected the same grid. Resample one to the other."
        )
    apart = distance_between(header.affine, affine, grid)
    if apart > MAX_APART_MM:
        raise SubjectError(
            f"{label(source)} and {other} are both {lengths(grid)}, and their affines place a voxel up to {apart:,.1f} mm apart; "
            f"expected at most {MAX_APART_MM} mm. Save both on the same grid, facing the same way."
        )


def distance_between(first: np.ndarray, second: np.ndarray, grid: tuple[int, ...]) -> float:
    """Largest distance in mm between the places that two affines give a voxel of a grid: that of one of its corners."""
    corners = np.array([(*((np.array(grid) - 1) * pick), 1) for pick in np.ndindex(2, 2, 2)], dtype=np.float64)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
