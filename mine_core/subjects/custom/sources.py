"""A file, a folder or an upload, known by its content and never by its name."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import amount, plain, reason

Source = Path | bytes
Sources = Source | tuple[Source, ...]
SourceKind = Literal["folder", "zip", "npy", "hdf5", "nifti", "gifti", "mgh", "text", "other"]

ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
NPY_HEAD = b"\x93NUMPY"
HDF5_HEAD = b"\x89HDF\r\n\x1a\n"
HDF5_OFFSETS = (0, 512, 1024, 2048)
GZIP_HEAD = b"\x1f\x8b"
HEAD_BYTES = 4096
MGH_TYPES = (0, 1, 3, 4)
# What people hand over by mistake, by how it begins: where its bytes lie, what it is, what to do.
STRANGERS = (
    (b"\x80\x02", "a Python pickle, which is never read", "save the array with numpy.save(path, array, allow_pickle=False)"),
    (b"\x80\x03", "a Python pickle, which is never read", "save the array with numpy.save(path, array, allow_pickle=False)"),
    (b"\x80\x04", "a Python pickle, which is never read", "save the array with numpy.save(path, array, allow_pickle=False)"),
    (b"\x80\x05", "a Python pickle, which is never read", "save the array with numpy.save(path, array, allow_pickle=False)"),
    (b"MATLAB 5.0", "a MATLAB 5 file", "save it from MATLAB with -v7.3, which is HDF5"),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"PK", "a zip (or npz, or xlsx)", "unpack it and give one npy, HDF5 or CSV file"),
    (b"\x5c\x01\x00\x00", "half of a pair of files (hdr and img)", "save it as one NIfTI file, .nii or .nii.gz"),
)


BRAIN_IMAGES = {"nifti": "a NIfTI volume", "gifti": "a GIFTI file", "mgh": "an MGH file"}


def label(source: Source) -> str:
    """What to call a source in a message: its file name, or `the uploaded file`."""
    return "the uploaded file" if isinstance(source, bytes) else plain(source.name or str(source))


def is_folder(source: Source) -> bool:
    """Whether it is a folder on disk."""
    return isinstance(source, Path) and source.is_dir()


def size_of(source: Source) -> int:
    """Bytes of a file or upload; raises SubjectError where there is no regular file."""
    if isinstance(source, bytes):
        return len(source)
    try:
        if not source.exists():
            raise SubjectError(f"There is no file or folder at {plain(source, 200)}; check the path.")
        if not source.is_file():
            raise SubjectError(f"{label(source)} is no regular file; give a file or a folder.")
        return source.stat().st_size
    except (OSError, ValueError) as error:
        raise SubjectError(f"{label(source)} cannot be read ({reason(error)}); check its path and permissions.") from error


@contextmanager
def opened(source: Source) -> Iterator[io.BufferedIOBase]:
    """Open a regular file or an upload for reading; raises SubjectError where that is not possible."""
    size_of(source)
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise SubjectError(f"{label(source)} cannot be read ({reason(error)}); check its permissions.") from error
    with stream:
        yield stream


def each(given: Sources) -> tuple[Source, ...]:
    """Return the files of a field that takes one or several, in their order."""
    return given if isinstance(given, tuple) else (given,)


def only(given: Sources, what: str) -> Source:
    """Return the one file of a field; raises SubjectError if there are several."""
    files = each(given)
    if len(files) != 1:
        raise SubjectError(f"{what} are {len(files)} files ({labels(given)}); expected one. Join them, or give one.")
    return files[0]


def labels(given: Sources) -> str:
    """What to call the files of a field that takes one or several."""
    return ", ".join(label(source) for source in each(given))


@contextmanager
def unpacked(source: Source) -> Iterator[io.BufferedIOBase]:
    """Open a file or an upload and read through gzip where it is packed; nothing is read before it is asked for."""
    with opened(source) as stream:
        packed = stream.read(2) == GZIP_HEAD
        stream.seek(0)
        yield gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[misc]


def head_of(source: Source) -> bytes:
    """Return the first bytes, by which a source is known."""
    with opened(source) as stream:
        return stream.read(HEAD_BYTES)


def image_kind(source: Source) -> Literal["nifti", "gifti", "mgh"] | None:
    """Which kind of brain image a source is, packed or not; None for anything else."""
    try:
        with unpacked(source) as stream:
            head = stream.read(HEAD_BYTES)
    except (EOFError, OSError, zlib.error):
        return None
    if (head[344:348] == b"n+1\0" and 348 in _both(head[:4])) or (head[4:8] == b"n+2\0" and 540 in _both(head[:4])):
        return "nifti"
    if b"<GIFTI" in head and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "gifti"
    words = [int.from_bytes(head[place : place + 4], "big", signed=True) for place in range(0, 24, 4)]
    return "mgh" if words[0] == 1 and min(words[1:5]) >= 1 and words[5] in MGH_TYPES and len(head) >= 284 else None


def _both(word: bytes) -> tuple[int, int]:
    return int.from_bytes(word, "little"), int.from_bytes(word, "big")


def kind_of(source: Source) -> SourceKind:
    """What a source is, by its content: a folder, a zip, an npy, an HDF5 file, a brain image, UTF-8 text, or something else."""
    if is_folder(source):
        return "folder"
    head = head_of(source)
    if head.startswith(ZIP_HEADS):
        return "zip"
    if head.startswith(NPY_HEAD):
        return "npy"
    if any(head[offset:].startswith(HDF5_HEAD) for offset in HDF5_OFFSETS):
        return "hdf5"
    image = image_kind(source)
    if image is not None:
        return image
    return "text" if _is_text(head) else "other"


def _is_text(head: bytes) -> bool:
    if not head or b"\0" in head or stranger(head) is not None:
        return False
    try:
        head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The block may end in the middle of a character.
        return error.start > len(head) - 4
    return True


def stranger(head: bytes) -> tuple[str, str] | None:
    """Name a kind of file that is often handed over by mistake, and what to do instead; None for any other."""
    return next(((what, advice) for start, what, advice in STRANGERS if head.startswith(start)), None)


def found(source: Source) -> str:
    """Say what a source is, for the message that refuses it: `a gzip file; unpack it first`."""
    if is_folder(source):
        return "a folder; give one file"
    head = head_of(source)
    if not head:
        return "an empty file; make it again"
    kind = kind_of(source)
    known = stranger(head)
    if known is not None and kind not in BRAIN_IMAGES:
        return "; ".join(known)
    names = {"zip": "a zip", "npy": "an npy array", "hdf5": "an HDF5 file", "text": "a text file", **BRAIN_IMAGES}
    return names.get(kind, f"a file that begins with {head[:8].hex(' ')}") + "; give another"


def read_bytes(source: Source, limit: int) -> bytes:
    """All bytes of a source; raises SubjectError if there are more than `limit`."""
    n_bytes = size_of(source)
    if n_bytes > limit:
        raise SubjectError(f"{label(source)} holds {amount(n_bytes)}; at most {amount(limit)} are read. Give a smaller file.")
    with opened(source) as stream:
        return stream.read(limit)


def fingerprint(source: Source) -> str:
    """SHA-256 of a source's content, in hex; for a folder, of the names and bytes of its files. It keys what is built of it."""
    if isinstance(source, bytes) or not source.is_dir():
        with opened(source) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        digest.update(f"{len(name)}:{name}:{fingerprint(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def fingerprints(given: Sources) -> str | list[str]:
    """Return the fingerprint of a field's file, or those of its several files in their order."""
    found = [fingerprint(source) for source in each(given)]
    return found if isinstance(given, tuple) else found[0]
