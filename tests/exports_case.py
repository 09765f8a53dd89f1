"""Subjects whose voxels lie in a volume or on two surfaces, made of the small instrument, and maps of them."""

from dataclasses import replace

import numpy as np

from mine_core.exports.derivative import write_map
from mine_core.exports.files import fitting_formats
from mine_core.exports.maps import CortexMap
from mine_core.exports.records import WITHHELD, MapRecord, score_record
from mine_core.exports.space import space_of

GRID = (4, 6, 5)  # z, y, x: all different, so that no two axes can change places unseen
AFFINE = np.array([[-1.5, 0.25, 0.0, 31.25], [0.125, 2.0, -0.375, -17.5], [0.0, 0.25, 3.0, 8.125], [0, 0, 0, 1]])  # exact in float32
SURFACE = (2, 60)


def placed(instrument, grid, flat_index, **more):
    """The instrument with its voxels somewhere else."""
    responses = instrument.subject.responses
    voxels = replace(responses.voxels, grid_shape=grid, flat_index=flat_index)
    return replace(instrument, subject=replace(instrument.subject, responses=replace(responses, voxels=voxels), **more))


def in_volume(instrument, rng):
    flat_index = np.sort(rng.choice(np.prod(GRID), len(instrument.score.r), replace=False))
    return placed(instrument, GRID, flat_index, kind="nsd", provenance={"import": {"affine": AFFINE.tolist()}})


def on_surface(instrument, rng):
    flat_index = np.sort(rng.choice(np.prod(SURFACE), len(instrument.score.r), replace=False))
    return placed(instrument, SURFACE, flat_index, kind="algonauts", provenance={})


def record_of(values) -> MapRecord:
    shown = CortexMap("Planted", values, 0.0, 1.0, False, "unit", "Planted; n = 32.")
    return MapRecord("planted", shown, "planted", "none", "made up", tuple("" if np.isfinite(v) else WITHHELD for v in values), 7)


def awkward(rng, n: int) -> np.ndarray:
    """Numbers that text and rounding are worst for, some withheld."""
    values = (rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)).astype(np.float32)
    values[:4] = [0.1, np.nextafter(np.float32(1), np.float32(2)), -0.0, np.finfo(np.float32).tiny]
    values[rng.random(n) < 0.2] = np.nan
    return values


def exported(instrument, small, tmp_path, formats=None):
    space = space_of(instrument, tmp_path)
    folder = tmp_path / "out"
    write_map(instrument, small.store, space, score_record(instrument, "accuracy"), folder, formats or fitting_formats(space))
    return folder


def data_files(folder):
    return sorted(path for path in folder.glob("sub-*/*") if path.suffix != ".json")
