"""Images from hostile or careless hands: what is right comes in to the pixel, what is wrong is refused in one line."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, ImageCms

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom import fingerprint, read_images, read_photograph, square

SIDE = 24


def picture(rng: np.random.Generator, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(SubjectError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return np.stack([picture(rng) for _ in range(4)])


def test_zip_folder_npy_and_hdf5_give_the_same_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    files = {f"set/im{i}.png": encoded(image) for i, image in enumerate(pixels)}
    (tmp_path / "set").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "images.npy", pixels)
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file.create_dataset("images", data=pixels, compression="gzip")
    names = ("im0.png", "im1.png", "im2.png", "im3.png")
    for source in (zipped(files), tmp_path / "set", tmp_path):
        if source == tmp_path:
            (tmp_path / "images.npy").rename(tmp_path.parent / f"{tmp_path.name}.npy")
        read = read_images(source)
        assert read.ids == names and read.named
        np.testing.assert_array_equal(read.images, pixels)
        assert not read.images.flags.writeable
    for source in (tmp_path.parent / f"{tmp_path.name}.npy", tmp_path / "images.h5"):
        for given in (source, source.read_bytes()):
            read = read_images(given)
            assert read.ids == ("0", "1", "2", "3") and not read.named
            np.testing.assert_array_equal(read.images, pixels)


def test_content_decides_and_not_the_name(pixels: np.ndarray) -> None:
    read = read_images(zipped({"a.txt": encoded(pixels[0]), "b": encoded(pixels[1], "BMP"), "c.jpg": encoded(pixels[2], "TIFF")}))
    np.testing.assert_array_equal(read.images, pixels[:3])
    assert "begins with 6e 6f" in refusal(read_images, zipped({"a.png": encoded(pixels[0]), "b.jpg": b"no image"}))
    assert "is empty" in refusal(read_images, zipped({"a.png": encoded(pixels[0]), "b.png": b""}))


def test_grey_is_repeated_and_said(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    for source in (zipped({f"{i}.png": encoded(image) for i, image in enumerate(grey)}), npy(grey)):
        read = read_images(source)
        np.testing.assert_array_equal(read.images, np.repeat(grey[..., None], 3, axis=-1))
        assert read.notes == ("3 grey images repeated over three channels.",)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_what_is_passed_over_is_counted(pixels: np.ndarray) -> None:
    files = {
        "s/a.png": encoded(pixels[0]),
        "s/.hidden.png": b"x",
        "__MACOSX/s/._a.png": b"x",
        "s/LICENSE": b"free",
        "s/more.zip": zipped({"b.png": encoded(pixels[1])}),
    }
    read = read_images(zipped(files))
    assert read.ids == ("a.png",)
    assert "2 hidden or system files passed over" in read.notes[0]
    assert read.notes[1] == "1 zip inside passed over, not opened (s/more.zip)."
    assert read.notes[2] == "1 other file passed over (s/LICENSE)."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../a.png", "climbs out"),
        ("b/../../a.png", "climbs out"),
        ("..\\a.png", "climbs out"),
        ("/etc/a.png", "absolute path"),
        ("C:\\a.png", "absolute path"),
        ("b\\a.png", "backslash"),
        ("a\nb.png", r"name of 7 characters, 'a\nb.png'"),
        ("a" * 600 + ".png", "name of 604 characters"),
    ],
)
def test_unsafe_names_in_a_zip(pixels: np.ndarray, name: str, said: str) -> None:
    assert said in refusal(read_images, zipped({"ok.png": encoded(pixels[0]), name: encoded(pixels[1])}))


def test_names_that_collide(pixels: np.ndarray) -> None:
    message = refusal(read_images, zipped({"a.png": encoded(pixels[0]), "A.PNG": encoded(pixels[1]), "b.png": encoded(pixels[2])}))
    assert "1 name twice" in message and "'A.PNG' and 'a.png'" in message
    mixed = {"aB.png": encoded(pixels[0]), "Ab.png": encoded(pixels[1])}
    assert "1 name twice" in refusal(read_images, zipped(mixed))
    accents = {"caf\u00e9.png": encoded(pixels[0]), "cafe\u0301.png": encoded(pixels[1])}
    assert "1 name twice" in refusal(read_images, zipped(accents))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", encoded(pixels[0]))
        archive.writestr("a.png", encoded(pixels[1]))
    assert "'a.png' twice" in refusal(read_images, buffer.getvalue())


def test_links_and_locks_in_a_zip(pixels: np.ndarray) -> None:
    link = zipfile.ZipInfo("b.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", encoded(pixels[0]))
        archive.writestr(link, "/etc/passwd")
    assert "holds the link 'b.png'" in refusal(read_images, buffer.getvalue())
    locked = bytearray(zipped({"a.png": encoded(pixels[0])}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted entry 'a.png'" in refusal(read_images, bytes(locked))
    assert "compression 14" in refusal(read_images, zipped({"a.png": encoded(pixels[0])}, zipfile.ZIP_LZMA))


def test_bombs(pixels: np.ndarray) -> None:
    message = refusal(read_images, zipped({"a.png": encoded(pixels[0]), "b.bmp": bytes(20_000_000)}, zipfile.ZIP_DEFLATED))
    assert "19.1 MiB" in message and "bomb" in message
    many = zipped({f"{i:03d}": bytes(900_000) for i in range(60)}, zipfile.ZIP_DEFLATED)
    assert "would unpack to 51.5 MiB" in refusal(read_images, many)


def test_a_header_that_claims_a_vast_image() -> None:
    assert "announces far more than 40 megapixels" in refusal(read_photograph, huge_png(100_000, 100_000))
    assert "is 7000 x 6000 = 42 megapixels; at most 40 are read" in refusal(read_photograph, huge_png(7000, 6000))


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_damaged_archives_and_images(pixels: np.ndarray) -> None:
    whole = zipped({"a.jpg": encoded(pixels[0], "JPEG", quality=95), "b.png": encoded(pixels[1])})
    assert "no readable zip" in refusal(read_images, whole[: len(whole) // 2])
    turned = bytearray(whole)
    turned[whole.index(b"IDAT") + 30] ^= 0xFF
    assert "'b.png' cannot be unpacked (Bad CRC-32" in refusal(read_images, bytes(turned))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        content = encoded(pixels[0], kind)
        for keep in (40, len(content) // 2, len(content) - 30):
            assert "'x.jpg'" in refusal(read_images, zipped({"a.png": encoded(pixels[1]), "x.jpg": content[:keep]})), (kind, keep)


def test_a_jpeg_without_its_end_marker(pixels: np.ndarray) -> None:
    content = encoded(pixels[0], "JPEG")
    assert content.endswith(b"\xff\xd9")
    read_photograph(content)
    assert "cut-off" in refusal(read_photograph, content[:-2])
    # A copy that stopped, in a file of full length: its decoder says nothing.
    stopped = content[:-2] + bytes(1000)
    Image.open(io.BytesIO(stopped)).load()
    assert "it has no end marker" in refusal(read_photograph, stopped)
    # What a telephone appends after the picture, and a small picture inside its EXIF data, are no concern.
    moving = content + b"ftypmp4" + b"\xff\xda" * 50
    np.testing.assert_array_equal(read_photograph(moving), read_photograph(content))
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"
    with_exif = encoded(pixels[0], "JPEG", exif=exif, comment=b"\xff\xd9")
    assert "it has no end marker" in refusal(read_photograph, with_exif[:-2] + bytes(1000))


def test_wrong_checksum_in_a_png(pixels: np.ndarray) -> None:
    content = bytearray(encoded(pixels[0]))
    content[content.index(b"IEND") - 6] ^= 1
    assert "damaged" in refusal(read_photograph, bytes(content))


def test_sizes_are_never_changed_in_silence(rng: np.random.Generator) -> None:
    mixed = zipped({"a.png": encoded(picture(rng)), "b.png": encoded(picture(rng, 30, 30)), "c.png": encoded(picture(rng))})
    message = refusal(read_images, mixed)
    assert "2 sizes: 2 of 3 are 24 x 24, the first other is 'b.png', 30 x 30; give a size in pixels" in message
    oblong = zipped({"a.png": encoded(picture(rng)), "b.png": encoded(picture(rng, 24, 30))})
    assert "1 of 2 images are not square (first: 'b.png', 30 x 24)" in refusal(read_images, oblong)
    read = read_images(oblong, size=20)
    assert read.images.shape == (2, 20, 20, 3)
    assert read.notes == ("1 image cropped to the centred square.", "2 images shrunk to 20 pixels by area averaging.")
    assert "enlarged" in read_images(oblong, size=40).notes[1]
    assert "Size 8 was given; expected 16 to 1024" in refusal(read_images, oblong, size=8)


def test_square_is_a_centred_crop_and_a_mean_over_area(rng: np.random.Generator) -> None:
    image = picture(rng, 64, 101)
    cropped = image[:, 18:82].astype(float)
    expected = cropped.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(square(image, 16) - expected).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(square(image, 64), image[:, 18:82])
    tall = picture(rng, 50, 31)
    np.testing.assert_array_equal(square(tall, 31), tall[9:40])


def test_arrays_of_another_kind(rng: np.random.Generator) -> None:
    assert "float64; expected uint8" in refusal(read_images, npy(rng.random((4, SIDE, SIDE, 3))))
    assert "Transpose" in refusal(read_images, npy(np.zeros((4, 3, SIDE, SIDE), np.uint8)))
    assert "not square" in refusal(read_images, npy(np.zeros((4, SIDE, 30, 3), np.uint8)))
    assert "12 x 12 pixels" in refusal(read_images, npy(np.zeros((4, 12, 12, 3), np.uint8)))


def test_what_was_on_the_screen_must_be_known(rng: np.random.Generator) -> None:
    pixels = picture(rng)
    clear = np.dstack([pixels, np.full((SIDE, SIDE), 255, np.uint8)])
    np.testing.assert_array_equal(read_images(zipped({"a.png": encoded(clear)})).images[0], pixels)
    clear[3, 4, 3] = 254
    assert "transparent pixels" in refusal(read_images, zipped({"a.png": encoded(clear)}))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert "EXIF orientation 6" in refusal(read_images, zipped({"a.jpg": encoded(pixels, "JPEG", exif=turned)}))
    deep = rng.integers(0, 2**16, (SIDE, SIDE), dtype=np.uint16)
    assert "16 bits a channel" in refusal(read_images, zipped({"a.png": encoded(deep)}))
    frames = io.BytesIO()
    first, *rest = (Image.fromarray(picture(rng)) for _ in range(3))
    first.save(frames, "TIFF", save_all=True, append_images=rest)
    assert "3 frames" in refusal(read_images, zipped({"a.tif": frames.getvalue()}))
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    assert "CMYK" in refusal(read_images, zipped({"a.jpg": cmyk.getvalue()}))


def test_sixteen_bit_colour_is_not_narrowed(rng: np.random.Generator) -> None:
    """Pillow opens it as eight bits without a word; the file's own header says otherwise."""
    rows = b"".join(b"\0" + rng.integers(0, 256, SIDE * 6, dtype=np.uint8).tobytes() for _ in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    body = zlib.compress(rows)
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert "RGB with 16 bits" in refusal(read_photograph, content)


def test_a_folder_with_a_pipe_or_a_dead_link(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels[0]))
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    assert "'b.png' is no regular file (or a link that leads nowhere)" in refusal(read_images, tmp_path)
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "c.png")
    assert "'c.png' is no regular file" in refusal(read_images, tmp_path)


def test_sources_that_are_no_images(tmp_path: Path) -> None:
    assert "There is no file or folder at" in refusal(read_images, tmp_path / "none.zip")
    assert "holds 0 files and no image" in refusal(read_images, tmp_path)
    assert "is an empty file" in refusal(read_images, b"")
    assert "is a text file" in refusal(read_images, b"id,1\n")
    assert "a gzip file; unpack it first" in refusal(read_images, b"\x1f\x8b\x08\x00rest")
    assert "a Python pickle, which is never read" in refusal(read_images, b"\x80\x04rest")


def test_stopping_and_progress(pixels: np.ndarray) -> None:
    source = zipped({f"{i}.png": encoded(image) for i, image in enumerate(pixels)})
    steps: list[tuple[int, int]] = []
    read_images(source, on_progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    answers = iter([False] * 6 + [True])
    with pytest.raises(Cancelled, match="stopped after 2 of 4 images"):
        read_images(source, cancelled=lambda: next(answers))


def test_photograph_as_one_sees_it(rng: np.random.Generator) -> None:
    pixels = picture(rng, 20, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(pixels, exif=exif)
    np.testing.assert_array_equal(read_photograph(plain), np.rot90(pixels, -1))
    alpha = rng.integers(0, 256, (20, 40), dtype=np.uint8)
    share = alpha[..., None] / 255
    seen = read_photograph(encoded(np.dstack([pixels, alpha])))
    assert np.abs(seen - (share * pixels + (1 - share) * 255)).max() <= 1
    black = encoded(np.zeros((20, 20), np.uint8), transparency=0)
    assert (read_photograph(black) == 255).all()


def test_photograph_in_another_colour_space(rng: np.random.Generator) -> None:
    pixels = picture(rng, 20, 20)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(read_photograph(encoded(pixels, icc_profile=srgb)).astype(int) - pixels).max() <= 1
    swapped = swapped_profile(srgb)
    # Red and blue trade places, in the profile as in the pixels.
    seen = read_photograph(encoded(pixels[..., ::-1], icc_profile=swapped)).astype(int)
    assert np.abs(seen - pixels).max() <= 2
    assert "colour profile" in refusal(read_photograph, encoded(pixels, icc_profile=b"no profile"))


def swapped_profile(profile: bytes) -> bytes:
    """An sRGB profile whose red and blue primaries changed places."""
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def test_a_photograph_that_is_too_much(rng: np.random.Generator) -> None:
    assert "64.0 MiB; at most 64.0 MiB" in refusal(read_photograph, b"\xff\xd8\xff" + bytes(64 * 2**20))
    assert "40 x 10 pixels; expected at least 16 a side" in refusal(read_photograph, encoded(picture(rng, 10, 40)))
    assert "begins with 47 49 46" in refusal(read_photograph, encoded(picture(rng), "GIF"))


def test_fingerprint_follows_content(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels[0]))
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    renamed = fingerprint(tmp_path)
    (tmp_path / "b.png").write_bytes(encoded(pixels[1]))
    assert len({before, renamed, fingerprint(tmp_path)}) == 3
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
