"""Drivers told from what merely goes along, with the causal test and without it, on voxels whose answer was planted."""

import numpy as np

from mine_core.experiments.claim_rows import Bench, Row
from mine_core.experiments.counterfactual_effects import N_TRIED, causal_things, correlated_things
from mine_core.experiments.planted import truth_of
from mine_core.experiments.planted_words import planted_words
from mine_core.instrument import Instrument
from mine_core.instrument.things import things_of

CAUSES = "causes"
N_CONFOUNDED, N_NULL, SEED = 6, 60, 97


def voxels_of(instrument: Instrument) -> list[int]:
    """Reliable confounded voxels whose driver and company are things, and null voxels, at random; none without planted answers."""
    if instrument.truth_path is None:
        return []
    truth, rng = truth_of(instrument), np.random.default_rng(SEED)
    things = _things(instrument)
    confounded = truth.of_kind("confounded")
    able = []
    for voxel in rng.permutation(confounded[instrument.reliable[confounded]]).tolist():
        planted = planted_words(truth, voxel)
        able += [voxel] if {planted.driver, planted.company} <= things else []
    return able[:N_CONFOUNDED] + rng.permutation(truth.of_kind("null"))[:N_NULL].tolist()


def causes(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Things that a voxel is said to answer, by correlation with measured responses and by insertion; see `causal_things`.

    One row: how many things are called each way, and of a confounded voxel whether its driver and its usual company are.
    """
    instrument, truth = bench.instrument, truth_of(bench.instrument)
    correlated = correlated_things(instrument, voxel, _things(instrument))
    causal = causal_things(instrument, voxel, correlated[:N_TRIED]) if correlated else ()
    row: Row = {"kind": "null", "reliable": bool(instrument.reliable[voxel]), "correlated": len(correlated), "causal": len(causal)}
    if voxel in truth.of_kind("confounded"):
        planted = planted_words(truth, voxel)
        row |= {"kind": "confounded", "driver": planted.driver, "company": planted.company}
        for how, called in (("correlated", correlated), ("causal", causal)):
            row |= {f"driver_{how}": planted.driver in called, f"company_{how}": planted.company in called}
    return [row]


def _things(instrument: Instrument) -> set[str]:
    return {word for words in things_of(instrument.vocabulary).values() for word in words}
