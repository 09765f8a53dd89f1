"""What an import may be given, said once: for the command line, for a TOML file, and for the page.

A study is a mapping from the names of fields to values as `import_subject` takes them; fields that are not given are not in it.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mine_core.errors import ConfigError
from mine_core.subjects.custom.cortices import CORTEX_KINDS
from mine_core.subjects.custom.limits import MIB, listed, plain, quoted, reason
from mine_core.subjects.custom.matching import ImageOrder
from mine_core.subjects.custom.places import MaskOrder
from mine_core.subjects.custom.recording import FilesAre

FieldKind = Literal["text", "path", "paths", "whole", "yes", "axes"]
KINDS: dict[FieldKind, str] = {
    "text": "text in quotes",
    "path": "the path of a file or folder, in quotes",
    "paths": "a path in quotes, or a list of them",
    "whole": "a whole number",
    "yes": "true or false",
    "axes": "a list of words in quotes, or one text with commas",
}
REQUIRED = ("name", "images", "responses")
MAX_STUDY_BYTES = MIB


@dataclass(frozen=True)
class Field:
    """One thing that an import may be given: its name, what kind of value, what it is in words, and one as an example."""

    name: str
    kind: FieldKind
    help: str
    example: Any
    choices: tuple[str, ...] = ()
    part: str = ""

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"


FIELDS = (
    Field("name", "text", "name of the subject", "mine", part="What every import needs"),
    Field("images", "path", "images: a folder, zip, npy or HDF5 of them", "photographs.zip"),
    Field(
        "responses",
        "paths",
        "responses: npy, HDF5 or CSV; NIfTI of x, y, z, stimulus; or GIFTI or MGH, left and right",
        ["lh.betas.func.gii", "rh.betas.func.gii"],
    ),
    Field("response_axes", "axes", "axes of the responses, for npy, HDF5 and CSV", "voxel,stimulus", part="How files are read"),
    Field("response_dataset", "text", "path of the responses inside an HDF5 file", "betas"),
    Field("image_dataset", "text", "path of the images inside an HDF5 file", "images"),
    Field("mask", "paths", "mask of the voxels: NIfTI, 1 inside; or GIFTI or MGH, left and right", "mask.nii.gz"),
    Field("mask_order", "text", "order in which a table counts the voxels of a mask", "zyx", get_args(MaskOrder)),
    Field("files_are", "text", "what several NIfTI files of responses are", "repeats", get_args(FilesAre)),
    Field("size", "whole", "size in pixels to crop images to a square and resize them to (none: refuse if needed)", 224),
    Field("stimulus_ids", "path", "stimulus ids: text, one file name a line, in the order of the responses", "ids.txt"),
    Field(
        "image_order", "text", "order of the images: how file names are sorted where nothing has ids", "number", get_args(ImageOrder)
    ),
    Field("drop_incomplete", "yes", "drop what is incomplete, and say what and why", True),
    Field(
        "splits", "path", "splits: CSV stimulus,split (none: drawn by image, 80/10/10 %)", "splits.csv", part="What may be known beside"
    ),
    Field("seed", "whole", "which random split by image (none: 0)", 0),
    Field("regions", "paths", "regions: CSV voxel,region; or labels on the grid of the responses", "labels.nii.gz"),
    Field("region_names", "path", "names of regions: CSV value,name of the labels", "labels.csv"),
    Field("noise_ceiling", "paths", "noise ceilings, share of variance 0 to 1: npy, or on the grid of the responses", "ceiling.nii.gz"),
    Field("captions", "path", "captions: COCO JSON, or CSV stimulus,caption", "captions.json"),
    Field("units", "text", "units: what the responses are in (none: as given)", "percent signal change"),
    Field(
        "cortex",
        "text",
        "cortex that voxels are drawn on (none given: slices of volumes, fsaverage of surfaces, none of tables)",
        "pycortex",
        CORTEX_KINDS,
        "What voxels are drawn on",
    ),
    Field("pycortex_subject", "text", "subject of pycortex's filestore", "S1"),
    Field("pycortex_transform", "text", "transform of the pycortex subject", "fullhead"),
    Field("mapper", "path", "HDF5 flatmap mapper of the subject", "S01_mappers.hdf"),
)
NAMES = tuple(field.name for field in FIELDS)


def read_study(path: Path) -> dict[str, Any]:
    """Read a study from a TOML file; paths in it are relative to the file.

    Raises
    ------
    ConfigError : for a file that cannot be read, an unknown key (with the nearest known one), a value of another kind, a word that is
        no choice, or a field that every import needs and that is missing.
    """
    record = _parsed(path)
    unknown = [key for key in record if key not in NAMES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], NAMES, n=1, cutoff=0)
        raise ConfigError(f"{plain(path.name)} has the unknown key {quoted(unknown[0])}; did you mean '{near[0]}'?")
    study = {field.name: _value(field, record[field.name], path) for field in FIELDS if field.name in record}
    missing = [name for name in REQUIRED if name not in study]
    if missing:
        raise ConfigError(
            f"{plain(path.name)} has no {listed(missing)}; every import needs {', '.join(REQUIRED)}. Add what is missing."
        )
    return study


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_STUDY_BYTES:
            raise ConfigError(f"{plain(path.name)} holds {path.stat().st_size:,} bytes; a study has at most {MAX_STUDY_BYTES:,}.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{plain(path.name)} is no readable TOML file ({reason(error)}); correct it, or write an example anew."
        ) from error


def _value(field: Field, given: Any, path: Path) -> Any:
    """Return a value of a study as `import_subject` takes it."""
    where = f"{plain(path.name)}: '{field.name}'"
    items = given if isinstance(given, list) else [given]
    text = bool(items) and all(isinstance(item, str) and item for item in items)
    right = {
        "text": text and not isinstance(given, list),
        "path": text and not isinstance(given, list),
        "paths": text,
        "axes": text,
        "whole": isinstance(given, int) and not isinstance(given, bool),
        "yes": isinstance(given, bool),
    }[field.kind]
    if not right:
        raise ConfigError(f"{where} is {quoted(json.dumps(given, default=str))}; expected {KINDS[field.kind]}.")
    if field.choices and given not in field.choices:
        raise ConfigError(f"{where} is {quoted(given)}; expected {' or '.join(field.choices)}.")
    if field.kind in ("path", "paths"):
        found = tuple(path.parent / item for item in items)
        return found if len(found) > 1 else found[0]
    return axes_of(items) if field.kind == "axes" else given


def axes_of(words: list[str] | str) -> tuple[str, ...]:
    """Words for axes, of a list or of one text with commas."""
    text = words if isinstance(words, str) else ",".join(words)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def write_study(study: Mapping[str, Any]) -> str:
    """Write a study as TOML that `read_study` reads, one field a line under the headings of the example."""
    lines = ["# A study of MINE: python -m mine_core import --from THIS_FILE"]
    for field in FIELDS:
        lines += ["", f"# {field.part}."] if field.part else []
        if field.name in study:
            lines.append(f"{field.name} = {_toml(study[field.name])}")
    return "\n".join(lines) + "\n"


def example_study() -> str:
    """Write every field with what it is and an example; those that not every import needs are comments."""
    lines = [
        "# A study of MINE: what to import. Paths are relative to this file. Read it with",
        "#   python -m mine_core import --from THIS_FILE",
        "# Lines that begin with # are comments; take the mark away from what you need.",
    ]
    for field in FIELDS:
        lines += ["", f"## {field.part}", ""] if field.part else []
        choices = f": {' or '.join(field.choices)}" if field.choices else ""
        lines.append(f"# {field.help}{choices}")
        lines.append(f"{'' if field.name in REQUIRED else '# '}{field.name} = {_toml(field.example)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, bool | int):
        return json.dumps(value)
    # A basic string of TOML is one of JSON, but for surrogates (left unescaped here) and DEL.
    return json.dumps(value.as_posix() if isinstance(value, Path) else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
