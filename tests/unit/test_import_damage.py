"""Files after an accident: 960 seeded damages of 16 kinds of files end in a refusal of one line, or do no harm."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from brain_files import gifti, mgh, nifti
from PIL import Image

from mine_core.errors import MineError
from mine_core.subjects.custom import read_images, read_photograph, read_responses
from mine_core.subjects.custom.recording import read_recording
from mine_core.subjects.custom.tables import read_captions

SIDE = 16


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes after one accident: flips, a cut, a hole, a doubled or zeroed stretch, or noise in the header."""
    changed = bytearray(content)
    start, stop = sorted(rng.integers(0, len(changed), 2).tolist())
    accident = int(rng.integers(0, 6))
    if accident == 0:
        for place in rng.integers(0, len(changed), int(rng.integers(1, 12))):
            changed[place] ^= int(rng.integers(1, 256))
    elif accident == 1:
        del changed[start:]
    elif accident == 2:
        del changed[start : start + int(rng.integers(1, 20))]
    elif accident == 3:
        changed[start:start] = changed[start:stop]
    elif accident == 4:
        changed[start : start + 8] = bytes(len(changed[start : start + 8]))
    else:
        for place in rng.integers(0, min(128, len(changed)), 4):
            changed[place] = int(rng.integers(0, 256))
    return bytes(changed)


def whole_files(rng: np.random.Generator, tmp_path: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    pixels = rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    smooth = np.full((40, 40, 3), 90, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_dataset("r", data=rng.normal(size=(20, 6)), compression="gzip", chunks=(5, 3))
    axes = ("stimulus", "voxel")
    table = "id,a,b\n" + "\n".join(f"i{i},{i / 7},{i / 3}" for i in range(30))
    coco = {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "a dog"}] * 5}

    def read(source: bytes) -> object:
        return read_responses(source, axes=axes)

    return {
        "zip": (zipped({f"{i}.png": encoded(image) for i, image in enumerate(pixels)}), read_images),
        "zip of jpeg": (zipped({f"{i}.jpg": encoded(image, "JPEG") for i, image in enumerate(pixels)}), read_images),
        "jpeg": (encoded(smooth, "JPEG", quality=80, progressive=True), read_photograph),
        "png": (encoded(smooth), read_photograph),
        "webp": (encoded(smooth, "WEBP"), read_photograph),
        "tiff": (encoded(smooth, "TIFF", compression="tiff_lzw"), read_photograph),
        "bmp": (encoded(smooth, "BMP"), read_photograph),
        "npy": (npy(rng.normal(size=(20, 6))), read),
        "hdf5": ((tmp_path / "r.h5").read_bytes(), read),
        "csv": (table.encode(), read),
        "captions": (json.dumps(coco).encode(), read_captions),
        **brain_images(rng),
    }


def brain_images(rng: np.random.Generator) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    betas, sides = rng.normal(size=(4, 5, 3, 20)).astype(np.float32), rng.normal(size=(30, 6)).astype(np.float32)
    mask = nifti(np.ones((4, 5, 3), np.uint8))

    def volumes(source: bytes) -> object:
        return read_recording(source, mask=mask)

    def surfaces(source: bytes) -> object:
        return read_recording((source, mgh(sides)))

    return {
        "nifti": (nifti(betas), volumes),
        "packed nifti": (nifti(betas, packed=True), volumes),
        "mask": (mask, lambda source: read_recording(nifti(betas), mask=source)),
        "gifti": (gifti(sides), lambda source: read_recording((source, gifti(sides)))),
        "mgh": (mgh(sides), surfaces),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kind",
    [
        "zip",
        "zip of jpeg",
        "jpeg",
        "png",
        "webp",
        "tiff",
        "bmp",
        "npy",
        "hdf5",
        "csv",
        "captions",
        "nifti",
        "packed nifti",
        "mask",
        "gifti",
        "mgh",
    ],
)
def test_damage_is_refused_in_one_line_or_does_no_harm(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    content, read = whole_files(rng, tmp_path)[kind]
    read(content)
    refused = 0
    for _ in range(60):
        try:
            read(damaged(content, rng))
        except MineError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
    assert refused >= {"csv": 5, "bmp": 10, "captions": 15, "nifti": 15, "mgh": 10}.get(kind, 20)
