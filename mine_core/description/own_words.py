"""Words that a user brings beside the vocabulary: read from typed text or a file, and refused with numbers where they do not fit."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from mine_core.errors import ConfigError

MOST_BYTES, MOST_WORDS, MOST_LETTERS = 20_000, 200, 60
OWN = "(yours)"


def read_words(content: bytes | str) -> tuple[str, ...]:
    """Read words or short phrases, one a line or separated by commas; spaces are evened out and empty ones skipped.

    Parameters
    ----------
    content : text, or the bytes of a UTF-8 text file of at most 20,000 bytes.

    Returns
    -------
    1 to 200 distinct words of at most 60 letters, in the order given.

    Raises
    ------
    ConfigError
        If the file is too large, no UTF-8 text, or holds no word, too many, one too long, one without a letter or digit, or one
        twice (upper and lower case are the same word).
    """
    raw = content if isinstance(content, bytes) else content.encode()
    if len(raw) > MOST_BYTES:
        raise ConfigError(f"The words take {len(raw):,} bytes; at most {MOST_BYTES:,} are read. Shorten the list.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The words are no UTF-8 text (byte {error.start} is {raw[error.start]:#04x}); save them as UTF-8."
        ) from error
    words = tuple(" ".join(part.split()) for line in text.splitlines() for part in line.split(",") if part.strip())
    _check(words)
    return words


def require_new(words: Sequence[str], known: Sequence[str]) -> None:
    """Refuse words that are in the vocabulary already, whatever their case; raises ConfigError naming the first."""
    there = {word.casefold() for word in known}
    twice = [word for word in words if word.casefold() in there]
    if twice:
        raise ConfigError(
            f"{len(twice)} of {len(words)} words are among the {len(there)} there already (first: '{twice[0]}'); leave them out."
        )


def require_room(n_words: int) -> None:
    """Refuse more words of one's own than are kept for a subject; raises ConfigError."""
    if n_words > MOST_WORDS:
        raise ConfigError(f"There would be {n_words} words of your own; at most {MOST_WORDS} are kept. Remove some first.")


def _check(words: Sequence[str]) -> None:
    if not words:
        raise ConfigError("No word was found; give at least one, one a line or separated by commas.")
    require_room(len(words))
    long = [word for word in words if len(word) > MOST_LETTERS]
    if long:
        raise ConfigError(
            f"{len(long)} of {len(words)} words are longer than {MOST_LETTERS} letters (first: '{long[0][:20]}…'); shorten them."
        )
    strange = [word for word in words if not _readable(word)]
    if strange:
        raise ConfigError(
            f"{len(strange)} of {len(words)} words hold no letter or digit, or a sign that cannot be printed (first: {strange[0]!a}); "
            "write them in letters."
        )
    twice = [word for word, count in Counter(word.casefold() for word in words).items() if count > 1]
    if twice:
        raise ConfigError(f"{len(twice)} words are given twice (first: '{twice[0]}'); give each once.")


def _readable(word: str) -> bool:
    return any(letter.isalnum() for letter in word) and not any(unicodedata.category(letter).startswith("C") for letter in word)
