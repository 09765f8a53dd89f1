"""Which image belongs to which row of the responses: by ids where they exist, otherwise by order, and always said."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import counted, listed, plain, quoted
from mine_core.subjects.custom.responses import ResponseTable, lengths, suggest_axes

ImageOrder = Literal["text", "number"]


class Dropped(NamedTuple):
    """What was left out, why, and which: ids of stimuli, or positions (or names) of voxels, as given."""

    what: str
    why: str
    which: tuple[str, ...]


class Matching(NamedTuple):
    """Image `image_rows[i]` was answered by row `response_rows[i]`; the order is that of the responses."""

    ids: tuple[str, ...]
    image_rows: Int[np.ndarray, " stimulus"]
    response_rows: Int[np.ndarray, " stimulus"]
    note: str
    dropped: tuple[Dropped, ...]


def match(
    images: tuple[str, ...],
    named: bool,
    table: ResponseTable,
    stimulus_ids: tuple[str, ...] | None,
    order: ImageOrder | None,
    drop: bool,
) -> Matching:
    """Match images to responses.

    Parameters
    ----------
    images : ids of the images, file names sorted as text if `named`, else positions in an array.
    table : responses, perhaps with stimulus ids of their own.
    stimulus_ids : ids of the responses' stimuli in their order, from a file; they name the rows of an image array, too.
    order : where neither has ids: sort file names as text or by the numbers in them. None refuses if the two differ.
    drop : leave out images without responses and responses without images, instead of refusing them.

    Raises
    ------
    SubjectError : for numbers that differ, ids that do not match, ids of file and responses that differ, ambiguous order.
    """
    ids = _response_ids(table, stimulus_ids)
    if ids is None:
        return _match_by_position(images, named, table, order)
    if not named:
        _check_numbers(len(images), table)
        positions = np.arange(len(images))
        return Matching(ids, positions, positions, "Matched by position: the ids name the rows of the images, in order.", ())
    return _match_by_id(images, table, ids, drop)


def _response_ids(table: ResponseTable, stimulus_ids: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if stimulus_ids is None:
        return table.stimulus_ids
    if len(stimulus_ids) != table.n_stimuli:
        advice = suggest_axes(table, len(stimulus_ids)) or "give one id per stimulus, in the order of the responses."
        raise SubjectError(f"There are {len(stimulus_ids):,} stimulus ids and {table.n_stimuli:,} stimuli in the responses; {advice}")
    if table.stimulus_ids is not None and table.stimulus_ids != stimulus_ids:
        first = next(i for i, pair in enumerate(zip(stimulus_ids, table.stimulus_ids, strict=True)) if pair[0] != pair[1])
        raise SubjectError(
            f"Stimulus {first} is {quoted(stimulus_ids[first])} in the file of ids and {quoted(table.stimulus_ids[first])} in the "
            "responses; expected the same. Leave one out."
        )
    return stimulus_ids


def _check_numbers(n_images: int, table: ResponseTable) -> None:
    if n_images == table.n_stimuli:
        return
    advice = suggest_axes(table, n_images) or (
        "give one image per stimulus, or the id of each stimulus (a first column in the CSV, or a file of stimulus ids)."
    )
    raise SubjectError(
        f"Responses ({lengths(table.given_shape)}, read as {','.join(table.axes)}) have {table.n_stimuli:,} stimuli, "
        f"images {n_images:,}; {advice}"
    )


def _match_by_position(images: tuple[str, ...], named: bool, table: ResponseTable, order: ImageOrder | None) -> Matching:
    _check_numbers(len(images), table)
    rows = np.arange(len(images))
    if not named:
        return Matching(images, rows, rows, "Matched by position: row i of the images is stimulus i of the responses.", ())
    by_number = sorted(range(len(images)), key=lambda i: number_key(images[i]))
    if order is None and by_number != list(range(len(images))):
        first = next(i for i, j in enumerate(by_number) if i != j)
        raise SubjectError(
            f"Image {first} is {quoted(images[first])} when names are sorted as text and {quoted(images[by_number[first]])} when "
            "sorted by the numbers in them; which order the responses have is not known. "
            "Give stimulus ids, or the order of the images: text or number."
        )
    if order == "number":
        rows = np.array(by_number)
    ids = tuple(images[i] for i in rows)
    how = "sorted name" if order is None else "name sorted as text" if order == "text" else "name sorted by number"
    note = f"Matched by {how}: image i is stimulus i of the responses (first: {plain(ids[0])}, last: {plain(ids[-1])})."
    return Matching(ids, rows, np.arange(len(images)), note, ())


def number_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which image2 comes before image10, whatever the case of letters."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts if part]


def stem(name: str) -> str:
    """Return a file name without its last suffix."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix else name


def index_by(ids: Sequence[str], wanted: Sequence[str]) -> tuple[dict[str, int], str]:
    """Positions of `ids` by the key that `wanted` uses: the whole name, or the name without suffix, whichever finds more.

    Raises SubjectError if names without suffix are needed and two images share one.
    """
    whole = {name: i for i, name in enumerate(ids)}
    stems: dict[str, int] = {}
    for i, name in enumerate(ids):
        stems.setdefault(stem(name), i)
    n_whole, n_stem = (sum(name in index for name in wanted) for index in (whole, stems))
    if n_whole >= n_stem:
        return whole, "id"
    if len(stems) != len(ids):
        raise SubjectError(
            f"Ids have no suffix and {counted(len(ids) - len(stems), 'image')} share the name of another but for it; "
            "give whole file names as ids."
        )
    return stems, "id (file name without suffix)"


def _match_by_id(images: tuple[str, ...], table: ResponseTable, ids: tuple[str, ...], drop: bool) -> Matching:
    index, how = index_by(images, ids)
    response_rows = np.array([row for row, name in enumerate(ids) if name in index], dtype=np.int64)
    image_rows = np.array([index[ids[row]] for row in response_rows], dtype=np.int64)
    answered = set(image_rows.tolist())
    without_image = tuple(name for name in ids if name not in index)
    without_response = tuple(name for i, name in enumerate(images) if i not in answered)
    if (without_image or without_response) and not (drop and answered):
        raise SubjectError(
            f"{len(without_image):,} of {len(ids):,} stimuli in the responses have no image ({listed(without_image) or 'none'}), "
            f"{len(without_response):,} of {len(images):,} images have no response ({listed(without_response) or 'none'}); "
            f"{_advice(bool(answered), table, len(images))}"
        )
    dropped = [Dropped("stimulus", "no image", without_image), Dropped("image", "no response", without_response)]
    note = f"Matched by {how}: {len(answered):,} images."
    matched = tuple(images[row] for row in image_rows)
    return Matching(matched, image_rows, response_rows, note, tuple(entry for entry in dropped if entry.which))


def _advice(any_matched: bool, table: ResponseTable, n_images: int) -> str:
    if any_matched:
        return "add what is missing, or ask to drop what is incomplete to leave both out."
    return suggest_axes(table, n_images) or "ids are file names, with or without suffix: correct them."
