"""Values on the vertices of one hemisphere, from GIFTI or MGH: columns are stimuli, or there is one.

The header is judged first; then columns are handed on one after the other, so that all of them need never be in memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import require_numbers
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, MIB, amount, composed, counted, reason
from mine_core.subjects.custom.responses import lengths
from mine_core.subjects.custom.sources import Source, found, image_kind, label, unpacked
from mine_core.subjects.custom.volumes import damage_refused

MGH_HEADER_BYTES = 284
MAX_FOOTER_BYTES = 16 * MIB
SIDES: dict[str, Literal["left", "right"]] = {"CortexLeft": "left", "CortexRight": "right"}
Put = Callable[[int, np.ndarray], None]
"""Takes the number of a column and its values, one for each vertex."""


@dataclass(frozen=True)
class SurfaceHeader:
    """What a file says of one hemisphere: its size, which one it is if it tells, names of labels if it has them, and its numbers."""

    kind: Literal["gifti", "mgh"]
    n_vertices: int
    n_columns: int
    stored: np.dtype
    side: Literal["left", "right"] | None
    names: dict[int, str]

    @property
    def shape(self) -> tuple[int, int]:
        """Vertices and columns."""
        return self.n_vertices, self.n_columns

    @property
    def value_dtype(self) -> np.dtype:
        """Float that every value is read as: float32 of floats that are short, else float64."""
        return np.dtype(np.float64 if self.stored.kind in "iu" or self.stored.itemsize > 4 else np.float32)

    @property
    def given_dtype(self) -> str:
        """Name of the numbers as they are stored."""
        return self.stored.newbyteorder("=").name


def read_surface_header(source: Source, what: str) -> SurfaceHeader:
    """Judge a GIFTI of data or an MGH of vertices, packed or not.

    A GIFTI holds one array of vertices per column, or one of vertices x columns; an MGH is vertices x 1 x 1 x columns.

    Raises
    ------
    SubjectError : for another kind of file; a GIFTI of a surface's shape and not of data, of arrays of several lengths, with
        values in another file; an MGH of a volume; damage; more than 8 GiB.
    """
    kind = image_kind(source)
    title = f"{what} ({label(source)})"
    if kind == "gifti":
        return _gifti_header(source, title)
    if kind == "mgh":
        with damage_refused(source), unpacked(source) as stream:
            return _mgh_header(stream.read(MGH_HEADER_BYTES), title)
    raise SubjectError(f"{label(source)} is {found(source)}. Expected {what} as GIFTI or MGH, one file for each hemisphere.")


def put_columns(source: Source, header: SurfaceHeader, what: str, put: Put) -> None:
    """Hand on the columns of a file, one at a time of an MGH or of a GIFTI that has an array for each; see `gifti` for the others.

    Raises SubjectError for a file that is damaged, or ends before its last column.
    """
    title = f"{what} ({label(source)})"
    if header.kind == "mgh":
        _put_mgh(source, header, title, put)
        return
    from mine_core.subjects.custom import gifti  # with nibabel, which pages need not wait for

    gifti.put_columns(source, title, header.n_columns, put)


def read_columns(source: Source, header: SurfaceHeader, what: str) -> Float[np.ndarray, "vertex column"]:
    """Read all columns of a file that has few, a map or a mask; raises SubjectError as `put_columns`."""
    values = np.empty((header.n_columns, header.n_vertices), header.value_dtype)

    def put(number: int, column: np.ndarray) -> None:
        values[number] = column

    put_columns(source, header, what, put)
    return values.T


def check_amount(n_bytes: int, title: str) -> None:
    """Refuse more values than are read; raises SubjectError."""
    if n_bytes > MAX_ARRAY_BYTES:
        raise SubjectError(f"{title} claim {amount(n_bytes)}; at most {MAX_ARRAY_BYTES // GIB} GiB are read. Give fewer.")


# --- MGH -------------------------------------------------------------------------------------------------------------


def _mgh_header(content: bytes, title: str) -> SurfaceHeader:
    from nibabel.freesurfer.mghformat import MGHHeader

    try:
        # The fields after the data are times of the scanner, which no one needs here: zeros stand for them.
        header: Any = MGHHeader(content[: MGHHeader._hdrdtype.itemsize], check=False)
        shape = tuple(int(length) for length in header["dims"])
        dtype = header.get_data_dtype()
    except Exception as error:  # a changed header raises whatever the library raises
        raise SubjectError(f"{title}: the MGH header cannot be read ({reason(error)}); save it again.") from error
    if shape[1:3] != (1, 1):
        raise SubjectError(f"{title} are {lengths(shape)}; expected vertices x 1 x 1 x stimuli. A volume is read as NIfTI.")
    check_amount(math.prod(shape) * dtype.itemsize, title)
    require_numbers(dtype, title)
    return SurfaceHeader("mgh", shape[0], shape[3], dtype, None, {})


def _put_mgh(source: Source, header: SurfaceHeader, title: str, put: Put) -> None:
    n_bytes = header.n_vertices * header.stored.itemsize
    with damage_refused(source), unpacked(source) as stream:
        stream.read(MGH_HEADER_BYTES)
        for number in range(header.n_columns):
            part = stream.read(n_bytes)
            if len(part) != n_bytes:
                raise SubjectError(
                    f"{title} end in column {number + 1:,} of {header.n_columns:,} of {header.n_vertices:,} vertices; "
                    "the file was cut off."
                )
            put(number, np.frombuffer(part, header.stored))
        # a MiB at a time, since a read takes the room that it asks for
        if sum(len(stream.read(MIB)) for _ in range(MAX_FOOTER_BYTES // MIB)) == MAX_FOOTER_BYTES:
            raise SubjectError(
                f"{title} hold {amount(n_bytes * header.n_columns)} by their header and much more after it; save them again."
            )


# --- GIFTI -----------------------------------------------------------------------------------------------------------


def _gifti_header(source: Source, title: str) -> SurfaceHeader:
    from nibabel.nifti1 import data_type_codes

    from mine_core.subjects.custom import gifti

    dtypes: Any = data_type_codes.dtype  # type: ignore[attr-defined]
    image = gifti.judged(source, title)
    shapes = [tuple(array.dims) for array in image.darrays]
    one_each = len(shapes) > 1 and len(set(shapes)) == 1 and bool(shapes[0]) and math.prod(shapes[0][1:]) == 1
    if not one_each and not (len(shapes) == 1 and len(shapes[0]) in (1, 2)):
        said = ", ".join(sorted({lengths(shape) for shape in shapes})[:4])
        raise SubjectError(
            f"{title} hold {counted(len(shapes), 'array')} ({said}); expected one of all vertices for each stimulus. Save them so."
        )
    stored = np.result_type(*(dtypes[array.datatype] for array in image.darrays))
    require_numbers(stored, title)
    metadata = {**image.meta, **image.darrays[0].meta}
    names = {int(key): composed(str(name)) for key, name in image.labeltable.get_labels_as_dict().items()}
    n_columns = len(shapes) if one_each else math.prod(shapes[0][1:])
    side = SIDES.get(str(metadata.get("AnatomicalStructurePrimary")))
    return SurfaceHeader("gifti", shapes[0][0], n_columns, stored, side, names)
