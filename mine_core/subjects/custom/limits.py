"""How much is read from a file that someone hands over, and how its names and numbers are said in one line."""

import unicodedata
from collections.abc import Sequence

KIB, MIB, GIB = 2**10, 2**20, 2**30

MAX_ENTRIES = 200_000
MAX_PICTURE_BYTES = 64 * MIB
MAX_PICTURE_PIXELS = 40_000_000
MIN_PICTURE_SIDE = 16
MAX_SIZE = 1024
MAX_ARRAY_BYTES = 8 * GIB
MAX_UNPACKED_BYTES = 16 * GIB
MAX_FRAME_BYTES = 1 * GIB
MAX_TEXT_BYTES = 1 * GIB
MAX_JSON_BYTES = 256 * MIB
MAX_RATIO = 200
MAX_NAME_LENGTH = 512
MAX_CAPTION_LENGTH = 1000
MAX_REGIONS = 1000
MAX_REGION_NAME = 64
MAX_REPEATS = 1000
MIN_STIMULI = 50
MIN_SPLIT = 5

SHOWN = 60


def plain(text: object, length: int = SHOWN) -> str:
    """Text on one line: what cannot be printed is escaped, and what is longer than `length` is cut with an ellipsis."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)[: 4 * length])
    return escaped if len(escaped) <= length else escaped[: length - 1] + "…"


def quoted(name: object) -> str:
    """Return a name from a file, safe to print, in quotes."""
    return f"'{plain(name)}'"


def reason(error: BaseException) -> str:
    """Say what a library said, on one line of at most 100 characters."""
    return plain(" ".join(str(error).split()) or type(error).__name__, 100)


def amount(n_bytes: int) -> str:
    """Bytes in the largest unit that leaves a number above one."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:,.1f} {name}"
    return f"{n_bytes} bytes"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: `1 image`, `1,200 images`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listed(names: Sequence[object], n: int = 3) -> str:
    """Return the first `n` names, and how many more there are."""
    text = ", ".join(plain(name) for name in names[:n])
    return f"{text} and {len(names) - n:,} more" if len(names) > n else text


def composed(name: str) -> str:
    """Return a name in Unicode's composed form, in which the same letters are always the same characters."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """Return a name as a system that ignores case sees it."""
    return composed(composed(name).casefold())
