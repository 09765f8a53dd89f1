"""Files as laboratories have them, written by nibabel and h5py: volumes, surfaces and mappers, and a picture for each stimulus."""

import gzip
import io
import zipfile
from collections.abc import Callable

import h5py
import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from PIL import Image
from scipy import sparse

from mine_core.errors import SubjectError

N_STIMULI, SIDE = 60, 16
AFFINE = np.array([[-2.0, 0, 0, 50], [0, 0, 2.5, -40], [0, 3.0, 0, 7], [0, 0, 0, 1]])
"""A tilted grid, left-handed, so that no axis may be taken for another."""


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    """The one line in which something is refused; it names no flag of the command line."""
    with pytest.raises(SubjectError) as caught:
        call(*args, **options)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500 and "--" not in said
    return said


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pictures(rng: np.random.Generator, n: int = N_STIMULI) -> bytes:
    return npy(rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8))


def zipped(rng: np.random.Generator, n: int = N_STIMULI) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(n):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(picture, "PNG")
            archive.writestr(f"im{i:02d}.png", picture.getvalue())
    return buffer.getvalue()


def nifti(values: np.ndarray, affine: np.ndarray = AFFINE, *, second: bool = False, packed: bool = False, **header: float) -> bytes:
    """NIfTI-1 or -2 of an array x, y, z and perhaps stimulus; `slope` and `inter` are kept as given, with the array as stored."""
    image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image)(values, affine)
    if header:
        image.header.set_slope_inter(header["slope"], header["inter"])
        content = io.BytesIO()
        image.header.set_data_offset(352)
        image.header.write_to(content)
        content.write(b"\0" * (352 - content.tell()))
        content.write(values.tobytes(order="F"))
        return content.getvalue()
    content = image.to_bytes()
    return gzip.compress(content) if packed else content


def gifti(values: np.ndarray, side: str = "", *, encoding: str = "GIFTI_ENCODING_B64GZ", intent: str = "NIFTI_INTENT_NONE") -> bytes:
    """GIFTI of vertices x columns, an array for each column."""
    arrays = [GiftiDataArray(column, intent=intent, encoding=encoding) for column in np.ascontiguousarray(values.T)]
    meta = GiftiMetaData({"AnatomicalStructurePrimary": side} if side else {})
    return GiftiImage(darrays=arrays, meta=meta).to_bytes()


def mgh(values: np.ndarray, *, packed: bool = False) -> bytes:
    """MGH of vertices x columns."""
    shape = (len(values), 1, 1, *values.shape[1:]) if values.shape[1] > 1 else (len(values), 1, 1)
    content = nibabel.freesurfer.MGHImage(values.reshape(shape), np.eye(4)).to_bytes()
    return gzip.compress(content) if packed else content


def mapper(path, matrix: sparse.csr_matrix, mask: np.ndarray, **more: np.ndarray):
    """An HDF5 mapper in the layout of the Gallant laboratory."""
    with h5py.File(path, "w") as file:
        for part in ("data", "indices", "indptr"):
            file[f"voxel_to_flatmap_{part}"] = getattr(matrix, part)
        file["voxel_to_flatmap_shape"] = np.array(matrix.shape)
        file["flatmap_mask"] = mask
        for name, array in more.items():
            file[name] = array
    return path
