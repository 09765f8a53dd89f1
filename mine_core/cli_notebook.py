"""Commands of the notebook: list and search pins, write them as a report or as a script."""

import argparse
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore, write_text
from mine_core.cli_common import Bar, add_group
from mine_core.config import cache_directory, notebook_directory
from mine_core.errors import ConfigError, NotebookError
from mine_core.notebook import KINDS, Notebook, Pin


def add_notebook_commands(commands: Any) -> None:
    """Add `notebook`."""
    group = add_group(commands, "notebook", "what you pinned: list, search, and write as a report or a script")
    _add(group, "list", "pins, newest first", run_list)
    search = _add(group, "search", "pins that hold all of these words", run_search)
    search.add_argument("text", nargs="+", help="words, or their beginnings")
    report = _add(group, "report", "a report with figures made from the cache", run_report)
    report.add_argument("--out", type=Path, required=True, metavar="PATH", help="a .md or .html file")
    script = _add(group, "script", "a Python script that makes every figure and number again", run_script)
    script.add_argument("--out", type=Path, required=True, metavar="PATH", help="a .py file")


def _add(group: Any, name: str, purpose: str, run: Any) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=purpose, description=purpose)
    command.add_argument("--pins", type=int, nargs="+", metavar="N", help="these pins alone")
    command.add_argument("--tag", action="append", default=[], help="with this tag (may be given again)")
    command.add_argument("--kind", action="append", default=[], choices=KINDS, help="of this kind (may be given again)")
    command.add_argument("--subject", action="append", default=[], help="of this subject, as `list` names it (may be given again)")
    command.add_argument("--json", metavar="PATH", help="write the result there, as JSON")
    command.set_defaults(run=run)
    return command


def run_list(options: argparse.Namespace, _bar: Bar) -> dict[str, Any]:
    """List pins."""
    return _listed(_asked_for(options))


def run_search(options: argparse.Namespace, _bar: Bar) -> dict[str, Any]:
    """List pins that hold a text."""
    return _listed(_asked_for(options, " ".join(options.text)))


def run_report(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Write a report; its figures are made from the cache."""
    from mine_core.notebook.again import opener
    from mine_core.notebook.report import SUFFIX, make_entries, write_report

    form = next((name for name, suffix in SUFFIX.items() if suffix == options.out.suffix), None)
    if form is None:
        raise ConfigError(f"A report is {' or '.join(SUFFIX.values())}; --out {options.out} is neither.")
    _require_folder(options.out)
    pins, store = _some(options), ArtifactStore(cache_directory())
    entries = make_entries(pins, store, opener(store), on_progress=bar)
    write_text(options.out, write_report(entries, form))
    return {
        "report": str(options.out),
        "n_pins": len(pins),
        "n_figures": sum(entry.figure is not None for entry in entries),
        "n_with_numbers_that_differ_now": sum(bool(entry.changed) for entry in entries),
        "problems": [f"pin {entry.pin.id}: {entry.problem}" for entry in entries if entry.problem],
    }


def run_script(options: argparse.Namespace, _bar: Bar) -> dict[str, Any]:
    """Write a script."""
    from mine_core.notebook.script import write_script

    if options.out.suffix != ".py":
        raise ConfigError(f"A script is a .py file; --out {options.out} is none.")
    _require_folder(options.out)
    pins = _some(options)
    write_text(options.out, write_script(pins))
    return {"script": str(options.out), "n_pins": len(pins)}


def _asked_for(options: argparse.Namespace, text: str = "") -> list[Pin]:
    pins = Notebook(notebook_directory()).pins(text, tags=options.tag, kinds=options.kind, subjects=options.subject)
    wanted = set(options.pins or [pin.id for pin in pins])
    missing = sorted(wanted - {pin.id for pin in pins})
    if missing:
        raise NotebookError(f"There is no pin {', '.join(map(str, missing))} among the {len(pins)} that were asked for.")
    return [pin for pin in pins if pin.id in wanted]


def _some(options: argparse.Namespace) -> list[Pin]:
    pins = _asked_for(options)
    if not pins:
        raise NotebookError("The notebook holds no such pin, so there is nothing to write.")
    return pins


def _listed(pins: list[Pin]) -> dict[str, Any]:
    told = {}
    for pin in pins:
        tags = f" [{', '.join(pin.tags)}]" if pin.tags else ""
        told[f"pin {pin.id}"] = f"{pin.created[:10]} {pin.kind} of {pin.subject}: {pin.title}{tags}"
    return {"n_pins": len(pins), **told}


def _require_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder for --out {path}; make it first, or name another.")
