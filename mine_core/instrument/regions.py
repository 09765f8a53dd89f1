"""Regions of a subject: which group of words each goes with, and what its parts have of their own."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from mine_core.description.own_words import OWN
from mine_core.description.regions import REPEATS_FROM, GroupRecovery, RegionParts, recover_groups, split_region
from mine_core.description.vocabulary import USER_GROUP
from mine_core.errors import EncodingError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.wanting import Wanting, wanting_of
from mine_core.profiles import wordless_text
from mine_core.types import OnProgress

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
    # a user's own words are of no category
    offered = ground.offered & np.array([group != USER_GROUP for group in instrument.vocabulary.groups])
    groups = [group for group, chosen in zip(instrument.vocabulary.groups, offered, strict=True) if chosen]
    found = {}
    for region in voxels.regions:
        members = voxels.in_region(region)
        if len(members):
            answers, measured = (np.asarray(values[:, members][at], np.float32) for at in (ground.train, ground.held_out))
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
        np.asarray(values[:, members][ground.train], np.float32),
        np.asarray(values[:, members][ground.held_out], np.float32),
        ground.words,
        ground.offered,
        SEED,
    )


def reliable_members(instrument: Instrument, region: str) -> Int[np.ndarray, " member"]:
    """Voxels of a region of which something may be said."""
    members = instrument.subject.responses.voxels.in_region(region)
    return members[instrument.reliable[members]]


def is_recovered(region: str, entry: GroupRecovery) -> bool | None:
    """Whether the known category leads and its lead's interval lies above 0; None where none is known."""
    known = known_group(region)
    return known == entry.best and entry.lead_low > 0 if known else None


def region_profiles(instrument: Instrument, on_progress: OnProgress | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Profiles of all regions, a row a region and a row each of its parts, and their voxels with what each has of its own.

    Parts are missing where fewer than 12 voxels are reliable; then the region's row says so. Raises EncodingError if the backbone
    has no words or too few stimuli are held out.
    """
    report = on_progress or (lambda *_: None)
    found, rows, members = recovered(instrument), [], []
    for number, (region, entry) in enumerate(found.items()):
        report(number, len(found), f"Splitting {region}")
        try:
            parts, without = parts_of(instrument, region), ""
        except EncodingError as refusal:
            parts, without = None, str(refusal)
        rows += region_rows(region, entry, parts, without, instrument.own_words)
        members += voxel_rows(region, parts, instrument.own_words) if parts is not None else []
    report(len(found), max(len(found), 1), "Ready")
    return pd.DataFrame(rows), pd.DataFrame(members, columns=VOXEL_COLUMNS)


def region_rows(
    region: str, entry: GroupRecovery, parts: RegionParts | None, without: str = "", mine: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One region as rows: the whole as part 0 with its category and what its voxels share, then each part with its own words.

    `without` says why there are no parts; `mine` are words that the user brought.
    """
    place = entry.groups.index(entry.best)
    whole = {
        "region": region,
        "part": 0,
        "n_voxels": entry.n_voxels,
        "n_reliable": len(parts.voxels) if parts else None,
        "goes_with": entry.best,
        "r": float(entry.r[place]),
        "r_low": float(entry.low[place]),
        "r_high": float(entry.high[place]),
        "lead": entry.lead,
        "lead_low": entry.lead_low,
        "lead_high": entry.lead_high,
        "known": known_group(region),
        "recovered": is_recovered(region, entry),
        "words": listed(parts.shared, mine) if parts else [],
        "n_parts": len(parts.own) or 1 if parts else None,
        "stability": json.dumps({n: round(value, 4) for n, value in parts.stability.items()}) if parts else "",
        "withheld": without or ("" if parts and parts.own else f"No split repeats on two halves of the images at {REPEATS_FROM}."),
    }
    own = parts.own if parts else ()
    each = [
        {
            "region": region,
            "part": number,
            "n_reliable": int((parts.part == number - 1).sum()) if parts else 0,
            "words": listed(words, mine),
            "withheld": "",
        }
        for number, words in enumerate(own, 1)
    ]
    return [whole, *each]


VOXEL_COLUMNS = ["region", "voxel", "part", "own_words"]


def voxel_rows(region: str, parts: RegionParts, mine: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Reliable voxels of a region: part (from 1), and the words that each has more of than the region's mean."""
    several = zip(parts.voxels.tolist(), parts.part.tolist(), parts.alone, strict=True)
    return [{"region": region, "voxel": voxel, "part": part + 1, "own_words": listed(alone, mine)} for voxel, part, alone in several]


def listed(words: Sequence[tuple[str, float]], mine: Sequence[str] = ()) -> list[str]:
    """Words with their scores as text, those that the user brought marked."""
    return [f"{word} {OWN} {score:+.2f}" if word in mine else f"{word} {score:+.2f}" for word, score in words]


def _require_words(instrument: Instrument) -> Wanting:
    wanting = wanting_of(instrument)
    if wanting is None:
        raise EncodingError(wordless_text(instrument.features.backbone.name))
    return wanting
