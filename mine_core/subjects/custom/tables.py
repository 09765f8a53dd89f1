"""Small tables in text: ids, regions, splits, captions."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MAX_CAPTION_LENGTH, MAX_JSON_BYTES, composed, counted, listed, plain, quoted, reason
from mine_core.subjects.custom.sources import Source, found, kind_of, label, opened, read_bytes, size_of

DELIMITERS = ("\t", ";", ",")


def rows_of(source: Source, what: str, limit: int = MAX_JSON_BYTES) -> Iterator[list[str]]:
    """Yield the rows of a CSV in UTF-8, cells stripped; its first line tells comma, semicolon or tab.

    Raises SubjectError for what is no text, is larger than `limit` bytes, or has an empty line before the last.
    """
    if size_of(source) > limit:
        raise SubjectError(f"{what} ({label(source)}) holds {size_of(source):,} bytes; at most {limit:,} are read. Use npy.")
    if kind_of(source) != "text":
        raise SubjectError(f"{label(source)} is {found(source)}. Expected {what} as CSV text in UTF-8.")
    with opened(source) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")  # type: ignore[type-var]
        try:
            first = text.readline()
            text.seek(0)
            delimiter = next((mark for mark in DELIMITERS if mark in first), ",")
            yield from _checked_rows(csv.reader(text, delimiter=delimiter, strict=True), what)
        except (UnicodeError, csv.Error) as error:
            raise SubjectError(f"{what} ({label(source)}) is no readable CSV ({reason(error)}); save it as UTF-8.") from error
        finally:
            text.detach()


def _checked_rows(reader: Iterator[list[str]], what: str) -> Iterator[list[str]]:
    empty = 0
    for number, row in enumerate(reader, start=1):
        if not any(cell.strip() for cell in row):
            empty = empty or number
            continue
        if empty:
            raise SubjectError(f"{what}: line {empty} is empty; expected none before the last. Remove it or fill it in.")
        yield [cell.strip() for cell in row]


def read_table(source: Source, columns: tuple[str, str], what: str) -> list[tuple[str, str]]:
    """Rows of a CSV of two named columns; raises SubjectError if the header or a row is another."""
    rows = rows_of(source, what)
    header = next(rows, [])
    if tuple(cell.lower() for cell in header) != columns:
        raise SubjectError(f"{what} ({label(source)}) begins with {quoted(','.join(header))}; expected the header {','.join(columns)}.")
    table = []
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not all(row):
            raise SubjectError(f"{what}: row {number} is {quoted(','.join(row))}; expected {columns[0]} and {columns[1]}. Fill it in.")
        table.append((composed(row[0]), composed(row[1])))
    if not table:
        raise SubjectError(f"{what} ({label(source)}) holds its header alone; expected at least one row.")
    return table


def read_ids(source: Source) -> tuple[str, ...]:
    """Stimulus ids, one a line, in the order of the responses; raises SubjectError for an empty line or an id given twice."""
    if kind_of(source) != "text":
        raise SubjectError(f"{label(source)} is {found(source)}. Expected stimulus ids as text in UTF-8, one a line.")
    try:
        text = read_bytes(source, MAX_JSON_BYTES).decode("utf-8-sig")
    except UnicodeError as error:
        raise SubjectError(f"Stimulus ids ({label(source)}) are no UTF-8 ({reason(error)}); save them as UTF-8.") from error
    ids = tuple(composed(line.strip()) for line in text.rstrip().splitlines())
    if not all(ids):
        raise SubjectError(f"Stimulus ids: line {ids.index('') + 1} is empty; expected one id a line.")
    check_unique(ids, "Stimulus ids")
    return ids


def check_unique(ids: Sequence[str], what: str) -> None:
    """Refuse an id that stands for two stimuli; raises SubjectError with how many, and the first."""
    seen: dict[str, int] = {}
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
    twice = [name for name, n in seen.items() if n > 1]
    if twice:
        raise SubjectError(
            f"{what}: {counted(len(twice), 'id')} given more than once (first: {quoted(twice[0])}, {seen[twice[0]]} times); "
            "expected each once. Put repeated showings on an axis of their own (stimulus,voxel,repeat)."
        )


def read_captions(source: Source) -> dict[str, list[str]]:
    """Return captions by image name, white space joined to single spaces.

    Two layouts are known: COCO's JSON (`images` with id and file_name, `annotations` with image_id and caption) and a CSV with
    the header stimulus,caption.

    Raises SubjectError for another layout, an annotation of no image, or a caption that is empty or longer than 1,000 characters.
    """
    with opened(source) as stream:
        is_json = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    pairs = _coco_captions(source) if is_json else read_table(source, ("stimulus", "caption"), "captions")
    captions: dict[str, list[str]] = {}
    for name, sentence in pairs:
        words = " ".join(sentence.split())
        if not 0 < len(words) <= MAX_CAPTION_LENGTH or not words.isprintable():
            raise SubjectError(
                f"The caption of {quoted(name)} has {len(words):,} characters ({quoted(words)}); "
                f"expected 1 to {MAX_CAPTION_LENGTH:,}, all printable. Correct it."
            )
        captions.setdefault(name, []).append(words)
    return captions


def _coco_captions(source: Source) -> list[tuple[str, str]]:
    names, annotations = read_coco(source)
    return [(composed(names[image]), sentence) for image, sentence in annotations]


def read_coco(source: Source) -> tuple[dict[int | str, str], list[tuple[int | str, str]]]:
    """Names of images by their id, and (id, caption) of every annotation of COCO's JSON; raises SubjectError for another layout."""
    content = read_bytes(source, MAX_JSON_BYTES)
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"captions ({label(source)}) are no readable JSON ({reason(error)}); save them again.") from error
    try:
        names = {_hashable(image["id"]): str(image["file_name"]) for image in record["images"]}
        annotations = [(_hashable(entry["image_id"]), str(entry["caption"])) for entry in record["annotations"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise SubjectError(
            f"captions ({label(source)}) are JSON of another layout ({plain(repr(error))} missing or wrong); "
            "expected COCO's: images with id and file_name, annotations with image_id and caption."
        ) from error
    lost = [image for image, _ in annotations if image not in names]
    if lost:
        raise SubjectError(f"{counted(len(lost), 'caption')} belong to no image of the file (first: image id {listed(lost[:1])}).")
    return names, annotations


def _hashable(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError(f"id {value!r}")
    return value
