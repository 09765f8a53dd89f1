"""A subject as plain files in one directory: npy for arrays, JSON for the rest, memory-mapped when read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import canonical_json, write_text
from mine_core.errors import SubjectError
from mine_core.types import Responses, Splits, StimulusSet, Subject, VoxelIndex

RECORD = "subject.json"
FORMAT = 1
BLOCK = 256
SPLIT_NAMES = ("train", "validation", "test")


def save_subject(directory: Path, subject: Subject) -> None:
    """Write a subject into a directory that exists.

    `images.npy` uint8, `values.npy` float32, `repeats.npy` float16 or float32 (where there are repeats), `flat_index.npy`,
    `membership.npy`, `noise_ceiling.npy` (where it is known) and `subject.json`. An array that is already a memory map of
    its own target file is flushed and left where it is, so that a large subject can be made in place.

    Raises SubjectError if the subject contradicts itself (see `check_subject`), if an array has a dtype that would have to
    be narrowed, or if a response is not finite.
    """
    check_subject(subject)
    check_finite(subject)
    for name, array in _arrays(subject):
        _write_array(directory / f"{name}.npy", array)
    write_text(directory / RECORD, canonical_json(_record(subject)))


def load_subject(directory: Path) -> Subject:
    """Open a subject written by `save_subject`; its arrays are read-only and the large ones memory-mapped.

    Raises SubjectError if the directory holds no readable subject, or one that contradicts itself.
    """
    record = _read_record(directory)
    ids = tuple(record["stimulus_ids"])
    voxels = VoxelIndex(
        subject=record["voxel_subject"],
        flat_index=_read_array(directory, "flat_index"),
        grid_shape=tuple(record["grid_shape"]),
        regions=tuple(record["regions"]),
        membership=_read_array(directory, "membership"),
    )
    captions = tuple(tuple(sentences) for sentences in record["captions"])
    subject = Subject(
        name=record["name"],
        kind=record["kind"],
        stimuli=StimulusSet(ids, _read_array(directory, "images"), captions, record["caption_source"]),
        responses=Responses(
            values=_read_array(directory, "values"),
            repeats=_read_array(directory, "repeats") if record["has_repeats"] else None,
            stimulus_ids=ids,
            voxels=voxels,
            units=record["units"],
        ),
        splits=Splits(**{name: _positions(record["splits"][name]) for name in SPLIT_NAMES}),
        cortex=record["cortex"],
        noise_ceiling=_read_array(directory, "noise_ceiling") if record["has_noise_ceiling"] else None,
        provenance=record["provenance"],
    )
    check_subject(subject)
    return subject


def check_subject(subject: Subject) -> None:
    """Refuse a subject that contradicts itself: raises SubjectError naming the first contradiction.

    Stimulus ids are unique and the same for images and responses, in the same order; there is one (perhaps empty) tuple of
    captions per stimulus; arrays have the dtypes and shapes of the store; splits are disjoint positions of stimuli.
    """
    _check_ids(subject)
    _check_arrays(subject)
    _check_voxels(subject)
    _check_splits(subject)


def check_finite(subject: Subject) -> None:
    """Refuse responses that are not numbers: raises SubjectError with the place of the first.

    A repeat may be NaN (that showing did not take place); the average over repeats, and the noise ceiling, may not.
    """
    values = subject.responses.values
    for start in range(0, len(values), BLOCK):
        bad = np.argwhere(~np.isfinite(values[start : start + BLOCK]))
        if len(bad):
            stimulus, voxel = bad[0] + (start, 0)
            raise SubjectError(
                f"The response of voxel {voxel} to stimulus '{subject.stimuli.ids[stimulus]}' is "
                f"{values[stimulus, voxel]}; responses must be finite. Leave out the voxel or the stimulus."
            )
    ceiling = subject.noise_ceiling
    if ceiling is not None and not ((ceiling >= 0) & (ceiling <= 1)).all():
        raise SubjectError(
            f"Noise ceilings run from {ceiling.min():g} to {ceiling.max():g}; they are shares of variance, 0 to 1 "
            "(divide percentages by 100, leave out voxels without one)."
        )


def _check_ids(subject: Subject) -> None:
    ids, answered = subject.stimuli.ids, subject.responses.stimulus_ids
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise SubjectError(f"{len(ids) - len(set(ids))} stimulus ids occur twice (first: '{twice}'); each needs its own.")
    if ids != answered:
        only = sorted(set(ids) ^ set(answered))
        raise SubjectError(
            f"There are {len(ids)} images and responses to {len(answered)} stimuli; "
            + (f"{len(only)} ids have only one of the two (first: '{only[0]}')." if only else "their orders differ.")
            + " Put them in one order."
        )
    if len(subject.stimuli.captions) != len(ids):
        raise SubjectError(
            f"{len(subject.stimuli.captions)} sets of captions for {len(ids)} stimuli; give one for each (it may be empty)."
        )


def _check_arrays(subject: Subject) -> None:
    n_stimuli, n_voxels = len(subject.stimuli.ids), len(subject.responses.voxels)
    images, values, repeats = subject.stimuli.images, subject.responses.values, subject.responses.repeats
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise SubjectError(
            f"Images are {images.dtype} of shape {images.shape}; expected uint8 [stimulus, size, size, 3], square and RGB."
        )
    if len(images) != n_stimuli:
        raise SubjectError(f"{len(images)} images for {n_stimuli} stimulus ids; give one image per id.")
    if values.dtype != np.float32 or values.shape != (n_stimuli, n_voxels):
        raise SubjectError(
            f"Responses are {values.dtype} of shape {values.shape}; expected float32 [stimulus, voxel] = "
            f"({n_stimuli}, {n_voxels}). Convert or transpose them first."
        )
    if repeats is not None and (
        repeats.dtype not in (np.float16, np.float32) or repeats.ndim != 3 or repeats.shape[1:] != values.shape
    ):
        raise SubjectError(
            f"Repeats are {repeats.dtype} of shape {repeats.shape}; expected float16 or float32 [repeat, stimulus, voxel] = "
            f"(n, {n_stimuli}, {n_voxels})."
        )


def _check_voxels(subject: Subject) -> None:
    voxels, ceiling = subject.responses.voxels, subject.noise_ceiling
    n_voxels = len(voxels)
    if voxels.membership.dtype != np.bool_ or voxels.membership.shape != (len(voxels.regions), n_voxels):
        raise SubjectError(
            f"Region membership is {voxels.membership.dtype} of shape {voxels.membership.shape}; expected bool "
            f"[region, voxel] = ({len(voxels.regions)}, {n_voxels})."
        )
    if len(set(voxels.regions)) != len(voxels.regions):
        raise SubjectError(f"Region names occur twice in {', '.join(voxels.regions)}; give each region its own.")
    placed = voxels.flat_index[voxels.flat_index >= 0]
    if len(np.unique(placed)) != len(placed) or (len(placed) and placed.max() >= np.prod(voxels.grid_shape)):
        raise SubjectError(
            f"{len(placed)} voxels have a place in the volume {voxels.grid_shape}, {len(np.unique(placed))} of them distinct, "
            f"the largest {placed.max()}; places must be distinct and inside the volume."
        )
    if ceiling is not None and ceiling.shape != (n_voxels,):
        raise SubjectError(f"Noise ceilings have shape {ceiling.shape}; expected one per voxel, ({n_voxels},).")


def _check_splits(subject: Subject) -> None:
    n_stimuli = len(subject.stimuli.ids)
    owner: dict[int, str] = {}
    for name in SPLIT_NAMES:
        positions = getattr(subject.splits, name)
        if len(positions) and not (positions.min() >= 0 and positions.max() < n_stimuli):
            raise SubjectError(
                f"The {name} split holds positions {positions.min()} to {positions.max()}; stimuli are 0 to {n_stimuli - 1}."
            )
        for position in positions.tolist():
            if position in owner:
                raise SubjectError(
                    f"Stimulus '{subject.stimuli.ids[position]}' is in the {owner[position]} and the {name} split; "
                    "a stimulus belongs to one split, once."
                )
            owner[position] = name


def _arrays(subject: Subject) -> Iterator[tuple[str, np.ndarray]]:
    yield "images", subject.stimuli.images
    yield "values", subject.responses.values
    yield "flat_index", subject.responses.voxels.flat_index
    yield "membership", subject.responses.voxels.membership
    if subject.responses.repeats is not None:
        yield "repeats", subject.responses.repeats
    if subject.noise_ceiling is not None:
        yield "noise_ceiling", subject.noise_ceiling


def _record(subject: Subject) -> dict[str, Any]:
    voxels = subject.responses.voxels
    return {
        "format": FORMAT,
        "name": subject.name,
        "kind": subject.kind,
        "cortex": subject.cortex,
        "stimulus_ids": list(subject.stimuli.ids),
        "captions": [list(sentences) for sentences in subject.stimuli.captions],
        "caption_source": subject.stimuli.caption_source,
        "units": subject.responses.units,
        "voxel_subject": voxels.subject,
        "grid_shape": [int(length) for length in voxels.grid_shape],
        "regions": list(voxels.regions),
        "splits": {name: getattr(subject.splits, name).tolist() for name in SPLIT_NAMES},
        "has_repeats": subject.responses.repeats is not None,
        "has_noise_ceiling": subject.noise_ceiling is not None,
        "provenance": dict(subject.provenance),
    }


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / RECORD
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SubjectError(f"No readable subject at {path} ({error}); build or import it again.") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise SubjectError(f"{path} has format {found}, this version reads {FORMAT}; build or import the subject again.")
    return record


def _write_array(path: Path, array: np.ndarray) -> None:
    if isinstance(array, np.memmap) and array.filename is not None and Path(array.filename).resolve() == path.resolve():
        array.flush()
    else:
        np.save(path, array, allow_pickle=False)


def _read_array(directory: Path, name: str) -> np.ndarray:
    path = directory / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path} cannot be read ({error}); build or import the subject again.") from error


def _positions(listed: list[int]) -> np.ndarray:
    positions = np.array(listed, dtype=np.int64)
    positions.flags.writeable = False
    return positions
