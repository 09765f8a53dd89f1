"""Stimulus images from a folder, a zip, an npy array or an HDF5 dataset, square and of one size."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.archives import gallery
from mine_core.subjects.custom.arrays import opened_array, read_array
from mine_core.subjects.custom.large import IN_MEMORY, Scratch
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, MIN_PICTURE_SIDE, amount, counted, quoted
from mine_core.subjects.custom.pictures import check_size, picture_size, read_stimulus, square
from mine_core.subjects.custom.sources import Source, found, kind_of, label

Progress = Callable[[int, int, str], None]
Images = UInt8[np.ndarray, "stimulus size size 3"]


class ReadImages(NamedTuple):
    """Images and their ids: file names sorted as text, or positions where the images are rows of an array (`named` False)."""

    ids: tuple[str, ...]
    images: Images
    named: bool
    notes: tuple[str, ...]


class _Stack(NamedTuple):
    """Images not yet of one size: how many, their ids, (height, width) and how to get the pixels of one."""

    ids: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    pixels: Callable[[int], np.ndarray]
    named: bool
    notes: list[str]
    traits: Counter[str]
    ready: Images | None = None
    """All images where they lie as they are needed (colour, C order), in a mapped file or the bytes of an upload."""


def silent(done: int, total: int, message: str) -> None:
    """Report progress to no one."""


def never() -> bool:
    """Whether the user stopped the work: no."""
    return False


def read_images(
    source: Source,
    *,
    size: int | None = None,
    dataset: str | None = None,
    scratch: Scratch = IN_MEMORY,
    on_progress: Progress = silent,
    cancelled: Callable[[], bool] = never,
) -> ReadImages:
    """Read stimulus images, one after the other, as uint8 [stimulus, size, size, 3].

    One image is in memory at a time, where there is a `scratch` for the rest. An npy of colour images that are of one size is not
    copied at all, but mapped as it lies. HDF5 is unpacked a block at a time, each chunk once, and is then on disk as it will be kept.

    Parameters
    ----------
    source : a folder or zip of JPEG, PNG, WebP, BMP or TIFF; or npy or HDF5, uint8 [stimulus, height, width, 3] (or without
        the last axis, grey). Known by content; an upload is bytes.
    size : side in pixels, 16 to 1024. None keeps the images as they are, and refuses them if they are not square and of one size;
        a number crops each to its centred square and resizes it (see `square`), which is noted.
    dataset : path of the dataset inside an HDF5 file.
    scratch : where images are put that are too large for memory; needed for as long as what is returned.
    on_progress : called with images read, images in all, and a word of what is done.
    cancelled : asked between images; True stops with Cancelled.

    Raises
    ------
    SubjectError : see `gallery`, `read_array` and `read_stimulus`; for images that need a size and were given none; and for
        more than 8 GiB of pixels.
    """
    if size is not None:
        check_size(size)
    with _stack(source, dataset, cancelled, scratch) as stack:
        side = _side(stack, size)
        n_bytes = len(stack.ids) * side * side * 3
        if n_bytes > MAX_ARRAY_BYTES:
            raise SubjectError(
                f"{counted(len(stack.ids), 'image')} of {side} pixels a side are {amount(n_bytes)}; at most "
                f"{MAX_ARRAY_BYTES // GIB} GiB are read. Give a smaller size."
            )
        images = stack.ready if size is None else None
        if images is None:
            images = _taken(stack, side, size, scratch, on_progress, cancelled)
        else:
            on_progress(len(images), len(images), "reading images")
        notes = [*stack.notes, *_size_notes(stack, side), *_trait_notes(stack)]
    images.flags.writeable = False
    return ReadImages(stack.ids, images, stack.named, tuple(notes))


def _taken(
    stack: _Stack, side: int, size: int | None, scratch: Scratch, on_progress: Progress, cancelled: Callable[[], bool]
) -> Images:
    """Images of a stack, each decoded, made square where that is asked, and put away."""
    images = scratch.empty((len(stack.ids), side, side, 3), np.uint8)
    for position in range(len(images)):
        _heed(cancelled, position, len(images))
        pixels = stack.pixels(position)
        images[position] = pixels if size is None else square(pixels, size)
        on_progress(position + 1, len(images), "reading images")
    return images


def first_images(source: Source, *, size: int | None, dataset: str | None, n: int, cancelled: Callable[[], bool] = never) -> ReadImages:
    """Read the first `n` images as `read_images` would, with the ids of all; whether the others decode is not known.

    Raises SubjectError as `read_images`, for what the headers of all images tell.
    """
    if size is not None:
        check_size(size)
    with _stack(source, dataset, cancelled) as stack:
        side = _side(stack, size)
        shown = [stack.pixels(position) for position in range(min(n, len(stack.ids)))]
        images = np.stack([pixels if size is None else square(pixels, side) for pixels in shown])
        return ReadImages(stack.ids, images, stack.named, tuple([*stack.notes, *_size_notes(stack, side)]))


def list_images(source: Source, *, dataset: str | None = None) -> tuple[tuple[str, ...], bool]:
    """Ids of the images, and whether they are names (else positions), before any is decoded; raises SubjectError as `gallery`."""
    if kind_of(source) in ("folder", "zip"):
        with gallery(source) as files:
            return files.names, True
    with _stack(source, dataset, never) as stack:
        return stack.ids, False


@contextmanager
def _stack(source: Source, dataset: str | None, cancelled: Callable[[], bool], scratch: Scratch | None = None) -> Iterator[_Stack]:
    """Open images; with a `scratch` all pixels of an HDF5 file are unpacked there, without one those of each image when it is asked."""
    kind = kind_of(source)
    if kind in ("folder", "zip"):
        with gallery(source) as files:
            traits: Counter[str] = Counter()

            def decode(position: int) -> np.ndarray:
                stimulus = read_stimulus(files.read(files.names[position]), files.names[position])
                traits.update(grey=int(stimulus.grey), profile=int(stimulus.profile))
                return stimulus.pixels

            sizes = []
            for position, name in enumerate(files.names):
                _heed(cancelled, position, len(files.names))
                sizes.append(picture_size(files.read(name), name))
            yield _Stack(files.names, tuple(sizes), decode, True, list(files.notes), traits)
    elif kind in ("npy", "hdf5"):
        if scratch is not None:
            yield _array_stack(read_array(source, "images", dataset, scratch), label(source))
            return
        with opened_array(source, "images", dataset) as array:
            yield _array_stack(array, label(source))
    else:
        raise SubjectError(f"{label(source)} is {found(source)}. Expected images as a folder, zip, npy or HDF5.")


def _array_stack(array: Any, what: str) -> _Stack:
    if array.dtype != np.uint8:
        raise SubjectError(
            f"Images ({what}) are {array.dtype}; expected uint8, 0 to 255. Convert them the way they were shown, then save them."
        )
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise SubjectError(
            f"Images ({what}) have shape {array.shape}; expected [stimulus, height, width, 3], or [stimulus, height, width] "
            "for grey. Transpose them before saving."
        )
    n_images, height, width = array.shape[:3]
    if min(height, width) < MIN_PICTURE_SIDE:
        raise SubjectError(f"Images ({what}) are {width} x {height} pixels; expected at least {MIN_PICTURE_SIDE} a side.")
    ids = tuple(f"{position:0{len(str(n_images - 1))}d}" for position in range(n_images))
    grey = array.ndim == 3
    traits = Counter(grey=n_images if grey else 0)

    def pixels(position: int) -> np.ndarray:
        picture = array[position]
        return np.ascontiguousarray(np.repeat(picture[..., None], 3, axis=-1) if grey else picture)

    lies = isinstance(array, np.ndarray) and not grey and array.flags.c_contiguous
    return _Stack(ids, ((height, width),) * n_images, pixels, False, [], traits, array if lies else None)


def _side(stack: _Stack, size: int | None) -> int:
    """Side of the images in pixels; raises SubjectError if they have not one and none was given."""
    if size is not None:
        return size
    kinds = Counter(stack.sizes)
    (height, width), n_common = kinds.most_common(1)[0]
    oblong = sum(height != width for height, width in stack.sizes)
    if oblong:
        first = next(i for i, (height, width) in enumerate(stack.sizes) if height != width)
        tall, wide = stack.sizes[first]
        raise SubjectError(
            f"{oblong:,} of {counted(len(stack.ids), 'image')} are not square "
            f"(first: {quoted(stack.ids[first])}, {wide} x {tall}); "
            "give a size in pixels, to crop each to its centred square and resize it."
        )
    if len(kinds) > 1:
        first = next(i for i, found_size in enumerate(stack.sizes) if found_size != (height, width))
        raise SubjectError(
            f"Images have {len(kinds)} sizes: {n_common:,} of {len(stack.ids):,} are {width} x {height}, the first other is "
            f"{quoted(stack.ids[first])}, {stack.sizes[first][1]} x {stack.sizes[first][0]}; give a size in pixels to resize all to."
        )
    check_size(height)
    return height


def _size_notes(stack: _Stack, side: int) -> list[str]:
    cropped = sum(height != width for height, width in stack.sizes)
    shrunk = sum(min(shape) > side for shape in stack.sizes)
    enlarged = sum(min(shape) < side for shape in stack.sizes)
    notes = []
    if cropped:
        notes.append(f"{counted(cropped, 'image')} cropped to the centred square.")
    if shrunk:
        notes.append(f"{counted(shrunk, 'image')} shrunk to {side} pixels by area averaging.")
    if enlarged:
        notes.append(f"{counted(enlarged, 'image')} enlarged to {side} pixels, bilinear: no detail is gained.")
    return notes


def _trait_notes(stack: _Stack) -> list[str]:
    notes = []
    if stack.traits["grey"]:
        notes.append(f"{counted(stack.traits['grey'], 'grey image')} repeated over three channels.")
    if stack.traits["profile"]:
        notes.append(f"{counted(stack.traits['profile'], 'image')} with a colour profile; pixel values kept as stored.")
    return notes


def _heed(cancelled: Callable[[], bool], done: int, total: int) -> None:
    if cancelled():
        raise Cancelled(f"The import was stopped after {done:,} of {total:,} images; nothing of it was kept.")
