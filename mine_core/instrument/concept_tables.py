"""What a concept's test says, in tables and sentences: regions, refused voxels with the reason, and a summary."""

from typing import Any

import numpy as np
import pandas as pd

from mine_core.counterfactual.concept_test import LEAST_EDITED, LEVEL, VERDICTS
from mine_core.instrument.concepts import ConceptTest
from mine_core.instrument.instrument import Instrument
from mine_core.statistics import share_interval

TOGETHER = "each test holds alone, all of them together do not"


def voxel_table(instrument: Instrument, test: ConceptTest) -> pd.DataFrame:
    """Every reliable voxel: verdict, scores, interval, q-values, hardest negative, and why it was refused ("" where it was not)."""
    scores, voxels = test.scores, np.flatnonzero(instrument.reliable)
    names = ("s_pos", "s_neg", "s_edit", "s_elsewhere", "s_insert", "s_insert_other", "s_causal", "low", "high")
    columns: dict[str, Any] = {"voxel": voxels, "verdict": [VERDICTS[code] for code in scores.verdict[voxels]]}
    columns |= {name: getattr(scores, name)[voxels].astype(np.float64) for name in names}
    columns |= {name: getattr(scores, name)[voxels] for name in ("q_active", "q_neg", "q_edit", "q_causal")}
    columns["hardest_negative"] = [test.chosen.words[word] for word in scores.hardest[voxels]]
    columns["beyond_hardest"] = scores.hardest_gap[voxels].astype(np.float64)
    columns["why_refused"] = [why_refused(test, int(voxel)) for voxel in voxels]
    return pd.DataFrame(columns)


def why_refused(test: ConceptTest, voxel: int) -> str:
    """Which test an active voxel failed, and which other thing drives it; empty where it was not refused."""
    scores = test.scores
    if VERDICTS[scores.verdict[voxel]] != "activation only":
        return ""
    word, gap = test.chosen.words[scores.hardest[voxel]], scores.hardest_gap[voxel]
    told = []
    if not scores.q_neg[voxel] <= LEVEL:
        told.append(f"{word} drives it {'more' if gap < 0 else 'nearly as much'}")
    if not scores.q_edit[voxel] <= LEVEL:
        told.append("removal loses no more than elsewhere")
    return "; ".join(told) or TOGETHER


def region_table(instrument: Instrument, test: ConceptTest) -> pd.DataFrame:
    """Share of each region's reliable voxels that are causal, and refused, with 95 % intervals over these voxels."""
    rows = []
    index = instrument.subject.responses.voxels
    for name, inside in zip(index.regions, np.asarray(index.membership), strict=True):
        members = np.flatnonzero(inside & instrument.reliable)
        if len(members) < 2:
            continue
        row: dict[str, Any] = {"region": name, "voxels": len(members)}
        for verdict, column in (("causal", "causal"), ("activation only", "refused")):
            called = (test.scores.verdict[members] == VERDICTS.index(verdict)).astype(np.float64)
            row[column], row[f"{column}_interval"] = called.mean(), share_interval(called)
        row["s_causal"] = float(np.mean(test.scores.s_causal[members]))
        rows.append(row)
    columns = ["region", "voxels", "causal", "causal_interval", "refused", "refused_interval", "s_causal"]
    return pd.DataFrame(rows, columns=columns).sort_values(["causal", "refused"], ascending=False, ignore_index=True)


def verdict_sentence(instrument: Instrument, test: ConceptTest) -> str:
    """The outcome in a sentence or two."""
    scores, concept = test.scores, test.chosen.concept
    causal, refused = (len(scores.voxels(name)) for name in ("causal", "activation only"))
    reliable = int(instrument.reliable.sum())
    active = int((scores.q_active[instrument.reliable] <= LEVEL).sum())
    if not active:
        return f"No reliable voxel of {reliable:,} answers images of '{concept}' beyond other images."
    if scores.n_removed < LEAST_EDITED:
        return (
            f"{active:,} of {reliable:,} reliable voxels answer images of '{concept}'; whether it is the cause was not tested: only "
            f"{scores.n_removed} images have a verified removal, and {LEAST_EDITED} are needed."
        )
    return (
        f"{active:,} of {reliable:,} reliable voxels answer images of '{concept}'. In {f'{causal:,}' if causal else 'none'} of them it "
        f"passes every test of a cause; in {refused:,} the test refuses what activation alone would have called."
    )


def drivers_of_refused(test: ConceptTest) -> dict[str, int]:
    """Of refused voxels, how many each related thing drives at least as much as the concept, as measured; most first."""
    refused = test.scores.voxels("activation only")
    refused = refused[test.scores.hardest_gap[refused] <= 0]
    words, counts = np.unique(test.scores.hardest[refused], return_counts=True)
    return {test.chosen.words[words[place]]: int(counts[place]) for place in np.argsort(-counts, kind="stable")}


def summary_of(instrument: Instrument, test: ConceptTest) -> dict[str, Any]:
    """The outcome as plain numbers and texts."""
    scores, regions = test.scores, region_table(instrument, test)
    names = ("causal", "activation only", "neither")
    counts = {name.replace(" ", "_"): int(((scores.verdict == VERDICTS.index(name)) & instrument.reliable).sum()) for name in names}
    return {
        "concept": test.chosen.concept,
        "verdict": verdict_sentence(instrument, test),
        "voxels": {"reliable": int(instrument.reliable.sum()), **counts, "withheld": int((~instrument.reliable).sum())},
        "positives_measured": scores.n_positive,
        "apart_measured": scores.n_apart,
        "negatives_measured": scores.n_negative,
        "compared_with": list(test.chosen.words),
        "edits_made": test.n_asked,
        "edits_verified": test.n_verified,
        "images_with_verified_removal": scores.n_removed,
        "images_with_verified_insertion": scores.n_inserted,
        "left_out": list(test.failures),
        "refused_driven_as_much_by": drivers_of_refused(test),
        "regions": {
            row.region: f"causal {row.causal:.2f} ({row.causal_interval[0]:.2f} to {row.causal_interval[1]:.2f}), activation only "
            f"{row.refused:.2f} ({row.refused_interval[0]:.2f} to {row.refused_interval[1]:.2f}), {row.voxels} voxels"
            for row in regions.itertuples()
        },
    }
