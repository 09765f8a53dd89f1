"""Responses from npy, HDF5 or CSV, their axes named by the user and never guessed."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import read_array, require_numbers
from mine_core.subjects.custom.large import IN_MEMORY, Rows, Scratch, voxel_blocks
from mine_core.subjects.custom.limits import MAX_REPEATS, MAX_TEXT_BYTES, composed, counted, plain, quoted
from mine_core.subjects.custom.sources import Source, kind_of, label
from mine_core.subjects.custom.tables import check_unique, rows_of

AXES = ("repeat", "stimulus", "voxel")
MISSING = frozenset({"", "na", "n/a", "nan"})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII)
ID_HEADERS = frozenset(
    {"", "id", "stimulus", "stimulus_id", "image", "image_id", "file", "file_name", "filename", "name", "voxel", "voxel_id", "unit"}
)
# A response stored as float32 may differ from the one given by this share of its voxel's SD.
MAX_ROUNDING = 1e-3
MAX_RESPONSE = 1e30


@dataclass(frozen=True)
class Places:
    """Where voxels lie: `flat_index` is the position in the C-ordered array of `shape`, ascending unless a file orders them.

    A volume is [z, y, x], two hemispheres of one mesh [hemisphere, vertex], two of different meshes [vertex] with the left
    first. `affine` leads from (x, y, z) of a volume, counted from 0, to mm; None of a surface.
    """

    shape: tuple[int, ...]
    flat_index: Int[np.ndarray, " voxel"]
    affine: Float[np.ndarray, "4 4"] | None


@dataclass(frozen=True)
class ResponseTable:
    """Responses as given, axes in one order; names where the file has them; NaN where a showing did not take place."""

    repeats: Float[np.ndarray, "repeat stimulus voxel"]
    stimulus_ids: tuple[str, ...] | None
    voxel_names: tuple[str, ...] | None
    axes: tuple[str, ...]
    given_shape: tuple[int, ...]
    given_dtype: str
    places: Places | None = None

    @property
    def n_stimuli(self) -> int:
        """How many stimuli were answered."""
        return self.repeats.shape[1]

    @property
    def n_voxels(self) -> int:
        """How many voxels answered."""
        return self.repeats.shape[2]


def read_responses(source: Source, *, axes: Sequence[str], dataset: str | None = None, scratch: Scratch = IN_MEMORY) -> ResponseTable:
    """Read responses, and put their axes in the order repeat, stimulus, voxel.

    Parameters
    ----------
    source : npy (never pickled), HDF5 or CSV, known by content. Of a CSV, the first row is a header if its first cell is empty or a
        word for ids, or if any other cell is no number; the first column holds ids under such a cell, or if any of its cells is
        no number. An empty cell, NA or nan is NaN.
    axes : what the axes are, in their order: `stimulus` and `voxel`, and `repeat` if there is one.
    dataset : path of the dataset inside an HDF5 file.
    scratch : where responses are put that are too large for memory and do not lie in a file as they are needed.

    Returns
    -------
    ResponseTable : floats of the precision given (integers as float64, float16 as float32); infinities are still in it.

    Raises
    ------
    SubjectError : for unknown or missing axes, another number of axes, no numbers, rows of unequal length; see `read_array`.
    """
    if not axes:
        raise SubjectError(
            f"The axes of the responses ({label(source)}) are not named; expected their order, such as voxel,stimulus. Nothing in a "
            "table tells it."
        )
    axes = check_axes(axes)
    names: list[tuple[str, ...] | None] = [None] * len(axes)
    if kind_of(source) == "text":
        array, *names = _read_csv(source, scratch)
    else:
        array = read_array(source, "responses", dataset, scratch)
    require_numbers(array.dtype, f"Responses ({label(source)})")
    if array.ndim != len(axes):
        raise SubjectError(
            f"Responses have {counted(array.ndim, 'axis', 'axes')} of length {lengths(array.shape)}, "
            f"the axes of the responses name {len(axes)}: {','.join(axes)}. "
            "Name each axis once: stimulus, voxel and, if there is one, repeat."
        )
    by_axis = dict(zip(axes, names, strict=True))
    ordered = _ordered(array, axes, scratch)
    if len(ordered) > MAX_REPEATS:
        raise SubjectError(
            f"Responses have {len(ordered):,} repeats; expected at most {MAX_REPEATS:,}. Check the axes of the responses."
        )
    for axis in ("stimulus", "voxel"):
        if by_axis[axis] is not None:
            check_unique(by_axis[axis], f"Responses ({label(source)}), {axis} ids")  # type: ignore[arg-type]
    return ResponseTable(ordered, by_axis["stimulus"], by_axis["voxel"], axes, array.shape, array.dtype.name)


def check_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Names of axes in their order; raises SubjectError for an unknown, doubled or missing one."""
    names = tuple(axes)
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise SubjectError(f"The axes of the responses name {quoted(unknown[0])}; expected stimulus, voxel and perhaps repeat.")
    if len(set(names)) != len(names) or not {"stimulus", "voxel"} <= set(names):
        raise SubjectError(
            f"The axes of the responses are {','.join(names) or 'not named'}; expected stimulus and voxel once each, perhaps repeat."
        )
    return names


def _ordered(array: np.ndarray, axes: tuple[str, ...], scratch: Scratch) -> np.ndarray:
    """Axes in the order repeat, stimulus, voxel, as native floats that hold every given number exactly; a view where it can be."""
    if "repeat" not in axes:
        array, axes = array[None], ("repeat", *axes)
    moved = np.transpose(array, [axes.index(axis) for axis in AXES])
    dtype = np.dtype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    if array.dtype.kind in "iu":
        largest = max(abs(int(moved.max())), abs(int(moved.min())))
        if largest > 2**53:
            raise SubjectError(f"Responses are integers up to {largest}; beyond 2**53 they cannot be floats. Scale them first.")
        dtype = np.dtype(np.float64)
    if moved.dtype == dtype:
        return moved
    ordered = scratch.empty(moved.shape, dtype)
    for voxels, block in voxel_blocks(moved):
        ordered[:, :, voxels] = block
    return ordered


def suggest_axes(table: ResponseTable, n_images: int) -> str:
    """Advice where another reading of the axes would give as many stimuli as there are images; empty where none does."""
    if not set(table.axes) <= set(AXES):
        return ""
    for order in itertools.permutations(table.axes):
        if order != table.axes and table.given_shape[order.index("stimulus")] == n_images:
            return f"did you mean the axes {','.join(order)}?"
    return ""


def lengths(shape: tuple[int, ...]) -> str:
    """Return a shape as one reads it: `89 x 1,200`."""
    return " x ".join(f"{length:,}" for length in shape)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _read_csv(source: Source, scratch: Scratch) -> tuple[np.ndarray, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Numbers of a CSV, ids of its rows and names of its columns (None: it has none).

    A row is in memory at a time. The first column is kept as numbers too, and left out if it turns out to hold ids.
    """
    what = f"Responses ({label(source)})"
    header: list[str] | None = None
    firsts: list[str] = []
    rows = Rows(scratch)
    width = 0
    for number, cells in enumerate(rows_of(source, what, MAX_TEXT_BYTES), start=1):
        if number == 1:
            width = len(cells)
            if _is_header(cells):
                header = cells
                continue
        if len(cells) != width:
            raise SubjectError(f"{what}: row {number} has {len(cells):,} cells, row 1 has {width:,}; expected as many in each.")
        firsts.append(cells[0])
        first = _value(cells[0]) if _is_number(cells[0]) else np.nan
        rows.append(np.concatenate([[first], _numbers(cells[1:], f"{what}, row {number}", 2)]))
    if not firsts:
        raise SubjectError(f"{what} hold no row of numbers; expected one row for each place of the first axis.")
    has_ids = _are_ids(firsts, header)
    table = rows.array(width)[:, int(has_ids) :]
    if not table.size:
        raise SubjectError(f"{what} hold one column, of ids; expected numbers beside them. Check the separator (comma, ; or tab).")
    columns = None if header is None else tuple(composed(cell) for cell in header[int(has_ids) :])
    return table, tuple(composed(cell) for cell in firsts) if has_ids else None, columns


def _is_header(cells: list[str]) -> bool:
    return cells[0].lower() in ID_HEADERS or not all(_is_number(cell) for cell in cells[1:])


def _are_ids(firsts: list[str], header: list[str] | None) -> bool:
    return (header is not None and header[0].lower() in ID_HEADERS) or not all(_is_number(cell) for cell in firsts)


def _is_number(cell: str) -> bool:
    return cell.lower() in MISSING or NUMBER.fullmatch(cell) is not None


def _numbers(cells: list[str], where: str, first_column: int) -> np.ndarray:
    for column, cell in enumerate(cells, start=first_column):
        if not _is_number(cell):
            raise SubjectError(f"{where}, column {column} is {quoted(cell)}; expected a number with a decimal point. Correct it.")
    return np.array([_value(cell) for cell in cells], dtype=np.float64)


def _value(cell: str) -> float:
    return np.nan if cell.lower() in MISSING else float(cell)


# --- checks and the average ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holes:
    """Responses that are missing: of each stimulus and of each voxel how many, and the first (stimulus, voxel)."""

    of_stimulus: Int[np.ndarray, " stimulus"]
    of_voxel: Int[np.ndarray, " voxel"]
    first: tuple[int, int] | None


def refuse_infinite(table: ResponseTable) -> None:
    """Refuse what no measurement gives, infinities and numbers beyond 1e30; raises SubjectError with how many, and the first."""
    n_infinite, firsts = 0, []
    for voxels, block in voxel_blocks(table.repeats):
        infinite = np.abs(block) > MAX_RESPONSE
        if infinite.any():
            n_infinite += int(infinite.sum())
            firsts.append(tuple((np.argwhere(infinite)[0] + (0, 0, voxels.start)).tolist()))
    if firsts:
        repeat, stimulus, voxel = min(firsts)
        raise SubjectError(
            f"Responses hold {counted(n_infinite, 'value')} that are infinite or beyond {MAX_RESPONSE:g} "
            f"(first: stimulus {stimulus}, voxel {voxel}, repeat {repeat}, counted from 0); "
            "expected finite numbers. Correct what computed them."
        )


def missing_blocks(
    repeats: Float[np.ndarray, "repeat stimulus voxel"], rows: Int[np.ndarray, " row"]
) -> Iterator[Bool[np.ndarray, "row _"]]:
    """Yield, block of voxels by block, where a voxel has no response to a stimulus of `rows` in any repeat."""
    for _, block in voxel_blocks(repeats):
        yield np.isnan(block).all(axis=0)[rows]


def count_holes(blocks: Iterable[Bool[np.ndarray, "stimulus _"]]) -> Holes:
    """Count what is missing."""
    of_stimulus: np.ndarray | None = None
    of_voxel: list[np.ndarray] = []
    firsts: list[tuple[int, int]] = []
    before = 0
    for block in blocks:
        rows = block.sum(axis=1)
        of_stimulus = rows if of_stimulus is None else of_stimulus + rows
        of_voxel.append(block.sum(axis=0))
        if rows.any():
            stimulus, voxel = np.argwhere(block)[0].tolist()
            firsts.append((stimulus, before + voxel))
        before += block.shape[1]
    counts = np.zeros(0, np.int64) if of_stimulus is None else of_stimulus
    return Holes(counts, np.concatenate(of_voxel), min(firsts, default=None))


def refuse_missing(holes: Holes, ids: Sequence[str], n_repeats: int) -> None:
    """Refuse responses with holes; raises SubjectError with how many stimuli and voxels they touch, and the first."""
    if holes.first is None:
        return
    stimulus, voxel = holes.first
    n_stimuli, n_voxels = len(holes.of_stimulus), len(holes.of_voxel)
    lacking = "are NaN" if n_repeats == 1 else "have no repeat at all"
    raise SubjectError(
        f"{int(holes.of_voxel.sum()):,} of {n_stimuli * n_voxels:,} responses {lacking}, in {int((holes.of_stimulus > 0).sum()):,} of "
        f"{n_stimuli:,} stimuli and {int((holes.of_voxel > 0).sum()):,} of {n_voxels:,} voxels "
        f"(first: stimulus {stimulus}, {plain(ids[stimulus])}, voxel {voxel}, counted from 0); "
        "give complete responses, or ask to drop what is incomplete and be told which."
    )


def choose_dropped(
    holes: Holes, blocks: Iterable[Bool[np.ndarray, "stimulus _"]]
) -> tuple[Bool[np.ndarray, " stimulus"], Bool[np.ndarray, " voxel"]]:
    """Stimuli and voxels to drop so that no response is missing; `blocks` are those that the holes were counted in.

    First the stimuli that more than half of the voxels lack, then the voxels that still lack one.
    """
    stimuli = 2 * holes.of_stimulus > len(holes.of_voxel)
    if holes.first is None:
        return stimuli, np.zeros(len(holes.of_voxel), np.bool_)
    return stimuli, np.concatenate([block[~stimuli].any(axis=0) for block in blocks])


def average_repeats(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Float[np.ndarray, "stimulus voxel"]:
    """Mean over the repeats that were shown, in float64: `values = sum(shown) / n_shown`; NaN where there was none."""
    shown = ~np.isnan(repeats)
    total = np.where(shown, repeats, 0).sum(axis=0, dtype=np.float64)
    n_shown = shown.sum(axis=0)
    return np.divide(total, n_shown, out=np.full(total.shape, np.nan), where=n_shown > 0)


def find_constant(values: Float[np.ndarray, "stimulus voxel"]) -> Bool[np.ndarray, " voxel"]:
    """True where a voxel does not vary, but for the rounding of an average."""
    span = values.max(axis=0) - values.min(axis=0)
    return span <= 1e-12 * np.abs(values).max(axis=0)


def to_float32(
    values: Float[np.ndarray, "..."], sd: Float[np.ndarray, " voxel"], what: str, first: int = 0
) -> Float[np.ndarray, "..."]:
    """The same numbers as float32, the precision of the store; `first` is the position of the first voxel.

    Raises SubjectError if that moves any by more than a thousandth of its voxel's SD (a large constant under small responses).
    """
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        moved = np.nanmax(np.abs(stored - values) / sd, axis=tuple(range(values.ndim - 1)))
    worst = int(np.argmax(moved))
    if not moved[worst] <= MAX_ROUNDING:
        raise SubjectError(
            f"{what} of voxel {first + worst} (counted from 0) would move by {moved[worst]:.2g} SD as float32; expected at most "
            f"{MAX_ROUNDING:g}. Subtract the voxel's mean, or scale it, first."
        )
    return stored
