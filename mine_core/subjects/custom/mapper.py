"""A subject's flatmap as an HDF5 mapper: which voxels each pixel shows, without pycortex.

The layout is that of the Gallant laboratory's public datasets: a sparse matrix [pixel, voxel] kept as four arrays, the picture of
pixels that are cortex, and perhaps its folds and masks of regions.

References
----------
Dupré la Tour, Visconti di Oleggio Castello, Gallant (2025), The Voxelwise Encoding Model framework, 10.1162/imag_a_00575.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32
from scipy import sparse

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import dataset_names, read_array
from mine_core.subjects.custom.limits import MAX_REGIONS, composed, listed, plain
from mine_core.subjects.custom.responses import lengths
from mine_core.subjects.custom.sources import Source, found, kind_of, label
from mine_core.subjects.custom.voxels import check_region_name

MATRIX = "voxel_to_flatmap"
PARTS = ("data", "indices", "indptr", "shape")
REGION = "roi_mask_"
MAX_PIXELS = 40_000_000


@dataclass(frozen=True)
class Mapper:
    """A flatmap: the voxel that each pixel shows (-1: none), the folds (negative: sulcus; NaN: no cortex), masks of regions."""

    pixel_voxel: Int32[np.ndarray, "height width"]
    curvature: Float32[np.ndarray, "height width"]
    n_voxels: int
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]


def read_mapper(source: Source) -> Mapper:
    """Read a mapper; a pixel shows the voxel with the largest weight in it, the first of several equal ones.

    Datasets: `voxel_to_flatmap_data`, `_indices`, `_indptr`, `_shape` (CSR, [pixel of the mask, voxel]) and `flatmap_mask` [width,
    height] are needed; `flatmap_curvature` [width, height] and `roi_mask_NAME` [voxel] are used where they are. Arrays are turned as
    their authors turn them for display: axes swapped, the last row on top.

    Raises
    ------
    SubjectError : for another kind of file, a missing dataset, or parts that do not fit one another.
    """
    if kind_of(source) != "hdf5":
        raise SubjectError(f"{label(source)} is {found(source)}. Expected a mapper as HDF5.")
    held = dataset_names(source)
    needed = (*(f"{MATRIX}_{part}" for part in PARTS), "flatmap_mask")
    missing = [name for name in needed if name not in held]
    if missing:
        raise SubjectError(
            f"The mapper ({label(source)}) has no dataset {listed(missing, 5)}; it has {listed(held, 6) or 'none'}. Give a "
            "flatmap mapper."
        )
    mask = _picture(source, "flatmap_mask") > 0
    matrix = _matrix(source, int(mask.sum()))
    folds = _picture(source, "flatmap_curvature") if "flatmap_curvature" in held else np.full(mask.shape, 0.5)
    if folds.shape != mask.shape:
        raise SubjectError(
            f"The mapper's flatmap_curvature is {lengths(folds.shape)}, its flatmap_mask {lengths(mask.shape)}; save both anew."
        )
    pixels = np.full(mask.shape, -1, np.int32)
    pixels[mask] = _strongest(matrix)
    # Folds are shades of grey around a middle one; what is drawn below the colours wants their sign.
    inside = mask & np.isfinite(folds)
    middle = (folds[inside].max() + folds[inside].min()) / 2 if inside.any() else 0.0
    bend = np.where(inside, folds - middle, np.where(mask, 0.0, np.nan)).astype(np.float32)
    regions, membership = _regions(source, held, matrix.shape[1])
    return Mapper(_shown(pixels), _shown(bend), int(matrix.shape[1]), regions, membership)


def _shown(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.T[::-1])


def _picture(source: Source, name: str) -> np.ndarray:
    picture = read_array(source, "the mapper", name)
    if picture.ndim != 2 or picture.size > MAX_PIXELS or picture.dtype.kind not in "biuf":
        raise SubjectError(
            f"The mapper's {name} is {plain(picture.dtype)} of shape {picture.shape}; expected one number a pixel, at most "
            f"{MAX_PIXELS:,} of them. Save it again."
        )
    return np.asarray(picture, np.float64)


def _matrix(source: Source, n_pixels: int) -> sparse.csr_matrix:
    values, indices, indptr, shape = (read_array(source, "the mapper", f"{MATRIX}_{part}") for part in PARTS)
    numbers = all(part.ndim == 1 and part.dtype.kind in "iu" for part in (indices, indptr, shape)) and shape.shape == (2,)
    if not numbers or values.shape != indices.shape or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise SubjectError(f"The mapper's {MATRIX} is no sparse matrix of finite numbers; save it with scipy's CSR arrays.")
    n_rows, n_voxels = (int(length) for length in shape)
    whole = (
        len(indptr) == n_rows + 1
        and int(indptr[0]) == 0
        and int(indptr[-1]) == len(indices)
        and (np.diff(indptr.astype(np.int64)) >= 0).all()
    )
    inside = not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < n_voxels)
    if not whole or not inside or n_voxels < 1:
        raise SubjectError(f"The mapper's {MATRIX} claims {n_rows:,} x {n_voxels:,}, which its indices do not fit; copy it again.")
    if n_rows != n_pixels:
        raise SubjectError(
            f"The mapper's {MATRIX} has {n_rows:,} rows, its flatmap_mask {n_pixels:,} pixels; expected one row a pixel. Copy it again."
        )
    return sparse.csr_matrix((values, indices.astype(np.int64), indptr.astype(np.int64)), shape=(n_rows, n_voxels))


def _strongest(matrix: sparse.csr_matrix) -> Int32[np.ndarray, " pixel"]:
    """Column of the largest positive entry of each row, -1 where there is none."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    positive = matrix.data > 0
    row, column, weight = row[positive], matrix.indices[positive], matrix.data[positive]
    order = np.lexsort((column, -weight, row))
    rows, first = np.unique(row[order], return_index=True)
    strongest = np.full(matrix.shape[0], -1, np.int32)
    strongest[rows] = column[order][first]
    return strongest


def _regions(source: Source, held: tuple[str, ...], n_voxels: int) -> tuple[tuple[str, ...], np.ndarray]:
    names = [name for name in held if name.startswith(REGION) and len(name) > len(REGION)][:MAX_REGIONS]
    membership = np.zeros((len(names), n_voxels), np.bool_)
    for row, name in enumerate(names):
        inside = read_array(source, "the mapper", name)
        if inside.shape != (n_voxels,):
            raise SubjectError(
                f"The mapper's {plain(name)} has shape {inside.shape}; expected ({n_voxels},), one a voxel. Copy it again."
            )
        membership[row] = inside > 0
        check_region_name(name[len(REGION) :])
    kept = np.flatnonzero(membership.any(axis=1))
    return tuple(composed(names[row][len(REGION) :]) for row in kept), membership[kept]


def save_mapper(mapper: Mapper, directory: Path) -> None:
    """Keep pixels and folds as npy files in a directory that exists."""
    np.save(directory / "pixel_voxel.npy", mapper.pixel_voxel, allow_pickle=False)
    np.save(directory / "curvature.npy", mapper.curvature, allow_pickle=False)
