"""One edit as a zip: the image before and after, the mask, the shift of every voxel, the controls, and where all of it comes from."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mine_core.artifacts import ArtifactStore, canonical_json, hash_array, hash_text
from mine_core.errors import AlignmentError, ArtifactError
from mine_core.exports.files import MISSING
from mine_core.exports.pictures import picture_bytes, shift_chart
from mine_core.exports.provenance import jsonable, provenance, require_agreement
from mine_core.exports.records import edit_label
from mine_core.instrument import Instrument
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.types import PredictedShift

RECORD = "provenance.json"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip, so that the same edit gives the same bytes."""
COLUMNS = {
    "voxel": "number of the voxel in MINE, counted from 0",
    "regions": "names of the regions that hold it, joined by ' | '",
    "r": "held-out accuracy of the encoder",
    "q": "false discovery q of r",
    "reliable": "yes where r >= 0.15 and q <= 0.05: read nothing into the shift of another",
    "before": "predicted response to the image, SD of the voxel's predictions",
    "after": "predicted response to the edited image",
    "shift": "after less before",
    "rank": "place of the shift among itself and its controls, 1 is beyond all",
    "p": "rank / (1 + controls), one-sided in the edit's direction",
    "check_shift": "shift as a second encoder predicts it, which took no part in the edit",
    "check_rank": "its rank",
    "check_p": "its p",
}
README = """# An edit from MINE

`original.png`, `edited.png`: the image before and after. `mask.png`: white where pixels may change.
`shift.tsv`: every voxel's predicted shift, its rank among matched control edits, and p. `controls.tsv`: every control edit's shift of
voxel {voxel}; `controls.npz`: of all voxels, controls by voxels. `shift.svg`, `shift.png`: voxel {voxel} beside its controls.
`provenance.json`: what was asked, who made it, from what, and the SHA-256 of every file.

{what} All shifts are predictions of an encoding model, not measurements of a brain.
"""


@dataclass(frozen=True)
class ReadEdit:
    """An exported edit read back: images, mask, shifts of all voxels and of every control, and its provenance."""

    original: UInt8[np.ndarray, "height width 3"]
    edited: UInt8[np.ndarray, "height width 3"]
    edit_mask: Bool[np.ndarray, "height width"]
    shift: Float[np.ndarray, " voxel"]
    controls: Float[np.ndarray, "control voxel"]
    provenance: Mapping[str, Any]


def edit_zip(
    instrument: Instrument, store: ArtifactStore, request: EditRequest, trial: Trial, *, agreement: str | None = None
) -> bytes:
    """Pack an edit and everything that was predicted of it into the bytes of a zip.

    Parameters
    ----------
    agreement : name of the data agreement that allows images of a restricted dataset to be handed on; None for other subjects.

    Raises
    ------
    ConfigError
        If the images are of the Natural Scenes Dataset and its agreement was not named.
    AlignmentError
        If the trial is of other voxels than the instrument.
    """
    require_agreement(instrument.subject.kind, agreement)
    if len(trial.shift.shift) != len(instrument.score.r):
        n_shifted, n_voxels = len(trial.shift.shift), len(instrument.score.r)
        raise AlignmentError(f"The edit shifts {n_shifted} voxels, the subject has {n_voxels}; make the edit again.")
    edit, voxel = trial.edit, request.voxel
    chart = shift_chart(trial.shift, voxel, f"{edit.instruction}, image {request.stimulus}")
    files = {
        "original.png": _png(edit.original),
        "edited.png": _png(edit.edited),
        "mask.png": _png(np.where(edit.edit_mask, 255, 0).astype(np.uint8)),
        "shift.tsv": _tsv(shift_table(instrument, trial)),
        "controls.tsv": _tsv(control_table(trial, voxel)),
        "controls.npz": _npz(trial),
        "shift.svg": picture_bytes(chart, "svg"),
        "shift.png": picture_bytes(chart, "png"),
        "README.md": README.format(voxel=voxel, what=f"{edit.instruction[:1].upper()}{edit.instruction[1:]}.").encode(),
    }
    record = edit_record(instrument, store, request, trial) | {
        "columns": COLUMNS,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    said = jsonable(record)
    files[RECORD] = (json.dumps(said | {"checksum": hash_text(canonical_json(said))}, indent=2, allow_nan=False) + "\n").encode()
    return packed(files)


def edit_name(instrument: Instrument, request: EditRequest, trial: Trial) -> str:
    """File name of an edit's zip."""
    return f"edit-{instrument.subject.name}-{edit_label(request, trial)}.zip"


def edit_record(instrument: Instrument, store: ArtifactStore, request: EditRequest, trial: Trial) -> dict[str, Any]:
    """Where an edit comes from: what was asked, who made it and how, which encoder guided and which checked, and what both are."""
    edit, shift = trial.edit, trial.shift
    return {
        "instruction": edit.instruction,
        "request": {
            "kind": request.kind,
            "voxel": request.voxel,
            "stimulus": request.stimulus,
            "stimulus_id": instrument.subject.stimuli.ids[request.stimulus],
            "word": request.word,
            "place": request.place,
            "region": "drawn" if request.region is not None else "found",
        },
        "editor": {"name": edit.editor, "seed": edit.seed, "preset": request.editor, **dict(edit.provenance)},
        "mask_sha256": hash_array(edit.edit_mask),
        "original_sha256": hash_array(edit.original),
        "edited_sha256": hash_array(edit.edited),
        "changed_outside_mask": edit.changed_outside_mask,
        "verified": edit.verified,
        "guided_by": shift.guided_by,
        "checked_by": None if trial.check is None else trial.check.checked_by,
        "n_controls": len(shift.control_names),
        "controls": trial.control_note,
        "instant_estimate": trial.instant,
        "units": "SD of each voxel's predictions over training images",
        "nature": "predictions of an encoding model, not measurements of a brain",
        "of": provenance(instrument, store),
    }


def shift_table(instrument: Instrument, trial: Trial) -> pd.DataFrame:
    """One row a voxel, none left out: accuracy, prediction before and after, shift, rank and p, and the second encoder's."""
    voxels, score, shift = instrument.subject.responses.voxels, instrument.score, trial.shift
    columns: dict[str, Any] = {
        "voxel": np.arange(len(voxels)),
        "regions": [" | ".join(voxels.region_names(voxel)) or MISSING for voxel in range(len(voxels))],
        "r": _exact(score.r),
        "q": _exact(score.q),
        "reliable": np.where(instrument.reliable, "yes", "no"),
        "before": _exact(shift.before),
        "after": _exact(shift.after),
        **_shifted(shift, ""),
        **({} if trial.check is None else _shifted(trial.check, "check_")),
    }
    return pd.DataFrame(columns)


def _shifted(shift: PredictedShift, prefix: str) -> dict[str, Any]:
    return {f"{prefix}shift": _exact(shift.shift), f"{prefix}rank": shift.rank, f"{prefix}p": _exact(shift.p)}


def control_table(trial: Trial, voxel: int) -> pd.DataFrame:
    """One row a control edit: its kind, and its shift of one voxel by the first encoder and by the second."""
    shift = trial.shift
    columns: dict[str, Any] = {
        "control": np.arange(len(shift.control_names)),
        "kind": list(shift.control_names),
        "voxel": voxel,
        "shift": _exact(shift.controls[:, voxel]),
    }
    if trial.check is not None:
        columns["check_shift"] = _exact(trial.check.controls[:, voxel])
    return pd.DataFrame(columns)


def _exact(values: np.ndarray) -> list[str]:
    """Numbers as text that reads back to the same float64."""
    return [MISSING if np.isnan(value) else repr(float(value)) for value in values]


def _tsv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, sep="\t", lineterminator="\n").encode()


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _npz(trial: Trial) -> bytes:
    stream = io.BytesIO()
    arrays = {"controls": trial.shift.controls, "names": np.array(trial.shift.control_names, dtype=np.str_)}
    if trial.check is not None:
        arrays["check_controls"] = trial.check.controls
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def packed(files: Mapping[str, bytes]) -> bytes:
    """Files by name as the bytes of a zip."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def read_edit(source: Path | bytes) -> ReadEdit:
    """Read an exported edit back, every file checked; raises ArtifactError if one is missing, damaged or was changed."""
    name = source.name if isinstance(source, Path) else "The zip"
    try:
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
        record = json.loads(files.pop(RECORD))
        kept = record.pop("checksum")
        whole = kept == hash_text(canonical_json(record))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise ArtifactError(f"{name} is no whole export of an edit ({error}); export it again.") from error
    except Exception as error:
        if type(error).__name__ != "error":  # of zlib
            raise
        raise ArtifactError(f"{name} is damaged ({error}); export it again.") from error
    wrong = [entry for entry, digest in record["files"].items() if hashlib.sha256(files.get(entry, b"")).hexdigest() != digest]
    if wrong or not whole:
        raise ArtifactError(f"{name}: {wrong[0] if wrong else RECORD} was changed after it was written; export the edit again.")
    table = pd.read_csv(io.BytesIO(files["shift.tsv"]), sep="\t", dtype=str, keep_default_na=False)
    with np.load(io.BytesIO(files["controls.npz"]), allow_pickle=False) as stored:
        controls = stored["controls"]
    return ReadEdit(
        original=_picture(files["original.png"]),
        edited=_picture(files["edited.png"]),
        edit_mask=_picture(files["mask.png"]) > 0,
        shift=np.array([np.nan if text == MISSING else float(text) for text in table["shift"]]),
        controls=controls,
        provenance=record,
    )


def _picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))
