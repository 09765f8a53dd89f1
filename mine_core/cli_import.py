"""The command that makes a subject of the user's own files, of a TOML file that names them, or of a published dataset."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.cli_common import Bar
from mine_core.config import cache_directory
from mine_core.errors import Cancelled, ConfigError
from mine_core.subjects.custom.study import FIELDS, NAMES, REQUIRED, Field, axes_of, example_study, read_study
from mine_core.subjects.nsd.tree import N_SESSIONS

TYPES = {"text": str, "path": Path, "paths": Path, "whole": int, "axes": str}


def add_import(commands: Any) -> None:
    """Add the command that makes a subject of the user's own files."""
    purpose = "make a subject of your own images and responses, or of a local copy of a published dataset"
    command = commands.add_parser("import", help=purpose, description=purpose)
    command.add_argument(
        "layout", nargs="?", choices=("custom", "nsd", "algonauts"), default="custom", help="how files are laid out (default: custom)"
    )
    command.add_argument("--from", dest="study", type=Path, metavar="TOML", help="custom: take everything from this file")
    command.add_argument("--example", type=Path, metavar="TOML", help="custom: write a file to fill in for --from, and stop")
    command.add_argument("--root", type=Path, help="nsd: folder of nsddata, nsddata_betas, nsddata_stimuli; algonauts: of subj01 ...")
    command.add_argument("--subject", type=int, default=1, help="of a dataset: which of its eight (default: 1)")
    command.add_argument("--space", choices=("func1pt8mm", "fsaverage"), default="func1pt8mm", help="nsd: default func1pt8mm")
    coco = "nsd: COCO's files of captions, captions_train2017.json and captions_val2017.json"
    command.add_argument("--coco", type=Path, nargs="+", metavar="JSON", default=(), help=coco)
    _add_bucket(command)
    for field in FIELDS:
        _add_field(command, field)
    command.add_argument("--json", metavar="PATH", help="write the result there, as JSON")
    command.set_defaults(run=run_import)


def _add_bucket(command: Any) -> None:
    bucket = command.add_argument_group(
        "nsd, from its public bucket", "fetches what the import needs into --root, and goes on where it was"
    )
    bucket.add_argument("--from-bucket", action="store_true", help="say what is to be fetched and how much, ask, and fetch it")
    bucket.add_argument("--accept-nsd-terms", action="store_true", help="you accepted the NSD Data Access Agreement")
    bucket.add_argument("--sessions", type=int, default=N_SESSIONS, metavar="N", help=f"the first N of {N_SESSIONS} (default: all)")
    bucket.add_argument("--yes", action="store_true", help="fetch without asking")


def _add_field(command: Any, field: Field) -> None:
    # argparse reads % in a help as a format
    text = field.help.replace("%", "%%")
    if field.kind == "yes":
        command.add_argument(field.flag, action="store_true", default=None, help=text)
        return
    choices = (
        {"choices": field.choices}
        if field.choices
        else {"metavar": {"axes": "AXES", "whole": "N", "text": "TEXT"}.get(field.kind, "PATH")}
    )
    several: dict[str, Any] = {"nargs": "+"} if field.kind == "paths" else {}
    command.add_argument(field.flag, type=TYPES[field.kind], help=text, **choices, **several)


def run_import(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Make a subject of files and keep it in the store."""
    if options.example is not None:
        return _write_example(options.example)
    from mine_core.instrument.subjects import import_algonauts_into, import_into, import_nsd_into

    if options.coco and options.layout != "nsd":
        raise ConfigError(f"--coco was given for {options.layout}; it is for nsd alone. Leave it out, or give --captions.")
    store = ArtifactStore(cache_directory())
    if options.layout == "custom":
        return import_into(store, on_progress=bar, **_study(options))
    if options.root is None:
        raise ConfigError(f"import {options.layout} needs --root; see python -m mine_core import --help.")
    if options.from_bucket:
        told = _fetch_nsd(options, bar)
        if told is not None:
            return told
    given = {"root": options.root, "subject": options.subject, "name": options.name, "seed": options.seed or 0, "on_progress": bar}
    given |= {"size": options.size} if options.size else {}
    nsd = {"space": options.space, "coco": options.coco}
    return import_nsd_into(store, **nsd, **given) if options.layout == "nsd" else import_algonauts_into(store, **given)


def _fetch_nsd(options: argparse.Namespace, bar: Bar) -> dict[str, Any] | None:
    """Fetch what is missing of a subject of NSD; or, unless the user agrees to the sizes, say what it would be."""
    from mine_core.subjects import fetching, nsd_bucket

    if options.layout != "nsd":
        raise ConfigError(f"--from-bucket was given for {options.layout}; it is for nsd alone. Leave it out.")
    nsd_bucket.require_terms(options.accept_nsd_terms)
    sessions = nsd_bucket.sessions_up_to(options.sessions)
    files = nsd_bucket.needed_files(options.root, options.subject, options.space, sessions, bar)
    missing = nsd_bucket.to_fetch(files, options.root)
    if not missing:
        return None
    wanted = fetching.told_sizes(missing)
    if not options.yes:
        bar.close()
        if not sys.stdin.isatty():
            return {
                "to_fetch": wanted,
                "into": str(options.root),
                "next": "Give --yes to fetch this and import it. Nothing was fetched.",
            }
        print("\n".join([*wanted, f"into {options.root}. Fetch? [y/N] "]), end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Cancelled("Nothing was fetched.")
    fetching.fetch_files(nsd_bucket.BUCKET, missing, options.root, bar, lambda: False)
    return None


def _study(options: argparse.Namespace) -> dict[str, Any]:
    """What a custom import is given, by flags or by a file, never by both."""
    study = {name: getattr(options, name) for name in NAMES if getattr(options, name) is not None}
    if options.study is not None:
        if study:
            flags = ", ".join(field.flag for field in FIELDS if field.name in study)
            raise ConfigError(f"--from {options.study.name} and {flags} were given; expected the file alone. Put these into the file.")
        return read_study(options.study)
    missing = [field.flag for field in FIELDS if field.name in REQUIRED and field.name not in study]
    if missing:
        raise ConfigError(f"import custom needs {', '.join(missing)}; see python -m mine_core import --help.")
    for field in FIELDS:
        if field.kind == "paths" and field.name in study:
            found = tuple(study[field.name])
            study[field.name] = found if len(found) > 1 else found[0]
    return study | ({"response_axes": axes_of(study["response_axes"])} if "response_axes" in study else {})


def _write_example(path: Path) -> dict[str, Any]:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(example_study())
    except FileExistsError as error:
        raise ConfigError(f"{path.name} is there already; name another file, or remove it first.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a folder that exists.") from error
    return {"example": str(path)}
