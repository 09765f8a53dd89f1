"""Where voxels lie, from a mask on the grid of the responses, and maps on that grid: noise ceilings and labels of regions."""

import re
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MAX_REGIONS, counted, listed, quoted
from mine_core.subjects.custom.responses import Places, lengths
from mine_core.subjects.custom.sources import Source, Sources, each, image_kind, label, labels, only
from mine_core.subjects.custom.surfaces import SurfaceHeader, read_columns, read_surface_header
from mine_core.subjects.custom.tables import read_table
from mine_core.subjects.custom.volumes import check_same_grid, read_volume
from mine_core.subjects.custom.voxels import check_region_name

MaskOrder = Literal["xyz", "zyx"]
SIDES = ("left", "right")
SIDE_IN_NAME = re.compile(r"(?<![a-z])(lh|rh|hemi-l|hemi-r|left|right)(?![a-z])")


def is_image(given: Sources | None) -> bool:
    """Whether a field was given as brain images (NIfTI, GIFTI or MGH), known by the first of its files."""
    return given is not None and image_kind(each(given)[0]) is not None


def judge_hemispheres(given: Sources, what: str) -> tuple[SurfaceHeader, SurfaceHeader]:
    """Judge two surfaces, the left hemisphere first.

    Raises SubjectError for another number of files, for hemispheres in the wrong order as far as the files or their names tell,
    and for as many columns left as right.
    """
    files = each(given)
    if len(files) != 2:
        raise SubjectError(f"{what} are {counted(len(files), 'surface file')}; expected two, the left hemisphere and then the right.")
    sides = (read_surface_header(files[0], what), read_surface_header(files[1], what))
    for expected, source, surface in zip(SIDES, files, sides, strict=True):
        told = surface.side or _side_in_name(source)
        if told is not None and told != expected:
            raise SubjectError(
                f"{what}: {label(source)} is of the {told} hemisphere and was given where the {expected} is expected; "
                "give the left hemisphere first, then the right."
            )
    numbers = [surface.n_columns for surface in sides]
    if numbers[0] != numbers[1]:
        raise SubjectError(
            f"{what} have {numbers[0]:,} columns on the left hemisphere ({label(files[0])}) and {numbers[1]:,} on the right "
            f"({label(files[1])}); expected one for each stimulus on both. Give the same stimuli."
        )
    return sides


def _read_one_column(given: Sources, sides: tuple[SurfaceHeader, SurfaceHeader], what: str) -> Float[np.ndarray, " vertex"]:
    """Values of a map of one column on both hemispheres, left first."""
    return np.concatenate([read_columns(source, side, what)[:, 0] for source, side in zip(each(given), sides, strict=True)])


def _side_in_name(source: Source) -> str | None:
    found = {match[-1] if match.startswith("hemi") else match[0] for match in SIDE_IN_NAME.findall(label(source).lower())}
    return {"l": "left", "r": "right"}[found.pop()] if len(found) == 1 else None


def shape_of(sides: tuple[SurfaceHeader, SurfaceHeader]) -> tuple[int, ...]:
    """Shape of the array that two hemispheres are put in: [hemisphere, vertex], or [vertex] where their meshes differ."""
    left, right = (surface.n_vertices for surface in sides)
    return (2, left) if left == right else (left + right,)


def read_mask(mask: Sources) -> Places:
    """Places that a mask holds: 1 inside, 0 outside; positions of a volume are those of [z, y, x].

    Raises SubjectError for a mask that holds NaN, other numbers, or no place at all; and as `read_volume` and `judge_hemispheres`.
    """
    affine = None
    if image_kind(each(mask)[0]) == "nifti":
        volume, header = read_volume(only(mask, "Masks"), "The mask")
        values, shape, affine = volume.T, volume.shape[::-1], header.affine
    else:
        sides = judge_hemispheres(mask, "The mask")
        if sides[0].n_columns != 1:
            raise SubjectError(f"The mask ({labels(mask)}) has {sides[0].n_columns:,} columns; expected one.")
        values, shape = _read_one_column(mask, sides, "The mask"), shape_of(sides)
    n_unknown = int(np.isnan(values).sum())
    if n_unknown:
        raise SubjectError(
            f"The mask ({labels(mask)}) is NaN at {n_unknown:,} of {values.size:,} places; expected 1 inside and 0 outside. "
            "Set them to 0 or 1."
        )
    numbers = np.unique(values)
    if not np.isin(numbers, (0, 1)).all():
        others = [f"{number:g}" for number in numbers if number not in (0, 1)]
        raise SubjectError(
            f"The mask ({labels(mask)}) holds {counted(len(others), 'other number')} than 0 and 1 ({listed(others)}); expected 1 "
            "inside and 0 outside. Threshold it first."
        )
    inside: Bool[np.ndarray, " place"] = values.reshape(-1) == 1
    if not inside.any():
        raise SubjectError(f"The mask ({labels(mask)}) is 0 at all {values.size:,} places; expected 1 at the voxels to use.")
    return Places(shape, np.flatnonzero(inside), affine)


def ordered_as(places: Places, order: MaskOrder | None, mask: Sources) -> Places:
    """Places in the order in which a table of responses counts them.

    `zyx`: z slowest, as pycortex masks a volume; `xyz`: x slowest, as nilearn does, and numpy on the array of a NIfTI. Vertices
    have one order. Raises SubjectError if the order of a volume is not said: both are common, and nothing in the files tells.
    """
    if places.affine is None:
        return places
    if order is None:
        raise SubjectError(
            f"The responses are a table of voxels of the mask ({labels(mask)}), in an order that no file tells; give the order of "
            "the mask: xyz (nilearn; numpy on the array of a NIfTI) or zyx (pycortex)."
        )
    if order == "zyx":
        return places
    z, y, x = np.unravel_index(places.flat_index, places.shape)
    return Places(places.shape, places.flat_index[np.lexsort((z, y, x))], places.affine)


def read_map(given: Sources, places: Places | None, what: str) -> tuple[Float[np.ndarray, " voxel"], dict[int, str]]:
    """Values of a map at the places of the voxels, and names of labels if the files have them.

    Raises SubjectError if the responses have no places, or the map is not on their grid.
    """
    if places is None:
        raise SubjectError(f"{what} are a map ({labels(given)}), and the responses have no place in one; give a mask, or a table.")
    if image_kind(each(given)[0]) == "nifti":
        source = only(given, what)
        volume, header = read_volume(source, what)
        if places.affine is None:
            raise SubjectError(f"{what} ({label(source)}) are a volume, the responses vertices of a surface; give them as surfaces.")
        check_same_grid(source, header, "the mask", places.shape[::-1], places.affine)
        return volume.T.reshape(-1)[places.flat_index].astype(np.float64), {}
    sides = judge_hemispheres(given, what)
    if shape_of(sides) != places.shape or sides[0].n_columns != 1:
        counts = " and ".join(lengths(side.shape) for side in sides)
        raise SubjectError(
            f"{what} ({labels(given)}) are {counts}, the responses lie in an array of {lengths(places.shape)}; expected one column "
            "on the same vertices."
        )
    values = _read_one_column(given, sides, what)[places.flat_index].astype(np.float64)
    return values, {**sides[0].names, **sides[1].names}


def read_region_maps(
    given: Sources, names_table: Source | None, places: Places | None
) -> tuple[tuple[str, ...], Bool[np.ndarray, "region voxel"]]:
    """Regions of a map of labels: whole numbers, those above 0 named by a CSV value,name or by the GIFTI itself.

    Raises SubjectError for labels that are no whole numbers or have no name, for none above 0 among the voxels, and as `read_map`.
    """
    values, own_names = read_map(given, places, "Labels of regions")
    if not np.array_equal(values, np.round(values)):
        n_wrong = int((values != np.round(values)).sum())
        raise SubjectError(
            f"Labels of regions ({labels(given)}) are no whole numbers at {counted(n_wrong, 'voxel')} (first: "
            f"{values[values != np.round(values)][0]:g}); expected 0 for none. Resample labels by nearest neighbour."
        )
    names = own_names if names_table is None else _names_of(names_table)
    found = [int(value) for value in np.unique(values) if value > 0]
    if not found or len(found) > MAX_REGIONS:
        raise SubjectError(
            f"Labels of regions ({labels(given)}) hold {counted(len(found), 'label')} above 0 among {counted(len(values), 'voxel')}; "
            f"expected 1 to {MAX_REGIONS:,}. Check that they are of this mask."
        )
    nameless = [value for value in found if value not in names]
    if nameless:
        raise SubjectError(
            f"{counted(len(nameless), 'label')} of regions have no name (first: {nameless[0]}); named are "
            f"{listed(sorted(names), 12) or 'none'}. Give names of regions, a CSV value,name."
        )
    distinct = tuple(dict.fromkeys(names[value] for value in found))
    for name in distinct:
        check_region_name(name)
    membership = np.array([np.isin(values, [value for value in found if names[value] == name]) for name in distinct])
    return distinct, membership


def _names_of(table: Source) -> dict[int, str]:
    names: dict[int, str] = {}
    for value, name in read_table(table, ("value", "name"), "names of regions"):
        if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
            raise SubjectError(f"names of regions: {quoted(value)} is no whole number; expected rows such as 1,V1. Correct it.")
        if int(value) in names:
            raise SubjectError(f"names of regions: {value} is named twice ({quoted(names[int(value)])}, {quoted(name)}); name it once.")
        names[int(value)] = name
    return names
