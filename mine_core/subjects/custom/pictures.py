"""One image from untrusted bytes: what it is, whether it is whole, and its pixels.

Whole means: every byte decodes, PNG checksums hold, a JPEG has its end marker. A JPEG whose compressed data were changed
without being cut can still decode, to other pixels: the format has no checksum, and nothing here can see it.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import (
    MAX_PICTURE_BYTES,
    MAX_PICTURE_PIXELS,
    MAX_SIZE,
    MIN_PICTURE_SIDE,
    amount,
    counted,
    quoted,
    reason,
)

HEAD_BYTES = 32
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 258
EXPECTED = "expected JPEG, PNG, WebP, BMP or TIFF with 8 bits a channel"

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Stimulus:
    """A stimulus image as stored, and what the report should say of it."""

    pixels: Pixels
    grey: bool
    profile: bool


def picture_format(head: bytes) -> str | None:
    """Name of the image format that the first 32 bytes announce; None for any that is not accepted."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    # Two letters are too little to know a BMP by: its reserved bytes are zero and its second header has a known length.
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return "BMP"
    return None


def picture_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the header alone; raises SubjectError if it is no accepted image or too large."""
    with _opened(content, name) as image:
        return image.height, image.width


def read_stimulus(content: bytes, name: str) -> Stimulus:
    """Pixels of a stimulus exactly as stored; grey is repeated over three channels, a colour profile is not applied.

    Raises SubjectError, beside what `read_photograph` refuses, for transparency and for an EXIF turn: what was then on the
    screen of the experiment cannot be known from the file.
    """
    with _loaded(content, name) as image:
        turn = _turn(image, name)
        if turn not in (0, 1):
            raise SubjectError(
                f"Image {quoted(name)} has EXIF orientation {turn}; whether it was shown turned is not known. Save it upright."
            )
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise SubjectError(
                f"Image {quoted(name)} has transparent pixels; what was shown behind them is not known. Save it without."
            )
        grey = image.mode in ("1", "L", "LA")
        return Stimulus(np.array(image.convert("RGB")), grey, bool(image.info.get("icc_profile")))


def read_photograph(content: bytes) -> Pixels:
    """Pixels of a photograph as one sees it: turned as EXIF says, in sRGB, over white where it is transparent.

    Parameters
    ----------
    content : the bytes of a JPEG, PNG, WebP, BMP or TIFF, at most 64 MiB and 40 megapixels, each side at least 16.

    Raises
    ------
    SubjectError : if it is another kind of file, larger, smaller, cut off or damaged, animated or of several pages, has more
        than 8 bits a channel, is CMYK, or has an unreadable colour profile.
    """
    name = "photograph"
    with _loaded(content, name) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            colour = _to_srgb(upright)
        except Exception as error:  # colour profiles are programs of a kind, and little CMS has many ways to refuse one
            raise SubjectError(
                f"Image {quoted(name)}: its colour profile or EXIF data cannot be read ({reason(error)}); save it as sRGB."
            ) from error
        if upright.has_transparency_data:
            alpha = upright.convert("RGBA").getchannel("A")
            colour = Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)
        return np.array(colour)


def square(image: Pixels, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Centre crop to a square, then resize: by area averaging when it shrinks, bilinear when it grows.

    An odd remainder is cut one pixel more at the right or bottom. Averages are of sRGB values, not of light.
    Raises SubjectError if `size` is not 16 to 1024.
    """
    import cv2

    check_size(size)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    cropped = image[top : top + side, left : left + side]
    if side == size:
        return cropped.copy()
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(cropped), (size, size), interpolation=how)


def check_size(size: int) -> None:
    """Refuse a side that no backbone takes; raises SubjectError."""
    if not MIN_PICTURE_SIDE <= size <= MAX_SIZE:
        raise SubjectError(f"Size {size} was given; expected {MIN_PICTURE_SIDE} to {MAX_SIZE} pixels. Choose another size.")


def _opened(content: bytes, name: str) -> Image.Image:
    if len(content) > MAX_PICTURE_BYTES:
        raise SubjectError(
            f"Image {quoted(name)} holds {amount(len(content))}; at most {amount(MAX_PICTURE_BYTES)} are read. Save it smaller."
        )
    kind = picture_format(content[:HEAD_BYTES])
    if kind is None:
        begins = f"begins with {content[:8].hex(' ')}" if content else "is empty"
        raise SubjectError(f"Image {quoted(name)} {begins}; {EXPECTED}. Save it again.")
    try:
        image = Image.open(io.BytesIO(content), formats=[kind])
    except Image.DecompressionBombError as error:
        raise SubjectError(
            f"Image {quoted(name)} announces far more than {MAX_PICTURE_PIXELS / 1e6:.0f} megapixels, the most that are read "
            f"({reason(error)}). Save it smaller."
        ) from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes; each means the same to the user
        raise _damaged(name, kind, error) from error
    _check_shape(image, name)
    return image


def _check_shape(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PICTURE_PIXELS:
        raise SubjectError(
            f"Image {quoted(name)} is {width} x {height} = {width * height / 1e6:,.0f} megapixels; at most "
            f"{MAX_PICTURE_PIXELS / 1e6:.0f} are read. Save it smaller."
        )
    if min(width, height) < MIN_PICTURE_SIDE:
        raise SubjectError(
            f"Image {quoted(name)} is {width} x {height} pixels; expected at least {MIN_PICTURE_SIDE} a side. Give a larger one."
        )


def _loaded(content: bytes, name: str) -> Image.Image:
    """Decode every byte, or raise SubjectError."""
    image = _opened(content, name)
    kind = str(image.format)
    try:
        # A JPEG of a telephone may carry a second picture (MPO); the first is the photograph.
        n_frames = 1 if kind in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        bits = _bits(image, content)
    except Exception as error:  # as in _opened
        raise _damaged(name, kind, error) from error
    if n_frames != 1:
        raise SubjectError(f"Image {quoted(name)} holds {counted(n_frames, 'frame')}; expected one. Save the one that was shown.")
    if image.mode not in MODES or bits > 8:
        raise SubjectError(f"Image {quoted(name)} is {image.mode} with {bits} bits a channel; {EXPECTED}. Save it as RGB.")
    try:
        # Verification reads all checksums but spoils the object.
        image.verify()
        image = Image.open(io.BytesIO(content), formats=[kind if kind != "MPO" else "JPEG"])
        image.load()
    except Exception as error:  # as in _opened
        raise _damaged(name, kind, error) from error
    if kind in ("JPEG", "MPO") and not _has_end(content):
        raise _damaged(name, kind, EOFError("it has no end marker"))
    return image


def _has_end(content: bytes) -> bool:
    """Whether a JPEG's compressed data end with their marker; a copy that stopped may be filled up with zeros, and decodes."""
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        fill = content[place + 1 : place + 2] == b"\xff"
        place += 1 if fill else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return b"\xff\xd9" in content[place:]


def _turn(image: Image.Image, name: str) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception as error:  # as in _opened
        raise _damaged(name, str(image.format), error) from error


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits a channel of the file: Pillow reads 16-bit colour as 8-bit without a word."""
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    return 8


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    colour = image.convert("L" if given.profile.xcolor_space.strip() == "GRAY" else "RGB")
    converted = ImageCms.profileToProfile(colour, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if converted is None:
        raise ValueError("no conversion to sRGB")
    return converted


def _damaged(name: str, kind: str, error: BaseException) -> SubjectError:
    return SubjectError(f"Image {quoted(name)} is a damaged or cut-off {kind} ({reason(error)}); save or copy it again.")
