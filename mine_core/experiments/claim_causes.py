"""Drivers told from what merely goes along, with the causal test and without it, on voxels whose answer was planted."""

import numpy as np

from mine_core.experiments.causal_calls import METHODS, called_by_edits, called_things, planted_things
from mine_core.experiments.claim_rows import Bench, Row
from mine_core.experiments.planted import truth_of
from mine_core.experiments.planted_words import planted_words
from mine_core.instrument import Instrument

CAUSES = "causes"
N_CONFOUNDED, N_NULL, SEED = 6, 60, 97


def voxels_of(instrument: Instrument) -> list[int]:
    """Reliable confounded voxels whose driver and company are things, and null voxels, at random; none without planted answers."""
    if instrument.truth_path is None:
        return []
    truth, rng = truth_of(instrument), np.random.default_rng(SEED)
    things = planted_things(instrument)
    confounded = truth.of_kind("confounded")
    able = []
    for voxel in rng.permutation(confounded[instrument.reliable[confounded]]).tolist():
        planted = planted_words(truth, voxel)
        able += [voxel] if {planted.driver, planted.company} <= things else []
    return able[:N_CONFOUNDED] + rng.permutation(truth.of_kind("null"))[:N_NULL].tolist()


def causes(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Things that a voxel is said to answer, by each method of `causal_calls`: by correlation alone, and by the causal test.

    One row: what is called, and of a confounded voxel its driver and its usual company.
    """
    instrument, truth = bench.instrument, truth_of(bench.instrument)
    things = planted_things(instrument)
    [called] = called_things(instrument, np.array([voxel]), things, lambda _: [called_by_edits(instrument, voxel, things)]).values()
    row: Row = {"kind": "null", "reliable": bool(instrument.reliable[voxel])}
    row |= {method: sorted(called[method]) for method in METHODS}
    if voxel in truth.of_kind("confounded"):
        planted = planted_words(truth, voxel)
        row |= {"kind": "confounded", "driver": planted.driver, "company": planted.company}
    return [row]
