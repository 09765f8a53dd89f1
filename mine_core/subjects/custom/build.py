"""A subject of one's own images and responses: read, matched, checked, and either whole or refused."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.artifacts import hash_array, hash_text
from mine_core.errors import SubjectError
from mine_core.subjects.custom.images import Progress, list_images, never, read_images, silent
from mine_core.subjects.custom.limits import composed, counted, listed, quoted
from mine_core.subjects.custom.matching import ImageOrder, Matching, index_by, match
from mine_core.subjects.custom.responses import ResponseTable, read_responses, refuse_infinite
from mine_core.subjects.custom.selection import Kept, Measured, keep_complete, measure, picked
from mine_core.subjects.custom.sources import Source, fingerprint, label
from mine_core.subjects.custom.splits import check_leaks, check_splits, draw_splits, group_identical, keep_stimuli, read_splits
from mine_core.subjects.custom.tables import read_captions, read_ids
from mine_core.subjects.custom.voxels import check_ceiling, read_noise_ceiling, read_regions
from mine_core.types import Responses, Splits, StimulusSet, Subject, VoxelIndex

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
BUILT_IN = frozenset({"phantom"})


@dataclass(frozen=True)
class _Beside:
    """What a user may give beside images and responses, of all stimuli that were matched and all voxels given."""

    splits: Splits | None
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]
    noise_ceiling: Float[np.ndarray, " voxel"] | None
    captions: tuple[tuple[str, ...], ...]
    caption_source: str
    notes: tuple[str, ...]


def import_subject(
    name: str,
    images: Source,
    responses: Source,
    response_axes: Sequence[str],
    *,
    stimulus_ids: Source | None = None,
    splits: Splits | Source | None = None,
    seed: int = 0,
    size: int | None = None,
    regions: Source | None = None,
    noise_ceiling: Source | None = None,
    captions: Source | None = None,
    units: str = "as given",
    drop_incomplete: bool = False,
    image_order: ImageOrder | None = None,
    image_dataset: str | None = None,
    response_dataset: str | None = None,
    on_progress: Progress = silent,
    cancelled: Callable[[], bool] = never,
) -> Subject:
    """Make a subject without a cortex of images and responses; nothing is written, and nothing is repaired in silence.

    Parameters
    ----------
    name : letters, digits, - and _, at most 64; not that of a built-in subject.
    images, responses : see `read_images` and `read_responses`; `image_dataset` and `response_dataset` are paths inside HDF5.
    response_axes : the axes of the responses in order, of stimulus, voxel and perhaps repeat (NaN: not shown).
    stimulus_ids : text, one file name a line in the order of the responses, where these have no ids themselves.
    splits : positions of stimuli in the order of the responses, or a CSV stimulus,split. None draws 80 / 10 / 10 % of
        the images with `seed`, identical images together.
    size : side to crop and resize images to; None keeps them.
    regions : CSV voxel,region. noise_ceiling : npy, share of variance per voxel. captions : COCO JSON or CSV stimulus,caption.
    units : what the responses are in, for the axes of figures.
    drop_incomplete : leave out images without responses and responses without images, stimuli that more than half of the voxels
        lack, voxels that lack a stimulus, and voxels that do not vary over the training stimuli; each is reported.
    image_order : how file names are sorted where nothing has ids, if sorting as text and by number differ.
    on_progress, cancelled : as in `read_images`.

    Returns
    -------
    Subject : of kind `custom`, cortex empty, voxels without a place in a volume, in the order of the responses. Values are
        float32 means over the repeats that were shown. `provenance["import"]` holds what `describe_import` says, and
        whatever the subject depends on: two imports of equal provenance are equal.

    Raises
    ------
    SubjectError : for whatever cannot be used as given, with numbers, in one line.
    Cancelled : if the user stopped it.
    """
    check_subject_name(name)
    ids = None if stimulus_ids is None else read_ids(stimulus_ids)
    table = read_responses(responses, axes=response_axes, dataset=response_dataset)
    image_ids, named = list_images(images, dataset=image_dataset)
    matching = match(image_ids, named, table, ids, image_order, drop_incomplete)
    refuse_infinite(table)
    kept = keep_complete(table, matching, drop_incomplete)
    beside = _read_beside(splits, regions, noise_ceiling, captions, table, matching)
    read = read_images(images, size=size, dataset=image_dataset, on_progress=on_progress, cancelled=cancelled)
    if read.ids != image_ids:
        raise SubjectError(f"The images in {label(images)} changed while they were read; expected them still. Import again.")
    pictures = _picked_images(read.images, matching.image_rows[kept.stimuli])
    parts, group_notes = _split(pictures, picked(matching.ids, kept.stimuli), beside.splits, kept, seed)
    measured = measure(table, matching, kept, parts, drop_incomplete)
    settings = {"size": size, "seed": seed, "units": units, "drop_incomplete": drop_incomplete, "image_order": image_order}
    tables = {"stimulus_ids": stimulus_ids, "regions": regions, "noise_ceiling": noise_ceiling, "captions": captions}
    record = {
        "images": {"file": label(images), "sha256": fingerprint(images), "dataset": image_dataset, "n_images": len(image_ids)},
        "responses": {
            "file": label(responses),
            "sha256": fingerprint(responses),
            "dataset": response_dataset,
            "shape": list(table.given_shape),
            "dtype": table.given_dtype,
            "axes": list(table.axes),
        },
        "settings": settings,
        "tables": {what: None if source is None else fingerprint(source) for what, source in tables.items()},
        "given_splits": _split_fingerprint(splits),
        "matching": matching.note,
        "splits": "given" if beside.splits is not None else f"drawn by image with seed {seed}",
        "notes": [*read.notes, *beside.notes, *group_notes, *measured.notes],
        **_left(table, measured.kept),
    }
    return _assemble(name, units, pictures, matching, parts, measured, beside, record)


def check_subject_name(name: str) -> None:
    """Refuse a name that cannot stand in a URL or a path, or that is taken; raises SubjectError."""
    if not NAME.fullmatch(name):
        raise SubjectError(f"The name {quoted(name)} was given; expected 1 to 64 letters, digits, - or _, a letter or digit first.")
    if name.lower() in BUILT_IN:
        raise SubjectError(f"The name {quoted(name)} is that of a built-in subject; choose another.")


def _read_beside(
    splits: Splits | Source | None,
    regions: Source | None,
    noise_ceiling: Source | None,
    captions: Source | None,
    table: ResponseTable,
    matching: Matching,
) -> _Beside:
    given = splits if isinstance(splits, Splits) or splits is None else read_splits(splits, matching.ids)
    if given is not None:
        check_splits(given, len(matching.ids))
    names: tuple[str, ...] = ()
    membership = np.zeros((0, table.n_voxels), dtype=np.bool_)
    notes = []
    if regions is not None:
        names, membership = read_regions(regions, table.n_voxels, table.voxel_names)
        outside = int((~membership.any(axis=0)).sum())
        notes += [f"{counted(outside, 'voxel')} in no region."] if outside else []
    sentences: tuple[tuple[str, ...], ...] = ((),) * len(matching.ids)
    source = "none"
    if captions is not None:
        sentences, caption_notes = _match_captions(captions, matching.ids)
        source = f"given ({label(captions)})"
        notes += caption_notes
    ceiling = None if noise_ceiling is None else read_noise_ceiling(noise_ceiling, table.n_voxels)
    return _Beside(given, names, membership, ceiling, sentences, source, tuple(notes))


def _match_captions(source: Source, ids: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """Captions of each stimulus, and a word on those that found none; raises SubjectError if not one caption finds its image."""
    captions = read_captions(source)
    index, _ = index_by(ids, list(captions))
    sentences: list[tuple[str, ...]] = [()] * len(ids)
    others = [name for name in captions if name not in index]
    for name, said in captions.items():
        if name in index:
            sentences[index[name]] = tuple(said)
    without = sum(not said for said in sentences)
    if without == len(ids):
        raise SubjectError(
            f"captions ({label(source)}) are of {len(captions):,} images ({listed(others)}), none of them among the {len(ids):,} "
            f"stimuli ({listed(ids)}); expected file names of the images. Correct them."
        )
    notes = [f"{counted(without, 'stimulus', 'stimuli')} without a caption."] if without else []
    notes += [f"Captions of {counted(len(others), 'other image')} passed over."] if others else []
    return tuple(sentences), notes


def _picked_images(images: UInt8[np.ndarray, "image size size 3"], rows: np.ndarray) -> UInt8[np.ndarray, "stimulus size size 3"]:
    """Images of the stimuli that stay, without a copy where they are all of them in order."""
    chosen = images if np.array_equal(rows, np.arange(len(images))) else images[rows]
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
    beside: _Beside,
    record: dict[str, Any],
) -> Subject:
    kept = measured.kept
    ids = tuple(composed(name) for name in picked(matching.ids, kept.stimuli))
    n_voxels = int(kept.voxels.sum())
    ceiling = None if beside.noise_ceiling is None else beside.noise_ceiling[kept.voxels]
    if ceiling is not None:
        check_ceiling(ceiling)
    index = VoxelIndex(name, np.full(n_voxels, -1, dtype=np.int64), (), beside.regions, beside.membership[:, kept.voxels])
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
        cortex="",
        noise_ceiling=ceiling,
        provenance={"import": record},
    )
