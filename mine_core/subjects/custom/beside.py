"""What a user may give beside images and responses: splits, regions, noise ceilings, captions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import counted, listed
from mine_core.subjects.custom.mapper import Mapper
from mine_core.subjects.custom.matching import Matching, index_by
from mine_core.subjects.custom.places import is_image, read_map, read_region_maps
from mine_core.subjects.custom.responses import ResponseTable
from mine_core.subjects.custom.sources import Source, Sources, label, only
from mine_core.subjects.custom.splits import check_splits, read_splits
from mine_core.subjects.custom.tables import read_captions
from mine_core.subjects.custom.voxels import read_noise_ceiling, read_regions
from mine_core.types import Splits


@dataclass(frozen=True)
class Beside:
    """What was given, of all stimuli that were matched and all voxels of the responses."""

    splits: Splits | None
    regions: tuple[str, ...]
    membership: Bool[np.ndarray, "region voxel"]
    noise_ceiling: Float[np.ndarray, " voxel"] | None
    captions: tuple[tuple[str, ...], ...]
    caption_source: str
    notes: tuple[str, ...]


def read_beside(
    splits: Splits | Source | None,
    regions: tuple[Sources | None, Source | None],
    noise_ceiling: Sources | None,
    captions: Source | None,
    table: ResponseTable,
    matching: Matching,
    flat: Mapper | None,
) -> Beside:
    """Read what was given; `regions` is the file or files, and the names of their labels.

    Raises SubjectError for whatever cannot be used as given, with numbers.
    """
    given = splits if isinstance(splits, Splits) or splits is None else read_splits(splits, matching.ids)
    if given is not None:
        check_splits(given, len(matching.ids))
    notes = []
    names, membership = _read_regions(*regions, table, flat)
    outside = int((~membership.any(axis=0)).sum()) if names else 0
    notes += [f"{counted(outside, 'voxel')} in no region."] if outside else []
    sentences: tuple[tuple[str, ...], ...] = ((),) * len(matching.ids)
    source = "none"
    if captions is not None:
        sentences, caption_notes = _match_captions(captions, matching.ids)
        source = f"given ({label(captions)})"
        notes += caption_notes
    ceiling = None if noise_ceiling is None else _read_ceiling(noise_ceiling, table)
    return Beside(given, names, membership, ceiling, sentences, source, tuple(notes))


def _read_regions(
    regions: Sources | None, names: Source | None, table: ResponseTable, flat: Mapper | None
) -> tuple[tuple[str, ...], Bool[np.ndarray, "region voxel"]]:
    if is_image(regions):
        return read_region_maps(regions, names, table.places)  # type: ignore[arg-type]
    if names is not None:
        raise SubjectError(f"Names of regions ({label(names)}) were given, and no map of their labels; give regions as NIfTI or GIFTI.")
    if regions is None:
        return (flat.regions, flat.membership) if flat is not None else ((), np.zeros((0, table.n_voxels), dtype=np.bool_))
    return read_regions(only(regions, "Regions"), table.n_voxels, table.voxel_names)


def _read_ceiling(given: Sources, table: ResponseTable) -> Float[np.ndarray, " voxel"]:
    if is_image(given):
        return read_map(given, table.places, "Noise ceilings")[0]
    return read_noise_ceiling(only(given, "Noise ceilings"), table.n_voxels)


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
