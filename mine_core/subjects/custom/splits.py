"""Training, validation and test stimuli: split by image, so that no picture is on both sides."""

import hashlib

import numpy as np
from jaxtyping import Int, UInt8

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import MIN_SPLIT, counted, listed, plain, quoted
from mine_core.subjects.custom.sources import Source
from mine_core.subjects.custom.tables import read_table
from mine_core.types import Splits

NAMES = ("train", "validation", "test")
HELD_OUT = 0.1

Groups = Int[np.ndarray, " stimulus"]


def group_identical(images: UInt8[np.ndarray, "stimulus size size 3"]) -> Groups:
    """Group of each stimulus: images of the same pixels, under whatever names, share one (numbered by first appearance)."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(hashlib.sha256(image.tobytes()).digest(), len(numbers)) for image in images], dtype=np.int64)


def draw_splits(groups: Groups, seed: int) -> Splits:
    """Draw 80 % training, 10 % validation and 10 % test stimuli at random, identical images together.

    The groups are permuted by `numpy.random.default_rng(seed)`; test takes groups until it has a tenth of the stimuli, then
    validation, and training the rest. Positions are ascending.
    """
    n_groups = int(groups.max()) + 1
    order = np.random.default_rng(seed).permutation(n_groups)
    sizes = np.bincount(groups, minlength=n_groups)[order]
    before = np.cumsum(sizes) - sizes
    held_out = max(MIN_SPLIT, round(HELD_OUT * len(groups)))
    part_of_group = np.empty(n_groups, dtype=np.int64)
    part_of_group[order] = np.where(before < held_out, 2, np.where(before < 2 * held_out, 1, 0))
    part = part_of_group[groups]
    return Splits(*(np.flatnonzero(part == number) for number in range(3)))


def read_splits(source: Source, ids: tuple[str, ...]) -> Splits:
    """Splits from a CSV with the header stimulus,split, where split is train, validation or test.

    Raises SubjectError for another word, a stimulus that does not exist, is given twice or is left out.
    """
    position = {name: i for i, name in enumerate(ids)}
    given: dict[str, str] = {}
    for name, split in read_table(source, ("stimulus", "split"), "splits"):
        if split not in NAMES:
            raise SubjectError(f"Stimulus {quoted(name)} is in split {quoted(split)}; expected {', '.join(NAMES)}.")
        if name in given:
            raise SubjectError(f"splits: stimulus {quoted(name)} is given twice; expected each once.")
        given[name] = split
    unknown = [name for name in given if name not in position]
    lost = [name for name in ids if name not in given]
    if unknown or lost:
        raise SubjectError(
            f"splits name {counted(len(unknown), 'stimulus', 'stimuli')} that do not exist ({listed(unknown) or 'none'}) "
            f"and leave out {len(lost):,} of {len(ids):,} ({listed(lost) or 'none'}); name each stimulus once."
        )
    return Splits(*(np.array([i for i, name in enumerate(ids) if given[name] == split], dtype=np.int64) for split in NAMES))


def keep_stimuli(splits: Splits, kept: np.ndarray) -> Splits:
    """Splits of the stimuli that remain (`kept[stimulus]` True), in their new positions."""
    new = np.cumsum(kept) - 1
    return Splits(*(new[part[kept[part]]] for part in (splits.train, splits.validation, splits.test)))


def check_splits(splits: Splits, n_stimuli: int) -> None:
    """Refuse positions that do not exist, stimuli in two splits or in none; raises SubjectError with how many."""
    positions = np.concatenate([splits.train, splits.validation, splits.test])
    if len(positions) and not (positions.min() >= 0 and positions.max() < n_stimuli):
        raise SubjectError(f"splits hold positions {positions.min()} to {positions.max()}; stimuli are 0 to {n_stimuli - 1}.")
    times = np.bincount(positions, minlength=n_stimuli)
    if (times != 1).any():
        raise SubjectError(
            f"{int((times > 1).sum()):,} stimuli are in more than one split and {int((times == 0).sum()):,} in none; "
            "expected each in one. Correct the splits."
        )


def check_leaks(splits: Splits, groups: Groups, ids: tuple[str, ...]) -> None:
    """Refuse splits that are too small, or that share an image; raises SubjectError with how many, and the first."""
    for name in NAMES:
        n_stimuli = len(getattr(splits, name))
        if n_stimuli < MIN_SPLIT:
            raise SubjectError(f"The {name} split holds {counted(n_stimuli, 'stimulus', 'stimuli')}; expected at least {MIN_SPLIT}.")
    held_out = np.concatenate([splits.validation, splits.test])
    shared = np.isin(groups[held_out], groups[splits.train])
    crossed = np.isin(groups[splits.test], groups[splits.validation])
    if shared.any() or crossed.any():
        first = held_out[shared][0] if shared.any() else splits.test[crossed][0]
        raise SubjectError(
            f"{int(shared.sum()):,} held-out images are pixel for pixel in the training split, and {int(crossed.sum()):,} of the "
            f"test in the validation split (first: {plain(ids[first])}); put identical images in one split, or leave splits out."
        )
