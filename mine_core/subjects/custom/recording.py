"""Responses from whatever files a laboratory has: a table, volumes with a mask, or two hemispheres."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.images import Progress, never, silent
from mine_core.subjects.custom.large import IN_MEMORY, Scratch
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, amount, counted, listed
from mine_core.subjects.custom.places import MaskOrder, judge_hemispheres, ordered_as, read_mask, shape_of
from mine_core.subjects.custom.responses import Places, ResponseTable, lengths, read_responses
from mine_core.subjects.custom.sources import BRAIN_IMAGES, Source, Sources, each, image_kind, label, labels
from mine_core.subjects.custom.surfaces import Put, put_columns
from mine_core.subjects.custom.volumes import VolumeHeader, check_same_grid, frames, read_header

FilesAre = Literal["runs", "repeats"]
VOLUME_AXES = ("x", "y", "z", "stimulus")
SURFACE_AXES = ("vertex", "stimulus")


def read_recording(
    responses: Sources,
    *,
    axes: Sequence[str] = (),
    dataset: str | None = None,
    mask: Sources | None = None,
    mask_order: MaskOrder | None = None,
    files_are: FilesAre | None = None,
    scratch: Scratch = IN_MEMORY,
    on_progress: Progress = silent,
    cancelled: Callable[[], bool] = never,
) -> ResponseTable:
    """Read responses, known by content, and where their voxels lie.

    Parameters
    ----------
    responses : npy, HDF5 or CSV (see `read_responses`); NIfTI of x, y, z, stimulus, one file or several; or GIFTI or MGH of
        vertices and stimuli, two files, left and right.
    axes : of a table; the axes of brain images follow from their format.
    mask : of volumes, required: NIfTI on their grid, 1 inside. Of hemispheres: two files; none takes every vertex. Of a table: which
        place each voxel has, in the order that `mask_order` says (see `ordered_as`).
    files_are : what several volumes are: `runs`, whose stimuli follow one another, or `repeats` of the same stimuli.
    scratch : where responses are put that are too large for memory, a volume or a column of vertices at a time; needed for as long as
        what is returned.

    Raises
    ------
    SubjectError : for whatever cannot be used as given, with numbers.
    Cancelled : if the user stopped it.
    """
    files = each(responses)
    kinds = {image_kind(source) for source in files}
    if len(kinds) != 1:
        shown = listed(sorted(BRAIN_IMAGES.get(kind or "", "a table") for kind in kinds))
        raise SubjectError(f"The responses ({labels(responses)}) are of {len(kinds)} kinds ({shown}); expected one kind. Convert them.")
    kind = kinds.pop()
    if kind is not None and axes:
        raise SubjectError(
            f"The axes of the responses are given ({','.join(axes)}), and {label(files[0])} is {BRAIN_IMAGES[kind]}, whose axes follow "
            "from its format; leave them out."
        )
    if files_are is not None and len(files) == 1:
        raise SubjectError("One file of responses was given, and a word for what several are (runs or repeats); leave it out.")
    if kind == "nifti":
        return _read_volumes(files, mask, files_are, scratch, on_progress, cancelled)
    if kind is not None:
        return _read_surfaces(responses, mask, scratch, on_progress, cancelled)
    if len(files) > 1:
        raise SubjectError(f"Responses are {len(files)} tables ({labels(responses)}); expected one. Join them first.")
    return _with_places(read_responses(files[0], axes=axes, dataset=dataset, scratch=scratch), mask, mask_order)


def _with_places(table: ResponseTable, mask: Sources | None, order: MaskOrder | None) -> ResponseTable:
    if mask is None:
        return table
    places = ordered_as(read_mask(mask), order, mask)
    _check_number(places, table.n_voxels, mask)
    return ResponseTable(table.repeats, table.stimulus_ids, table.voxel_names, table.axes, table.given_shape, table.given_dtype, places)


def _check_number(places: Places, n_voxels: int, mask: Sources) -> None:
    if len(places.flat_index) != n_voxels:
        raise SubjectError(
            f"The mask ({labels(mask)}) holds {len(places.flat_index):,} voxels, the responses {n_voxels:,}; expected as many. "
            "Check the axes of the responses, or give the mask they were taken with."
        )


# --- volumes ---------------------------------------------------------------------------------------------------------


def _read_volumes(
    files: tuple[Source, ...],
    mask: Sources | None,
    files_are: FilesAre | None,
    scratch: Scratch,
    on_progress: Progress,
    cancelled: Callable[[], bool],
) -> ResponseTable:
    if mask is None:
        raise SubjectError(
            f"Responses ({labels(files)}) are volumes, and no mask was given; expected a NIfTI of 1 inside and 0 outside on the same "
            "grid. A whole volume is mostly no cortex."
        )
    if len(files) > 1 and files_are is None:
        raise SubjectError(
            f"Responses are {len(files)} volumes ({labels(files)}); say what the files are: runs (their stimuli follow one another) or "
            "repeats (of the same stimuli)."
        )
    places = read_mask(mask)
    if places.affine is None:
        raise SubjectError(f"Responses ({labels(files)}) are volumes, the mask ({labels(mask)}) surfaces; give the mask as NIfTI.")
    headers = [read_header(source, "Responses") for source in files]
    for source, header in zip(files, headers, strict=True):
        if len(header.shape) != 4:
            raise SubjectError(
                f"Responses ({label(source)}) are {lengths(header.shape)}, {counted(len(header.shape), 'axis', 'axes')}; expected "
                "four: x, y, z and stimulus. Join one volume for each stimulus."
            )
        check_same_grid(source, header, f"the mask ({labels(mask)})", places.shape[::-1], places.affine)
    numbers = [header.shape[3] for header in headers]
    if files_are == "repeats" and len(set(numbers)) > 1:
        raise SubjectError(
            f"Repeats have {listed([f'{number:,}' for number in numbers], 6)} volumes; expected the same stimuli in each, in order."
        )
    rows = _picked(files, headers, places, scratch, on_progress, cancelled)
    repeats = rows.reshape(len(files), numbers[0], -1) if files_are == "repeats" else rows[None]
    shape = (*headers[0].grid, sum(numbers) if files_are != "repeats" else numbers[0])
    axes = ("repeat", *VOLUME_AXES) if files_are == "repeats" else VOLUME_AXES
    given = (len(files), *shape) if files_are == "repeats" else shape
    return ResponseTable(repeats, None, None, axes, given, headers[0].dtype.newbyteorder("=").name, places)


def _picked(
    files: tuple[Source, ...],
    headers: list[VolumeHeader],
    places: Places,
    scratch: Scratch,
    on_progress: Progress,
    cancelled: Callable[[], bool],
) -> np.ndarray:
    """Values of all volumes at the places of the mask, [volume, voxel], one volume in memory at a time."""
    n_volumes = sum(header.shape[3] for header in headers)
    dtype = np.result_type(*(header.value_dtype for header in headers))
    n_bytes = n_volumes * len(places.flat_index) * dtype.itemsize
    if n_bytes > MAX_ARRAY_BYTES:
        raise SubjectError(
            f"{n_volumes:,} volumes of {len(places.flat_index):,} voxels are {amount(n_bytes)}; at most {MAX_ARRAY_BYTES // GIB} GiB "
            "are read. Give a smaller mask."
        )
    rows = scratch.empty((n_volumes, len(places.flat_index)), dtype)
    done = 0
    for source, header in zip(files, headers, strict=True):
        for volume in frames(source, header):
            if cancelled():
                raise Cancelled(f"The import was stopped after {done:,} of {n_volumes:,} volumes; nothing of it was kept.")
            rows[done] = volume.T.reshape(-1)[places.flat_index]
            done += 1
            on_progress(done, n_volumes, "reading responses")
    return rows


# --- surfaces --------------------------------------------------------------------------------------------------------


def _read_surfaces(
    responses: Sources, mask: Sources | None, scratch: Scratch, on_progress: Progress, cancelled: Callable[[], bool]
) -> ResponseTable:
    sides = judge_hemispheres(responses, "Responses")
    shape = shape_of(sides)
    places = Places(shape, np.arange(sum(side.n_vertices for side in sides)), None)
    if mask is not None:
        places = read_mask(mask)
        if places.shape != shape:
            raise SubjectError(
                f"The mask ({labels(mask)}) lies in an array of {lengths(places.shape)}, the responses in one of {lengths(shape)} "
                "(hemispheres, vertices); expected the same. Give the mask of this mesh."
            )
    rows = scratch.empty((sides[0].n_columns, len(places.flat_index)), np.result_type(*(side.value_dtype for side in sides)))
    first = int(np.searchsorted(places.flat_index, sides[0].n_vertices))
    inside = (places.flat_index[:first], places.flat_index[first:] - sides[0].n_vertices)
    parts = (rows[:, :first], rows[:, first:])
    for number, (source, side) in enumerate(zip(each(responses), sides, strict=True)):
        put_columns(source, side, "Responses", _picking(parts[number], inside[number], number * len(rows), on_progress, cancelled))
    given = (sides[0].n_vertices + sides[1].n_vertices, len(rows))
    return ResponseTable(rows[None], None, None, SURFACE_AXES, given, sides[0].given_dtype, places)


def _picking(
    part: Float[np.ndarray, "stimulus vertex"],
    inside: Int[np.ndarray, " vertex"],
    before: int,
    on_progress: Progress,
    cancelled: Callable[[], bool],
) -> Put:
    """Take the columns of one hemisphere to their rows, at the places of the mask; `before` columns of the other are done."""

    def put(number: int, column: np.ndarray) -> None:
        if cancelled():
            raise Cancelled(
                f"The import was stopped after {before + number:,} of {2 * len(part):,} columns of surfaces; nothing of it was kept."
            )
        part[number] = column[inside]
        on_progress(before + number + 1, 2 * len(part), "reading responses")

    return put
