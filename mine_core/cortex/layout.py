"""A map for units without a cortex: similar ones side by side, one hexagon each."""

import numpy as np
from jaxtyping import Float, Int, Int32
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from mine_core.cortex.flatmap import FlatMap
from mine_core.cortex.projection import interior_pixels
from mine_core.errors import SubjectError

MAX_UNITS = 5000
_SIZE_PX = 720
# A few units do not fill the map; without this, a page that widens it to its column would blow them up.
_SMALLEST_SIZE_PX = 480
_LARGEST_PITCH_PX = 48.0
_BORDER_PX = 6
_FILLED = 0.94
_ROW = np.sqrt(3) / 2
# Exact assignment takes n cubed time: 0.1 s for a thousand units, 12 s for five thousand. Above this, halves go to halves.
_EXACT_UNITS = 1024


def similarity_layout(vectors: Float[np.ndarray, "voxel k"], *, subject: str) -> FlatMap:
    """Lay units out so that those with correlated vectors tend to lie side by side.

    Classical scaling of d(i, j)^2 = 2 (1 - r_ij), the correlation distance, which is principal component analysis of the
    vectors with their mean taken off and their length set to one; then the units go to the cells of a disc of hexagons so
    that the summed squared distance between scaled position and cell is least (above 1,024 units, within halves of the
    disc). The same vectors give the same map. Nearness is a summary in two dimensions: neighbours may differ, and distance
    is not anatomy.

    Parameters
    ----------
    vectors : one row per unit, at least two columns: responses to the same stimuli, or weights. A constant row has no
        correlation and goes to the middle.

    Raises
    ------
    SubjectError : if there are no units or more than 5,000, fewer than two columns, or a value that is not finite.

    References
    ----------
    Torgerson 1952, doi:10.1007/BF02288916 (classical scaling).
    """
    n_units, n_columns = vectors.shape
    if not 1 <= n_units <= MAX_UNITS or n_columns < 2:
        raise SubjectError(
            f"{n_units} units with {n_columns} values each were given; a layout by similarity takes 1 to {MAX_UNITS} units "
            "with at least 2 values."
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(broken):
        raise SubjectError(f"{len(broken)} of {n_units} units have values that are not finite (first: {broken[0]}); leave them out.")
    cells = _disc(n_units)
    cell_of_unit = _assign(_scaled(_positions(vectors)), _scaled(cells))
    pixel_voxel = _draw(cells[cell_of_unit])
    centres = interior_pixels(pixel_voxel, n_units)
    curvature = np.full(pixel_voxel.shape, np.nan, np.float32)
    for array in (pixel_voxel, curvature, centres):
        array.setflags(write=False)
    return FlatMap(subject, pixel_voxel, curvature, centres, outlines=(), px_per_mm=None)


def _positions(vectors: Float[np.ndarray, "voxel k"]) -> Float[np.ndarray, "voxel 2"]:
    """First two dimensions of classical scaling; zeros where the vectors span fewer."""
    centred = vectors - vectors.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # A constant row's mean is off by rounding: what is left of it is noise, not a direction.
    varied = length > 1e-10 * np.abs(vectors).max(1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=varied)
    positions = np.zeros((len(vectors), 2))
    n_dimensions = min(2, len(vectors) - 1)
    if n_dimensions and np.ptp(unit, axis=0).any():
        positions[:, :n_dimensions] = PCA(n_dimensions, random_state=0).fit_transform(unit)
    return positions


def _scaled(points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
    """Centre and set the SD of each axis to one, so that the cloud fills the disc; an axis without spread stays zero."""
    spread = points.std(0)
    return (points - points.mean(0)) / np.where(spread > 1e-12, spread, 1)


def _disc(n_cells: int) -> Float[np.ndarray, "cell 2"]:
    """Centres of the `n_cells` hexagons nearest to the origin, one apart, by distance and then by angle."""
    reach = int(np.ceil(np.sqrt(n_cells))) + 1
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    centres = np.stack([column + 0.5 * (row % 2), row * _ROW], 1)
    distance = np.round(np.hypot(*centres.T), 6)
    return centres[np.lexsort((np.arctan2(centres[:, 1], centres[:, 0]), distance))[:n_cells]]


def _assign(points: Float[np.ndarray, "point 2"], cells: Float[np.ndarray, "point 2"]) -> Int[np.ndarray, " point"]:
    """One cell per point, the summed squared distance least; halves of many points go to halves of the cells."""
    if len(points) <= _EXACT_UNITS:
        return linear_sum_assignment(cdist(points, cells, "sqeuclidean"))[1]
    axis = int(np.argmax(np.ptp(cells, axis=0)))
    middle = len(points) // 2
    by_point, by_cell = (np.argsort(places[:, axis], kind="stable") for places in (points, cells))
    cell = np.empty(len(points), int)
    for part in (slice(None, middle), slice(middle, None)):
        cell[by_point[part]] = by_cell[part][_assign(points[by_point[part]], cells[by_cell[part]])]
    return cell


def _draw(centres: Float[np.ndarray, "voxel 2"]) -> Int32[np.ndarray, "height width"]:
    """Unit of every pixel of an image that holds the hexagons, a thin gap between them; -1 in gaps and around."""
    low, high = centres.min(0) - 0.6, centres.max(0) + 0.6
    pitch = min(_LARGEST_PITCH_PX, (_SIZE_PX - 2 * _BORDER_PX) / float((high - low).max()))
    size = np.maximum(np.ceil((high - low) * pitch).astype(int) + 2 * _BORDER_PX, _SMALLEST_SIZE_PX)
    width, height = size.tolist()
    y, x = np.mgrid[:height, :width]
    places = (np.stack([x.ravel(), y.ravel()], 1) - (size - 1) / 2) / pitch + (low + high) / 2
    _, unit = cKDTree(centres).query(places)
    off = places - centres[unit]
    # A hexagon is where the projection on each of its three axes stays within half the distance between cells.
    widest = np.max([np.abs(off @ axis) for axis in ((1.0, 0.0), (0.5, _ROW), (-0.5, _ROW))], axis=0)
    return np.where(widest <= _FILLED / 2, unit, -1).reshape(height, width).astype(np.int32)
