"""Looking at the parts of an import before anything is kept: each as the import itself will read it, and refused as it will be.

A study is a mapping from the names of fields to values, see `subjects.custom.study`; what a part does not need may be missing.
"""

import hashlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.artifacts import ArtifactStore
from mine_core.cortex.flatmap import FlatMap, render_groups
from mine_core.cortex.fsaverage import surface_map
from mine_core.cortex.slices import slice_map
from mine_core.instrument.own_cortex import check_units, checker, on_mapper, on_pycortex
from mine_core.subjects.custom.beside import read_beside
from mine_core.subjects.custom.build import voxel_places
from mine_core.subjects.custom.cortices import CortexChoice, choose_cortex, title_of
from mine_core.subjects.custom.images import first_images, list_images
from mine_core.subjects.custom.large import IN_MEMORY, Scratch
from mine_core.subjects.custom.limits import counted, listed
from mine_core.subjects.custom.mapper import Mapper, read_mapper
from mine_core.subjects.custom.matching import Matching, match
from mine_core.subjects.custom.recording import read_recording
from mine_core.subjects.custom.responses import Places, ResponseTable, lengths, refuse_infinite
from mine_core.subjects.custom.selection import keep_complete
from mine_core.subjects.custom.tables import read_ids
from mine_core.types import IsCancelled, OnProgress, VoxelIndex

N_IMAGES, N_BINS, N_SAMPLED = 8, 60, 2_000_000
VOXEL_COLOUR = "#0072B2"
OF_RECORDING = ("responses", "response_axes", "response_dataset", "mask", "mask_order", "files_are")
Study = Mapping[str, Any]
Read = Callable[[Study, OnProgress, IsCancelled], ResponseTable]


@dataclass(frozen=True)
class ImagesLook:
    """The first images as they will be kept, their names (empty: rows of an array), and what there is to say."""

    images: UInt8[np.ndarray, "image size size 3"]
    names: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ResponsesLook:
    """How responses are spread: counts of values between edges, of how many values, and what there is to say."""

    counts: Int[np.ndarray, " bin"]
    edges: Float[np.ndarray, " edge"]
    n_values: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class CortexLook:
    """Where voxels lie: the map with every voxel painted (None: laid out when the subject is built), and what there is to say."""

    image: UInt8[np.ndarray, "height width 4"] | None
    lines: tuple[str, ...]


class Recordings:
    """The recording that one user is looking at, read once: kept until another is asked for, or its files change.

    It is known by the path, size and time of change of its files (an upload by its bytes) and by how they are to be read. What
    is too large for memory is in a folder of its own inside `directory`, which goes when it is no longer kept.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._kept: tuple[Any, ResponseTable, tempfile.TemporaryDirectory[str]] | None = None

    def read(self, study: Study, on_progress: OnProgress, cancelled: IsCancelled) -> ResponseTable:
        """The recording of a study; raises as `read_recording`, and then keeps nothing."""
        with self._lock:
            asked = [_identity(study.get(name)) for name in OF_RECORDING]
            if self._kept is not None and self._kept[0] == asked:
                return self._kept[1]
            self._kept = None
            self.directory.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix="looking-", dir=self.directory)
            table = read_of(study, on_progress, cancelled, Scratch(Path(folder.name)))
            table.repeats.flags.writeable = False
            self._kept = (asked, table, folder)
            return table


def _identity(given: Any) -> Any:
    """What tells a field's value from another: of a file its path, size and time of change; of an upload its hash."""
    if isinstance(given, tuple | list):
        return [_identity(one) for one in given]
    if isinstance(given, bytes):
        return hashlib.sha256(given).hexdigest()
    if isinstance(given, Path) and given.exists():
        found = given.stat()
        return str(given.resolve()), found.st_size, found.st_mtime_ns
    return given


def read_of(study: Study, on_progress: OnProgress, cancelled: IsCancelled, scratch: Scratch = IN_MEMORY) -> ResponseTable:
    """Read the recording of a study."""
    on_progress(0, 1, "reading responses")
    return read_recording(
        study["responses"],
        axes=study.get("response_axes", ()),
        dataset=study.get("response_dataset"),
        mask=study.get("mask"),
        mask_order=study.get("mask_order"),
        files_are=study.get("files_are"),
        scratch=scratch,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def look_at_images(study: Study, on_progress: OnProgress, cancelled: IsCancelled) -> ImagesLook:
    """Look at the first images; raises SubjectError for what the headers of all tell."""
    on_progress(0, 1, "looking at images")
    size, dataset = study.get("size"), study.get("image_dataset")
    seen = first_images(study["images"], size=size, dataset=dataset, n=N_IMAGES, cancelled=cancelled)
    side = seen.images.shape[1]
    first = f"first: {listed(seen.ids, 2)}" if seen.named else "known by their place in the array"
    return ImagesLook(
        seen.images,
        seen.ids[: len(seen.images)] if seen.named else (),
        (f"{counted(len(seen.ids), 'image')} of {side} x {side} pixels, {first}.", *seen.notes),
    )


def look_at_responses(study: Study, on_progress: OnProgress, cancelled: IsCancelled, read: Read = read_of) -> ResponsesLook:
    """Look at the responses and at which image each belongs to; raises SubjectError for whatever an import would refuse of them."""
    table, matching = _matched(study, on_progress, cancelled, read)
    refuse_infinite(table)
    kept = keep_complete(table, matching, bool(study.get("drop_incomplete")))
    values = table.repeats.ravel(order="K")  # no copy, in whatever order the file has
    step = max(1, len(values) // N_SAMPLED)
    sampled = np.asarray(values[::step], np.float64)
    sampled = sampled[np.isfinite(sampled)]
    counts, edges = np.histogram(sampled, bins=N_BINS)
    repeats = f", {counted(len(table.repeats), 'repeat')}" if len(table.repeats) > 1 else ""
    sizes = f"{counted(table.n_stimuli, 'stimulus', 'stimuli')} and {counted(table.n_voxels, 'voxel')}{repeats}"
    lines = [
        f"{lengths(table.given_shape)} {table.given_dtype}, read as {','.join(table.axes)}: {sizes}.",
        f"Values from {sampled.min():.3g} to {sampled.max():.3g}, mean {sampled.mean():.3g}, SD {sampled.std():.3g}.",
        matching.note,
        *(f"Will be dropped: {counted(len(entry.which), entry.what)} ({entry.why})." for entry in kept.dropped),
    ]
    return ResponsesLook(counts, edges, len(sampled), tuple(lines))


def look_beside(study: Study, on_progress: OnProgress, cancelled: IsCancelled, read: Read = read_of) -> tuple[str, ...]:
    """Look at what was given beside images and responses; raises SubjectError for whatever an import would refuse of it."""
    table, matching = _matched(study, on_progress, cancelled, read)
    flat = None if study.get("mapper") is None else read_mapper(study["mapper"])
    regions = (study.get("regions"), study.get("region_names"))
    beside = read_beside(study.get("splits"), regions, study.get("noise_ceiling"), study.get("captions"), table, matching, flat)
    lines = [matching.note]
    if beside.splits is not None:
        parts = (beside.splits.train, beside.splits.validation, beside.splits.test)
        lines.append("Splits: {:,} training, {:,} validation, {:,} test stimuli.".format(*map(len, parts)))
    if beside.regions:
        sizes = [f"{name} ({n:,})" for name, n in zip(beside.regions, beside.membership.sum(axis=1), strict=True)]
        lines.append(f"Regions, with their voxels: {listed(sizes, 12)}.")
    if beside.noise_ceiling is not None:
        known = beside.noise_ceiling[np.isfinite(beside.noise_ceiling)]
        lines.append(f"Noise ceilings of {len(known):,} voxels, median {np.median(known):.2f} of the variance.")
    return (*lines, *beside.notes)


def look_at_cortex(
    study: Study, store: ArtifactStore, on_progress: OnProgress, cancelled: IsCancelled, read: Read = read_of
) -> CortexLook:
    """Look at where voxels lie on the cortex that was chosen; raises SubjectError if they cannot be drawn on it."""
    table = read(study, on_progress, cancelled)
    flat = None if study.get("mapper") is None else read_mapper(study["mapper"])
    names = (study.get("pycortex_subject"), study.get("pycortex_transform"))
    choice = choose_cortex(study.get("cortex"), *names, flat is not None, table.places)
    places = voxel_places(choice, table, flat)
    on_progress(0, 1, "drawing voxels")
    check_units(choice.kind, table.n_voxels)
    notes = checker(store)(choice, places)
    drawn = _map(store, choice, places, table.n_voxels, flat)
    said = title_of(choice.record())
    if drawn is None:
        return CortexLook(
            None, (f"{table.n_voxels:,} voxels, {said}: they are laid out by similarity when the subject is built.", *notes)
        )
    hidden = len(drawn.hidden_voxels)
    lines = [f"{table.n_voxels:,} voxels, {said}.", *notes]
    lines += [f"{hidden:,} of them are hidden on this map; they are reached by number and region."] if hidden else []
    image = render_groups(drawn, np.zeros(table.n_voxels, np.int64), (VOXEL_COLOUR,))
    return CortexLook(image, tuple(lines))


def pycortex_choices(store: ArtifactStore) -> dict[str, tuple[str, ...]]:
    """Subjects of the pycortex filestore that have a transform, and their transforms."""
    from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet

    with PYCORTEX_LOCK, quiet():
        cortex = open_pycortex(store.root)
        found = {name: tuple(sorted(cortex.db.get_paths(name)["xfms"])) for name in sorted(cortex.db.subjects)}
    return {name: transforms for name, transforms in found.items() if transforms}


def _matched(study: Study, on_progress: OnProgress, cancelled: IsCancelled, read: Read) -> tuple[ResponseTable, Matching]:
    ids = None if study.get("stimulus_ids") is None else read_ids(study["stimulus_ids"])
    table = read(study, on_progress, cancelled)
    names, named = list_images(study["images"], dataset=study.get("image_dataset"))
    return table, match(names, named, table, ids, study.get("image_order"), bool(study.get("drop_incomplete")))


def _map(store: ArtifactStore, choice: CortexChoice, places: Places | None, n_voxels: int, flat: Mapper | None) -> FlatMap | None:
    none = np.zeros((0, n_voxels), np.bool_)
    where = np.full(n_voxels, -1) if places is None else places.flat_index
    voxels = VoxelIndex("preview", where, () if places is None else places.shape, (), none)
    draw: dict[str, Callable[[], FlatMap]] = {
        "slices": lambda: slice_map(voxels),
        "fsaverage": lambda: surface_map(voxels),
        "pycortex": lambda: on_pycortex(store.root, choice.subject, choice.transform, voxels),
        "mapper": lambda: on_mapper(flat.pixel_voxel, flat.curvature, voxels, np.arange(n_voxels)),  # type: ignore[union-attr]
    }
    return draw[choice.kind]() if choice.kind in draw else None
