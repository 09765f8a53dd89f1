"""A subject of the Natural Scenes Dataset, from a local copy of its published layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.artifacts import hash_text
from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MIN_SPLIT, counted, listed
from mine_core.subjects.nsd.alignment import prove_alignment
from mine_core.subjects.nsd.captions import captions_of
from mine_core.subjects.nsd.design import Design, read_design
from mine_core.subjects.nsd.labels import Places, affine_of, places_of, read_map, read_regions
from mine_core.subjects.nsd.pictures import write_images
from mine_core.subjects.nsd.responses import Recorded, Showings, showings_of, write_responses
from mine_core.subjects.nsd.tree import MASK, REGION_SETS, NsdTree
from mine_core.types import IsCancelled, OnProgress, Responses, Splits, StimulusSet, Subject, VoxelIndex

SAMPLES, SAMPLE_BYTES = 16, 2**16
VALIDATION_SHARE = 0.1
FLAT = "Shown on the average surface laid flat: the vertices of fsaverage5; the others are reached by number and region."

MeasureRatio = Callable[[Float[np.ndarray, "repeat stimulus voxel"]], Float[np.ndarray, " voxel"]]
MakeCeiling = Callable[[Float[np.ndarray, " voxel"], Int[np.ndarray, " test"]], Float[np.ndarray, " voxel"]]


@dataclass(frozen=True)
class Plan:
    """What will be read: everything that small files tell, before a response is."""

    tree: NsdTree
    design: Design
    showings: Showings
    places: Places
    ncsnr: Float[np.ndarray, " voxel"]
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]
    n_unknown: int
    splits: Splits
    captions: tuple[tuple[str, ...], ...] | None


def plan_import(tree: NsdTree, seed: int, coco: Sequence[Path] = ()) -> Plan:
    """Read the design, the mask, the regions and the published ratios; voxels whose ratio is not known are left out.

    Test stimuli are the images that all subjects share, as far as this one saw them; a tenth of the others, drawn with `seed`,
    is for validation. `coco` are files of COCO's captions, of which each image has its own.

    Raises SubjectError for whatever is missing, cut off, or does not fit the rest.
    """
    design = read_design(tree.design, tree.subject)
    showings = showings_of(design, tree.sessions())
    places = places_of(tree)
    published = places.take(read_map(tree, tree.ncsnr))
    known = np.isfinite(published)
    if (published[known] < 0).any():
        raise SubjectError(f"{tree.ncsnr[0].name} holds {published[known].min():g}; a ratio of signal to noise is 0 or more.")
    if not known.any():
        raise SubjectError(f"{tree.ncsnr[0].name} is NaN at every place of {MASK}; copy it again.")
    kept = Places(places.shape, places.flat_index[known])
    names, membership = read_regions(tree, kept)
    splits = _splits(design, showings, seed)
    captions = captions_of(tree, showings.stimuli, design.shared, coco) if coco else None
    ratios, n_unknown = published[known].astype(np.float32), int((~known).sum())
    return Plan(tree, design, showings, kept, ratios, names, membership, n_unknown, splits, captions)


def _splits(design: Design, showings: Showings, seed: int) -> Splits:
    shared = np.isin(showings.stimuli, design.shared)
    test, others = np.flatnonzero(shared), np.random.default_rng(seed).permutation(np.flatnonzero(~shared))
    n_validation = max(MIN_SPLIT, round(VALIDATION_SHARE * len(others)))
    if len(test) < MIN_SPLIT or len(others) < 2 * n_validation:
        raise SubjectError(
            f"The sessions show {len(test)} shared images and {len(others)} others; expected at least {MIN_SPLIT} to test on and "
            f"{2 * n_validation} to train on. Add sessions."
        )
    parts = Splits(np.sort(others[n_validation:]), np.sort(others[:n_validation]), test)
    for part in (parts.train, parts.validation, parts.test):
        part.flags.writeable = False
    return parts


def build_nsd(
    plan: Plan,
    directory: Path,
    *,
    name: str,
    size: int,
    measure_ratio: MeasureRatio,
    make_ceiling: MakeCeiling,
    on_progress: OnProgress,
    cancelled: IsCancelled,
) -> Subject:
    """Write images and responses into a directory, prove that places are aligned, and make the subject of them.

    Parameters
    ----------
    measure_ratio : ratio of signal to noise of each voxel, from single showings.
    make_ceiling : noise ceiling of each voxel, from published ratios and the number of showings of each test stimulus.

    Raises
    ------
    SubjectError
        If a file cannot be used, or responses and regions cannot be shown to be aligned.
    Cancelled
        When `cancelled()` becomes True.
    """
    recorded = write_responses(plan.tree, plan.showings, plan.places, directory, on_progress, cancelled)
    published = read_map(plan.tree, plan.tree.ncsnr)
    own, rival = prove_alignment(measure_ratio(recorded.repeats), published, plan.places)
    tree = plan.tree
    images = write_images(tree.stimuli, plan.showings.stimuli, size, directory / "images.npy", on_progress, cancelled)
    ids = tuple(f"nsd-{place:05d}" for place in plan.showings.stimuli)
    title = f"NSD {tree.folder} {tree.space}"
    index = VoxelIndex(title, plan.places.flat_index, plan.places.shape, plan.regions, plan.membership)
    ceiling = make_ceiling(plan.ncsnr, plan.showings.counts[plan.splits.test]).astype(np.float32)
    record = {"source": title, "sessions": list(plan.showings.sessions), "report": _report(plan, recorded, own, rival)}
    record |= {"affine": affine_of(tree)} if tree.space == "func1pt8mm" else {}
    return Subject(
        name=name,
        kind="nsd",
        stimuli=StimulusSet(ids, images, plan.captions or ((),) * len(ids), "COCO" if plan.captions else "none"),
        responses=Responses(recorded.values, recorded.repeats, ids, index, "SD within a session"),
        splits=plan.splits,
        cortex="",
        noise_ceiling=ceiling,
        provenance={"import": record},
    )


def _report(plan: Plan, recorded: Recorded, own: float, rival: float) -> list[str]:
    """What was found, dropped, and why, in lines for the user."""
    tree, showings, splits = plan.tree, plan.showings, plan.splits
    last = max(showings.sessions)
    absent = [session for session in range(1, last + 1) if session not in showings.sessions]
    counts = np.bincount(showings.counts)
    shown = ", ".join(f"{n:,} images {times} times" for times, n in enumerate(counts) if times and n)
    missing = [name for name in REGION_SETS if name not in tree.region_sets()]
    sizes = f"{len(splits.train):,} training, {len(splits.validation):,} validation, {len(splits.test):,} test"
    lines = [
        f"Natural Scenes Dataset, subject {tree.subject}, {tree.space}, {tree.version}: {counted(len(showings.sessions), 'session')}, "
        f"the last is {last}; not there: {listed(absent, 8) if absent else 'none before it'}.",
        f"Shown: {shown}. Responses are z-scored within a session and averaged over showings.",
        f"Voxels of {MASK}: {len(plan.places.flat_index):,}; dropped {plan.n_unknown:,} whose signal to noise is not published.",
        f"Aligned: measured signal to noise follows the published map with a rank correlation of {own:.2f}, at most {rival:.2f} in "
        "any other orientation.",
        f"Split by the shared images: {sizes}.",
        f"Regions: {listed(plan.regions, 20) or 'none'}.{f' Sets that are not there: {listed(missing, 6)}.' if missing else ''}",
        "Shown as slices of the volume." if tree.space == "func1pt8mm" else FLAT,
    ]
    if plan.captions:
        lines.append(f"Captions of COCO: {sum(map(len, plan.captions)):,} of {len(plan.captions):,} images.")
    if recorded.n_flat:
        lines.append(f"{recorded.n_flat:,} times a voxel did not vary within a session; its responses of that session are 0.")
    return lines


def fingerprint_of(plan: Plan) -> str:
    """Hash of the files that are read: of each its name, length and sixteen samples of its bytes.

    It tells a copy that was changed on purpose or cut off from another, not one in which single bytes are flipped.
    """
    tree = plan.tree
    files = [tree.design, tree.stimuli, *tree.ncsnr, *tree.labels(MASK)]
    files += [path for session in plan.showings.sessions for path in tree.session_files(session)]
    files += [path for group in tree.region_sets() for path in (*tree.labels(group), tree.table(group))]
    return hash_text(*(part for path in files for part in (tree.shown(path), _sampled(path))))


def _sampled(path: Path) -> str:
    length = path.stat().st_size
    with path.open("rb") as stream:
        pieces: list[Any] = []
        for start in np.linspace(0, max(length - SAMPLE_BYTES, 0), SAMPLES).astype(int):
            stream.seek(int(start))
            pieces.append(stream.read(SAMPLE_BYTES).hex())
    return hash_text(str(length), *pieces)
