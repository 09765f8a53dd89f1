"""A map of a volume without a flattened cortex: its slices side by side, each voxel where it lies."""

import numpy as np
from jaxtyping import Int32

from mine_core.cortex.flatmap import FlatMap
from mine_core.cortex.projection import interior_pixels
from mine_core.errors import SubjectError
from mine_core.types import VoxelIndex

WIDTH_PX = 1200
ASPECT = 1.5
LARGEST_VOXEL_PX = 16


def slice_map(voxels: VoxelIndex) -> FlatMap:
    """Lay the slices of a volume [z, y, x] side by side, lowest z first, row by row; y runs up, x to the right.

    Slices are cut to the box that holds all voxels, with a voxel between them, and arranged so that the map is about one and a
    half times as wide as high. Every voxel shows, as a square. Which way a volume faces is not known from its index: left may
    be right.

    Raises
    ------
    SubjectError
        If voxels have no place in a volume of three dimensions.
    """
    if len(voxels.grid_shape) != 3 or (voxels.flat_index < 0).any():
        raise SubjectError(
            f"{int((voxels.flat_index < 0).sum())} of {len(voxels)} voxels have no place in a volume of shape {voxels.grid_shape}; "
            "slices need z, y and x of each."
        )
    places = np.stack(np.unravel_index(voxels.flat_index, voxels.grid_shape))
    z, y, x = places - places.min(axis=1, keepdims=True)
    n_slices, height, width = (int(axis.max()) + 1 for axis in (z, y, x))
    columns = min(n_slices, max(1, round((ASPECT * n_slices * (height + 1) / (width + 1)) ** 0.5)))
    rows = -(-n_slices // columns)
    cells = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), -1, np.int32)
    cells[(z // columns) * (height + 1) + height - y, (z % columns) * (width + 1) + 1 + x] = np.arange(len(voxels))
    side = int(np.clip(WIDTH_PX // cells.shape[1], 1, LARGEST_VOXEL_PX))
    pixels: Int32[np.ndarray, "height width"] = np.repeat(np.repeat(cells, side, axis=0), side, axis=1)
    curvature = np.full(pixels.shape, np.nan, np.float32)
    centres = interior_pixels(pixels, len(voxels))
    for array in (pixels, curvature, centres):
        array.setflags(write=False)
    return FlatMap(voxels.subject, pixels, curvature, centres, outlines=(), px_per_mm=None)
