"""GIFTI walked through an array at a time: judged first, then handed on column by column; the file is never in memory as a whole.

An array is text (mostly packed, then in base64), so it is decoded as a whole: a file of one array for each stimulus needs room for one
of them, a file of one array of vertices x stimuli for that one.
"""

import base64
import io
import math
import zlib
from typing import Any

import numpy as np
from nibabel.gifti.parse_gifti_fast import GiftiImageParser
from nibabel.gifti.util import gifti_encoding_codes
from nibabel.nifti1 import data_type_codes

from mine_core.errors import MineError, SubjectError
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, MAX_RATIO, MIB, amount, reason
from mine_core.subjects.custom.responses import lengths
from mine_core.subjects.custom.sources import Source, size_of, unpacked
from mine_core.subjects.custom.surfaces import Put, check_amount
from mine_core.subjects.custom.volumes import damage_refused

SHAPES = ("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE")


class _Walk(GiftiImageParser):
    """The library's parser, without a file to lead it elsewhere, and handing on the text of each array instead of keeping it."""

    def __init__(self, title: str) -> None:
        super().__init__(buffer_size=MIB)
        self.title = title
        self.n_read = 0

    def _create_parser(self) -> Any:
        parser = super()._create_parser()
        parser.EntityDeclHandler = self._refuse_entity
        return parser

    def _refuse_entity(self, *_: object) -> None:
        raise SubjectError(f"{self.title} define XML entities, which no GIFTI needs; save them again.")

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:  # noqa: N802
        super().StartElementHandler(name, attrs)
        if name == "DataArray" and gifti_encoding_codes.label[self.da.encoding] == "External":
            raise SubjectError(f"{self.title} keep their values in another file; expected all in one. Save them so.")


class _Judge(_Walk):
    """Refuses what would make the reader allocate without bounds; no value is kept."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.intents: list[str] = []
        self.total = 0

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:  # noqa: N802
        super().StartElementHandler(name, attrs)
        if name == "DataArray":
            self.intents.append(attrs.get("Intent", ""))

    def flush_chardata(self) -> None:
        if self.write_to != "Data":
            super().flush_chardata()
            return
        text = "".join(self._char_blocks or ())
        self._char_blocks = None
        self.n_read += 1
        self._check_held(text)

    def _check_held(self, text: str) -> None:
        dtypes: Any = data_type_codes.dtype  # type: ignore[attr-defined]
        shape, itemsize = tuple(self.da.dims), dtypes[self.da.datatype].itemsize
        claimed = math.prod(shape) * itemsize
        self.total += claimed
        check_amount(self.total, self.title)
        encoding = gifti_encoding_codes.label[self.da.encoding]
        if encoding == "ASCII":  # a number and what parts it from the next are two characters at the least
            right, held = 2 * math.prod(shape) <= len(text) + 1, len(text) // 2 * itemsize
        else:
            held, right = _unpacked_bytes(base64.b64decode(text.encode("ascii")), claimed, encoding == "B64GZ")
        if not right:
            raise SubjectError(
                f"{self.title}: array {len(self.intents)} claims {lengths(shape)}, {claimed:,} bytes, and unpacks to "
                f"{'more' if held > claimed else f'{held:,}'}; it was changed or cut off: copy it again."
            )


def _unpacked_bytes(content: bytes, claimed: int, packed: bool) -> tuple[int, bool]:
    """How many bytes there are, counted to one above what is claimed, and whether they are as many and whole."""
    if not packed:
        return len(content), len(content) == claimed
    unpacker, held = zlib.decompressobj(), 0
    while held <= claimed and not unpacker.eof:
        part = len(unpacker.decompress(content, min(MIB, claimed + 1 - held)))
        held, content = held + part, unpacker.unconsumed_tail
        if not part and not content:
            break
    return held, held == claimed and unpacker.eof


class _Columns(_Walk):
    """Decodes an array at a time, and hands on its columns."""

    def __init__(self, title: str, put: Put) -> None:
        super().__init__(title)
        self.put = put
        self.n_put = 0

    def flush_chardata(self) -> None:
        is_data = self.write_to == "Data"
        super().flush_chardata()
        if is_data:
            self._hand_on(np.asarray(self.da.data))
            self.da.data = None

    def _hand_on(self, array: np.ndarray) -> None:
        self.n_read += 1
        if len(self.img.darrays) > 1:
            self.put(len(self.img.darrays) - 1, array.reshape(-1))
            self.n_put += 1
            return
        columns = array.reshape(len(array), -1)
        for number in range(columns.shape[1]):
            self.put(number, columns[:, number])
        self.n_put = columns.shape[1]


class _AtMost:
    """A stream that may give so many bytes and no more; it has no name, so that nothing is looked for beside it."""

    def __init__(self, stream: io.BufferedIOBase, n_bytes: int, refusal: SubjectError) -> None:
        self._stream, self._left, self._refusal = stream, n_bytes, refusal

    def read(self, n_bytes: int) -> bytes:
        part = self._stream.read(n_bytes)
        self._left -= len(part)
        if self._left < 0:
            raise self._refusal
        return part


def judged(source: Source, title: str) -> Any:
    """Return what a GIFTI says of its arrays, as the library's image of arrays without values.

    Raises SubjectError for what is damaged, leads to another file, unpacks to another size than it claims, or holds no data.
    """
    judge = _Judge(title)
    _walk(judge, source)
    if any(intent in SHAPES for intent in judge.intents):
        raise SubjectError(
            f"{title} hold the shape of a surface (points and triangles) and no values on it; give the file of data, .func.gii."
        )
    if not judge.intents:
        raise SubjectError(f"{title} hold no array; expected one for each stimulus. Save them again.")
    return judge.img


def put_columns(source: Source, title: str, n_columns: int, put: Put) -> None:
    """Hand on the columns of a GIFTI that was judged; raises SubjectError where its text is no array of the shape it claims."""
    columns = _Columns(title, put)
    _walk(columns, source)
    if columns.n_put != n_columns:
        raise SubjectError(
            f"{title} had {n_columns:,} columns and then {columns.n_put:,}; they changed while they were read. Import again."
        )


def _walk(walk: _Walk, source: Source) -> None:
    held = size_of(source)
    most = MAX_ARRAY_BYTES if held > GIB else min(GIB, MIB + MAX_RATIO * held)
    refusal = SubjectError(f"{walk.title}, {amount(held)}, unpack to more than {amount(most)}; at most that is read. Unpack it first.")
    try:
        with damage_refused(source), unpacked(source) as stream:
            walk.parse(fptr=_AtMost(stream, most, refusal))
            if walk.n_read != len(walk.img.darrays):
                raise SubjectError(f"{walk.title} have {len(walk.img.darrays)} arrays and the values of {walk.n_read}; copy it again.")
    except MineError:
        raise
    except Exception as error:  # a changed file raises whatever the library raises
        raise SubjectError(f"{walk.title} is no readable GIFTI ({reason(error)}); copy it again.") from error
