"""Numbers from an npy or an HDF5 file: the header is judged before anything is allocated, and no pickle is ever read."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from mine_core.errors import SubjectError
from mine_core.subjects.custom.large import IN_MEMORY, Scratch, blocks_along
from mine_core.subjects.custom.limits import GIB, MAX_ARRAY_BYTES, MIB, amount, counted, listed, plain, quoted, reason
from mine_core.subjects.custom.sources import Source, found, kind_of, label, opened, size_of

MAX_HDF5_RATIO = 2000
MAX_DATASETS = 10_000


def read_array(source: Source, what: str, dataset: str | None = None, scratch: Scratch = IN_MEMORY) -> np.ndarray:
    """Array of an npy or HDF5 file, as stored: no change of dtype, order or values.

    Parameters
    ----------
    source : npy or HDF5, known by content.
    what : `images`, `responses`..., for messages.
    dataset : path of the dataset inside an HDF5 file; needed if there are several.
    scratch : where a large array of an HDF5 file is put, a block at a time; an npy file is mapped as it lies.

    Raises
    ------
    SubjectError : for another kind of file; Python objects; a header that cannot be read, that claims another number of bytes
        than the file holds, or more than 8 GiB; an unknown dataset, several and none named, one that lives in another file.
    """
    kind = kind_of(source)
    if kind == "npy":
        return _read_npy(source, what)
    if kind == "hdf5":
        return _read_hdf5(source, what, dataset, scratch)
    raise SubjectError(f"{label(source)} is {found(source)}. Expected {what} as npy or HDF5.")


@contextmanager
def opened_array(source: Source, what: str, dataset: str | None = None) -> Iterator[Any]:
    """Array of an npy or HDF5 file of which nothing is read but its shape, until a part is asked for; raises as `read_array`."""
    if kind_of(source) != "hdf5":
        yield read_array(source, what)
        return
    with _chosen_dataset(source, what, dataset) as found_dataset:
        yield _Parts(source, found_dataset)


class _Parts:
    """A dataset of an open HDF5 file that is read a part at a time, and refused where a part is damaged."""

    def __init__(self, source: Source, dataset: Any) -> None:
        self._source, self._dataset = source, dataset
        self.shape, self.ndim, self.dtype = dataset.shape, dataset.ndim, dataset.dtype

    def __getitem__(self, place: int) -> np.ndarray:
        try:
            return self._dataset[place]
        except Exception as error:  # as in _hdf5
            raise _unreadable(self._source, error) from error


def dataset_names(source: Source) -> tuple[str, ...]:
    """Paths of the datasets of an HDF5 file, sorted; raises SubjectError if it cannot be read."""
    with _hdf5(source) as file:
        try:
            return tuple(sorted(_datasets(file)))
        except Exception as error:  # as in _hdf5
            raise _unreadable(source, error) from error


def require_numbers(dtype: np.dtype, what: str) -> None:
    """Refuse a dtype that is not plain integers or floats of at most 64 bits; raises SubjectError."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kinds = {"O": "Python objects", "c": "complex numbers", "b": "True and False", "V": "records"}
        found_kind = kinds.get(dtype.kind, "text or dates" if dtype.kind in "SUMm" else "numbers of more than 64 bits")
        raise SubjectError(
            f"{what} hold {found_kind} (dtype {plain(dtype)}); expected integers or floats of at most 64 bits. "
            "Convert them before saving."
        )


def _check_claim(shape: tuple[int, ...], dtype: np.dtype, what: str) -> int:
    """Bytes that a header claims; raises SubjectError if that is no array, or too large a one."""
    if dtype.hasobject:
        raise SubjectError(
            f"{what} hold pickled Python objects (dtype {plain(dtype)}), which are never read; expected numbers. "
            "Save them with numpy.save(path, array.astype(float), allow_pickle=False)."
        )
    n_bytes = math.prod(shape) * dtype.itemsize
    if any(length < 1 for length in shape) or not shape:
        raise SubjectError(f"{what} have shape {shape}; expected at least one axis, and none of length 0. Save them again.")
    if n_bytes > MAX_ARRAY_BYTES:
        raise SubjectError(f"{what} have shape {shape}, {amount(n_bytes)}; at most {MAX_ARRAY_BYTES // GIB} GiB are read. Give fewer.")
    return n_bytes


# --- npy -------------------------------------------------------------------------------------------------------------


def _read_npy(source: Source, what: str) -> np.ndarray:
    with opened(source) as stream:
        shape, fortran, dtype = _npy_header(stream, f"{what} ({label(source)})")
        claimed = _check_claim(shape, dtype, f"{what} ({label(source)})")
        held = size_of(source) - stream.tell()
        if held != claimed:
            raise SubjectError(
                f"{what} ({label(source)}): the npy header claims shape {shape}, {claimed:,} bytes; the file holds {held:,}. "
                "It was cut off or changed: copy or save it again."
            )
        start = stream.tell()
        order: Literal["F", "C"] = "F" if fortran else "C"
        if isinstance(source, bytes):
            return np.ndarray(shape, dtype, buffer=source, offset=start, order=order)
        return np.memmap(source, dtype, mode="r", offset=start, shape=shape, order=order)


def _npy_header(stream: io.BufferedIOBase, what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:  # the header is a Python literal: a changed one raises whatever the parser raises
        raise SubjectError(f"{what}: the npy header cannot be read ({reason(error)}); save the array again.") from error
    return tuple(int(length) for length in shape), bool(fortran), dtype


# --- HDF5 ------------------------------------------------------------------------------------------------------------


@contextmanager
def _hdf5(source: Source) -> Iterator[Any]:
    import h5py

    with opened(source) as stream:
        try:
            file = h5py.File(stream, "r")
        except Exception as error:  # the library reports damage by many types
            raise _unreadable(source, error) from error
        try:
            yield file
        finally:
            file.close()


def _unreadable(source: Source, error: BaseException) -> SubjectError:
    return SubjectError(f"{label(source)} is no readable HDF5 file ({reason(error)}); it may be cut off: copy it again.")


def _read_hdf5(source: Source, what: str, name: str | None, scratch: Scratch) -> np.ndarray:
    with _chosen_dataset(source, what, name) as dataset:
        try:
            return _in_blocks(dataset, scratch)
        except Exception as error:  # as in _hdf5
            raise _unreadable(source, error) from error


@contextmanager
def _chosen_dataset(source: Source, what: str, name: str | None) -> Iterator[Any]:
    """Open the dataset that is meant, once its header was judged."""
    with _hdf5(source) as file:
        try:
            datasets = _datasets(file)
        except Exception as error:  # as in _hdf5
            raise _unreadable(source, error) from error
        dataset = datasets[_chosen(sorted(datasets), name, f"{what} ({label(source)})")]
        title = f"{what} ({label(source)}, dataset {quoted(dataset.name)})"
        try:
            shape, dtype, stored, elsewhere = _described(dataset)
        except Exception as error:  # as in _hdf5
            raise _unreadable(source, error) from error
        if elsewhere:
            raise SubjectError(f"{title} keep their values in other files; expected all in one. Copy them with h5repack.")
        claimed = _check_claim(shape, dtype, title)
        if claimed > MAX_HDF5_RATIO * stored + MIB:
            raise SubjectError(
                f"{title} claim shape {shape}, {amount(claimed)}, and the file holds {amount(stored)} of them; "
                "they were never written, or it is a bomb. Write all values."
            )
        yield dataset


def _in_blocks(dataset: Any, scratch: Scratch) -> np.ndarray:
    """Values of a dataset, read along the axis of most chunks so that none is unpacked twice."""
    values = scratch.empty(dataset.shape, dataset.dtype)
    chunks = dataset.chunks or (1,) * dataset.ndim
    axis = int(np.argmax([math.ceil(length / chunk) for length, chunk in zip(dataset.shape, chunks, strict=True)]))
    if not dataset.chunks:
        axis = 0
    before = (slice(None),) * axis
    for block in blocks_along(dataset.shape[axis], values.nbytes // dataset.shape[axis], chunks[axis]):
        values[(*before, block)] = dataset[(*before, block)]
    return values


def _datasets(file: Any) -> dict[str, Any]:
    """Datasets inside the file, by path; links that lead out of it are not followed."""
    import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, node: Any) -> bool | None:
        if isinstance(node, h5py.Dataset):
            datasets[name] = node
        return True if len(datasets) >= MAX_DATASETS else None

    file.visititems(keep)
    return datasets


def _described(dataset: Any) -> tuple[tuple[int, ...], np.dtype, int, bool]:
    """Shape, dtype, bytes held, and whether the values live in another file (external storage, virtual datasets)."""
    elsewhere = bool(dataset.external) or bool(dataset.is_virtual)
    return tuple(dataset.shape or ()), dataset.dtype, int(dataset.id.get_storage_size()), elsewhere


def _chosen(names: list[str], name: str | None, what: str) -> str:
    if not names:
        raise SubjectError(f"{what}: the HDF5 file holds no dataset; expected one. Write the array into it.")
    if name is None:
        if len(names) > 1:
            raise SubjectError(f"{what}: the HDF5 file holds {counted(len(names), 'dataset')} ({listed(names, 6)}); name one.")
        return names[0]
    if name.strip("/") not in names:
        raise SubjectError(f"{what}: the HDF5 file has no dataset {quoted(name)}; it has {listed(names, 6)}. Name one of them.")
    return name.strip("/")
