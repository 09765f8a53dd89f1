"""A subject of one's own images and responses: read, matched, checked, and either whole or refused."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from mine_core.artifacts import hash_array, hash_text
from mine_core.errors import SubjectError
from mine_core.subjects.custom.beside import Beside, read_beside
from mine_core.subjects.custom.cortices import CheckCortex, CortexChoice, CortexKind, choose_cortex, places_on
from mine_core.subjects.custom.images import Progress, list_images, never, read_images, silent
from mine_core.subjects.custom.large import IN_MEMORY, Scratch
from mine_core.subjects.custom.limits import composed, counted, quoted
from mine_core.subjects.custom.mapper import Mapper, read_mapper
from mine_core.subjects.custom.matching import ImageOrder, Matching, match
from mine_core.subjects.custom.places import MaskOrder
from mine_core.subjects.custom.recording import FilesAre, read_recording
from mine_core.subjects.custom.responses import Places, ResponseTable, refuse_infinite
from mine_core.subjects.custom.selection import Kept, Measured, keep_complete, measure, picked
from mine_core.subjects.custom.sources import Source, Sources, fingerprint, fingerprints, label, labels
from mine_core.subjects.custom.splits import check_leaks, draw_splits, group_identical, keep_stimuli
from mine_core.subjects.custom.tables import read_ids
from mine_core.subjects.custom.voxels import check_ceiling
from mine_core.types import Responses, Splits, StimulusSet, Subject, VoxelIndex

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
BUILT_IN = frozenset({"phantom"})


def nothing_to_check(choice: CortexChoice, places: Places | None) -> tuple[str, ...]:  # noqa: ARG001
    """Take a cortex as it was named."""
    return ()


def import_subject(
    name: str,
    images: Source,
    responses: Sources,
    response_axes: Sequence[str] = (),
    *,
    mask: Sources | None = None,
    mask_order: MaskOrder | None = None,
    files_are: FilesAre | None = None,
    stimulus_ids: Source | None = None,
    splits: Splits | Source | None = None,
    seed: int = 0,
    size: int | None = None,
    regions: Sources | None = None,
    region_names: Source | None = None,
    noise_ceiling: Sources | None = None,
    captions: Source | None = None,
    cortex: CortexKind | None = None,
    pycortex_subject: str | None = None,
    pycortex_transform: str | None = None,
    mapper: Source | None = None,
    units: str = "as given",
    drop_incomplete: bool = False,
    image_order: ImageOrder | None = None,
    image_dataset: str | None = None,
    response_dataset: str | None = None,
    check_cortex: CheckCortex = nothing_to_check,
    scratch: Scratch = IN_MEMORY,
    on_progress: Progress = silent,
    cancelled: Callable[[], bool] = never,
) -> Subject:
    """Make a subject of images and responses; nothing is written, and nothing is repaired in silence.

    Parameters
    ----------
    name : letters, digits, - and _, at most 64; not that of a built-in subject.
    images : see `read_images`; `image_dataset` is a path inside HDF5.
    responses, response_axes, response_dataset, mask, mask_order, files_are : see `read_recording`; of a table, the axes in order, of
        stimulus, voxel and perhaps repeat (NaN: not shown).
    stimulus_ids : text, one file name a line in the order of the responses, where these have no ids themselves.
    splits : positions of stimuli in the order of the responses, or a CSV stimulus,split. None draws 80 / 10 / 10 % of
        the images with `seed`, identical images together.
    size : side to crop and resize images to; None keeps them.
    regions, region_names : CSV voxel,region; or labels on the grid of the responses and a CSV value,name. None takes a mapper's.
    noise_ceiling : share of variance per voxel, npy or a map on the grid of the responses. captions : COCO JSON or CSV
        stimulus,caption.
    cortex, pycortex_subject, pycortex_transform, mapper : what the voxels are drawn on, see `choose_cortex`.
    units : what the responses are in, for the axes of figures.
    drop_incomplete : leave out images without responses and responses without images, stimuli that more than half of the voxels
        lack, voxels that lack a stimulus, and voxels that do not vary over the training stimuli; each is reported.
    image_order : how file names are sorted where nothing has ids, if sorting as text and by number differ.
    check_cortex : looks at surfaces that this layer does not know; what it returns is noted.
    scratch : where large images and responses are put, a block at a time; needed for as long as the subject that is returned.
    on_progress, cancelled : as in `read_images`.

    Returns
    -------
    Subject : of kind `custom`, voxels in the order of the responses, with a place where they have one. Values are
        float32 means over the repeats that were shown. `provenance["import"]` holds what `describe_import` says, and
        whatever the subject depends on: two imports of equal provenance are equal.

    Raises
    ------
    SubjectError : for whatever cannot be used as given, with numbers, in one line.
    Cancelled : if the user stopped it.
    """
    check_subject_name(name)
    ids = None if stimulus_ids is None else read_ids(stimulus_ids)
    given = {"axes": response_axes, "dataset": response_dataset, "mask": mask, "mask_order": mask_order, "files_are": files_are}
    table = read_recording(responses, **given, scratch=scratch, on_progress=on_progress, cancelled=cancelled)  # type: ignore[arg-type]
    flat = None if mapper is None else read_mapper(mapper)
    choice = choose_cortex(cortex, pycortex_subject, pycortex_transform, flat is not None, table.places)
    places = voxel_places(choice, table, flat)
    cortex_notes = check_cortex(choice, places)
    image_ids, named = list_images(images, dataset=image_dataset)
    matching = match(image_ids, named, table, ids, image_order, drop_incomplete)
    refuse_infinite(table)
    kept = keep_complete(table, matching, drop_incomplete)
    beside = read_beside(splits, (regions, region_names), noise_ceiling, captions, table, matching, flat)
    read = read_images(images, size=size, dataset=image_dataset, scratch=scratch, on_progress=on_progress, cancelled=cancelled)
    if read.ids != image_ids:
        raise SubjectError(f"The images in {label(images)} changed while they were read; expected them still. Import again.")
    pictures = _picked_images(read.images, matching.image_rows[kept.stimuli], scratch)
    parts, group_notes = _split(pictures, picked(matching.ids, kept.stimuli), beside.splits, kept, seed)
    measured = measure(table, matching, kept, parts, drop_incomplete, scratch)
    settings = {"size": size, "seed": seed, "units": units, "drop_incomplete": drop_incomplete, "image_order": image_order}
    settings |= {"mask_order": mask_order, "files_are": files_are}
    tables = {"stimulus_ids": stimulus_ids, "regions": regions, "noise_ceiling": noise_ceiling, "captions": captions}
    tables |= {"mask": mask, "region_names": region_names, "mapper": mapper}
    record = {
        "images": {"file": label(images), "sha256": fingerprint(images), "dataset": image_dataset, "n_images": len(image_ids)},
        "responses": {
            "file": labels(responses),
            "sha256": fingerprints(responses),
            "dataset": response_dataset,
            "shape": list(table.given_shape),
            "dtype": table.given_dtype,
            "axes": list(table.axes),
        },
        "settings": settings,
        "tables": {what: None if source is None else fingerprints(source) for what, source in tables.items()},
        "cortex": choice.record(),
        "affine": None if places is None or places.affine is None else places.affine.tolist(),
        "given_splits": _split_fingerprint(splits),
        "matching": matching.note,
        "splits": "given" if beside.splits is not None else f"drawn by image with seed {seed}",
        "notes": [*cortex_notes, *read.notes, *beside.notes, *group_notes, *measured.notes],
        **_left(table, measured.kept),
    }
    return _assemble(name, units, pictures, matching, parts, measured, beside, record, places)


def voxel_places(choice: CortexChoice, table: ResponseTable, flat: Mapper | None) -> Places | None:
    """Places of the voxels on their cortex; raises SubjectError if they have none there, or are not those of the mapper."""
    if flat is not None and flat.n_voxels != table.n_voxels:
        raise SubjectError(
            f"The mapper is of {flat.n_voxels:,} voxels, the responses have {table.n_voxels:,}; expected the same voxels in the same "
            "order. Give the mapper of this subject, or check the axes of the responses."
        )
    return places_on(choice, table.places, table.n_voxels)


def check_subject_name(name: str) -> None:
    """Refuse a name that cannot stand in a URL or a path, or that is taken; raises SubjectError."""
    if not NAME.fullmatch(name):
        raise SubjectError(f"The name {quoted(name)} was given; expected 1 to 64 letters, digits, - or _, a letter or digit first.")
    if name.lower() in BUILT_IN:
        raise SubjectError(f"The name {quoted(name)} is that of a built-in subject; choose another.")


def _picked_images(
    images: UInt8[np.ndarray, "image size size 3"], rows: Int[np.ndarray, " stimulus"], scratch: Scratch
) -> UInt8[np.ndarray, "stimulus size size 3"]:
    """Images of the stimuli that stay, without a copy where they are all of them in order."""
    chosen = images
    if not np.array_equal(rows, np.arange(len(images))):
        chosen = scratch.empty((len(rows), *images.shape[1:]), np.uint8)
        for position, row in enumerate(rows):
            chosen[position] = images[row]
    chosen.flags.writeable = False
    return chosen


def _split(
    images: UInt8[np.ndarray, "stimulus size size 3"], ids: tuple[str, ...], given: Splits | None, kept: Kept, seed: int
) -> tuple[Splits, list[str]]:
    groups = group_identical(images)
    splits = draw_splits(groups, seed) if given is None else keep_stimuli(given, kept.stimuli)
    check_leaks(splits, groups, ids)
    for part in (splits.train, splits.validation, splits.test):
        part.flags.writeable = False
    n_twins = len(groups) - int(groups.max()) - 1
    return splits, [f"{counted(n_twins, 'image')} pixel for pixel like another; they share its split."] if n_twins else []


def _split_fingerprint(splits: Splits | Source | None) -> str | None:
    if isinstance(splits, Splits):
        return hash_text(*(hash_array(part) for part in (splits.train, splits.validation, splits.test)))
    return None if splits is None else fingerprint(splits)


def _left(table: ResponseTable, kept: Kept) -> dict[str, Any]:
    return {
        "dropped": [{"what": entry.what, "why": entry.why, "which": list(entry.which)} for entry in kept.dropped],
        "voxel_names": None if table.voxel_names is None else list(picked(table.voxel_names, kept.voxels)),
        "voxel_positions": None if kept.voxels.all() else np.flatnonzero(kept.voxels).tolist(),
    }


def _assemble(
    name: str,
    units: str,
    images: UInt8[np.ndarray, "stimulus size size 3"],
    matching: Matching,
    splits: Splits,
    measured: Measured,
    beside: Beside,
    record: dict[str, Any],
    places: Places | None,
) -> Subject:
    kept = measured.kept
    ids = tuple(composed(name) for name in picked(matching.ids, kept.stimuli))
    n_voxels = int(kept.voxels.sum())
    ceiling = None if beside.noise_ceiling is None else beside.noise_ceiling[kept.voxels]
    if ceiling is not None:
        check_ceiling(ceiling)
    where = np.full(n_voxels, -1, dtype=np.int64) if places is None else places.flat_index[kept.voxels].astype(np.int64)
    index = VoxelIndex(name, where, () if places is None else places.shape, beside.regions, beside.membership[:, kept.voxels])
    for array in (measured.values, measured.repeats, ceiling, index.flat_index, index.membership):
        if array is not None:
            array.flags.writeable = False
    captions = picked(beside.captions, kept.stimuli)
    return Subject(
        name=name,
        kind="custom",
        stimuli=StimulusSet(ids, images, captions, beside.caption_source),
        responses=Responses(measured.values, measured.repeats, ids, index, units),
        splits=splits,
        cortex=record["cortex"]["subject"] or (record["cortex"]["kind"] if record["cortex"]["kind"] in ("fsaverage", "mapper") else ""),
        noise_ceiling=ceiling,
        provenance={"import": record},
    )
