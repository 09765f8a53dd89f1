"""Volumes and surfaces of labels, in the order of the responses, and the names of the labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import listed, plain, reason
from mine_core.subjects.nsd.tree import MASK, NsdTree

Map = Float[np.ndarray, "*place"]


@dataclass(frozen=True)
class Places:
    """The measured places: their position in the C-ordered array of `shape`, [z, y, x] of a volume or [hemisphere, vertex]."""

    shape: tuple[int, ...]
    flat_index: Int[np.ndarray, " voxel"]

    def take(self, values: Map) -> Float[np.ndarray, " voxel"]:
        """Values of a map at these places."""
        return values.reshape(-1)[self.flat_index]


def read_map(tree: NsdTree, files: tuple[Path, ...]) -> Map:
    """Read a map as the responses are laid out: a volume with its axes reversed, or hemispheres one after the other.

    A volume of the dataset is [x, y, z] in NIfTI and [z, y, x] in HDF5. Two volumes are two hemispheres, of which each says -1
    where the other lies.

    Raises
    ------
    SubjectError
        If a file cannot be read, has other axes, or differs in shape or in the place of its grid from the published ratios.
    """
    if tree.space == "fsaverage":
        return np.stack([_surface(path) for path in files])
    volumes = [_volume(tree, path) for path in files]
    return volumes[0] if len(volumes) == 1 else np.maximum(volumes[0], volumes[1])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The image of a file, whose values are read when they are looked at; what cannot be read is refused."""
    import nibabel

    try:
        yield nibabel.load(path)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error


def _volume(tree: NsdTree, path: Path) -> Map:
    with _opened(path) as image:
        values, affine = np.asarray(image.dataobj, np.float64), np.asarray(image.affine)
    if values.ndim != 3:
        raise SubjectError(f"{path.name} is of shape {values.shape}; expected a volume x, y, z.")
    reference = tree.ncsnr[0]
    if path != reference:
        with _opened(reference) as image:
            shape, other_affine = tuple(image.shape), np.asarray(image.affine)
        if shape != values.shape or not np.allclose(affine, other_affine, atol=1e-3):
            raise SubjectError(
                f"{path.name} is a volume of {values.shape}, {reference.name} one of {shape}"
                f"{'' if shape != values.shape else ' placed otherwise'}; both must be on the grid of {tree.space}."
            )
    return np.ascontiguousarray(values.T)


def affine_of(tree: NsdTree) -> list[list[float]]:
    """Affine of the volume that responses and regions lie in, from NIfTI's axes (i, j, k) to mm, as the published ratios say it."""
    with _opened(tree.ncsnr[0]) as image:
        return np.asarray(image.affine, np.float64).tolist()


def _surface(path: Path) -> Map:
    with _opened(path) as image:
        values = np.asarray(image.dataobj, np.float64)
    if values.ndim != 3 or values.shape[1:] != (1, 1):
        raise SubjectError(f"{path.name} is of shape {values.shape}; expected a surface, vertices x 1 x 1.")
    return values[:, 0, 0]


def places_of(tree: NsdTree) -> Places:
    """Places that the mask `nsdgeneral` holds.

    Raises SubjectError if it holds none, or has labels other than -1, 0 and 1.
    """
    labels = read_map(tree, tree.labels(MASK))
    found = np.unique(labels)
    if not np.isin(found, (-1, 0, 1)).all():
        raise SubjectError(f"{MASK} holds the labels {', '.join(f'{one:g}' for one in found[:6])}; expected -1, 0 and 1.")
    inside: Bool[np.ndarray, " place"] = labels.reshape(-1) == 1
    if not inside.any():
        raise SubjectError(f"{MASK} holds no place with the label 1; expected the cortex that the experiment drove.")
    return Places(labels.shape, np.flatnonzero(inside))


def read_table(path: Path, shown: str) -> dict[int, str]:
    """Names of labels above 0, of lines `number name`.

    Raises SubjectError if the file is not there or a line is something else.
    """
    if not path.is_file():
        raise SubjectError(f"There is no {shown}, which names the labels; copy it from the published dataset.")
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) < 2 or not parts[0].lstrip("-").isdigit():
            raise SubjectError(f"{shown}, line {number}: '{plain(line, 40)}'; expected a number and a name.")
        names[int(parts[0])] = parts[1]
    return {label: name for label, name in names.items() if label > 0}


def read_regions(tree: NsdTree, places: Places) -> tuple[tuple[str, ...], Bool[np.ndarray, "region voxel"]]:
    """Regions of all sets that are there, with their places; a name that two sets use is told apart by its set.

    -1 (outside the cortex or the hemisphere) and 0 (no label) are no region; a region without a place in the mask is left out.

    Raises
    ------
    SubjectError
        If a set has no table of names, or holds a label that its table does not name.
    """
    found: list[tuple[str, str, Bool[np.ndarray, " voxel"]]] = []
    for group in tree.region_sets():
        labels = places.take(read_map(tree, tree.labels(group)))
        if not np.array_equal(labels, np.round(labels)):
            raise SubjectError(f"{group} holds labels that are not whole numbers; expected -1, 0 and the numbers of its table.")
        path = tree.table(group)
        names = read_table(path, tree.shown(path))
        nameless = [int(label) for label in np.unique(labels) if label > 0 and int(label) not in names]
        if nameless:
            raise SubjectError(f"{group} holds the label {nameless[0]}, {path.name} names {listed(list(names), 12)}; they do not fit.")
        found += [(group, name, labels == label) for label, name in names.items() if (labels == label).any()]
    titles = [name for _, name, _ in found]
    named = [name if titles.count(name) == 1 else f"{group} {name}" for group, name, _ in found]
    membership = np.array([inside for _, _, inside in found], bool).reshape(len(found), len(places.flat_index))
    return tuple(named), membership
