"""A folder of exported maps in the layout of a BIDS derivative: written, and read back with every byte checked.

Every map has a sidecar that says what it is, its units, n and null, what it was made of, and the SHA-256 of its files and of
itself, so that a file that was damaged or changed is refused when it is read.

References
----------
Gorgolewski et al. (2016), 10.1038/sdata.2016.44: the Brain Imaging Data Structure.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mine_core.artifacts import ArtifactStore, canonical_json, hash_array, hash_file, hash_text, write_text
from mine_core.errors import AlignmentError, ArtifactError, ConfigError
from mine_core.exports.files import COLUMNS, ENDINGS, DataFormat, Sources, read_data, write_data
from mine_core.exports.provenance import provenance, version
from mine_core.exports.records import MapRecord
from mine_core.exports.space import Space
from mine_core.instrument import Instrument
from mine_core.types import VoxelIndex

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
IGNORED = "*_statmap.*\n*_flatmap.*\n*_webgl\nedit*.zip\n"  # of what BIDS knows no name for
SOURCES: Mapping[str, Mapping[str, str]] = {
    "phantom": {"URL": "https://gallantlab.org/pycortex", "DOI": "doi:10.3389/fninf.2015.00023"},
    "nsd": {"URL": "http://naturalscenesdataset.org", "DOI": "doi:10.1038/s41593-021-00962-x"},
    "algonauts": {"URL": "http://algonauts.csail.mit.edu", "DOI": "doi:10.48550/arXiv.2301.03198"},
}
README = """# Maps exported from MINE

Derivative of subject `{subject}`, {n} voxels ({space}), seen through backbone `{backbone}`.

Each map has a sidecar `*_statmap.json`: what it is, units, n, null, whether it is predicted or measured, what it was made of, and
the SHA-256 of its files. NaN in images and n/a in tables: withheld, unknown, or not cortex that was measured; the tables say which.
NIfTI volumes are [i, j, k] with the affine of the reference; arrays in npz are one number a voxel, whose place is `flat_index` in the
C-ordered volume [k, j, i]. Shifts and responses to single images are predictions of an encoding model, not measurements.

BIDS has no name for statistical maps yet; `statmap` is what nilearn and FitLins call them, and `.bidsignore` lists them. Who made the
maps is not known here: name the authors in `dataset_description.json` before they are shared.

{extra}No stimulus is in this folder. Read it back and check every byte:

    python -m mine_core export --check FOLDER {whose}
"""
PHANTOM_NOTE = "The phantom's responses are simulated on a real cortex: no brain was measured.\n\n"


def subject_label(instrument: Instrument) -> str:
    """The subject's name in file names: letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]", "", instrument.subject.name)


def stem_of(instrument: Instrument, space: Space, record: MapRecord) -> str:
    """File name of a map up to its suffix: `sub-LABEL[_space-LABEL]_desc-NAME`."""
    where = f"_space-{space.label}" if space.label else ""
    return f"sub-{subject_label(instrument)}{where}_desc-{record.name}"


def open_folder(folder: Path, instrument: Instrument, space: Space) -> Path:
    """Make a derivative's folder, or go on in one that MINE wrote; returns the subject's own folder in it.

    What was added to its description since, such as authors, is kept.

    Raises ConfigError if something else lies there.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _described(folder))):
        raise ConfigError(f"{folder} holds something else than an export of MINE; name an empty or a new folder.")
    inside = folder / f"sub-{subject_label(instrument)}"
    inside.mkdir(parents=True, exist_ok=True)
    source: dict[str, str] = dict(SOURCES.get(instrument.subject.kind, {})) or {"Version": instrument.subject.name}
    described = {
        "Name": "Maps exported from MINE",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "MINE", "Version": version(), "Description": "Encoding models, attribution and counterfactual edits"}],
        "SourceDatasets": [source],
    }
    write_text(folder / DESCRIPTION, json.dumps(_described(folder) | described, indent=2) + "\n")
    write_text(folder / ".bidsignore", IGNORED)
    n = len(instrument.subject.responses.voxels)
    extra = PHANTOM_NOTE if instrument.subject.kind == "phantom" else ""
    config = instrument.config
    whose = f"--subject {config.subject} --seed {config.seed} --backbone {config.backbone}"
    said = README.format(
        subject=instrument.subject.name, n=f"{n:,}", space=space.says, backbone=config.backbone, extra=extra, whose=whose
    )
    write_text(folder / "README.md", said)
    return inside


def _described(folder: Path) -> dict[str, Any]:
    """Description of a folder that MINE wrote; empty for any other."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text())
        return found if found["GeneratedBy"][0]["Name"] == "MINE" else {}
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}


Draw = Callable[[Path], None]


def write_map(
    instrument: Instrument,
    store: ArtifactStore,
    space: Space,
    record: MapRecord,
    folder: Path,
    formats: Sequence[DataFormat],
    pictures: Mapping[str, Draw] | None = None,
) -> Path:
    """Write one map into a derivative's folder in the formats asked for, with its sidecar; returns the sidecar.

    Files appear when they are whole; those of the same map and format that were there before are replaced.

    Parameters
    ----------
    pictures : by ending (`.png`), what draws the map into a file.

    Raises
    ------
    ConfigError
        If the folder holds something else than an export of MINE, or the same map of another encoder.
    SubjectError
        If the subject cannot be written in a format.
    """
    inside = open_folder(folder, instrument, space)
    sources, stem = Sources.of(instrument, space, record), stem_of(instrument, space, record)
    with tempfile.TemporaryDirectory(prefix=".", dir=inside) as scratch:
        made = [path for name in formats for path in write_data(sources, stem, Path(scratch), name)]
        for ending, draw in (pictures or {}).items():
            made.append(Path(scratch) / f"{stem}_flatmap{ending}")
            draw(made[-1])
        sidecar = inside / f"{stem}_statmap.json"
        encoder = str(instrument.model.provenance.get("key", ""))
        before = _kept(sidecar, {path.name for path in made}, record, encoder)
        files = before | {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in made}
        for path in made:
            path.replace(inside / path.name)
    said = _sidecar(instrument, store, space, record) | {"Files": files}
    write_text(sidecar, json.dumps(said | {"Checksum": _checksum(said)}, indent=2, allow_nan=False) + "\n")
    return sidecar


def _kept(sidecar: Path, renewed: set[str], record: MapRecord, encoder: str) -> dict[str, Any]:
    """Files of an earlier export of the same map and values, which stay beside the new ones; others are taken away."""
    if not sidecar.is_file():
        return {}
    try:
        found = read_sidecar(sidecar)
    except ArtifactError:
        return {}
    other = found["Provenance"]["encoder"]["key"]
    if other != encoder:
        raise ConfigError(f"{sidecar.name} is there already, of another encoder ({other}, not {encoder}); name another folder.")
    same = found["Values"]["sha256"] == hash_array(record.values)
    for name in set(found["Files"]) - renewed:
        if not same:
            (sidecar.parent / name).unlink(missing_ok=True)
    return {name: entry for name, entry in found["Files"].items() if same and name not in renewed}


def _sidecar(instrument: Instrument, store: ArtifactStore, space: Space, record: MapRecord) -> dict[str, Any]:
    shown, score = record.shown, instrument.score
    said: dict[str, Any] = {
        "Description": shown.caption,
        "Title": shown.title,
        "Units": shown.unit,
        "Definition": record.definition,
        "Null": record.null,
        "Nature": record.nature,
        "N": {
            "voxels": len(record.values),
            "voxels_with_a_value": int(np.isfinite(record.values).sum()),
            "images": record.n_images,
            **({} if record.n_permutations is None else {"permutations": record.n_permutations}),
        },
        "Reliability": {"held_out_images": score.n_test, "permutations": score.n_permutations, "q": "Benjamini and Yekutieli"},
        "Subject": instrument.subject.name,
        "SubjectKind": instrument.subject.kind,
        "Space": space.says,
        "Affine": None if space.affine is None else space.affine.tolist(),
        "Values": {"dtype": "float32", "sha256": hash_array(record.values)},
        "Columns": COLUMNS,
        "About": dict(record.about),
        "Provenance": provenance(instrument, store),
    }
    return said | ({"Levels": dict(enumerate(shown.categories))} if shown.categories else {})


def _checksum(said: Mapping[str, Any]) -> str:
    return hash_text(canonical_json(json.loads(json.dumps(said))))


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a map's sidecar; raises ArtifactError if it cannot be read or was changed since it was written."""
    try:
        found = json.loads(path.read_text())
        kept = found.pop("Checksum")
        changed = kept != _checksum(found)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{path.name} is no readable sidecar of an export ({error}); export the map again.") from error
    if changed:
        raise ArtifactError(f"{path.name} was changed after it was written: its checksum is not {kept}; export the map again.")
    return found


def read_map(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    """Values of an exported map, one per voxel of `voxels`, exactly as they were written.

    Parameters
    ----------
    path : any data file of the map, beside its sidecar.

    Raises
    ------
    ArtifactError
        If a file is missing, damaged, or was changed after it was written.
    AlignmentError
        If the map is of other voxels.
    """
    sidecar = _sidecar_of(path)
    found = read_sidecar(sidecar)
    if path.name not in found["Files"]:
        raise ArtifactError(f"{path.name} is not among the files that {sidecar.name} names; export the map again.")
    both = [name for name in found["Files"] if _hemisphereless(name) == _hemisphereless(path.name)]
    for name in both:
        _check_file(path.with_name(name), found["Files"][name])
    if found["Provenance"]["voxels"]["sha256"] != hash_array(voxels.flat_index):
        raise AlignmentError(f"{path.name} is of {found['Provenance']['voxels']['n']} other voxels; name the subject it is of.")
    values = read_data(path, voxels)
    if hash_array(values) != found["Values"]["sha256"]:
        raise ArtifactError(f"{path.name} does not hold the values that {sidecar.name} says; export the map again.")
    return values


def _hemisphereless(name: str) -> str:
    return re.sub(r"_hemi-[LR](?=_)", "", name)


def _sidecar_of(path: Path) -> Path:
    return path.with_name(re.sub(r"_statmap\..*$", "_statmap.json", _hemisphereless(path.name)))


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing; export the map again.")
    size, found = path.stat().st_size, hash_file(path)
    if size != entry["bytes"] or found != entry["sha256"]:
        raise ArtifactError(
            f"{path.name}: {size} bytes with SHA-256 {found[:12]} found, {entry['bytes']} with {entry['sha256'][:12]} expected; "
            "it is damaged, export it again."
        )


def check_folder(folder: Path, voxels: VoxelIndex) -> dict[str, dict[str, int]]:
    """Read back every file of an export: by map, how many files were checked and how many voxels have a value.

    Raises ArtifactError at the first file that is missing, damaged or holds other values, AlignmentError if it is of other voxels.
    """
    if not _described(folder):
        raise ArtifactError(f"{folder} is no export of MINE: it has no {DESCRIPTION} that says so; name the folder given to --out.")
    sidecars = sorted(folder.glob("sub-*/*_statmap.json"))
    if not sidecars:
        raise ArtifactError(f"{folder} holds no map; name the folder given to --out.")
    endings = tuple(ending for kinds in ENDINGS.values() for ending in kinds)
    checked = {}
    for sidecar in sidecars:
        said = read_sidecar(sidecar)
        for name, entry in said["Files"].items():
            _check_file(sidecar.with_name(name), entry)
            if name.endswith(endings):
                read_map(sidecar.with_name(name), voxels)
        checked[sidecar.name.removesuffix("_statmap.json")] = {
            "files": len(said["Files"]),
            "voxels_with_a_value": said["N"]["voxels_with_a_value"],
        }
    return checked
