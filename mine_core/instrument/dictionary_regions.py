"""What a dictionary says of a region: whether its voxels share units, and their units as each likes best or one to a voxel."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mine_core.description.scoring import standardised
from mine_core.dictionary.consistency import Consistency, region_consistency
from mine_core.dictionary.matching import assign_one_to_one
from mine_core.errors import EncodingError
from mine_core.instrument.dictionary import Dictionary, regions_of, unit_numbers
from mine_core.instrument.instrument import Instrument

SEED, N_PERMUTATIONS = 31, 1000
LEAST_VOXELS, MOST_VOXELS = 2, 2000


@dataclass(frozen=True)
class RegionUnits:
    """Units of a region's matched voxels, read in whole images: of each voxel its own best, or each unit to one voxel alone.

    `layer` (from 0) and `unit` name them; `r_chosen` is the correlation on the images that chose, `r_held_out` on the others. Where
    units are given out one to one and there are fewer than voxels, the voxels that went without are left out.
    """

    voxels: Int[np.ndarray, " voxel"]
    layer: Int[np.ndarray, " voxel"]
    unit: Int[np.ndarray, " voxel"]
    r_chosen: Float[np.ndarray, " voxel"]
    r_held_out: Float[np.ndarray, " voxel"]

    @property
    def n_units(self) -> int:
        """How many different units there are among them."""
        return len(set(zip(self.layer.tolist(), self.unit.tolist(), strict=True)))


def sharing_of_regions(instrument: Instrument, dictionary: Dictionary) -> Consistency:
    """Whether voxels of one region share their first unit more than chance.

    Raises EncodingError where no region has 10 matched voxels.
    """
    rng = np.random.default_rng(SEED)
    return region_consistency(unit_numbers(dictionary), dictionary.matched, regions_of(instrument), rng, N_PERMUTATIONS)


def units_of_region(instrument: Instrument, dictionary: Dictionary, region: str) -> tuple[RegionUnits, RegionUnits]:
    """Units of a region's matched voxels: each voxel's own best, and the assignment of one unit to a voxel that is best in sum.

    Both are chosen by the correlation in whole images on the half of the images that chooses; the second is the largest sum of
    correlations in which no unit is given twice (`mine_core.dictionary.matching.assign_one_to_one`).

    Raises
    ------
    EncodingError
        If there is no such region, or it has fewer than 2 or more than 2,000 matched voxels.

    Notes
    -----
    One to one says how much of the region is told apart by units of its own; it is not the better account of any one voxel.
    """
    regions = regions_of(instrument)
    if region not in regions:
        raise EncodingError(f"There is no region {region!r}; there are {', '.join(regions) or 'none'}.")
    voxels = np.flatnonzero(regions[region] & dictionary.matched)
    if not LEAST_VOXELS <= len(voxels) <= MOST_VOXELS:
        raise EncodingError(
            f"{region} has {len(voxels):,} voxels with a unit; units are given out to {LEAST_VOXELS} to {MOST_VOXELS:,} voxels."
        )
    chosen, held_out = _whole_similarity(instrument, dictionary, voxels)
    layer = np.repeat(np.arange(len(dictionary.whole)), [part.shape[1] for part in dictionary.whole])
    unit = np.concatenate([np.arange(part.shape[1]) for part in dictionary.whole])
    best, each = chosen.argmax(axis=0), np.arange(len(voxels))
    own = RegionUnits(voxels, layer[best], unit[best], chosen[best, each], held_out[best, each])
    given, taker, of_chosen, of_held_out = assign_one_to_one(chosen, held_out)
    return own, RegionUnits(voxels[taker], layer[given], unit[given], of_chosen, of_held_out)


def _whole_similarity(
    instrument: Instrument, dictionary: Dictionary, voxels: Int[np.ndarray, " chosen"]
) -> tuple[Float[np.ndarray, "unit chosen"], Float[np.ndarray, "unit chosen"]]:
    """Correlation of every unit of all layers, in whole images, with some voxels: on the half that chooses, and on the other."""
    found = []
    for half in (dictionary.halves.choose, dictionary.halves.measure):
        answers = standardised(np.asarray(instrument.subject.responses.values[:, voxels][half], np.float32))
        units = [standardised(np.asarray(layer[half], np.float32)).T @ answers for layer in dictionary.whole]
        found.append(np.concatenate(units))
    return found[0], found[1]
