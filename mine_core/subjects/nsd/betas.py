"""Responses of a session, read a part at a time: [trial, voxel] of places in the order of the mask."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import listed, reason
from mine_core.subjects.nsd.labels import Places
from mine_core.subjects.nsd.tree import NsdTree

SCALE = 300
"""Volumes hold int16; a value over this is percent signal change."""
TRIALS_AT_A_TIME = 64

Part = tuple[slice, Float[np.ndarray, "trial voxel"]]


def read_session(tree: NsdTree, session: int, places: Places, n_trials: int) -> Iterator[Part]:
    """Yield the responses of all places in percent signal change, in parts, with the voxels that each part holds.

    Raises
    ------
    SubjectError
        If a file cannot be read, is cut off, has other axes than the mask, another number of trials than the design, or a
        value that is not finite.
    """
    files = tree.session_files(session)
    parts = _volume(files[0], places, n_trials) if tree.space == "func1pt8mm" else _surfaces(files, places, n_trials)
    for voxels, values in parts:
        wrong = ~np.isfinite(values).all(axis=0)
        if wrong.any():
            raise SubjectError(
                f"Session {session} has {int(wrong.sum())} voxels with values that are NaN or infinite (first: voxel "
                f"{voxels.start + int(np.argmax(wrong))}); copy the file again."
            )
        yield voxels, values


def _volume(path: Path, places: Places, n_trials: int) -> Iterator[Part]:
    import h5py

    try:
        with h5py.File(path, "r") as stream:
            if not isinstance(stream.get("betas"), h5py.Dataset):
                raise SubjectError(f"{path.name} has no dataset 'betas', but {listed(list(stream), 4) or 'nothing'}; copy it again.")
            betas = stream["betas"]
            _check_axes(path, tuple(betas.shape), places, n_trials)
            if betas.dtype != np.int16:
                raise SubjectError(f"{path.name} holds {betas.dtype}; expected int16, {SCALE} times percent signal change.")
            planes, inside = np.divmod(places.flat_index, int(np.prod(places.shape[1:])))
            for plane in np.unique(planes):
                first, end = np.searchsorted(planes, (plane, plane + 1))
                values = betas[:, int(plane)].reshape(n_trials, -1)[:, inside[first:end]]
                yield slice(int(first), int(end)), values.astype(np.float32) / SCALE
    except OSError as error:
        raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error


def _check_axes(path: Path, shape: tuple[int, ...], places: Places, n_trials: int) -> None:
    if shape[1:] != places.shape:
        turned = shape[1:] == places.shape[::-1] and shape[1:] != places.shape
        raise SubjectError(
            f"{path.name} is of shape {shape}, the mask one of {places.shape} (z, y, x); expected trials, z, y, x"
            f"{': its axes are those of the NIfTI files' if turned else ''}. Copy the HDF5 file as published."
        )
    if shape[0] != n_trials:
        raise SubjectError(f"{path.name} has {shape[0]} trials, the design {n_trials} a session; copy both again.")


def _surfaces(files: tuple[Path, ...], places: Places, n_trials: int) -> Iterator[Part]:
    import nibabel

    n_vertices = places.shape[1]
    for side, path in enumerate(files):
        first, end = np.searchsorted(places.flat_index, (side * n_vertices, (side + 1) * n_vertices))
        vertices = places.flat_index[first:end] - side * n_vertices
        try:
            stored = nibabel.load(path).dataobj  # type: ignore[attr-defined]
            if stored.shape != (n_vertices, 1, 1, n_trials):
                raise SubjectError(
                    f"{path.name} is of shape {stored.shape}; expected ({n_vertices}, 1, 1, {n_trials}), the mask's vertices and the "
                    "design's trials of a session."
                )
            values = np.empty((n_trials, len(vertices)), np.float32)
            for begin in range(0, n_trials, TRIALS_AT_A_TIME):
                trials = slice(begin, min(begin + TRIALS_AT_A_TIME, n_trials))
                values[trials] = np.asarray(stored[:, 0, 0, trials])[vertices].T
        except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
            raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error
        yield slice(int(first), int(end)), values


def standardise(values: Float[np.ndarray, "trial voxel"]) -> tuple[Float[np.ndarray, "trial voxel"], int]:
    """z-score each voxel over the trials of a session; one that does not vary stays at 0. Returns how many did not, too."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    spread = np.sqrt((centred**2).mean(axis=0))
    return (centred / np.where(spread > 0, spread, 1)).astype(np.float32), int((spread == 0).sum())
