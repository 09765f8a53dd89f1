"""A subject of the Algonauts 2023 challenge, from a local copy of its published layout.

References
----------
Gifford et al. (2023), arXiv:2301.03198.
"""

import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from mine_core.artifacts import hash_text
from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.limits import MAX_PICTURE_BYTES, MIN_STIMULI, counted, listed, quoted, reason
from mine_core.subjects.custom.pictures import check_size, read_stimulus, square
from mine_core.subjects.custom.sources import read_bytes
from mine_core.subjects.custom.splits import draw_splits
from mine_core.types import IsCancelled, OnProgress, Responses, StimulusSet, Subject, VoxelIndex

HEMISPHERES = ("lh", "rh")
PICTURE = re.compile(r"train-(\d+)_nsd-(\d+)\.png")
REGION_SETS = ("streams", "prf-visualrois", "floc-faces", "floc-bodies", "floc-places", "floc-words")
ROWS_AT_A_TIME = 256
MAPPING_BYTES = 2**16


@dataclass(frozen=True)
class AlgonautsPlan:
    """What will be read, and everything that small files tell.

    `pictures` are the training images in the order of the responses; `vertices` the measured ones, [hemisphere, vertex] as one
    index; `n_of` how many lie in each hemisphere.
    """

    folder: Path
    subject: int
    pictures: tuple[Path, ...]
    ids: tuple[str, ...]
    n_vertices: int
    vertices: Int[np.ndarray, " voxel"]
    n_of: tuple[int, int]
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]
    missing: tuple[str, ...]


def plan_algonauts(root: Path, subject: int) -> AlgonautsPlan:
    """Find a subject's training images, responses, vertices and regions, and check that they fit one another.

    Row i of the responses is the image train-(i+1); a region's labels over the challenge's vertices must be those of its map over
    the whole surface at the vertices of the mask, which proves the order of vertices.

    Parameters
    ----------
    root : folder that holds subj01 to subj08.

    Raises
    ------
    SubjectError
        If a file is not there, cannot be read, or does not fit the others.
    """
    folder = root / f"subj{subject:02d}"
    if not 1 <= subject <= 8 or not folder.is_dir():
        raise SubjectError(f"There is no subj{subject:02d} in {root}; give the folder that holds subj01 to subj08, and one of them.")
    pictures, ids = _pictures(folder)
    masks = [_vector(folder, f"{side}.all-vertices_fsaverage_space.npy") for side in HEMISPHERES]
    if len(masks[0]) != len(masks[1]) or not all(np.isin(mask, (0, 1)).all() for mask in masks):
        raise SubjectError(
            f"The masks of subj{subject:02d} have {len(masks[0])} and {len(masks[1])} vertices; expected as many, of 0 and 1."
        )
    inside = np.stack(masks) == 1
    for side, mask in zip(HEMISPHERES, inside, strict=True):
        found = _responses(folder, side).shape
        if found != (len(pictures), int(mask.sum())):
            raise SubjectError(
                f"{side}_training_fmri.npy is of shape {found}; expected ({len(pictures)}, {int(mask.sum())}), training images by "
                "vertices of the mask. Copy both again."
            )
    regions, membership, missing = _regions(folder, inside)
    vertices = np.flatnonzero(inside)
    n_of = (int(inside[0].sum()), int(inside[1].sum()))
    return AlgonautsPlan(folder, subject, pictures, ids, inside.shape[1], vertices, n_of, regions, membership, missing)


def _pictures(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    where = folder / "training_split/training_images"
    numbered: dict[int, tuple[Path, str]] = {}
    for path in where.glob("*.png"):
        said = PICTURE.fullmatch(path.name)
        if said is None:
            raise SubjectError(f"Image {quoted(path.name)} has another name; expected train-0001_nsd-00013.png and the like.")
        if int(said[1]) in numbered:
            raise SubjectError(f"Two images are number {int(said[1])} ({quoted(path.name)}); each row of responses has one.")
        numbered[int(said[1])] = (path, f"nsd-{int(said[2]):05d}")
    if len(numbered) < MIN_STIMULI:
        raise SubjectError(f"There are {len(numbered)} training images in {where}; expected {MIN_STIMULI} or more.")
    gaps = sorted(set(range(1, len(numbered) + 1)) - set(numbered))
    if gaps:
        raise SubjectError(f"Training image {gaps[0]} is missing of {max(numbered):,}; rows of responses are counted by them. Copy it.")
    ordered = [numbered[number] for number in sorted(numbered)]
    ids = tuple(name for _, name in ordered)
    if len(set(ids)) != len(ids):
        raise SubjectError(f"{len(ids) - len(set(ids))} training images are of an image that another is of; expected each once.")
    return tuple(path for path, _ in ordered), ids


def _vector(folder: Path, name: str) -> Int[np.ndarray, " vertex"]:
    path = folder / "roi_masks" / name
    found = _array(path)
    if found.ndim != 1 or found.dtype.kind not in "iufb" or not np.array_equal(found, np.round(found)):
        raise SubjectError(f"{name} is {found.dtype} of shape {found.shape}; expected whole numbers, one a vertex.")
    return np.asarray(found, np.int64)


def _responses(folder: Path, side: str) -> np.ndarray:
    found = _array(folder / f"training_split/training_fmri/{side}_training_fmri.npy")
    if found.ndim != 2 or found.dtype.kind != "f":
        raise SubjectError(f"{side}_training_fmri.npy is {found.dtype} of shape {found.shape}; expected numbers, images by vertices.")
    return found


def _array(path: Path) -> np.ndarray:
    """An array that is not read until it is looked at, and never by executing what is in it."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise SubjectError(f"There is no {path.name} in {path.parent}; copy it from the published dataset.") from error
    except (OSError, ValueError, EOFError) as error:
        raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error


def _regions(
    folder: Path, inside: Bool[np.ndarray, "hemisphere vertex"]
) -> tuple[tuple[str, ...], Bool[np.ndarray, "region voxel"], tuple[str, ...]]:
    found: list[tuple[str, str, Bool[np.ndarray, " voxel"]]] = []
    missing = []
    for group in REGION_SETS:
        if not all((folder / f"roi_masks/{side}.{group}_challenge_space.npy").is_file() for side in HEMISPHERES):
            missing.append(group)
            continue
        labels = np.concatenate([_labels(folder, side, group, mask) for side, mask in zip(HEMISPHERES, inside, strict=True)])
        names = read_mapping(folder / f"roi_masks/mapping_{group}.npy")
        nameless = [int(label) for label in np.unique(labels) if label > 0 and int(label) not in names]
        if nameless:
            raise SubjectError(
                f"{group} holds the label {nameless[0]}, mapping_{group}.npy names {listed(list(names), 12)}; they do not fit."
            )
        found += [(group, name, labels == label) for label, name in names.items() if label > 0 and (labels == label).any()]
    titles = [name for _, name, _ in found]
    named = tuple(name if titles.count(name) == 1 else f"{group} {name}" for group, name, _ in found)
    membership = np.array([members for _, _, members in found], bool).reshape(len(found), int(inside.sum()))
    return named, membership, tuple(missing)


def _labels(folder: Path, side: str, group: str, mask: Bool[np.ndarray, " vertex"]) -> Int[np.ndarray, " voxel"]:
    labels = _vector(folder, f"{side}.{group}_challenge_space.npy")
    whole = _vector(folder, f"{side}.{group}_fsaverage_space.npy")
    if len(labels) != mask.sum() or len(whole) != len(mask):
        raise SubjectError(
            f"{side}.{group} has {len(labels)} and {len(whole)} labels; expected {int(mask.sum())} of the challenge and {len(mask)} of "
            "the surface. Copy both again."
        )
    differing = int((whole[mask] != labels).sum())
    if differing:
        raise SubjectError(
            f"{side}.{group} differs at {differing} of {len(labels)} vertices between the labels of challenge and surface; the order "
            "of vertices cannot be shown to be the mask's. Copy all of roi_masks again."
        )
    return labels


def read_mapping(path: Path) -> dict[int, str]:
    """Names of labels from a mapping file, which is a pickled dict: its numbers and words are read, nothing in it is executed.

    Raises
    ------
    SubjectError
        If the file is not there, or holds anything but pairs of a number and a name.
    """
    if not path.is_file():
        raise SubjectError(f"There is no {path.name} in {path.parent}, which names the labels; copy it from the published dataset.")
    content = path.read_bytes()[:MAPPING_BYTES]
    start = content.find(b"\n") + 1
    try:
        words = list(_dict_of(content[start:]))
    except ValueError as error:
        raise SubjectError(f"{path.name} cannot be read as a list of names ({reason(error)}); copy it again.") from error
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if not pairs or len(words) % 2 or not all(isinstance(label, int) and isinstance(name, str) for label, name in pairs):
        raise SubjectError(f"{path.name} holds {listed(words, 4) or 'nothing'}; expected numbers and names in turn.")
    return {int(label): str(name) for label, name in pairs}


def _dict_of(content: bytes) -> Iterator[int | str]:
    """Numbers and words of the only dict in a pickle, in order; raises ValueError where it holds anything else."""
    inside = False
    skipped = ("MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "FRAME")
    for code, value, _ in pickletools.genops(content):
        if code.name == "EMPTY_DICT":
            inside = True
        elif inside and code.name in ("SETITEMS", "SETITEM"):
            return
        elif inside and isinstance(value, int | str) and code.name not in skipped and not isinstance(value, bool):
            yield value
        elif inside and code.name not in skipped:
            raise ValueError(f"it holds a {code.name}")
    raise ValueError("it holds no dict")


def build_algonauts(
    plan: AlgonautsPlan, directory: Path, *, name: str, size: int, seed: int, on_progress: OnProgress, cancelled: IsCancelled
) -> Subject:
    """Write images and responses into a directory, a part at a time, and make the subject of them.

    Responses are as published: z-scored, averaged over showings. 80 / 10 / 10 % of the training images are drawn with `seed`; the
    challenge's own test images have no published responses.

    Raises
    ------
    SubjectError
        If an image is damaged or not square, the size is not 16 to 1,024, or a response is not finite.
    Cancelled
        When `cancelled()` becomes True.
    """
    check_size(size)
    create = np.lib.format.open_memmap
    images = create(directory / "images.npy", "w+", np.uint8, (len(plan.pictures), size, size, 3))
    for row, path in enumerate(plan.pictures):
        _stop_if(cancelled)
        on_progress(row, len(plan.pictures), "reading images")
        pixels = read_stimulus(read_bytes(path, MAX_PICTURE_BYTES), path.name).pixels
        if pixels.shape[0] != pixels.shape[1]:
            raise SubjectError(f"Image {quoted(path.name)} is {pixels.shape[0]} x {pixels.shape[1]}; expected a square. Copy it again.")
        images[row] = pixels if pixels.shape[0] == size else square(pixels, size)
    values = create(directory / "values.npy", "w+", np.float32, (len(plan.pictures), len(plan.vertices)))
    sides = [_responses(plan.folder, side) for side in HEMISPHERES]
    for start in range(0, len(values), ROWS_AT_A_TIME):
        _stop_if(cancelled)
        on_progress(start, len(values), "reading responses")
        part = np.concatenate([side[start : start + ROWS_AT_A_TIME] for side in sides], axis=1)
        if not np.isfinite(part).all():
            image, voxel = np.argwhere(~np.isfinite(part))[0]
            raise SubjectError(
                f"The response to {plan.ids[start + image]} at vertex {voxel} is {part[image, voxel]}; copy the file again."
            )
        values[start : start + ROWS_AT_A_TIME] = part
    splits = draw_splits(np.arange(len(plan.ids)), seed)
    title = f"Algonauts 2023 subj{plan.subject:02d}"
    index = VoxelIndex(title, plan.vertices, (2, plan.n_vertices), plan.regions, plan.membership)
    sizes = f"{len(splits.train):,} training, {len(splits.validation):,} validation, {len(splits.test):,} test"
    without = f" Sets that are not there: {listed(plan.missing, 6)}." if plan.missing else ""
    report = [
        f"{title}: {counted(len(plan.ids), 'training image')}, {plan.n_of[0]:,} vertices left and {plan.n_of[1]:,} right.",
        f"Split by image with seed {seed}: {sizes}. The challenge's own test images have no published responses.",
        f"Regions: {listed(plan.regions, 20) or 'none'}.{without}",
        "Noise ceiling: not published with this dataset; accuracy is not normalised.",
        "No cortex is drawn: vertices are laid out by similarity.",
    ]
    return Subject(
        name=name,
        kind="algonauts",
        stimuli=StimulusSet(plan.ids, images, ((),) * len(plan.ids), "none"),
        responses=Responses(values, None, plan.ids, index, "z-scored, as published"),
        splits=splits,
        cortex="",
        noise_ceiling=None,
        provenance={"import": {"source": title, "report": report}},
    )


def fingerprint_of(plan: AlgonautsPlan) -> str:
    """Hash of names, lengths and times of change of the files that are read."""
    files = [*plan.pictures, *sorted((plan.folder / "training_split/training_fmri").glob("*.npy"))]
    files += sorted((plan.folder / "roi_masks").glob("*.npy"))
    return hash_text(*(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files))


def _stop_if(cancelled: IsCancelled) -> None:
    if cancelled():
        raise Cancelled("The import was stopped; nothing was kept.")
