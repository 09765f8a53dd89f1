"""What an import did, in the lines that the user is shown."""

from typing import Any

import numpy as np

from mine_core.errors import SubjectError
from mine_core.subjects.custom.cortices import title_of
from mine_core.subjects.custom.large import voxel_blocks
from mine_core.subjects.custom.limits import counted, listed
from mine_core.subjects.custom.responses import lengths
from mine_core.types import Subject


def describe_import(subject: Subject) -> tuple[str, ...]:
    """Say what a subject holds, how images and responses were matched, and what was dropped and why.

    Raises SubjectError for a subject that was not imported.
    """
    record = subject.provenance.get("import")
    if subject.kind != "custom" or record is None:
        raise SubjectError(f"Subject '{subject.name}' is of kind {subject.kind}; expected an imported one. Its own page describes it.")
    answered = record["responses"]
    drawn = title_of(record.get("cortex", {"kind": "none"}))
    return (
        f"Subject '{subject.name}': {counted(len(subject.stimuli), 'stimulus', 'stimuli')} of {subject.stimuli.images.shape[1]} x "
        f"{subject.stimuli.images.shape[2]} pixels, {counted(len(subject.responses.voxels), 'voxel')}, {drawn}.",
        f"Read {counted(record['images']['n_images'], 'image')} from {record['images']['file']}, and responses from "
        f"{answered['file']}: {lengths(tuple(answered['shape']))} {answered['dtype']}, read as {','.join(answered['axes'])}.",
        record["matching"],
        f"Splits {record['splits']}: {len(subject.splits.train):,} training, {len(subject.splits.validation):,} validation, "
        f"{len(subject.splits.test):,} test stimuli.",
        _repeats(subject),
        _ceiling(subject),
        *_regions(subject),
        *_captions(subject),
        *record["notes"],
        *_dropped(record["dropped"]),
    )


def _repeats(subject: Subject) -> str:
    repeats = subject.responses.repeats
    if repeats is None:
        return "Repeats: none, one response a stimulus."
    numbers = np.zeros(len(repeats) + 1, np.int64)  # of stimuli and voxels by how often they were shown
    for _, block in voxel_blocks(repeats):
        numbers += np.bincount((~np.isnan(block)).sum(axis=0).ravel(), minlength=len(numbers))
    present, below = np.flatnonzero(numbers), np.cumsum(numbers)
    middle = [int(np.searchsorted(below, place, side="right")) for place in ((below[-1] - 1) // 2, below[-1] // 2)]
    span = f"{present[0]} to {present[-1]} a stimulus and voxel, median {sum(middle) / 2:g}"
    return f"Repeats: {span}; averaged over those that were shown."


def _ceiling(subject: Subject) -> str:
    ceiling = subject.noise_ceiling
    if ceiling is not None:
        return f"Noise ceiling: given, {ceiling.min():.2f} to {ceiling.max():.2f}, median {np.median(ceiling):.2f} of the variance."
    if subject.responses.repeats is not None:
        return "Noise ceiling: not given; it can be estimated from the repeats."
    return "Noise ceiling: not known without repeats or a file; accuracy cannot be normalised, nor unreliable voxels withheld by it."


def _regions(subject: Subject) -> list[str]:
    voxels = subject.responses.voxels
    sizes = [f"{name} ({n:,})" for name, n in zip(voxels.regions, voxels.membership.sum(axis=1), strict=True)]
    return [f"Regions, with their voxels: {listed(sizes, 12)}."] if sizes else []


def _captions(subject: Subject) -> list[str]:
    n_captions = sum(len(sentences) for sentences in subject.stimuli.captions)
    return [f"Captions: {n_captions:,}, {subject.stimuli.caption_source}."] if n_captions else []


def _dropped(entries: list[dict[str, Any]]) -> list[str]:
    plurals = {"stimulus": "stimuli"}
    return [
        f"Dropped {counted(len(entry['which']), entry['what'], plurals.get(entry['what'], ''))} ({entry['why']}): "
        f"{listed(entry['which'], 10)}."
        for entry in entries
    ] or ["Dropped: nothing."]
