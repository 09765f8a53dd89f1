"""Regions of a subject: which group of words each goes with, and what its parts have of their own."""

import numpy as np
from jaxtyping import Int

from mine_core.description.regions import GroupRecovery, RegionParts, recover_groups, split_region
from mine_core.errors import EncodingError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.wanting import Wanting, wanting_of
from mine_core.profiles import wordless_text

SEED = 7307
# What localisers find in a region of this name, or one that begins with it: Kanwisher et al. (1997), Gauthier et al. (2000),
# Downing et al. (2001), Peelen and Downing (2005), Epstein and Kanwisher (1998), Dilks et al. (2013), Cohen et al. (2000).
KNOWN = {
    "FFA": "faces",
    "OFA": "faces",
    "aTL-faces": "faces",
    "mTL-faces": "faces",
    "EBA": "bodies",
    "FBA": "bodies",
    "PPA": "places",
    "OPA": "places",
    "RSC": "places",
    "VWFA": "words",
    "OWFA": "words",
}


def known_group(region: str) -> str:
    """Group that localisers find in a region of this name; empty where none is known."""
    return next((group for name, group in KNOWN.items() if region.startswith(name)), "")


def recovered(instrument: Instrument) -> dict[str, GroupRecovery]:
    """Which group of words every region goes with, over all of its voxels, reliable or not, with intervals.

    Raises EncodingError if the backbone has no words or too few stimuli are held out.
    """
    ground = _require_words(instrument).ground
    voxels, values, rng = instrument.subject.responses.voxels, instrument.subject.responses.values, np.random.default_rng(SEED)
    offered = ground.offered
    groups = [group for group, chosen in zip(instrument.vocabulary.groups, offered, strict=True) if chosen]
    found = {}
    for region in voxels.regions:
        members = voxels.in_region(region)
        if len(members):
            answers, measured = (np.asarray(values[at][:, members], np.float32) for at in (ground.train, ground.held_out))
            found[region] = recover_groups(ground.seen[:, offered], ground.left_out[:, offered], groups, answers, measured, rng)
    return found


def parts_of(instrument: Instrument, region: str) -> RegionParts:
    """Split the reliable voxels of a region by what they want.

    Raises
    ------
    EncodingError
        If the backbone has no words, or fewer than 12 voxels are reliable.
    AlignmentError
        If there is no such region.
    """
    ground = _require_words(instrument).ground
    members = reliable_members(instrument, region)
    values = instrument.subject.responses.values
    return split_region(
        members,
        ground.seen,
        ground.left_out,
        np.asarray(values[ground.train][:, members], np.float32),
        np.asarray(values[ground.held_out][:, members], np.float32),
        ground.words,
        ground.offered,
        SEED,
    )


def reliable_members(instrument: Instrument, region: str) -> Int[np.ndarray, " member"]:
    """Voxels of a region of which something may be said."""
    members = instrument.subject.responses.voxels.in_region(region)
    return members[instrument.reliable[members]]


def _require_words(instrument: Instrument) -> Wanting:
    wanting = wanting_of(instrument)
    if wanting is None:
        raise EncodingError(wordless_text(instrument.features.backbone.name))
    return wanting
