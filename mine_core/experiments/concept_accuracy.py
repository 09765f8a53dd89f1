"""Does the test of a concept find the planted driver, and refuse what activation alone takes for one?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.counterfactual.concept_test import LEVEL, ConceptScores, score_concept
from mine_core.errors import EditError
from mine_core.experiments.pieces import HERE, Pieces, measure_pieces
from mine_core.experiments.planted import DRIVING_SHARE, truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.concepts import SEED, evidence_of, run_concept
from mine_core.statistics import resample_counts
from mine_core.subjects.phantom.scenes import CONCEPTS
from mine_core.subjects.phantom.scenes.concepts import CONCEPT_INDEX
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

N_CONCEPTS, N_RESAMPLES = 12, 1000
METHODS = ("activation", "negatives", "edits", "causal", "score_above_zero")
FEW = 3  # drivers of a voxel beyond which it answers its whole group


@dataclass(frozen=True)
class Outcome:
    """What was planted of one concept and what each method calls, in every voxel that counts."""

    concept: str
    called: dict[str, Bool[np.ndarray, " voxel"]]
    drives: Bool[np.ndarray, " voxel"]
    apart: Bool[np.ndarray, " voxel"]
    company: Bool[np.ndarray, " voxel"]
    shuffled: dict[str, float]
    null_called: dict[str, float]


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Test things as concepts and compare every reliable voxel's verdict with what was planted.

    Twelve things: the drivers and companies of confounded voxels, and others at random. A concept drives a voxel where its planted
    weight is at least half of the strongest; voxels that it drives less are left out. The true positive rate is over pairs of
    voxel and driving concept, the false positive rate over pairs without. `activation`: q <= 0.05 of the positives. `negatives` and
    `edits`: q <= 0.05 of that score alone. `causal`: the verdict. `score_above_zero`: S_causal > 0, as the source reads it.
    Intervals resample voxels; those named `over_concepts` resample concepts. Editing the images of a concept is a task.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    truth, rng = truth_of(instrument), np.random.default_rng(23)
    names = concepts_to_test(truth, rng)
    tested = measure_pieces(
        Pieces("concept_edited", _opened, _edited),
        [{"name": name} for name in names],
        config,
        store,
        opened=(instrument, store),
        where=where,
        title="editing the images of each concept",
        on_progress=on_progress,
    )
    refused = {name: found["refused"] for name, found in zip(names, tested, strict=True) if found["refused"]}
    outcomes = [_outcome(instrument, store, truth, name, rng) for name in names if name not in refused]
    drivers = (truth.concept_weights > 0).sum(axis=1)[instrument.reliable]
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "concepts": [outcome.concept for outcome in outcomes],
        "not_tested": refused,
        "n_voxels": int(instrument.reliable.sum()),
        "methods": {method: _rates(outcomes, method, drivers, rng) for method in METHODS},
    }


def _opened(config: InstrumentConfig, store: ArtifactStore) -> tuple[Instrument, ArtifactStore]:
    return build_instrument(config, store), store


def _edited(opened: tuple[Instrument, ArtifactStore], name: str) -> dict[str, str]:
    """Test a concept, so that its edits are in the store, and say why where that is refused."""
    try:
        run_concept(*opened, name)
    except EditError as refusal:
        return {"refused": str(refusal)}
    return {"refused": ""}


def concepts_to_test(truth: PlantedTruth, rng: np.random.Generator) -> list[str]:
    """Drivers and companies of confounded voxels, and others at random."""
    confounded = truth.of_kind("confounded")
    planted = {int(index) for index in (*truth.driver[confounded], *truth.company_concept[confounded]) if index >= 0}
    first = sorted(CONCEPTS[index].name for index in planted)
    others = [str(name) for name in rng.permutation([concept.name for concept in CONCEPTS]) if name not in first]
    return [*first, *others[: N_CONCEPTS - len(first)]]


def _outcome(instrument: Instrument, store: ArtifactStore, truth: PlantedTruth, name: str, rng: np.random.Generator) -> Outcome:
    test = run_concept(instrument, store, name)
    weights = truth.concept_weights[:, CONCEPT_INDEX[name]]
    strongest = np.maximum(truth.concept_weights.max(axis=1), truth.background_weights.max(axis=1))
    drives, reliable = (weights > 0) & (weights >= DRIVING_SHARE * strongest), instrument.reliable
    evidence = evidence_of(instrument, test.chosen, test.removals, test.insertions)
    mixed = replace(evidence, measured=evidence.measured[rng.permutation(len(evidence.measured))])
    shuffled = calls_of(score_concept(mixed, reliable, np.random.default_rng(SEED)))
    null = np.zeros(len(reliable), bool)
    null[truth.of_kind("null")] = True
    unheld = calls_of(score_concept(evidence, reliable | null, np.random.default_rng(SEED)))
    return Outcome(
        name,
        {method: called[reliable] for method, called in calls_of(test.scores).items()},
        drives[reliable],
        (weights == 0)[reliable],
        (truth.company_concept == CONCEPT_INDEX[name])[reliable],
        {method: float(called[reliable].mean()) for method, called in shuffled.items()},
        {method: float(called[null].mean()) for method, called in unheld.items()},
    )


def calls_of(scores: ConceptScores) -> dict[str, Bool[np.ndarray, " voxel"]]:
    """Which voxels each method calls."""
    active = scores.q_active <= LEVEL
    return {
        "activation": active,
        "negatives": scores.q_neg <= LEVEL,
        "edits": scores.q_edit <= LEVEL,
        "causal": active & (scores.q_causal <= LEVEL),
        "score_above_zero": scores.s_causal > 0,
    }


def _rates(outcomes: Sequence[Outcome], method: str, drivers: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """How often a method calls what is planted and what is not, and where."""
    if not outcomes:
        return {"n_concepts": 0}
    called = np.stack([outcome.called[method] for outcome in outcomes])
    drives, apart, company = (np.stack([getattr(outcome, name) for outcome in outcomes]) for name in ("drives", "apart", "company"))
    kinds = {"alone": drivers == 1, "few": (drivers > 1) & (drivers <= FEW), "whole_group": drivers > FEW}
    n_called = int((called & (drives | apart)).sum())
    return {
        "n_called": n_called,
        "true_positive_rate": rate(called, drives, rng),
        "false_positive_rate": rate(called, apart, rng),
        "false_share_of_calls": rate(apart, called & (drives | apart), rng),
        "company_called": rate(called, company, rng),
        "true_positive_rate_by_drivers": {name: rate(called, drives & kind, rng) for name, kind in kinds.items()},
        "shuffled_responses_called": float(np.mean([outcome.shuffled[method] for outcome in outcomes])),
        "null_voxels_called_if_not_withheld": float(np.mean([outcome.null_called[method] for outcome in outcomes])),
    }


def rate(hits: Bool[np.ndarray, "concept voxel"], among: Bool[np.ndarray, "concept voxel"], rng: np.random.Generator) -> dict[str, Any]:
    """Share of `among` that is hit, with 95 % intervals that resample voxels, and concepts."""
    found: dict[str, Any] = {"n": int(among.sum()), "mean": None}
    if not among.any():
        return found
    found["mean"] = float((hits & among).sum() / among.sum())
    for axis, name in ((0, "interval"), (1, "interval_over_concepts")):
        part, whole = (hits & among).sum(axis=axis).astype(np.float64), among.sum(axis=axis).astype(np.float64)
        if len(whole) > 1:
            counts = resample_counts(len(whole), N_RESAMPLES, rng)
            drawn = (counts @ part) / np.maximum(counts @ whole, 1)
            found[name] = [float(end) for end in np.quantile(drawn[counts @ whole > 0], [0.025, 0.975])]
    return found
