"""Values on the vertices of one hemisphere, from GIFTI or MGH: columns are stimuli, or there is one."""

import base64
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal
from xml.parsers import expat

import numpy as np
from jaxtyping import Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import require_numbers
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, MAX_RATIO, MIB, amount, composed, counted, reason
from mine_core.subjects.custom.responses import lengths
from mine_core.subjects.custom.sources import Source, found, image_kind, label, size_of, unpacked
from mine_core.subjects.custom.volumes import damage_refused

MGH_HEADER_BYTES = 284
MAX_FOOTER_BYTES = 16 * MIB
SHAPES = ("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE")
SIDES: dict[str, Literal["left", "right"]] = {"CortexLeft": "left", "CortexRight": "right"}


@dataclass(frozen=True)
class Surface:
    """Values of one hemisphere, which one if the file says so, and names of labels if it has them."""

    values: Float[np.ndarray, "vertex column"]
    side: Literal["left", "right"] | None
    names: dict[int, str]
    given_dtype: str


def read_surface(source: Source, what: str) -> Surface:
    """Read a GIFTI of data or an MGH of vertices, packed or not.

    A GIFTI holds one array of vertices per column, or one of vertices x columns; an MGH is vertices x 1 x 1 x columns.

    Raises
    ------
    SubjectError : for another kind of file; a GIFTI of a surface's shape and not of data, of arrays of several lengths, with
        values in another file; an MGH of a volume; damage; more than 8 GiB.
    """
    kind = image_kind(source)
    if kind == "gifti":
        return _read_gifti(source, what)
    if kind == "mgh":
        return _read_mgh(source, what)
    raise SubjectError(f"{label(source)} is {found(source)}. Expected {what} as GIFTI or MGH, one file for each hemisphere.")


# --- MGH -------------------------------------------------------------------------------------------------------------


def _read_mgh(source: Source, what: str) -> Surface:
    from nibabel.freesurfer.mghformat import MGHHeader

    title = f"{what} ({label(source)})"
    with damage_refused(source), unpacked(source) as stream:
        content = stream.read(MGH_HEADER_BYTES)
        try:
            # The fields after the data are times of the scanner, which no one needs here: zeros stand for them.
            header: Any = MGHHeader(content[: MGHHeader._hdrdtype.itemsize], check=False)
            shape = tuple(int(length) for length in header["dims"])
            dtype = header.get_data_dtype()
        except Exception as error:  # a changed header raises whatever the library raises
            raise SubjectError(f"{title}: the MGH header cannot be read ({reason(error)}); save it again.") from error
        if shape[1:3] != (1, 1):
            raise SubjectError(f"{title} are {lengths(shape)}; expected vertices x 1 x 1 x stimuli. A volume is read as NIfTI.")
        n_bytes = math.prod(shape) * dtype.itemsize
        _check_amount(n_bytes, title)
        require_numbers(dtype, title)
        values = np.empty((shape[0], shape[3]), np.float64 if dtype.kind in "iu" else np.float32)
        for column in range(shape[3]):
            part = stream.read(shape[0] * dtype.itemsize)
            if len(part) != shape[0] * dtype.itemsize:
                raise SubjectError(
                    f"{title} end in column {column + 1:,} of {shape[3]:,} of {shape[0]:,} vertices; the file was cut off."
                )
            values[:, column] = np.frombuffer(part, dtype)
        if len(stream.read(MAX_FOOTER_BYTES)) == MAX_FOOTER_BYTES:
            raise SubjectError(f"{title} hold {amount(n_bytes)} by their header and much more after it; save them again.")
    return Surface(values, None, {}, dtype.newbyteorder("=").name)


def _check_amount(n_bytes: int, title: str) -> None:
    if n_bytes > MAX_ARRAY_BYTES:
        raise SubjectError(f"{title} claim {amount(n_bytes)}; at most {MAX_ARRAY_BYTES // GIB} GiB are read. Give fewer.")


# --- GIFTI -----------------------------------------------------------------------------------------------------------


def _read_gifti(source: Source, what: str) -> Surface:
    import nibabel

    title = f"{what} ({label(source)})"
    most = MAX_ARRAY_BYTES if size_of(source) > GIB else min(GIB, MIB + MAX_RATIO * size_of(source))
    with damage_refused(source), unpacked(source) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise SubjectError(
            f"{title}, {amount(size_of(source))}, unpack to more than {amount(most)}; at most that is read. Unpack it first."
        )
    _check_gifti(content, title)
    try:
        image: Any = nibabel.GiftiImage.from_stream(io.BytesIO(content))
        arrays = [np.asarray(array.data) for array in image.darrays]
        names = {int(key): composed(str(name)) for key, name in image.labeltable.get_labels_as_dict().items()}
        metadata = {**image.meta, **(image.darrays[0].meta if image.darrays else {})}
    except Exception as error:  # a changed file raises whatever the library raises
        raise SubjectError(f"{title} is no readable GIFTI ({reason(error)}); copy it again.") from error
    if len(arrays) > 1 and len({array.shape for array in arrays}) == 1 and arrays[0].size == len(arrays[0]):
        values = np.stack([array.reshape(-1) for array in arrays], axis=1)
    elif len(arrays) == 1 and arrays[0].ndim in (1, 2):
        values = arrays[0].reshape(len(arrays[0]), -1)
    else:
        shapes = ", ".join(sorted({lengths(array.shape) for array in arrays})[:4])
        raise SubjectError(
            f"{title} hold {counted(len(arrays), 'array')} ({shapes}); expected one of all vertices for each stimulus. Save them so."
        )
    require_numbers(values.dtype, title)
    floats = values.astype(np.float64 if values.dtype.kind in "iu" or values.dtype.itemsize > 4 else np.float32)
    return Surface(floats, SIDES.get(str(metadata.get("AnatomicalStructurePrimary"))), names, values.dtype.newbyteorder("=").name)


class _GiftiCheck:
    """Walks through a GIFTI's XML before the library does, and refuses what would make it read elsewhere or without bounds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.attributes: dict[str, str] = {}
        self.text: list[str] | None = None
        self.total = 0
        self.intents: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "DataArray":
            self.attributes = attributes
            self.intents.append(attributes.get("Intent", ""))
            if attributes.get("Encoding") == "ExternalFileBinary":
                raise SubjectError(f"{self.title} keep their values in another file; expected all in one. Save them so.")
        elif name == "Data":
            self.text = []

    def data(self, text: str) -> None:
        if self.text is not None:
            self.text.append(text)

    def end(self, name: str) -> None:
        if name != "Data" or self.text is None:
            return
        if self.attributes.get("Encoding") == "GZipBase64Binary":
            self._check_packed("".join(self.text))
        self.text = None

    def _check_packed(self, text: str) -> None:
        import nibabel

        dimensions = [int(self.attributes[f"Dim{axis}"]) for axis in range(int(self.attributes["Dimensionality"]))]
        itemsize = nibabel.nifti1.data_type_codes.dtype[self.attributes["DataType"]].itemsize  # type: ignore[attr-defined]
        claimed = math.prod(dimensions) * itemsize
        self.total += claimed
        _check_amount(self.total, self.title)
        unpacker = zlib.decompressobj()
        held = len(unpacker.decompress(base64.b64decode(text.encode("ascii")), claimed + 1))
        if held != claimed or not unpacker.eof:
            raise SubjectError(
                f"{self.title}: array {len(self.intents)} claims {lengths(tuple(dimensions))}, {claimed:,} bytes, and unpacks to "
                f"{'more' if held > claimed else f'{held:,}'}; it was changed or cut off: copy it again."
            )

    def entity(self, *_: object) -> None:
        raise SubjectError(f"{self.title} define XML entities, which no GIFTI needs; save them again.")


def _check_gifti(content: bytes, title: str) -> None:
    check = _GiftiCheck(title)
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = check.start, check.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = check.data, check.entity
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except SubjectError:
        raise
    except Exception as error:  # damage shows as XML, base64, zlib, or a missing attribute
        raise SubjectError(f"{title} is no readable GIFTI ({reason(error)}); copy it again.") from error
    if any(intent in SHAPES for intent in check.intents):
        raise SubjectError(
            f"{title} hold the shape of a surface (points and triangles) and no values on it; give the file of data, .func.gii."
        )
    if not check.intents:
        raise SubjectError(f"{title} hold no array; expected one for each stimulus. Save them again.")
