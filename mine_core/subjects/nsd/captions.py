"""Captions of the experiment's images: COCO's, found by the table that says which image of COCO each stimulus is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MAX_CAPTION_LENGTH, counted, listed, plain, reason
from mine_core.subjects.custom.tables import read_coco
from mine_core.subjects.nsd.tree import NsdTree

NEEDED = ("nsdId", "cocoId", "cocoSplit")
SHARED = "shared1000"


def captions_of(
    tree: NsdTree, stimuli: Int[np.ndarray, " stimulus"], shared: Int[np.ndarray, " shared"], coco: Sequence[Path]
) -> tuple[tuple[str, ...], ...]:
    """Captions of stimuli (0-based places in the dataset), from files of COCO's captions.

    The table counts stimuli as the design does if both name the same images as shared by all subjects (`shared`). White space
    and what cannot be printed become single spaces.

    Raises
    ------
    SubjectError
        If the table or a file cannot be read, the table counts stimuli differently or lacks one, or an image has no caption.

    References
    ----------
    Allen et al. (2022), 10.1038/s41593-021-00962-x; Chen et al. (2015), arXiv:1504.00325.
    """
    images, splits = _images_of(tree, stimuli, shared)
    wanted = set(images)
    said: dict[int, list[str]] = {}
    for path in coco:
        for image, sentence in read_coco(path)[1]:
            if image in wanted:
                said.setdefault(int(image), []).append(_one_line(sentence, int(image), path))
    without = [(place, image, split) for place, image, split in zip(stimuli, images, splits, strict=True) if image not in said]
    if without:
        place, image, split = without[0]
        raise SubjectError(
            f"{counted(len(without), 'image')} of {len(images):,} have no caption in {listed([path.name for path in coco])} "
            f"(first: nsd-{place:05d} is image {image} of COCO's {plain(split)}); give COCO's captions of train2017 and of val2017."
        )
    return tuple(tuple(said[image]) for image in images)


def _images_of(tree: NsdTree, stimuli: Int[np.ndarray, " stimulus"], shared: Int[np.ndarray, " shared"]) -> tuple[list[int], list[str]]:
    """Which image of COCO each stimulus is, and of which of its splits."""
    import pandas as pd

    path = tree.information
    if not path.is_file():
        raise SubjectError(f"There is no {tree.shown(path)} in {tree.root}; it says which images captions are of. Copy it there.")
    try:
        table = pd.read_csv(path, usecols=[*NEEDED, SHARED])
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error
    for name in NEEDED[:2]:
        if table[name].dtype.kind not in "iu":
            raise SubjectError(f"{path.name}: {name} holds {table[name].dtype}; expected whole numbers. Copy it again.")
    if table["nsdId"].duplicated().any():
        raise SubjectError(f"{path.name} names {int(table['nsdId'].duplicated().sum()):,} stimuli twice; copy it again.")
    told = np.sort(table["nsdId"][table[SHARED].astype(bool)].to_numpy())
    if not np.array_equal(told, np.sort(shared)):
        raise SubjectError(
            f"{path.name} and the design do not count stimuli alike: of {len(shared):,} images that the design shows to all subjects, "
            f"{len(np.setdiff1d(shared, told)):,} are not so in the table. Copy both from the same release."
        )
    rows = table.set_index("nsdId").reindex(stimuli)
    lost = rows["cocoId"].isna().to_numpy()
    if lost.any():
        raise SubjectError(
            f"{path.name} lacks {counted(int(lost.sum()), 'stimulus', 'stimuli')} (first: {stimuli[lost][0]}); copy it again."
        )
    return [int(image) for image in rows["cocoId"]], [str(split) for split in rows["cocoSplit"]]


def _one_line(sentence: str, image: int, path: Path) -> str:
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in sentence).split())
    if not 0 < len(words) <= MAX_CAPTION_LENGTH:
        raise SubjectError(
            f"{path.name}: a caption of image {image} has {len(words):,} characters; expected 1 to {MAX_CAPTION_LENGTH:,}. "
            "Copy it again."
        )
    return words
