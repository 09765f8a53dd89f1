"""A flatmap as an instrument shows it: a table from pixel to voxel, the folding below it, the regions' outlines, and colour."""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import shapely
from jaxtyping import Bool, Float, Int, Int32, UInt8
from matplotlib.colors import to_rgb
from shapely.ops import polylabel

from mine_core.cortex.projection import Projection, interior_pixels
from mine_core.errors import ArtifactError, SubjectError
from mine_core.types import VoxelIndex

_ARRAYS = ("pixel_voxel", "curvature", "centres")
_LABEL_STEP = 2.0


@dataclass(frozen=True)
class RegionOutline:
    """A region's closed borders, one per hemisphere or piece, in pixels (x, y), and for each where its name is written."""

    name: str
    polygons: tuple[Float[np.ndarray, "_ 2"], ...]
    labels: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FlatMap:
    """Which voxel each pixel shows, and what is drawn around it.

    `pixel_voxel` holds positions in the VoxelIndex that the map was built for (-1: none), `curvature` the mean curvature per
    mm (negative: sulcus; NaN: not cortex), `centres` the pixel (x, y) deepest inside each voxel ((-1, -1): hidden, no pixel
    shows it), `px_per_mm` the scale along the flattened surface, None where the map is no cortex. A map shows where a voxel
    lies, not how large it is: flattening stretches and shrinks by up to a third.
    """

    subject: str
    pixel_voxel: Int32[np.ndarray, "height width"]
    curvature: Float[np.ndarray, "height width"]
    centres: Int32[np.ndarray, "voxel 2"]
    outlines: tuple[RegionOutline, ...]
    px_per_mm: float | None

    @property
    def height(self) -> int:
        """Rows of the map."""
        return self.pixel_voxel.shape[0]

    @property
    def width(self) -> int:
        """Columns of the map."""
        return self.pixel_voxel.shape[1]

    @property
    def drawn_mask(self) -> Bool[np.ndarray, "height width"]:
        """True where the map has something to show: cortex, or a unit of a layout."""
        return (self.pixel_voxel >= 0) | ~np.isnan(self.curvature)

    @property
    def hidden_voxels(self) -> Int[np.ndarray, " hidden"]:
        """Voxels that no pixel shows; they are reached by number, table or region."""
        return np.flatnonzero(self.centres[:, 0] < 0)


def build_flatmap(projection: Projection, voxels: VoxelIndex, *, regions: tuple[str, ...], margin_mm: float | None) -> FlatMap:
    """Cut a subject's whole flatmap to the part that holds `voxels`, and number its pixels by them.

    Parameters
    ----------
    regions : names of the outlines to draw; each must be in the projection.
    margin_mm : cortex to show around the outermost voxel, mm on the flattened surface; None shows both whole hemispheres.

    Raises
    ------
    SubjectError : if the voxels are of another volume grid, if none is on the map, or if a region has no outline.
    """
    if tuple(voxels.grid_shape) != projection.grid_shape:
        raise SubjectError(
            f"The voxels are of a {voxels.grid_shape} volume, the flatmap of a {projection.grid_shape} one; "
            f"give responses in transform '{projection.transform}' of cortex '{projection.subject}'."
        )
    lookup = np.full(int(np.prod(projection.grid_shape)) + 1, -1, np.int32)
    lookup[voxels.flat_index] = np.arange(len(voxels), dtype=np.int32)
    # The last entry is never a voxel: pixel_flat is -1 outside the cortex and so reads it.
    pixel_voxel = lookup[projection.pixel_flat]
    top, bottom, left, right = _window(pixel_voxel >= 0, margin_mm, projection.px_per_mm)
    pixel_voxel = np.ascontiguousarray(pixel_voxel[top:bottom, left:right])
    frame = shapely.box(0, 0, right - left - 1, bottom - top - 1)
    return FlatMap(
        subject=projection.subject,
        pixel_voxel=_frozen(pixel_voxel),
        curvature=_frozen(np.ascontiguousarray(projection.curvature[top:bottom, left:right])),
        centres=_frozen(interior_pixels(pixel_voxel, len(voxels))),
        outlines=tuple(_outline(projection, name, (left, top), frame) for name in regions),
        px_per_mm=projection.px_per_mm,
    )


def voxel_at(flatmap: FlatMap, x: float | int, y: float | int) -> int | None:
    """Voxel shown at pixel (x right, y down), or None where the map shows none or ends."""
    column, row = round(x), round(y)
    if not (0 <= column < flatmap.width and 0 <= row < flatmap.height):
        return None
    voxel = int(flatmap.pixel_voxel[row, column])
    return None if voxel < 0 else voxel


def pixels_of_voxel(flatmap: FlatMap, voxel: int) -> Int[np.ndarray, "pixel 2"]:
    """Every pixel (x, y) that shows `voxel`; empty for a hidden one."""
    rows, columns = np.nonzero(flatmap.pixel_voxel == _checked(flatmap, voxel))
    return np.stack([columns, rows], 1)


def centre_of_voxel(flatmap: FlatMap, voxel: int) -> tuple[int, int] | None:
    """Pixel (x, y) deepest inside `voxel`, which `voxel_at` maps back to it; None if the map hides it."""
    x, y = flatmap.centres[_checked(flatmap, voxel)]
    return None if x < 0 else (int(x), int(y))


def render_map(
    flatmap: FlatMap,
    values: Float[np.ndarray, " voxel"],
    *,
    colormap: str,
    vmin: float | int,
    vmax: float | int,
    alpha: Float[np.ndarray, " voxel"] | None = None,
    curvature: bool = True,
) -> UInt8[np.ndarray, "height width 4"]:
    """Paint one value per voxel over the folds.

    colour = (1 - alpha) * fold grey + alpha * colormap((value - vmin) / (vmax - vmin)).

    A NaN value is not painted: nothing is known there, and the folds show. Values beyond the limits take the colour of the
    limit. Pixels off the map are clear.

    Parameters
    ----------
    colormap : name in matplotlib: `RdBu_r` with vmin = -vmax for quantities with a sign, `viridis` for those without.
    alpha : opacity of each voxel, 0 (the folds alone: unreliable voxels) to 1; None is 1.
    curvature : False paints the ground in one grey.

    Raises
    ------
    SubjectError : if the number of values is not that of the map's voxels, the limits are not ascending and finite, alpha is
        outside 0 to 1, or matplotlib has no such colour map.
    """
    if not (np.isfinite(vmin) and np.isfinite(vmax) and vmin < vmax):
        raise SubjectError(f"Limits {vmin} and {vmax} were given; a colour scale needs two finite ones, the lower first.")
    if colormap not in matplotlib.colormaps:
        raise SubjectError(
            f"Colour map '{colormap}' was asked for; matplotlib has none of that name; `RdBu_r` and `viridis` are two it has."
        )
    known = ~np.isnan(values)
    scaled = np.where(known, (values - vmin) / (vmax - vmin), 0)
    colours = matplotlib.colormaps[colormap](np.clip(scaled, 0, 1))[:, :3]
    return _paint(flatmap, colours, known * _opacity(flatmap, len(values), alpha), curvature)


def render_groups(
    flatmap: FlatMap,
    groups: Int[np.ndarray, " voxel"],
    colours: tuple[str, ...],
    *,
    alpha: Float[np.ndarray, " voxel"] | None = None,
    curvature: bool = True,
) -> UInt8[np.ndarray, "height width 4"]:
    """Paint each voxel in the colour of its group (0-based; -1: no group, not painted); `alpha` as in `render_map`.

    Colours are hex strings, one per group; those of Okabe and Ito (2008) are told apart with any common colour blindness.

    Raises
    ------
    SubjectError : if a group has no colour, or the number of groups is not that of the map's voxels.
    """
    if len(groups) and not (groups.min() >= -1 and groups.max() < len(colours)):
        raise SubjectError(f"Groups {groups.min()} to {groups.max()} were given; there are {len(colours)} colours, and -1 for none.")
    table = np.array([*(to_rgb(colour) for colour in colours), (0, 0, 0)])
    return _paint(flatmap, table[groups], (groups >= 0) * _opacity(flatmap, len(groups), alpha), curvature)


def save_flatmap(flatmap: FlatMap, directory: Path) -> None:
    """Write the map as npy and JSON files into an existing directory."""
    for name in _ARRAYS:
        np.save(directory / f"{name}.npy", getattr(flatmap, name), allow_pickle=False)
    outlines = [
        {"name": o.name, "polygons": [np.round(p, 2).tolist() for p in o.polygons], "labels": [list(xy) for xy in o.labels]}
        for o in flatmap.outlines
    ]
    record = {"subject": flatmap.subject, "px_per_mm": flatmap.px_per_mm, "outlines": outlines}
    (directory / "flatmap.json").write_text(json.dumps(record))


def load_flatmap(directory: Path) -> FlatMap:
    """Read a map that `save_flatmap` wrote; raises ArtifactError if a file is missing or cannot be read."""
    try:
        record = json.loads((directory / "flatmap.json").read_text())
        arrays = {name: _frozen(np.load(directory / f"{name}.npy", allow_pickle=False)) for name in _ARRAYS}
        outlines = tuple(
            RegionOutline(o["name"], tuple(np.array(p) for p in o["polygons"]), tuple((x, y) for x, y in o["labels"]))
            for o in record["outlines"]
        )
        return FlatMap(subject=record["subject"], px_per_mm=record["px_per_mm"], outlines=outlines, **arrays)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{directory} holds no readable flatmap ({error}); delete it and build again.") from error


def _checked(flatmap: FlatMap, voxel: int) -> int:
    if not 0 <= voxel < len(flatmap.centres):
        raise SubjectError(f"Voxel {voxel} was asked for; this map has voxels 0 to {len(flatmap.centres) - 1}.")
    return voxel


def _opacity(flatmap: FlatMap, n_values: int, alpha: np.ndarray | None) -> Float[np.ndarray, " voxel"]:
    n_voxels = len(flatmap.centres)
    if n_values != n_voxels:
        raise SubjectError(f"{n_values} values were given for a map of {n_voxels} voxels; give one per voxel of its VoxelIndex.")
    if alpha is None:
        return np.ones(n_voxels)
    if len(alpha) != n_voxels or not (np.min(alpha) >= 0 and np.max(alpha) <= 1):
        raise SubjectError(
            f"Opacity must be {n_voxels} numbers from 0 to 1; {len(alpha)} from {np.min(alpha)} to {np.max(alpha)} given."
        )
    return alpha


def _paint(
    flatmap: FlatMap, colours: Float[np.ndarray, "voxel 3"], opacity: Float[np.ndarray, " voxel"], curvature: bool
) -> UInt8[np.ndarray, "height width 4"]:
    """Blend the voxels' colours over the ground; the last row of the table is the pixel without a voxel."""
    table = np.zeros((len(colours) + 1, 4), np.float32)
    table[:-1, :3] = 255 * colours * opacity[:, None]
    table[:-1, 3] = opacity
    ground = _ground(flatmap, curvature)
    # np.take with mode="wrap" reads the last row for -1, twice as fast as boolean masks.
    painted = table.take(flatmap.pixel_voxel, axis=0, mode="wrap")
    image = np.empty((flatmap.height, flatmap.width, 4), np.uint8)
    clear = 1 - painted[..., 3]
    for channel in range(3):
        np.rint(painted[..., channel] + clear * ground, out=painted[..., channel])
    image[..., :3] = painted[..., :3]
    image[..., 3] = 255 * flatmap.drawn_mask
    return image


def _ground(flatmap: FlatMap, curvature: bool) -> Float[np.ndarray, "height width"]:
    """Grey below the colours: sulci darker than gyri, both light enough for colours and dark enough for white outlines."""
    if not curvature:
        return np.full(flatmap.pixel_voxel.shape, 205, np.float32)
    bend = np.nan_to_num(flatmap.curvature, nan=0.0)
    return (190 + 28 * np.tanh(6 * bend)).astype(np.float32)


def _window(used: Bool[np.ndarray, "height width"], margin_mm: float | None, px_per_mm: float) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) around the pixels in use."""
    if not used.any():
        raise SubjectError("None of the voxels is on the flatmap; check that responses and cortex share one transform.")
    if margin_mm is None:
        return 0, used.shape[0], 0, used.shape[1]
    margin = round(margin_mm * px_per_mm)
    rows, columns = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
    return (
        max(0, int(rows[0]) - margin),
        min(used.shape[0], int(rows[-1]) + 1 + margin),
        max(0, int(columns[0]) - margin),
        min(used.shape[1], int(columns[-1]) + 1 + margin),
    )


def _outline(projection: Projection, name: str, corner: tuple[int, int], frame: shapely.Polygon) -> RegionOutline:
    """Borders of one region in the cut-out map."""
    polygons, labels = [], []
    for outline in projection.outlines:
        if outline.region != name:
            continue
        moved = shapely.transform(outline.polygon, lambda points: points - np.array(corner)).intersection(frame)
        for part in shapely.get_parts(moved):
            if isinstance(part, shapely.Polygon) and not part.is_empty:
                polygons.append(_frozen(np.round(shapely.get_coordinates(part.exterior), 2)))
                spot = polylabel(part, tolerance=_LABEL_STEP)
                labels.append((round(spot.x, 1), round(spot.y, 1)))
    if not polygons:
        known = sorted({outline.region for outline in projection.outlines})
        raise SubjectError(f"Region '{name}' has no outline on this part of the map; the overlays have {', '.join(known)}.")
    return RegionOutline(name, tuple(polygons), tuple(labels))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
