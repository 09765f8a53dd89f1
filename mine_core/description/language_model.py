"""Optional writing by a language model behind an OpenAI-compatible endpoint; only tables of words are sent, never an image."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mine_core.artifacts import hash_text, write_text
from mine_core.errors import ConfigError, DescriptionError
from mine_core.types import VoxelProfile

SYSTEM = (
    "You describe what a place in visual cortex prefers, from a table of scored words that a model decoded. Infer the visual content; "
    "do not discuss the words or the scores, and add nothing that no word supports. Answer with one JSON object with the keys "
    "primary_content (a sentence), scene_context (a sentence), visual_attributes (a list of strings), semantic_categories (a list of "
    "strings) and confidence_note (a sentence)."
)
TEXTS, LISTS = ("primary_content", "scene_context", "confidence_note"), ("visual_attributes", "semantic_categories")
RETRIED = (408, 409, 429, 500, 502, 503, 504)
MOST_ANSWER, MOST_TEXT, LETTERS_A_TOKEN = 400, 600, 4
Post = Callable[[str, bytes, dict[str, str], float], bytes]


@dataclass(frozen=True)
class Endpoint:
    """Where a language model answers: base address up to /v1, name, key ("" for none), seconds, tries, price of a million tokens."""

    address: str
    model: str
    key: str = ""
    seconds: float = 30.0
    tries: int = 3
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")) or not self.model:
            raise ConfigError(
                f"Endpoint '{self.address}' with model '{self.model}': give an http(s) address up to /v1 and a model's name."
            )
        if not (self.seconds > 0 and self.tries >= 1):
            raise ConfigError(f"{self.seconds} s and {self.tries} tries were given; both must be above 0.")
        if not (0 <= self.price_in < float("inf") and 0 <= self.price_out < float("inf")):
            raise ConfigError(f"Prices of {self.price_in} and {self.price_out} a million tokens were given; they must be 0 or more.")


@dataclass(frozen=True)
class WrittenProfile:
    """What a language model made of a table of words: the fields of the MINE paper."""

    primary_content: str
    scene_context: str
    visual_attributes: tuple[str, ...]
    semantic_categories: tuple[str, ...]
    confidence_note: str


def word_table(profile: VoxelProfile) -> str:
    """Table of a profile's words and attributes, all that is sent; empty where no word stands."""
    description = profile.description
    if description is None:
        return ""
    by_word = dict(zip(description.words, description.scores, strict=True))
    scored = [(word, float(by_word[word])) for word in description.phrases]
    attributes = [(entry.attribute, entry.word, entry.score) for entry in profile.attributes if entry.stands]
    return table_of(scored, attributes, [f"{entry.word} beside {entry.phrase}" for entry in profile.company])


def table_of(words: Sequence[tuple[str, float]], attributes: Sequence[tuple[str, str, float]], company: Sequence[str]) -> str:
    """Table of words with scores, attributes as (attribute, word, score), and company as 'word beside phrase'; empty without words."""
    if not words:
        return ""
    lines = ["| Rank | Word | Score |", "|---|---|---|"]
    # scores are kept to four digits in tables of profiles: a voxel's table must be the same from either
    lines += [f"| {rank} | {word} | {round(score, 4):.2f} |" for rank, (word, score) in enumerate(words, 1)]
    lines += [f"Attribute: {attribute} is {word} ({score:.2f})" for attribute, word, score in attributes]
    lines += [f"Only by company: {entry}" for entry in company]
    return "\n".join(lines)


def cost(tables: Sequence[str], endpoint: Endpoint) -> dict[str, float]:
    """Tokens and price of a batch at most, before it starts: four letters a token, answers of full length."""
    asked = [table for table in tables if table]
    given = sum(len(SYSTEM) + len(table) for table in asked) / LETTERS_A_TOKEN
    answered = MOST_ANSWER * len(asked)
    price = (given * endpoint.price_in + answered * endpoint.price_out) / 1e6
    return {"n_asked": float(len(asked)), "tokens_in": given, "tokens_out": float(answered), "price": price}


def write_by_model(
    table: str, endpoint: Endpoint, cache: Path, *, post: Post | None = None, sleep: Callable[[float], None] = time.sleep
) -> WrittenProfile:
    """Ask a language model to write what a table of words says; an answer is kept and never asked for again.

    A refused connection, a time-out, a busy server and an answer of another form are tried again, at most `endpoint.tries`
    times, after 1, 2, 4 ... seconds.

    Parameters
    ----------
    table : of `word_table`, not empty.
    cache : folder of kept answers.
    post, sleep : how to send and to wait; for tests.

    Raises
    ------
    DescriptionError
        If the table is empty, the server refuses, or no answer of the right form came in time.

    Notes
    -----
    The model's sentence is no score and earns none: what was scored are the words that it was given.
    """
    if not table:
        raise DescriptionError("No word stands for this voxel; there is nothing to write from.")
    found = kept_answer(table, endpoint, cache)
    if found is not None:
        return found
    said = _ask(table, endpoint, post or _post, sleep)
    cache.mkdir(parents=True, exist_ok=True)
    write_text(_kept_path(table, endpoint, cache), json.dumps(asdict(said)))
    return said


def kept_answer(table: str, endpoint: Endpoint, cache: Path) -> WrittenProfile | None:
    """Answer that was kept for a table, or None; raises DescriptionError if what was kept is no answer."""
    path = _kept_path(table, endpoint, cache)
    return checked(path.read_text()) if path.is_file() else None


def is_kept(table: str, endpoint: Endpoint, cache: Path) -> bool:
    """Whether an answer is kept for a table."""
    return _kept_path(table, endpoint, cache).is_file()


def _kept_path(table: str, endpoint: Endpoint, cache: Path) -> Path:
    return cache / f"{hash_text(endpoint.address, endpoint.model, SYSTEM, table)}.json"


def _ask(table: str, endpoint: Endpoint, post: Post, sleep: Callable[[float], None]) -> WrittenProfile:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": table}]
    asked = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": MOST_ANSWER}
    body = json.dumps(asked | {"response_format": {"type": "json_object"}}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})
    address, found = f"{endpoint.address.rstrip('/')}/chat/completions", ""
    for attempt in range(endpoint.tries):
        if attempt:
            sleep(2.0 ** (attempt - 1))
        try:
            return checked(_content(post(address, body, headers, endpoint.seconds)))
        except HTTPError as error:
            found = f"HTTP {error.code}"
            if error.code not in RETRIED:
                break
        except (URLError, OSError) as error:
            found = type(error).__name__
        except DescriptionError as error:
            found = str(error)
    raise DescriptionError(
        f"'{endpoint.model}' at {endpoint.address} gave no usable answer in {endpoint.tries} tries of {endpoint.seconds:g} s "
        f"({found}); "
        "check the address and the key, or go without: the profile's own sentence stands."
    )


def _content(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError) as error:
        raise DescriptionError(f"the answer is no chat completion ({type(error).__name__})") from error


def checked(text: str) -> WrittenProfile:
    """Read an answer; raises DescriptionError unless it is one JSON object with exactly the five fields, of bounded length."""
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        found: Any = json.loads(bare)
    except ValueError as error:
        raise DescriptionError("the answer is not JSON") from error
    if not isinstance(found, dict) or set(found) != {*TEXTS, *LISTS}:
        named = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise DescriptionError(f"the answer has fields {named}, expected {sorted((*TEXTS, *LISTS))}")
    flat = [found[name] for name in TEXTS] + [
        item for name in LISTS for item in (found[name] if isinstance(found[name], list) else [0])
    ]
    if not all(isinstance(item, str) and len(item) <= MOST_TEXT for item in flat) or not found["primary_content"].strip():
        raise DescriptionError(f"a field of the answer is empty, no text, or longer than {MOST_TEXT} letters")
    fields: dict[str, Any] = {name: found[name] for name in TEXTS} | {name: tuple(found[name]) for name in LISTS}
    return WrittenProfile(**fields)


def _post(address: str, body: bytes, headers: dict[str, str], seconds: float) -> bytes:
    # the scheme was checked by Endpoint
    with urlopen(Request(address, body, headers), timeout=seconds) as answer:  # noqa: S310
        return answer.read(1_000_000)
