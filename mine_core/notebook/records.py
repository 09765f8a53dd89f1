"""What a notebook holds: pins, their numbers, and whether two numbers are the same."""

import math
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mine_core.artifacts import code_version, library_versions
from mine_core.config import PROJECT, InstrumentConfig
from mine_core.errors import NotebookError

Kind = Literal["voxel", "image", "edit", "map"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Value = float | int | str | None

MOST_TITLE, MOST_NOTE, MOST_TAGS, MOST_TAG = 200, 10_000, 12, 40
# Numbers closer than this share of their size are the same: another order of sums moves the last digits of 32-bit arithmetic.
SAME = 1e-5


@dataclass(frozen=True)
class Number:
    """A number as it was on screen: its unit, how sure it is, and what it stands against. A word is a number's kind of value too.

    `value` is None where it is unknown. `uncertainty` and `null` say in words what they are, with their own numbers.
    """

    name: str
    value: Value
    unit: str = ""
    uncertainty: str = ""
    null: str = ""

    @property
    def shown(self) -> str:
        """The value as text: three decimals, or two significant digits of what is smaller."""
        if self.value is None:
            return "unknown"
        if isinstance(self.value, float):
            return f"{self.value:.2g}" if 0 < abs(self.value) < 0.01 else f"{self.value:.3f}"
        return str(self.value)

    def same(self, other: "Number") -> bool:
        """Whether both say the same: equal, or to rounding in the fifth digit; words must be equal."""
        mine, theirs = self.value, other.value
        if isinstance(mine, str) or isinstance(theirs, str) or mine is None or theirs is None:
            return mine == theirs
        return math.isclose(mine, theirs, rel_tol=SAME, abs_tol=SAME)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is to be pinned.

    `view` holds the parameters of the URL that restores it, `settings` whatever else is needed to make it again (the method of
    a heatmap, the request of an edit, own words), `withheld` says why nothing is claimed of the voxel, or is empty, and
    `provenance` names the artifacts and versions that the numbers come from. No picture is held: stimuli may not be ours to copy.
    """

    kind: Kind
    view: Mapping[str, str]
    title: str
    numbers: tuple[Number, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    withheld: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()

    @property
    def config(self) -> InstrumentConfig:
        """Settings of the instrument that it was found with."""
        try:
            seed = int(self.view.get("seed", "0"))
        except ValueError as error:
            raise NotebookError(f"The pin's seed is {self.view['seed']!r}; expected a whole number.") from error
        return InstrumentConfig(self.view.get("subject", "phantom"), seed, self.view.get("backbone", "phantom"))

    @property
    def subject(self) -> str:
        """The subject, and of a phantom which."""
        config = self.config
        return f"{config.subject} {config.seed}" if config.subject == "phantom" else config.subject

    @property
    def voxel(self) -> int:
        """Voxel in view, -1 if none."""
        return int(self.view.get("voxel", "-1"))

    @property
    def image(self) -> int:
        """Stimulus in view, -1 if none."""
        return int(self.view.get("image", "-1"))


@dataclass(frozen=True, kw_only=True)
class Pin(Finding):
    """A finding in the notebook: its number, when it was pinned (UTC), how often it was edited, when it was deleted (or "")."""

    id: int
    created: str
    version: int = 1
    deleted: str = ""


def differing(pinned: Sequence[Number], now: Sequence[Number]) -> list[tuple[Number | None, Number | None]]:
    """Pairs (pinned, now) that do not say the same, by name; None where one of them is missing."""
    before, after = {number.name: number for number in pinned}, {number.name: number for number in now}
    pairs = [(before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
    return [(old, new) for old, new in pairs if old is None or new is None or not old.same(new)]


@dataclass(frozen=True)
class Row:
    """One number of several pins beside each other; None where a pin has none. `unit` is empty where they differ in it."""

    name: str
    unit: str
    cells: tuple[Number | None, ...]
    differs: bool


def compared(pins: Sequence[Finding]) -> list[Row]:
    """Numbers of several pins by name, first those that at least two have; `differs` speaks of the pins that have a number."""
    each = [{number.name: number for number in pin.numbers} for pin in pins]
    rows = []
    for name in dict.fromkeys(name for numbers in each for name in numbers):
        cells = tuple(numbers.get(name) for numbers in each)
        there = [cell for cell in cells if cell is not None]
        units = {cell.unit for cell in there}
        differs = not all(cell.same(there[0]) for cell in there)
        rows.append(Row(name, units.pop() if len(units) == 1 else "", cells, differs))
    return sorted(rows, key=lambda row: row.cells.count(None) > len(pins) - 2)


def checked_text(value: str, what: str, most: int, *, lines: bool = False) -> str:
    """Return a text in composed Unicode without outer blanks; raises NotebookError if it is too long or holds control characters."""
    text = unicodedata.normalize("NFC", value.replace("\r\n", "\n")).strip()
    text = text if lines else " ".join(text.split())
    if len(text) > most:
        raise NotebookError(f"The {what} has {len(text):,} characters; at most {most:,} are kept. Shorten it.")
    odd = [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"]
    if odd:
        raise NotebookError(f"The {what} holds {len(odd)} characters that are no text (first: U+{ord(odd[0]):04X}); leave them out.")
    return text


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without doubles (a capital makes no other tag); raises NotebookError if there are too many, or one is too long."""
    found: dict[str, str] = {}
    for tag in tags:
        text = checked_text(tag, "tag", MOST_TAG)
        if "," in text:
            raise NotebookError(f"The tag '{text}' holds a comma; give each tag on its own.")
        if text:
            found.setdefault(text.casefold(), text)
    if len(found) > MOST_TAGS:
        raise NotebookError(f"{len(found)} tags were given; a pin takes at most {MOST_TAGS}.")
    return tuple(found.values())


def numbers_to(numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """Numbers as plain values for JSON."""
    return [asdict(number) for number in numbers]


def software() -> dict[str, Any]:
    """Version of this program, hash of its source, and versions of the libraries that results depend on."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {"mine": project["version"], "code": code_version(""), "libraries": library_versions()}
