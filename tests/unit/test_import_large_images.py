"""Images are read one at a time and kept in files: those of an import in memory, to the last bit, word and refusal."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from brain_files import SIDE, npy, refusal
from PIL import Image

from mine_core.subjects.custom import describe_import, import_subject, large, read_images
from mine_core.subjects.custom.images import first_images, list_images
from mine_core.subjects.custom.large import Scratch

N = 55
KINDS = ["folder", "zip", "npy", "npy in Fortran's order", "hdf5", "hdf5 in pieces of images"]


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (N, 2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """A folder for arrays of which none is so small that it would stay in memory, and blocks of a few images."""
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    monkeypatch.setattr(large, "BLOCK_BYTES", 5 * 3 * (2 * SIDE) ** 2)
    folder = tmp_path / "scratch"
    folder.mkdir()
    return Scratch(folder)


def written(folder: Path, pixels: np.ndarray, kind: str) -> Path:
    path = folder / "images"
    if kind.startswith("npy"):
        path.write_bytes(npy(pixels if kind == "npy" else np.asfortranarray(pixels)))
    elif kind.startswith("hdf5"):
        chunks = (4, *pixels.shape[1:]) if kind == "hdf5" else (17, 5, 7, 2)
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=pixels, chunks=chunks, compression="gzip")
    else:
        files = {f"im{i:02d}.png": png(image) for i, image in enumerate(pixels)}
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            path.mkdir()
            for name, content in files.items():
                (path / name).write_bytes(content)
    return path


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, SIDE, SIDE + 1])
def test_images_kept_in_files_are_those_in_memory(tmp_path, pixels, scratch, kind, size):
    source = written(tmp_path, pixels, kind)
    whole, kept = read_images(source, size=size), read_images(source, size=size, scratch=scratch)
    assert isinstance(kept.images, np.memmap) and kept.images.flags.c_contiguous and not kept.images.flags.writeable
    np.testing.assert_array_equal(kept.images, whole.images)
    assert kept.ids == whole.ids and kept.notes == whole.notes
    if size is None:
        np.testing.assert_array_equal(kept.images, pixels)
    elif size == SIDE:
        means = pixels.reshape(N, SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4))
        assert np.abs(kept.images - means).max() <= 0.5


def test_an_npy_of_images_is_mapped_and_never_copied(tmp_path, pixels, scratch):
    source = written(tmp_path, pixels, "npy")
    read = read_images(source, scratch=scratch)
    assert Path(read.images.filename) == source and not list(scratch.directory.iterdir())
    upload = source.read_bytes()
    assert np.shares_memory(read_images(upload).images, np.frombuffer(upload, np.uint8))


def test_grey_images_are_repeated_in_files(tmp_path, pixels, scratch):
    source = written(tmp_path, pixels[..., 0], "npy")
    read = read_images(source, scratch=scratch)
    np.testing.assert_array_equal(read.images, np.repeat(pixels[..., :1], 3, axis=-1))
    assert read.notes == (f"{N} grey images repeated over three channels.",)


@pytest.mark.parametrize("kind", ["folder", "npy", "hdf5"])
def test_images_that_stay_are_picked_into_a_file(tmp_path, pixels, rng, scratch, kind):
    values = rng.normal(size=(N, 4))
    values[[3, 40], :3] = np.nan
    given = {"images": written(tmp_path, pixels, kind), "responses": npy(values), "response_axes": ("stimulus", "voxel")}
    whole = import_subject("a", **given, drop_incomplete=True)
    kept = import_subject("a", **given, drop_incomplete=True, scratch=scratch)
    assert isinstance(kept.stimuli.images, np.memmap)
    np.testing.assert_array_equal(kept.stimuli.images, np.delete(pixels, [3, 40], axis=0))
    np.testing.assert_array_equal(kept.stimuli.images, whole.stimuli.images)
    assert kept.provenance == whole.provenance and describe_import(kept) == describe_import(whole)


def test_hdf5_images_are_listed_and_shown_without_the_others(tmp_path, pixels, scratch):
    """The last chunk is damaged: only who reads it can know."""
    source = written(tmp_path, pixels, "hdf5")
    with h5py.File(source) as file:
        last = file["images"].id.get_chunk_info(file["images"].id.get_num_chunks() - 1)
    content = bytearray(source.read_bytes())
    content[last.byte_offset + 20 : last.byte_offset + 60] = bytes(40)
    source.write_bytes(content)
    ids, named = list_images(source)
    assert len(ids) == N and not named
    seen = first_images(source, size=None, dataset=None, n=3)
    np.testing.assert_array_equal(seen.images, pixels[:3])
    for given in ({}, {"scratch": scratch}):
        assert "is no readable HDF5 file" in refusal(read_images, source, **given)
    assert "is no readable HDF5 file" in refusal(first_images, source, size=None, dataset=None, n=N)
