"""The command `export`: maps as a BIDS derivative, figures, the 3-D viewer, edits; and reading them back."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore, write_bytes
from mine_core.cli_common import Bar, add, settings
from mine_core.config import cache_directory
from mine_core.errors import ConfigError

OF_SCORES = ("accuracy", "normalised", "ceiling", "q")
OTHERS = ("group", "layer", "search", "image", "shift", "edit")
VIEWER = "webgl"


def add_export_command(commands: Any) -> None:
    """Add `export`."""
    export = add(commands, "export", "write maps, figures and edits with where they come from, or read an export back", run_export)
    export.add_argument("--out", type=Path, metavar="DIR", help="folder of the export, new or one of MINE's own (a BIDS derivative)")
    export.add_argument(
        "--map",
        default="",
        metavar="NAMES",
        help=f"of {', '.join((*OF_SCORES, *OTHERS))}, separated by commas (default: the first four, as far as known)",
    )
    export.add_argument(
        "--format",
        default="",
        metavar="NAMES",
        help="of nifti, gifti, npz, tsv, csv, png, svg, pdf, webgl (default: all of the first four that fit the subject)",
    )
    export.add_argument("--search", default="", metavar="TEXTS", help="map search: what images show, separated by commas")
    export.add_argument("--but-not", default="", metavar="TEXTS", help="map search: and what they do not")
    export.add_argument("--image", type=int, metavar="N", help="maps image, shift, edit: which stimulus")
    export.add_argument("--edit", choices=("remove", "insert"), default="remove", help="maps shift, edit: which (default: remove)")
    export.add_argument("--voxel", type=int, metavar="N", help="maps shift, edit: whose driver is removed, or to test")
    export.add_argument(
        "--word", default="", metavar="WORD", help="maps shift, edit: what is inserted, or removed in place of the driver"
    )
    export.add_argument(
        "--editor",
        default="",
        metavar="NAME",
        help="maps shift, edit: smooth-fill, or a painter such as phantom (default: patch-fill, cut-outs)",
    )
    export.add_argument(
        "--agreement", metavar="NAME", help="edit: data agreement under which images of a restricted dataset may be handed on"
    )
    export.add_argument("--check", type=Path, metavar="PATH", help="read an export's folder, or an edit's zip, and check every byte")


def run_export(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Write what was asked for, or read an export back."""
    if (options.out is None) == (options.check is None):
        raise ConfigError("export needs either --out DIR to write to or --check PATH to read back; see export --help.")
    return _check(options, bar) if options.check else _write(options, bar)


def _instrument(options: argparse.Namespace, store: ArtifactStore, bar: Bar) -> Any:
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.own_words import is_scored, kept_words, with_own_words

    config = settings(options)
    instrument = build_instrument(config, store, on_progress=bar)
    own = kept_words(config, store)
    return with_own_words(instrument, store, own) if own and is_scored(config, store, own) else instrument


def _check(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    from mine_core.exports.derivative import check_folder
    from mine_core.exports.edits import read_edit

    if options.check.is_file():
        read = read_edit(options.check)
        return {"edit": read.provenance["instruction"], "files": len(read.provenance["files"]), "voxels": len(read.shift)}
    instrument = _instrument(options, ArtifactStore(cache_directory()), bar)
    return {"whole": check_folder(options.check, instrument.subject.responses.voxels)}


def _write(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    from mine_core.exports.bundle import pictures_of
    from mine_core.exports.derivative import open_folder, stem_of, write_map
    from mine_core.exports.files import DATA_FORMATS, fitting_formats, require_format
    from mine_core.exports.pictures import PICTURE_FORMATS
    from mine_core.exports.records import offered_scores
    from mine_core.exports.space import space_of
    from mine_core.exports.webgl import require_viewer, write_webgl

    store = ArtifactStore(cache_directory())
    names, formats = _named(options.map), _named(options.format)
    _require_known(names, (*OF_SCORES, *OTHERS), "map")
    _require_known(formats, (*DATA_FORMATS, *PICTURE_FORMATS, VIEWER), "format")
    instrument = _instrument(options, store, bar)
    space = space_of(instrument, store.root)
    names = names or offered_scores(instrument)
    formats = formats or tuple(name for name in fitting_formats(space) if name != "csv")
    data = [require_format(name, space) for name in formats if name in DATA_FORMATS]
    pictures = [name for name in formats if name in PICTURE_FORMATS]
    made = [_made(options, instrument, store, name) for name in names]  # all of it, before anything is written
    for found in made if VIEWER in formats else ():
        if not isinstance(found, Zip):
            require_viewer(instrument, found)
    inside = open_folder(options.out, instrument, space)
    written: dict[str, Any] = {}
    for done, (name, found) in enumerate(zip(names, made, strict=True)):
        bar(done, len(names), f"Writing {name}")
        if isinstance(found, Zip):
            written[name] = _put(options.out / found.name, found.content)
            continue
        stem = stem_of(instrument, space, found)
        if data or pictures:
            write_map(instrument, store, space, found, options.out, data, pictures_of(instrument, found, pictures))
        if VIEWER in formats:
            write_webgl(instrument, store, space, found, inside / f"{stem}_{VIEWER}")
        written[name] = f"{stem} ({', '.join(formats)})"
    return {"folder": str(options.out), "space": space.says, "written": written}


def _named(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _require_known(names: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    strange = [name for name in names if name not in known]
    if strange:
        raise ConfigError(f"There is no {what} '{strange[0]}'; there are {', '.join(known)}.")


@dataclass(frozen=True)
class Zip:
    """An edit, packed."""

    name: str
    content: bytes


def _put(target: Path, content: bytes) -> str:
    """Write a file at once or not at all; returns its name."""
    write_bytes(target, content)
    return target.name


def _made(options: argparse.Namespace, instrument: Any, store: ArtifactStore, name: str) -> Any:
    """The map of a name, or the zip of an edit."""
    return _edit(options, instrument, store) if name == "edit" else _record(options, instrument, store, name)


def _record(options: argparse.Namespace, instrument: Any, store: ArtifactStore, name: str) -> Any:
    """The map of a name, made now."""
    from mine_core.exports import records

    if name in (*OF_SCORES, "group", "image"):
        return records.view_record(instrument, name, _given(options, "image", name) if name == "image" else -1)
    if name == "layer":
        from mine_core.exports.layers import layer_record, made_dictionary

        return layer_record(made_dictionary(settings(options), store))
    if name == "search":
        from mine_core.description.search import parse_query
        from mine_core.instrument.search import search_text

        return records.search_record(instrument, search_text(instrument, parse_query(options.search, options.but_not)))
    request, trial = _trial(options, instrument, store, name)
    return records.shift_record(instrument, trial, request)


def _given(options: argparse.Namespace, option: str, name: str) -> int:
    value = getattr(options, option)
    if value is None:
        raise ConfigError(f"Map '{name}' needs --{option} N; give its number.")
    return int(value)


def _trial(options: argparse.Namespace, instrument: Any, store: ArtifactStore, name: str) -> tuple[Any, Any]:
    """The edit that the options ask for, with its controls, checked by the second encoder where that is made."""
    from mine_core.instrument.second import find_second
    from mine_core.instrument.trials import EditRequest, run_trial

    if options.edit == "insert" and not options.word:
        raise ConfigError("An insertion needs --word; name a thing of the vocabulary.")
    voxel, image = _given(options, "voxel", name), _given(options, "image", name)
    request = EditRequest(options.edit, voxel, image, word=options.word, editor=options.editor)
    # without one, the export says that nothing checked the edit
    return request, run_trial(instrument, request, find_second(settings(options), store))


def _edit(options: argparse.Namespace, instrument: Any, store: ArtifactStore) -> Zip:
    from mine_core.exports.edits import edit_name, edit_zip
    from mine_core.exports.provenance import require_agreement

    require_agreement(instrument.subject.kind, options.agreement)
    request, trial = _trial(options, instrument, store, "edit")
    content = edit_zip(instrument, store, request, trial, agreement=options.agreement)
    return Zip(edit_name(instrument, request, trial), content)
