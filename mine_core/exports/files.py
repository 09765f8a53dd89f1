"""One map in one file, and back: NIfTI, GIFTI, npz, TSV and CSV, each exact to the last bit of float32."""

import contextlib
import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32

from mine_core.errors import AlignmentError, ArtifactError, ConfigError
from mine_core.exports.maps import cortex_map
from mine_core.exports.records import MapRecord
from mine_core.exports.space import Kind, Space, grid_places, in_mm, require_surface, require_volume
from mine_core.instrument import Instrument
from mine_core.types import VoxelIndex

DataFormat = Literal["nifti", "gifti", "npz", "tsv", "csv"]
DATA_FORMATS: tuple[DataFormat, ...] = get_args(DataFormat)
ENDINGS: dict[DataFormat, tuple[str, ...]] = {
    "nifti": (".nii.gz",),
    "gifti": (".func.gii",),
    "npz": (".npz",),
    "tsv": (".tsv",),
    "csv": (".csv",),
}
MISSING = "n/a"
STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}
COLUMNS = {
    "voxel": "number of the voxel in MINE, counted from 0",
    "hemisphere": "L or R",
    "i": "first axis of the NIfTI volume, counted from 0",
    "j": "second axis",
    "k": "third axis",
    "x": "mm, affine of the reference",
    "y": "mm, affine of the reference",
    "z": "mm, affine of the reference",
    "vertex": "vertex of its hemisphere, counted from 0",
    "regions": "names of the regions that hold the voxel, joined by ' | '",
    "r": "Pearson r of predicted and measured responses, held-out images",
    "noise_ceiling": "share of variance that repeats could explain",
    "normalised_accuracy": "held-out R2 over the noise ceiling, where the ceiling is at least 0.1",
    "q": "false discovery q of r",
    "reliable": "yes where the voxel is predicted above chance (r >= 0.15 and q <= 0.05), and something may be said of it",
    "withheld": "why there is no value; n/a where there is one",
    "value": "the map's value",
    "label": "the value's name, of a map of groups",
}


@dataclass(frozen=True)
class Sources:
    """What every file of a map is made of: the map, where its voxels lie, which they are, and how well they are predicted."""

    record: MapRecord
    space: Space
    voxels: VoxelIndex
    scores: dict[str, Float32[np.ndarray, " voxel"]]
    reliable: Bool[np.ndarray, " voxel"]

    @classmethod
    def of(cls, instrument: Instrument, space: Space, record: MapRecord) -> "Sources":
        """Gather them; raises AlignmentError if the map has another number of voxels than the subject."""
        voxels, score = instrument.subject.responses.voxels, instrument.score
        if len(record.values) != len(voxels):
            raise AlignmentError(f"The map has {len(record.values)} values, the subject {len(voxels)} voxels; make it of this subject.")
        normalised = cortex_map(instrument, "normalised", -1).values
        scores = {"r": score.r, "noise_ceiling": score.noise_ceiling, "normalised_accuracy": normalised, "q": score.q}
        kept = {name: np.asarray(values, np.float32) for name, values in scores.items()}
        return cls(record, space, voxels, kept, np.asarray(instrument.reliable))


def fitting_formats(space: Space) -> tuple[DataFormat, ...]:
    """Formats that voxels of this space can be written in."""
    return formats_in(space.kind, space.affine is not None)


def formats_in(kind: Kind, affine_known: bool) -> tuple[DataFormat, ...]:
    """Formats that voxels of a kind of space can be written in."""
    there = {"nifti": kind == "volume" and affine_known, "gifti": kind == "surface"}
    return tuple(name for name in DATA_FORMATS if there.get(name, True))


def require_format(name: str, space: Space) -> DataFormat:
    """Refuse a format that is unknown (ConfigError) or that this space cannot be written in (SubjectError)."""
    if name not in DATA_FORMATS:
        raise ConfigError(f"There is no format '{name}'; data are written as {', '.join(DATA_FORMATS)}.")
    if name == "nifti":
        require_volume(space)
    if name == "gifti":
        require_surface(space)
    return name  # type: ignore[return-value]


def write_data(sources: Sources, stem: str, folder: Path, name: DataFormat) -> tuple[Path, ...]:
    """Write one format of a map into a folder; returns the files. `stem` is the file name up to its suffix."""
    require_format(name, sources.space)
    if name == "gifti":
        return tuple(_write_gifti(sources, _of_hemisphere(stem, side, folder), side) for side in STRUCTURES)
    target = folder / f"{stem}_statmap{ENDINGS[name][0]}"
    if name == "nifti":
        _write_nifti(sources, target)
    elif name == "npz":
        _write_npz(sources, target)
    else:
        separator = "\t" if name == "tsv" else ","
        target.write_text(voxel_table(sources).to_csv(index=False, sep=separator, na_rep=MISSING, lineterminator="\n"))
    return (target,)


def volume_of(sources: Sources) -> Float32[np.ndarray, "z y x"]:
    """The map in its volume [k, j, i], NaN where no voxel is or none has a value."""
    volume = np.full(sources.voxels.grid_shape, np.nan, np.float32)
    volume.reshape(-1)[sources.voxels.flat_index] = sources.record.values
    return volume


def _write_nifti(sources: Sources, target: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(volume_of(sources).T, require_volume(sources.space))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"MINE {sources.record.name}"[:79].encode("ascii", "replace")
    nibabel.save(image, target)


def _of_hemisphere(stem: str, side: str, folder: Path) -> Path:
    subject, rest = stem.split("_", 1)
    return folder / f"{subject}_hemi-{side}_{rest}_statmap{ENDINGS['gifti'][0]}"


def _write_gifti(sources: Sources, target: Path, side: str) -> Path:
    import nibabel

    values = np.full(sources.voxels.grid_shape, np.nan, np.float32)
    values.reshape(-1)[sources.voxels.flat_index] = sources.record.values
    array = nibabel.gifti.GiftiDataArray(values["LR".index(side)], intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
    array.meta["Name"] = sources.record.shown.title
    image = nibabel.gifti.GiftiImage(darrays=[array])
    image.meta["AnatomicalStructurePrimary"] = STRUCTURES[side]
    nibabel.save(image, target)
    return target


def _write_npz(sources: Sources, target: Path) -> None:
    voxels, space = sources.voxels, sources.space
    arrays: dict[str, Any] = {
        "values": sources.record.values,
        "voxel": np.arange(len(voxels), dtype=np.int64),
        "flat_index": np.asarray(voxels.flat_index, np.int64),
        "grid_shape": np.array(voxels.grid_shape, np.int64),
        "withheld": np.array([bool(reason) for reason in sources.record.withheld]),
        "reliable": sources.reliable,
        "regions": np.array(voxels.regions, dtype=np.str_),
        "membership": np.asarray(voxels.membership, np.bool_),
        **sources.scores,
    }
    if space.affine is not None:
        arrays["affine"] = space.affine
    np.savez_compressed(target, allow_pickle=False, **arrays)


def voxel_table(sources: Sources) -> pd.DataFrame:
    """One row a voxel, none left out: where it lies, how well it is predicted, why it is withheld, its value as text that is exact."""
    voxels, space, record = sources.voxels, sources.space, sources.record
    columns: dict[str, Any] = {"voxel": np.arange(len(voxels))}
    if any(space.hemisphere):
        columns["hemisphere"] = list(space.hemisphere)
    if space.kind == "volume":
        columns |= dict(zip("ijk", grid_places(voxels).T, strict=True))
        columns |= {axis: exact(mm) for axis, mm in zip("xyz", in_mm(space, voxels).T, strict=True)}
    if space.kind == "surface":
        columns["vertex"] = np.asarray(voxels.flat_index) % voxels.grid_shape[1]
    columns["regions"] = [" | ".join(voxels.region_names(voxel)) or MISSING for voxel in range(len(voxels))]
    columns |= {name: exact(values) for name, values in sources.scores.items()}
    columns["reliable"] = np.where(sources.reliable, "yes", "no")
    columns["withheld"] = [reason or MISSING for reason in record.withheld]
    columns["value"] = exact(record.values)
    if record.shown.categories:
        columns["label"] = [MISSING if np.isnan(v) else record.shown.categories[int(v)] for v in record.values]
    return pd.DataFrame(columns)


def exact(values: Float[np.ndarray, " voxel"]) -> list[str]:
    """Numbers in nine digits, which is what it takes for text to be read back to the same float32."""
    return [MISSING if np.isnan(value) else f"{value:.9g}" for value in np.asarray(values, np.float32)]


def read_data(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    """Values of a map, one per voxel, as they were written; of GIFTI give either hemisphere's file, both are read.

    Raises
    ------
    ArtifactError
        If the file cannot be read.
    AlignmentError
        If it speaks of other voxels, or holds a value where no voxel is.
    """
    readers: dict[str, Callable[[Path, VoxelIndex], Float32[np.ndarray, " voxel"]]] = {
        ".nii.gz": _read_nifti,
        ".func.gii": _read_gifti,
        ".npz": _read_npz,
        ".tsv": _read_table,
        ".csv": _read_table,
    }
    for ending, read in readers.items():
        if path.name.endswith(ending):
            with _whole(path):
                return read(path, voxels)
    raise ConfigError(f"{path.name} is no map of an export; those end in {', '.join(readers)}.")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read that it is damaged."""
    import nibabel

    broken = (OSError, EOFError, ValueError, KeyError, SyntaxError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
    try:
        yield
    except (*broken, nibabel.filebasedimages.ImageFileError) as error:
        raise ArtifactError(f"{path.name} cannot be read ({error}); it is damaged, export it again.") from error
    except Exception as error:
        if type(error).__module__ != "xml.parsers.expat":
            raise
        raise ArtifactError(f"{path.name} cannot be read ({error}); it is damaged, export it again.") from error


def _read_nifti(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    import nibabel

    image: Any = nibabel.load(path)
    return _placed(np.asarray(image.dataobj).T, voxels, path)


def _read_gifti(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    import nibabel

    halves = []
    for side in STRUCTURES:
        image: Any = nibabel.load(path.with_name(path.name.replace("_hemi-L_", f"_hemi-{side}_").replace("_hemi-R_", f"_hemi-{side}_")))
        halves.append(np.asarray(image.darrays[0].data))
    return _placed(np.stack(halves), voxels, path)


def _placed(values: np.ndarray, voxels: VoxelIndex, path: Path) -> Float32[np.ndarray, " voxel"]:
    """Values at the voxels of an array of the whole grid."""
    if values.shape != tuple(voxels.grid_shape):
        raise AlignmentError(f"{path.name} is of shape {values.shape}, the voxels of {voxels.grid_shape}; it is of another subject.")
    outside: Bool[np.ndarray, " place"] = np.isfinite(values).reshape(-1).copy()
    outside[voxels.flat_index] = False
    if outside.any():
        raise AlignmentError(f"{path.name} holds {int(outside.sum())} values where no voxel of this subject is; name its own.")
    return values.reshape(-1)[voxels.flat_index].astype(np.float32, copy=False)


def _read_npz(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    with np.load(path, allow_pickle=False) as stored:
        values, places, shape = stored["values"], stored["flat_index"], tuple(stored["grid_shape"].tolist())
    if not np.array_equal(places, voxels.flat_index) or shape != tuple(voxels.grid_shape):
        raise AlignmentError(f"{path.name} speaks of {len(places)} voxels in {shape}; this subject has others. Name its own subject.")
    return values


def _read_table(path: Path, voxels: VoxelIndex) -> Float32[np.ndarray, " voxel"]:
    table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", keep_default_na=False, dtype=str)
    wrong = len(table) != len(voxels) or not np.array_equal(table["voxel"].astype(np.int64), np.arange(len(voxels)))
    if not wrong and "i" in table:
        wrong = not np.array_equal(table[["i", "j", "k"]].astype(np.int64).to_numpy(), grid_places(voxels))
    if not wrong and "vertex" in table:
        wrong = not np.array_equal(table["vertex"].astype(np.int64), voxels.flat_index % voxels.grid_shape[1])
    if wrong:
        raise AlignmentError(f"{path.name} has {len(table)} rows, not of this subject's {len(voxels)} voxels; name its own subject.")
    return np.array([np.nan if text == MISSING else np.float32(text) for text in table["value"]], np.float32)
