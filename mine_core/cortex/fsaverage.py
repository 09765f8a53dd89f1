"""The average surface laid flat: fsaverage5 as nilearn brings it, for vertices of fsaverage and its coarser kin.

Vertex i of a coarser fsaverage is vertex i of every finer one, so that the 10,242 vertices of fsaverage5 are the first of each
hemisphere of fsaverage.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int, Int32

from mine_core.cortex.flatmap import FlatMap, RegionOutline
from mine_core.cortex.projection import interior_pixels
from mine_core.errors import SubjectError
from mine_core.types import VoxelIndex

N_VERTICES = 10242
PX_PER_MM = 1.8
GAP_MM = 12.0
LONGEST_EDGE_MM = 12.0
"""Faces with a longer edge bridge a cut of the surface."""
LEAST_OUTLINE_PX = 60


class Flat(NamedTuple):
    """Both hemispheres on one grid: which vertex [hemisphere * N_VERTICES + vertex] each pixel shows (-1: none), and its folding."""

    pixel_vertex: Int32[np.ndarray, "height width"]
    curvature: Float[np.ndarray, "height width"]


def surface_map(voxels: VoxelIndex) -> FlatMap:
    """Draw vertices of fsaverage, [hemisphere, vertex], on the flat fsaverage5; what that does not have is hidden.

    Each pixel shows the nearest vertex of fsaverage5, so that a vertex is drawn as the patch around it. Hemispheres lie side by
    side, left on the left.

    Raises
    ------
    SubjectError
        If voxels are not vertices of two hemispheres of fsaverage, or no pixel shows one.

    References
    ----------
    Fischl et al. (1999), 10.1002/(SICI)1097-0193(1999)8:4<272::AID-HBM10>3.0.CO;2-4.
    """
    shape = voxels.grid_shape
    if len(shape) != 2 or shape[0] != 2 or shape[1] < N_VERTICES or (voxels.flat_index < 0).any():
        raise SubjectError(f"Voxels lie in an array of shape {shape}; expected two hemispheres of at least {N_VERTICES} vertices.")
    flat = flat_fsaverage()
    voxel_of = np.full(shape, -1, np.int32)
    voxel_of.reshape(-1)[voxels.flat_index] = np.arange(len(voxels))
    of_vertex = np.append(voxel_of[:, :N_VERTICES].ravel(), -1)
    pixels = of_vertex[flat.pixel_vertex].astype(np.int32)
    if not (pixels >= 0).any():
        raise SubjectError(f"None of {len(voxels)} vertices is among the {N_VERTICES} of fsaverage5; nothing can be drawn.")
    centres = interior_pixels(pixels, len(voxels))
    outlines = tuple(
        outline for name, inside in zip(voxels.regions, voxels.membership, strict=True) for outline in _outlines(name, inside, pixels)
    )
    for array in (pixels, centres):
        array.setflags(write=False)
    return FlatMap(voxels.subject, pixels, flat.curvature, centres, outlines=outlines, px_per_mm=PX_PER_MM)


@cache
def flat_fsaverage() -> Flat:
    """Lay fsaverage5 flat on a grid of 1.8 pixels per mm, from files of nilearn; nothing is downloaded."""
    sides = [_hemisphere(side) for side in ("left", "right")]
    height = max(vertex.shape[0] for vertex, _ in sides)
    gap = round(GAP_MM * PX_PER_MM)
    parts_vertex, parts_bend = [], []
    for number, (vertex, bend) in enumerate(sides):
        above = (height - vertex.shape[0]) // 2
        margins = ((above, height - vertex.shape[0] - above), (0, gap if number == 0 else 0))
        shifted = np.where(vertex >= 0, vertex + number * N_VERTICES, -1)
        parts_vertex.append(np.pad(shifted, margins, constant_values=-1))
        parts_bend.append(np.pad(bend, margins, constant_values=np.nan))
    pixel_vertex = np.concatenate(parts_vertex, axis=1).astype(np.int32)
    curvature = np.concatenate(parts_bend, axis=1).astype(np.float32)
    for array in (pixel_vertex, curvature):
        array.setflags(write=False)
    return Flat(pixel_vertex, curvature)


def _hemisphere(side: str) -> tuple[Int[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """Nearest vertex and folding (negative: sulcus) of each pixel of one hemisphere."""
    from matplotlib.tri import Triangulation
    from scipy.spatial import cKDTree

    points, faces, bend = _read(side)
    edges = np.linalg.norm(points[faces] - points[np.roll(faces, 1, axis=1)], axis=2).max(axis=1)
    kept = faces[edges <= LONGEST_EDGE_MM]
    used = np.unique(kept)
    low, high = points[used].min(axis=0), points[used].max(axis=0)
    width, height = np.ceil((high - low) * PX_PER_MM).astype(int) + 1
    x, y = np.meshgrid(low[0] + np.arange(width) / PX_PER_MM, high[1] - np.arange(height) / PX_PER_MM)
    find: Any = Triangulation(points[:, 0], points[:, 1], kept).get_trifinder()
    inside = find(x, y) >= 0
    _, nearest = cKDTree(points[used]).query(np.stack([x.ravel(), y.ravel()], axis=1))
    vertex = used[nearest].reshape(x.shape)
    return np.where(inside, vertex, -1), np.where(inside, bend[vertex], np.nan)


def _read(side: str) -> tuple[Float[np.ndarray, "vertex 2"], Int[np.ndarray, "face 3"], Float[np.ndarray, " vertex"]]:
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    flat: Any = nibabel.load(files[f"flat_{side}"])
    curved: Any = nibabel.load(files[f"curv_{side}"])
    points, faces = (np.asarray(array.data) for array in flat.darrays)
    # FreeSurfer counts a sulcus as positive
    return points[:, :2].astype(np.float64), faces, -np.asarray(curved.darrays[0].data).astype(np.float64)


def _outlines(name: str, inside: Bool[np.ndarray, " voxel"], pixels: Int32[np.ndarray, "height width"]) -> list[RegionOutline]:
    """Borders of a region's patches, in pixels, specks left out; none where vertices lie too far apart to make a patch."""
    import cv2

    shown = np.append(inside, False)[pixels]
    contours, _ = cv2.findContours(shown.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = [shapely.Polygon(contour[:, 0].astype(float)) for contour in contours if len(contour) > 3]
    drawn = [polygon for polygon in drawn if polygon.is_valid and polygon.area >= LEAST_OUTLINE_PX]
    if not drawn:
        return []
    polygons = tuple(np.asarray(polygon.exterior.coords) for polygon in drawn)
    spots = [polygon.representative_point() for polygon in drawn]
    labels = tuple((float(spot.x), float(spot.y)) for spot in spots)
    return [RegionOutline(name, polygons, labels)]
