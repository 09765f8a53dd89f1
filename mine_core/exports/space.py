"""Where a subject's voxels lie in the world, as files of other programs say it: a volume with its affine, or an average surface."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet
from mine_core.cortex.s1 import SUBJECT, TRANSFORM, s1_voxels
from mine_core.errors import SubjectError
from mine_core.instrument import Instrument
from mine_core.subjects.custom.cortices import FSAVERAGE
from mine_core.types import VoxelIndex

NATIVE = "native"
UNITS_ONLY = "Its units have no place in a volume or on a surface; write npz, tsv or csv, or a picture."


Kind = Literal["volume", "surface", "units"]


@dataclass(frozen=True)
class Space:
    """Where voxels lie.

    `label` names the space in file names, empty where voxels have no place. `affine` leads from the axes of a NIfTI file
    (i, j, k; pycortex and MINE keep volumes the other way round, [k, j, i]) to mm, None where it is not known or there is no
    volume. `hemisphere` is `L` or `R` for each voxel, empty where it is not known.
    """

    kind: Kind
    label: str
    affine: Float[np.ndarray, "4 4"] | None
    hemisphere: tuple[str, ...]
    says: str


def space_of(instrument: Instrument, cache_dir: Path) -> Space:
    """Find where an instrument's voxels lie; the phantom's affine is that of the reference of pycortex's transform.

    Raises SubjectError if the reference has another shape than the voxels' volume.
    """
    voxels = instrument.subject.responses.voxels
    kind, _ = lies_in(instrument)
    if instrument.subject.kind == "phantom":
        return _phantom(voxels, cache_dir)
    if kind == "surface":
        side = np.asarray(voxels.flat_index) // voxels.grid_shape[1]
        label = _surface_label(instrument)
        says = "vertices of the subject's own surfaces" if label == NATIVE else f"vertices of {label}"
        return Space(kind, label, None, tuple("LR"[number] for number in side), says)
    if kind == "volume":
        return _volume(instrument)
    return Space(kind, "", None, ("",) * len(voxels), "units without a place")


def _surface_label(instrument: Instrument) -> str:
    """Name of the average surface of two hemispheres of vertices; `native` where an import did not say that it is one."""
    said = _imported(instrument).get("cortex")
    if said is not None and said["kind"] != "fsaverage":
        return NATIVE
    return FSAVERAGE.get(instrument.subject.responses.voxels.grid_shape[1], "fsaverage")


def pycortex_of(instrument: Instrument) -> tuple[str, str] | None:
    """Subject and transform of pycortex that a subject's volume is of, or None."""
    if instrument.subject.kind == "phantom":
        return SUBJECT, TRANSFORM
    said = _imported(instrument).get("cortex")
    return (said["subject"], said["transform"]) if said is not None and said["kind"] == "pycortex" else None


def _imported(instrument: Instrument) -> dict[str, Any]:
    return dict(instrument.subject.provenance.get("import", {}))


def lies_in(instrument: Instrument) -> tuple[Kind, bool]:
    """What kind of space a subject's voxels lie in, and whether its affine is known; opens nothing."""
    voxels = instrument.subject.responses.voxels
    if not len(voxels) or (voxels.flat_index < 0).any():
        return "units", False
    if len(voxels.grid_shape) == 2 and voxels.grid_shape[0] == 2:
        return "surface", False
    known = instrument.subject.kind == "phantom" or _imported(instrument).get("affine") is not None
    return ("volume", known) if len(voxels.grid_shape) == 3 else ("units", False)


def _phantom(voxels: VoxelIndex, cache_dir: Path) -> Space:
    with PYCORTEX_LOCK, quiet():
        reference = open_pycortex(cache_dir).db.get_xfm(SUBJECT, TRANSFORM).reference
        affine, shape = np.array(reference.affine, np.float64), tuple(reference.shape)
    if shape[::-1] != tuple(voxels.grid_shape):
        found, wanted = shape[::-1], tuple(voxels.grid_shape)
        raise SubjectError(f"The reference of {SUBJECT}'s transform is {found}, the voxels' volume {wanted}; reinstall pycortex.")
    place = s1_voxels(cache_dir)
    if not np.array_equal(place.index.flat_index, voxels.flat_index):
        raise SubjectError(f"The voxels are not those of the cortex {SUBJECT} in the store; build the subject again.")
    sides = tuple("L" if side < 0 else "R" for side in place.hemisphere)
    return Space("volume", f"{SUBJECT}{TRANSFORM}", affine, sides, f"functional grid '{TRANSFORM}' of pycortex's subject {SUBJECT}")


def _volume(instrument: Instrument) -> Space:
    given, voxels = _imported(instrument).get("affine"), instrument.subject.responses.voxels
    affine = None if given is None else np.array(given, np.float64)
    named = pycortex_of(instrument)
    label = (
        "func1pt8mm" if instrument.subject.kind == "nsd" else NATIVE if named is None else re.sub("[^A-Za-z0-9]", "", "".join(named))
    )
    return Space("volume", label, affine, ("",) * len(voxels), f"functional grid of {voxels.subject}")


def grid_places(voxels: VoxelIndex) -> Int[np.ndarray, "voxel 3"]:
    """Columns i, j, k of a NIfTI file for voxels kept as [k, j, i]."""
    return np.stack(np.unravel_index(voxels.flat_index, voxels.grid_shape), axis=1)[:, ::-1]


def in_mm(space: Space, voxels: VoxelIndex) -> Float[np.ndarray, "voxel 3"]:
    """Centres of voxels in mm of the reference, affine @ (i, j, k, 1); NaN where the affine is not known."""
    if space.affine is None:
        return np.full((len(voxels), 3), np.nan)
    return grid_places(voxels) @ space.affine[:3, :3].T + space.affine[:3, 3]


def require_volume(space: Space) -> Float[np.ndarray, "4 4"]:
    """Affine of a volume; raises SubjectError for a space without one, saying what can be written instead."""
    if space.kind == "surface":
        raise SubjectError("Its voxels are vertices of a surface, not of a volume: NIfTI was asked for; write gifti, npz, tsv or csv.")
    if space.kind == "units":
        raise SubjectError(f"NIfTI was asked for. {UNITS_ONLY}")
    if space.affine is None:
        raise SubjectError(
            "NIfTI was asked for; the affine of its volume was not kept when it was imported. Import it again, or write npz or tsv."
        )
    return space.affine


def require_surface(space: Space) -> None:
    """Refuse a space that is no surface; raises SubjectError saying what can be written instead."""
    if space.kind == "volume":
        raise SubjectError("Its voxels are of a volume, not vertices of a surface: GIFTI was asked for; write nifti, npz, tsv or csv.")
    if space.kind == "units":
        raise SubjectError(f"GIFTI was asked for. {UNITS_ONLY}")
