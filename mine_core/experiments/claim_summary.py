"""What the rows of all tasks add up to: effects with intervals, nulls, a verdict for each comparison, and the planted truth beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest, trim_mean

from mine_core.errors import MineError
from mine_core.experiments.attribution_curves import difference
from mine_core.experiments.causal_calls import METHODS
from mine_core.experiments.claim_rows import Row
from mine_core.experiments.claim_sentences import sentence
from mine_core.experiments.mixed_effects import Effect, Rows, condition_effect, exchanged
from mine_core.statistics import resample_counts

SEED, TRIM, N_RESAMPLES = 101, 0.2, 2000
Verdict = Literal["for", "against", "undecided"]
Pieces = Mapping[Any, Sequence[Row]]


@dataclass(frozen=True)
class Contrast:
    """One comparison of two conditions of a claim.

    `expected` is the sign that the claim gives to treated less reference; `value` names the number that is compared, `kind` the edits
    that it is of. `paired` is True where both conditions are measured in the same image.
    """

    claim: str
    name: str
    treated: str
    reference: str
    value: str
    expected: int
    unit: str
    kind: str = ""
    paired: bool = True


MEASURED_SD, PREDICTED_SD = "SD of measured responses", "SD of predictions"
CONTRASTS = (
    Contrast("reconstruction", "random patches", "random", "critical", "error", 1, MEASURED_SD),
    Contrast("reconstruction", "least attributed patches", "least", "critical", "error", 1, MEASURED_SD),
    Contrast("reconstruction", "random patches, to the prediction", "random", "critical", "distance", 1, PREDICTED_SD),
    Contrast("reconstruction", "least attributed, to the prediction", "least", "critical", "distance", 1, PREDICTED_SD),
    Contrast("discriminability", "preferred images", "preferred", "non-preferred", "predicted", 1, PREDICTED_SD, paired=False),
    Contrast("edits", "removal", "edit", "controls", "shift", -1, PREDICTED_SD, kind="remove"),
    Contrast("edits", "insertion", "edit", "controls", "shift", 1, PREDICTED_SD, kind="insert"),
    Contrast("faithfulness", "random piece", "critical", "random", "ratio", 1, "share of the way"),
    Contrast("faithfulness", "random piece in the same place", "critical", "random there", "ratio", 1, "share of the way"),
    Contrast("guidance", "one image's words", "profile", "image's words", "shift", 1, PREDICTED_SD),
    Contrast("guidance", "a piece of the best image", "profile", "image", "shift", 1, PREDICTED_SD),
    Contrast("tokens", "necessity", "without critical", "without random", "error", 1, "variance of responses"),
    Contrast("tokens", "sufficiency", "random alone", "critical alone", "error", 1, "variance of responses"),
)


def summarise(pieces: Pieces, *, planted: bool) -> dict[str, Any]:
    """Effects of every contrast, and on a phantom what its truth says; see `contrast_entry`, `planted_entry`, `causes_entry`."""
    rows: dict[str, list[Row]] = {}
    for piece, found in pieces.items():
        rows.setdefault(piece.claim, []).extend({**row, "voxel": piece.voxel} for row in found)
    contrasts = [contrast_entry(contrast, rows.get(contrast.claim, [])) for contrast in CONTRASTS]
    summary: dict[str, Any] = {
        "contrasts": contrasts,
        "verified_rate": verified_rates(rows.get("edits", [])),
        "ratios": {name: ratio_entry(rows.get("faithfulness", []), name) for name in ("critical", "random", "random there")},
        "things_drawn": things_drawn(rows.get("reconstruction", [])),
    }
    if planted:
        edits = [row for row in rows.get("edits", []) if row["condition"] == "edit" and row["verified"]]
        summary["planted"] = {
            "removals": planted_entry([row for row in edits if row["kind"] == "remove"]),
            "insertions": planted_entry([row for row in edits if row["kind"] == "insert"]),
            "insertions guided by the profile": planted_entry([r for r in rows.get("guidance", []) if r["condition"] == "profile"]),
        }
        summary["causes"] = causes_entry(rows.get("causes", []))
    return summary


def contrast_entry(contrast: Contrast, rows: Sequence[Row]) -> dict[str, Any]:
    """Effect by the guiding and by the second encoder, its size, its null, verdicts, and a plain sentence.

    size = estimate / sqrt(mean variance of the values within a condition)   (Cohen's d, of all voxels and images together)

    The null exchanges the names of the conditions within pairs of voxel and image, or within voxels where the conditions have images
    of their own.
    """
    kept = [row for row in rows if row["condition"] in (contrast.treated, contrast.reference) and row.get("verified", True)]
    kept = [row for row in kept if not contrast.kind or row["kind"] == contrast.kind]
    n_refused = sum(row["condition"] == "refused" and (not contrast.kind or row["kind"] == contrast.kind) for row in rows)
    entry: dict[str, Any] = {
        "claim": contrast.claim,
        "name": contrast.name,
        "treated": contrast.treated,
        "reference": contrast.reference,
        "unit": contrast.unit,
        "expected": contrast.expected,
        "n_refused": n_refused,
    }
    entry["guiding"] = _effect(contrast, kept, contrast.value)
    entry["second"] = _effect(
        contrast, [row for row in kept if row.get(f"{contrast.value}_second") is not None], f"{contrast.value}_second"
    )
    return entry | {"sentence": sentence(entry)}


def _effect(contrast: Contrast, kept: Sequence[Row], value: str) -> dict[str, Any] | None:
    """Effect of one encoder; None where there is too little to fit."""
    rng = np.random.default_rng(SEED)
    rows = Rows(
        np.array([row[value] for row in kept], np.float64),
        np.array([row["condition"] == contrast.treated for row in kept], bool),
        np.array([row["voxel"] for row in kept], np.int64),
        np.array([row["image"] for row in kept], np.int64),
    )
    try:
        effect = condition_effect(rows, rng)
    except MineError:
        return None
    pairs = rows.voxel * (1 + int(rows.image.max())) + rows.image
    null = exchanged(rows, pairs if contrast.paired else rows.voxel, rng)
    means = {name: float(rows.value[rows.treated == side].mean()) for name, side in (("mean_treated", True), ("mean_reference", False))}
    return {
        **effect.as_dict(),
        **means,
        "size": _size(effect, rows),
        "null": [null.low, null.high],
        "null_p": null.p,
        "verdict": verdict(effect, contrast.expected),
    }


def _size(effect: Effect, rows: Rows) -> float | None:
    """Estimate over the SD of values within a condition; None where nothing varies."""
    variance = float(np.mean([rows.value[rows.treated == side].var(ddof=1) for side in (True, False)]))
    return effect.estimate / float(np.sqrt(variance)) if variance > 0 else None


def verdict(effect: Effect, expected: int) -> Verdict:
    """Whether an interval lies wholly on the claim's side, wholly on the other, or holds zero."""
    if not effect.clear:
        return "undecided"
    return "for" if effect.estimate * expected > 0 else "against"


def verified_rates(rows: Sequence[Row]) -> dict[str, Any]:
    """Share of removals and insertions of which the backbone says that they did what was asked; the others are left out."""
    found: dict[str, Any] = {}
    for kind in ("remove", "insert"):
        edits = [row for row in rows if row["condition"] == "edit" and row["kind"] == kind]
        found[kind] = {"n": len(edits), "rate": float(np.mean([row["verified"] for row in edits])) if edits else None}
    return found


def ratio_entry(rows: Sequence[Row], condition: str) -> dict[str, Any]:
    """Median and 20 % trimmed mean of the faithfulness ratio with intervals over voxels: a plain mean of ratios is unstable."""
    kept = [row for row in rows if row["condition"] == condition]
    values, voxels = np.array([row["ratio"] for row in kept], np.float64), np.array([row["voxel"] for row in kept], np.int64)
    names, place = np.unique(voxels, return_inverse=True)
    if len(names) < 2:
        return {"n": len(kept), "median": None, "trimmed_mean": None}
    members = [np.flatnonzero(place == i) for i in range(len(names))]
    counts = resample_counts(len(names), N_RESAMPLES, np.random.default_rng(SEED))
    drawn = [values[np.concatenate([np.tile(members[i], int(n)) for i, n in enumerate(row) if n])] for row in counts]
    entry: dict[str, Any] = {"n": len(kept), "n_voxels": len(names)}
    for name, statistic in (("median", np.median), ("trimmed_mean", lambda each: trim_mean(each, TRIM))):
        low, high = np.quantile([statistic(each) for each in drawn], [0.025, 0.975])
        entry |= {name: float(statistic(values)), f"{name}_interval": [float(low), float(high)]}
    return entry


def things_drawn(rows: Sequence[Row]) -> dict[str, float]:
    """Mean number of things in the made images, by condition."""
    names = dict.fromkeys(row["condition"] for row in rows)
    return {name: float(np.mean([row["n_drawn"] for row in rows if row["condition"] == name])) for name in names}


def planted_entry(rows: Sequence[Row]) -> dict[str, Any]:
    """Predicted shifts beside those of the planted brain in the scene that the edit makes, in SD of each voxel's signal.

    Means with intervals over voxels, the mean of predicted less true, and their correlation with the 95 % range of shuffled truth.
    Edits that no scene describes have no true shift and are counted apart.
    """
    known = [row for row in rows if "true" in row]
    entry: dict[str, Any] = {"n": len(known), "n_without_a_true_shift": len(rows) - len(known)}
    if len(known) < 4:
        return entry
    rng = np.random.default_rng(SEED)
    true, predicted = (np.array([row[name] for row in known], np.float64) for name in ("true", "predicted"))
    voxels = np.array([row["voxel"] for row in known], np.int64)
    shuffled = [float(np.corrcoef(predicted, rng.permutation(true))[0, 1]) for _ in range(N_RESAMPLES)] if np.ptp(true) > 0 else []
    return entry | {
        "n_voxels": len(set(voxels.tolist())),
        "predicted": difference(predicted, voxels, rng),
        "true": difference(true, voxels, rng),
        "predicted_less_true": difference(predicted - true, voxels, rng),
        "r": float(np.corrcoef(predicted, true)[0, 1]) if shuffled else None,
        "null_r": [float(end) for end in np.quantile(shuffled, [0.025, 0.975])] if shuffled else None,
    }


def causes_entry(rows: Sequence[Row]) -> dict[str, Any]:
    """Share of voxels of which something wrong is said, by each method of `causal_calls`; Clopper and Pearson's 95 % intervals.

    Confounded voxels: their usual company is called, which does not drive them, and beside it their driver, which does. Null voxels:
    anything at all is called; `shown` counts those that the instrument shows, for it withholds voxels that it cannot predict.
    """
    confounded = [row for row in rows if row["kind"] == "confounded"]
    null = [row for row in rows if row["kind"] == "null"]
    entry: dict[str, Any] = {}
    for method in METHODS:
        entry[method] = {
            "company of confounded voxels": _rate([row["company"] in row[method] for row in confounded]),
            "driver of confounded voxels": _rate([row["driver"] in row[method] for row in confounded]),
            "anything of null voxels": _rate([bool(row[method]) for row in null]),
        }
    entry["null voxels shown"] = _rate([row["reliable"] for row in null])
    return entry


def _rate(found: Sequence[bool]) -> dict[str, Any]:
    if not found:
        return {"n": 0, "rate": None, "interval": None}
    interval = binomtest(sum(found), len(found)).proportion_ci()
    return {"n": len(found), "rate": sum(found) / len(found), "interval": [float(interval.low), float(interval.high)]}
