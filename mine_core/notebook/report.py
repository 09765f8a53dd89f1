"""A notebook written out: Markdown, or one HTML file that needs nothing else. What the user typed stays text in both."""

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mine_core.artifacts import ArtifactStore
from mine_core.errors import Cancelled, MineError
from mine_core.instrument import Instrument
from mine_core.notebook.again import make_again, second_for, version_line
from mine_core.notebook.records import Number, Pin, differing, software
from mine_core.types import IsCancelled, OnProgress

Format = Literal["markdown", "html"]
SUFFIX: dict[Format, str] = {"markdown": ".md", "html": ".html"}
TITLE = "MINE notebook"
PREDICTED = (
    "Responses, heatmaps and shifts in this report are predicted by a model that was fit to recordings. They were not recorded, "
    "unless they are called measured. Numbers are those on screen when each finding was pinned; figures are made from the cache at "
    "the time of the report."
)
STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; color: #1b2430; max-width: 62rem; margin: 2rem auto; padding: 0 1rem}
table {border-collapse: collapse; width: 100%; font-size: 13px} caption {text-align: left; padding: .4rem 0; color: #4a5563}
th, td {text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top}
img {max-width: 100%} section {margin: 2.5rem 0; border-top: 2px solid #0b5c8a; padding-top: .5rem}
.note {white-space: pre-wrap; border-left: 3px solid #0b5c8a; padding-left: .8rem} .tag {background: #eaf1f5; padding: .1rem .5rem}
.warn {background: #fff4e0; padding: .5rem .8rem} .small {font-size: 13px; color: #4a5563}
""".strip()


@dataclass(frozen=True)
class Entry:
    """A pin in a report: its figure (PNG) and what differs now, or why it could not be made again."""

    pin: Pin
    figure: bytes | None
    alt: str
    changed: tuple[tuple[Number | None, Number | None], ...]
    problem: str


def make_entries(
    pins: Sequence[Pin],
    store: ArtifactStore,
    open_instrument: Callable[[Pin], Instrument],
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> list[Entry]:
    """Make every pin again and draw it; one that cannot be made says why. Raises Cancelled if `cancelled()` became True."""
    entries = []
    for done, pin in enumerate(pins):
        if on_progress is not None:
            on_progress(done, len(pins), f"making pin {pin.id} again")
        if cancelled is not None and cancelled():
            raise Cancelled("The report was stopped; nothing of it was kept.")
        entries.append(_entry(pin, store, open_instrument, cancelled))
    return entries


def _entry(pin: Pin, store: ArtifactStore, open_instrument: Callable[[Pin], Instrument], cancelled: IsCancelled | None) -> Entry:
    try:
        found = make_again(pin, open_instrument(pin), store, second=second_for(pin, store), cancelled=cancelled)
        return Entry(pin, found.draw(), found.alt, tuple(differing(pin.numbers, found.numbers)), "")
    except Cancelled:
        raise
    except MineError as refusal:
        return Entry(pin, None, "", (), str(refusal))


def write_report(entries: Sequence[Entry], form: Format) -> str:
    """Write a report of pins that were made again."""
    return as_html(entries) if form == "html" else as_markdown(entries)


def as_markdown(entries: Sequence[Entry]) -> str:
    """Write Markdown with its figures embedded at the end, as data URLs, so that the text stays readable."""
    parts = [f"# {TITLE}", f"**Predicted by a model, not recorded.** {PREDICTED}", plain(_about(entries))]
    links = []
    for entry in entries:
        pin = entry.pin
        parts += [f"## Pin {pin.id}: {plain(pin.title)}", plain(_facts(pin))]
        if pin.tags:
            parts.append("Tags: " + ", ".join(plain(tag) for tag in pin.tags))
        if pin.withheld:
            parts.append(f"**{plain(pin.withheld)}**")
        if pin.note:
            parts.append("\n".join(f"> {plain(line)}" for line in pin.note.split("\n")))
        if entry.figure is not None:
            parts.append(f"![{plain(entry.alt)}][pin-{pin.id}]")
            links.append(f"[pin-{pin.id}]: {_data_url(entry.figure)}")
        if entry.problem:
            parts.append(f"**No figure.** {plain(entry.problem)}")
        parts.append("\n".join(["| number | value | unit | uncertainty | null |", "|---|---|---|---|---|", *map(_row, pin.numbers)]))
        parts.append(plain(_verdict(entry)))
        parts += ["\n".join(f"- {plain(line)}" for line in _changes(entry))] if entry.changed else []
        parts.append(plain(version_line(pin)))
    return "\n\n".join([*parts, *links]) + "\n"


def as_html(entries: Sequence[Entry]) -> str:
    """Write one HTML file with its figures in it; it fetches nothing and runs no script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><title>{TITLE}</title><style>{STYLE}</style></head><body>'
    )
    warned = f'<p class="warn"><b>Predicted by a model, not recorded.</b> {_text(PREDICTED)}</p>'
    top = f"<h1>{TITLE}</h1>{warned}<p>{_text(_about(entries))}</p>"
    return "\n".join([head, top, *map(_section, entries), "</body></html>"]) + "\n"


def _section(entry: Entry) -> str:
    pin = entry.pin
    parts = [f"<h2>Pin {pin.id}: {_text(pin.title)}</h2>", f'<p class="small">{_text(_facts(pin))}</p>']
    if pin.tags:
        parts.append("<p>" + " ".join(f'<span class="tag">{_text(tag)}</span>' for tag in pin.tags) + "</p>")
    if pin.withheld:
        parts.append(f'<p class="warn">{_text(pin.withheld)}</p>')
    if pin.note:
        parts.append(f'<p class="note">{_text(pin.note)}</p>')
    if entry.figure is not None:
        parts.append(f'<img alt="{_text(entry.alt)}" src="{_data_url(entry.figure)}">')
    if entry.problem:
        parts.append(f'<p class="warn"><b>No figure.</b> {_text(entry.problem)}</p>')
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in _cells(number)) + "</tr>" for number in pin.numbers)
    columns = "".join(f"<th>{name}</th>" for name in ("number", "value", "unit", "uncertainty", "null"))
    parts.append(f"<table><caption>Numbers as pinned</caption><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>")
    parts.append(f'<p class="small">{_text(_verdict(entry))}</p>')
    if entry.changed:
        parts.append("<ul>" + "".join(f"<li>{_text(line)}</li>" for line in _changes(entry)) + "</ul>")
    parts.append(f'<p class="small">{_text(version_line(pin))}</p>')
    return f"<section>{''.join(parts)}</section>"


def plain(text: str) -> str:
    """Escape a text for Markdown, so that it is shown as typed: no markup, no links, no HTML."""
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|~>$^=])", r"\\\1", escaped.replace("&gt;", ">"))
    # a colon after a scheme would still be made a link by some readers
    return escaped.replace("://", ":\\/\\/").replace("\n", " ").replace("\t", " ")


def change_line(old: Number | None, new: Number | None) -> str:
    """Say how a pinned number and the number now differ."""
    number = old or new
    before, after = (("absent" if each is None else each.shown) for each in (old, new))
    return f"{number.name if number else ''}: {before} pinned, {after} now"


def _changes(entry: Entry) -> list[str]:
    return [change_line(old, new) for old, new in entry.changed]


def _verdict(entry: Entry) -> str:
    if entry.problem:
        return "The numbers were not checked against the present cache."
    if entry.changed:
        return f"{len(entry.changed)} of {len(entry.pin.numbers)} numbers are different now:"
    return f"All {len(entry.pin.numbers)} numbers are the same when they are made again from the present cache."


def _facts(pin: Pin) -> str:
    when = f"Pinned {pin.created.replace('T', ' ')}"
    return f"{pin.kind.capitalize()} of subject {pin.subject} through backbone '{pin.config.backbone}'. {when}."


def _about(entries: Sequence[Entry]) -> str:
    now, made = datetime.now(UTC).isoformat(timespec="seconds").replace("T", " "), software()
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    noun = "finding" if len(entries) == 1 else "findings"
    return f"{len(entries)} {noun}. Written {now} by MINE {made['mine']} (source {made['code'][:12]}) with {libraries}."


def _cells(number: Number) -> tuple[str, str, str, str, str]:
    return number.name, number.shown, number.unit, number.uncertainty, number.null


def _row(number: Number) -> str:
    return "| " + " | ".join(plain(cell) for cell in _cells(number)) + " |"


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _data_url(figure: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(figure).decode()}"
