"""The images of a folder or a zip: found by their content, in the order of their names, and read one at a time.

Nothing is ever unpacked to disk. A zip is judged whole by its directory before a single entry is read.
"""

import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import (
    MAX_ENTRIES,
    MAX_NAME_LENGTH,
    MAX_PICTURE_BYTES,
    MAX_RATIO,
    MAX_UNPACKED_BYTES,
    MIB,
    amount,
    composed,
    counted,
    folded,
    listed,
    quoted,
    reason,
)
from mine_core.subjects.custom.pictures import HEAD_BYTES, picture_format
from mine_core.subjects.custom.sources import ZIP_HEADS, Source, is_folder, label, opened, size_of

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
    + (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm")
)
CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
ACCEPTED = "JPEG, PNG, WebP, BMP or TIFF"


@dataclass(frozen=True)
class Gallery:
    """Image files under one root: their names sorted as text, how to read one, and what was passed over."""

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A file that may be an image: its path inside the folder or zip, and how to read its first or all its bytes."""

    name: str
    n_bytes: int
    read: Callable[[int], bytes]


@contextmanager
def gallery(source: Source) -> Iterator[Gallery]:
    """Open a folder or a zip of images.

    Files are images if their bytes say so; hidden files and a system's clutter are passed over and counted, and so are
    files that neither are nor are named as images (nested zips among them).

    Raises SubjectError for: more than 200,000 entries; a name that is absolute, climbs with `..`, is a link (zip), cannot be
    printed or is too long; two names that differ in case at most; a file named as an image that is none; an encrypted,
    damaged or unusually compressed zip; one that would unpack to more than 16 GiB, to an image above 64 MiB, or to more
    than 200 times its size; no image at all.
    """
    if is_folder(source):
        yield _gallery(_folder_entries(Path(source)), label(source))  # type: ignore[arg-type]
        return
    with opened(source) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except Exception as error:  # a hostile directory can raise nearly anything in the parser; all of it means "damaged"
            raise SubjectError(f"{label(source)} is no readable zip ({reason(error)}); make the archive again.") from error
        with archive:
            yield _gallery(_zip_entries(archive, label(source), size_of(source)), label(source))


def _gallery(entries: list[Entry], what: str) -> Gallery:
    hidden = [entry for entry in entries if _is_hidden(entry.name)]
    images: list[Entry] = []
    others: list[Entry] = []
    for entry in sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name):
        (images if _is_image(entry) else others).append(entry)
    if not images:
        raise SubjectError(
            f"{what} holds {counted(len(others), 'file')} and no image; expected {ACCEPTED} (known by content, not by name)."
        )
    root = _common_folder([entry.name for entry in images])
    readers = {composed(entry.name[len(root) :]): entry.read for entry in images}
    check_distinct([entry.name for entry in images], what)
    return Gallery(tuple(sorted(readers)), lambda name: readers[name](MAX_PICTURE_BYTES), _passed_over(hidden, others))


def _passed_over(hidden: list[Entry], others: list[Entry]) -> tuple[str, ...]:
    notes = []
    if hidden:
        notes.append(f"{counted(len(hidden), 'hidden or system file')} passed over ({listed([e.name for e in hidden])}).")
    archives = [entry.name for entry in others if entry.read(len(ZIP_HEADS[0])) in ZIP_HEADS]
    if archives:
        notes.append(f"{counted(len(archives), 'zip')} inside passed over, not opened ({listed(archives)}).")
    rest = [entry.name for entry in others if entry.name not in archives]
    if rest:
        notes.append(f"{counted(len(rest), 'other file')} passed over ({listed(rest)}).")
    return tuple(notes)


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part != ".") or part in CLUTTER for part in name.split("/"))


def _is_image(entry: Entry) -> bool:
    """Whether the content is an image's; refuses what is only named as one: to drop it would shift all that follow."""
    head = entry.read(HEAD_BYTES)
    if picture_format(head) is not None:
        if entry.n_bytes > MAX_PICTURE_BYTES:
            raise SubjectError(
                f"Image {quoted(entry.name)} holds {amount(entry.n_bytes)}; at most {amount(MAX_PICTURE_BYTES)} are read. "
                "Save it smaller."
            )
        return True
    if PurePosixPath(entry.name).suffix.lower() in IMAGE_SUFFIXES:
        found = f"begins with {head[:8].hex(' ')}" if head else "is empty"
        raise SubjectError(f"{quoted(entry.name)} is named as an image and {found}; expected {ACCEPTED}. Save it again.")
    return False


def check_distinct(names: Sequence[str], what: str) -> None:
    """Refuse names that are the same on a system that ignores case; raises SubjectError with how many, and the first pair."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        if folded(name) in first:
            pairs.append((first[folded(name)], name))
        first.setdefault(folded(name), name)
    if pairs:
        raise SubjectError(
            f"{what} holds {counted(len(pairs), 'name')} twice, upper and lower case being the same on many systems "
            f"(first: {quoted(pairs[0][0])} and {quoted(pairs[0][1])}); give each image its own name."
        )


def _common_folder(names: list[str]) -> str:
    """Return the folder (with its slash) that holds all names, so that ids do not change when a folder is zipped from above."""
    parents = [name.split("/")[:-1] for name in names]
    shared = os.path.commonprefix(parents)
    return "/".join(shared) + "/" if shared else ""


def check_name(name: str, what: str) -> None:
    """Refuse a path that leaves its root, or that cannot be printed; raises SubjectError."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or (len(parts[0]) == 2 and parts[0].endswith(":")):
        raise SubjectError(f"{what} holds the absolute path {quoted(name)}; expected paths inside it. Make the archive again.")
    if ".." in parts:
        raise SubjectError(f"{what} holds {quoted(name)}, which climbs out with '..'; expected paths inside it. Make it again.")
    if "\\" in name:
        raise SubjectError(f"{what} holds {quoted(name)} with a backslash; expected '/' between folders. Make the archive again.")
    if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise SubjectError(
            f"{what} holds a name of {len(name)} characters, {quoted(name)}; expected 1 to {MAX_NAME_LENGTH}, all printable. "
            "Rename the file."
        )


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder_entries(root: Path) -> list[Entry]:
    entries: list[Entry] = []
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder) / file
            name = path.relative_to(root).as_posix()
            if len(entries) == MAX_ENTRIES:
                raise SubjectError(f"{label(root)} holds more than {MAX_ENTRIES:,} files; give a folder of the images alone.")
            check_name(name, label(root))
            entries.append(_folder_entry(path, name))
    return entries


def _folder_entry(path: Path, name: str) -> Entry:
    def read(limit: int) -> bytes:
        # A pipe or a device would block or never end.
        if not path.is_file():
            raise SubjectError(f"{quoted(name)} is no regular file (or a link that leads nowhere); copy the image there.")
        try:
            with path.open("rb") as stream:
                return stream.read(limit)
        except OSError as error:
            raise SubjectError(f"{quoted(name)} cannot be read ({reason(error)}); check its permissions.") from error

    return Entry(name, path.stat().st_size if path.is_file() else 0, read)


# --- zips ------------------------------------------------------------------------------------------------------------


def _zip_entries(archive: zipfile.ZipFile, what: str, n_bytes: int) -> list[Entry]:
    records = archive.infolist()
    if len(records) > MAX_ENTRIES:
        raise SubjectError(f"{what} holds {len(records):,} entries; at most {MAX_ENTRIES:,} are read. Give the images alone.")
    names: set[str] = set()
    for record in records:
        check_name(record.orig_filename, what)
        _check_record(record, what)
        if record.filename in names:
            raise SubjectError(f"{what} holds {quoted(record.filename)} twice; give each image its own name.")
        names.add(record.filename)
    total = sum(record.file_size for record in records)
    _check_unpacked(total, n_bytes, what)
    return [_zip_entry(archive, record, what) for record in records if not record.is_dir()]


def _check_record(record: zipfile.ZipInfo, what: str) -> None:
    name = quoted(record.filename)
    mode = record.external_attr >> 16
    if stat.S_ISLNK(mode):
        raise SubjectError(f"{what} holds the link {name}; expected files. Make the archive with the files that links lead to.")
    if record.flag_bits & 0x1:
        raise SubjectError(f"{what} holds the encrypted entry {name}; expected none. Make the archive without a password.")
    if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SubjectError(
            f"{what} holds {name} in compression {record.compress_type}; expected stored or deflated. Make it with plain zip."
        )
    if record.file_size > MAX_RATIO * max(record.compress_size, 1) and record.file_size > MIB:
        raise SubjectError(
            f"{what} holds {name}, {amount(record.compress_size)} that unpack to {amount(record.file_size)}, more than "
            f"{MAX_RATIO} times as much: it looks like a bomb. If it is yours, unpack it and give the folder."
        )


def _check_unpacked(total: int, n_bytes: int, what: str) -> None:
    if total > MAX_UNPACKED_BYTES or (total > MAX_RATIO * n_bytes and total > MIB):
        raise SubjectError(
            f"{what}, {amount(n_bytes)}, would unpack to {amount(total)}; at most {amount(MAX_UNPACKED_BYTES)} and {MAX_RATIO} "
            "times its size are read: it looks like a bomb. If it is yours, unpack it and give the folder."
        )


def _zip_entry(archive: zipfile.ZipFile, record: zipfile.ZipInfo, what: str) -> Entry:
    def read(limit: int) -> bytes:
        try:
            with archive.open(record) as stream:
                return stream.read(limit)
        except Exception as error:  # damaged streams raise from zlib, struct or zipfile; each means the same to the user
            raise SubjectError(
                f"{what}: {quoted(record.filename)} cannot be unpacked ({reason(error)}); make the archive again."
            ) from error

    return Entry(record.filename, record.file_size, read)
