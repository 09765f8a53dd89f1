"""Which things are called the cause of a voxel's responses, by correlation, by insertion, by measured responses, and by both?

Voxels with planted confounds answer one thing (the ball) and not the thing it usually comes with (the person). An encoder that is
fit on such images learns the company too, so that inserting the company moves its prediction: an edit alone cannot refute what
the encoder itself believes. The causal test therefore asks both: does inserting the thing raise the prediction beyond its
controls, and does its presence account for *measured* responses to held-out images that the other words leave?
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, ttest_1samp

from mine_core.errors import EditError
from mine_core.experiments.planted_words import planted_words
from mine_core.instrument import Instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.instrument.wanting import wanting_of, wants_of
from mine_core.statistics import false_discovery_rate, share_interval
from mine_core.subjects.phantom.truth import PlantedTruth

N_CONFOUNDED, N_NULL = 20, 20
N_TRIED, N_TESTED, LEAST_TESTED = 5, 6, 3
LEVEL = 0.05
METHODS = ("correlational", "insertion_alone", "measured_alone", "causal")


Called = dict[str, list[str]]
TITLE = "telling drivers from their company"


def measure_calls(
    instrument: Instrument, truth: PlantedTruth, rng: np.random.Generator, by_edits: Callable[[Sequence[int]], Sequence[Called]]
) -> dict[str, Any]:
    """Share of confounded voxels whose driver and whose company are called, and of null voxels of which anything is, by each method.

    correlational : words whose similarity to training images rises with measured responses (q <= 0.05).
    insertion_alone : of the five strongest of these, those whose insertion raises the prediction (`inserted_things`).
    measured_alone : the words that account for measured responses to held-out images, company held constant.
    causal : insertion_alone and measured_alone.
    Intervals are Wilson's, over voxels. Company that is a place is left out: it cannot be inserted. `by_edits` gives
    `called_by_edits` of voxels.
    """
    things = planted_things(instrument)
    reliable = truth.of_kind("confounded")
    reliable = reliable[instrument.reliable[reliable]]
    planted = {int(voxel): planted_words(truth, int(voxel)) for voxel in reliable}
    able = np.array([voxel for voxel, words in planted.items() if {words.driver, words.company} <= things], np.int64)
    chosen = np.sort(rng.permutation(able)[:N_CONFOUNDED])
    null = np.sort(rng.permutation(truth.of_kind("null"))[:N_NULL])
    called = called_things(instrument, np.concatenate([chosen, null]), things, by_edits)
    about: dict[str, Any] = {"n": len(chosen), "n_place_as_company": len(planted) - len(able)}
    if len(chosen):
        for method in METHODS:
            for what, word_of in (("true", "driver"), ("false", "company")):
                right = [getattr(planted[voxel], word_of) in called[voxel][method] for voxel in chosen.tolist()]
                about[f"{what}_positive_rate_{method}"] = _rate(right)
    nulls: dict[str, Any] = {"n": len(null)}
    for method in METHODS if len(null) else ():
        anything = [bool(called[voxel][method]) for voxel in null.tolist()]
        nulls[f"false_positive_rate_{method}"] = _rate(anything)
    return {"confounded": about, "null": nulls}


def called_things(
    instrument: Instrument, voxels: np.ndarray, things: set[str], by_edits: Callable[[Sequence[int]], Sequence[Called]]
) -> dict[int, dict[str, set[str]]]:
    """Things called of each voxel by each method."""
    wanting = wanting_of(instrument)
    if wanting is None:
        raise EditError("This backbone has no words, or too few images are held out to score one: nothing can be called by name.")
    wants = wants_of(instrument, wanting, voxels)
    called: dict[int, dict[str, set[str]]] = {}
    for voxel, want, edited in zip(voxels.tolist(), wants, by_edits(voxels.tolist()), strict=True):
        correlated, inserted = set(edited["correlational"]), set(edited["insertion_alone"])
        measured = set(want.description.phrases) & things
        called[voxel] = dict(zip(METHODS, (correlated, inserted, measured, inserted & measured), strict=True))
    return called


def called_by_edits(instrument: Instrument, voxel: int, things: set[str]) -> Called:
    """What correlation calls of a voxel, strongest first, and which of the five strongest the insertion calls."""
    correlated = correlated_things(instrument, voxel, things)
    return {"correlational": list(correlated), "insertion_alone": list(inserted_things(instrument, voxel, correlated[:N_TRIED]))}


def _rate(called: list[bool]) -> dict[str, Any]:
    return {"mean": float(np.mean(called)), "interval": list(share_interval(np.array(called)))}


def planted_things(instrument: Instrument) -> set[str]:
    """Words of the vocabulary that name a thing which scenes may hold."""
    from mine_core.subjects.phantom.scenes import CONCEPTS

    return {concept.name for concept in CONCEPTS} & set(instrument.vocabulary.words)


def middling_images(instrument: Instrument, voxel: int, n: int, among: int) -> list[int]:
    """The first `n` held-out stimuli of those in the middle by predicted response."""
    ranked = ranked_images(instrument, voxel, "middle", among)
    return [int(stimulus) for stimulus in ranked if instrument.held_out[stimulus]][:n]


def correlated_things(instrument: Instrument, voxel: int, things: set[str]) -> tuple[str, ...]:
    """Things whose word's similarity to training images rises with a voxel's measured responses (q <= 0.05), strongest first.

    The plain correlational method: cosine of image and text, Pearson's r, one-sided, Benjamini and Hochberg over the vocabulary.
    """
    train, vocabulary = instrument.subject.splits.train, instrument.vocabulary
    pooled = np.asarray(instrument.features.pooled[train], np.float64)
    similarity = pooled / np.linalg.norm(pooled, axis=1, keepdims=True) @ np.asarray(vocabulary.embedded(), np.float64).T
    found = pearsonr(similarity, instrument.measured(voxel)[train][:, None], axis=0, alternative="greater")
    q = false_discovery_rate(np.asarray(found.pvalue))
    order = np.argsort(-np.asarray(found.statistic), kind="stable")
    return tuple(vocabulary.words[i] for i in order if q[i] <= LEVEL and vocabulary.words[i] in things)


def inserted_things(instrument: Instrument, voxel: int, words: Sequence[str]) -> tuple[str, ...]:
    """Words whose insertion raises the prediction beyond its controls, and not clearly less than half as much as the best word's.

    Each word is inserted into the same held-out images of middle predicted response; the words are each other's hardest
    negatives, for all of them go with the responses. Kept is a word where the lower end of a one-sided 95 % interval (t over
    images) of (own shift beyond the mean control - half of the best word's) is above 0. Edits that the backbone does not
    recognise are left out.
    """
    stimuli = middling_images(instrument, voxel, N_TESTED, 20 * N_TESTED)
    effects = np.array([[_beyond_controls(instrument, voxel, word, stimulus) for word in words] for stimulus in stimuli])
    effects = effects.reshape(len(stimuli), len(words))
    enough = np.isfinite(effects).sum(axis=0) >= LEAST_TESTED
    if not enough.any():
        return ()
    means = np.array([np.nanmean(column) if able else -np.inf for column, able in zip(effects.T, enough, strict=True)])
    best = effects[:, int(np.argmax(means))]
    kept = []
    for word, column, able in zip(words, effects.T, enough, strict=True):
        margin = column - best / 2
        margin = margin[np.isfinite(margin)]
        if able and len(margin) >= LEAST_TESTED and ttest_1samp(margin, 0, alternative="greater").pvalue <= LEVEL:
            kept.append(word)
    return tuple(kept)


def _beyond_controls(instrument: Instrument, voxel: int, word: str, stimulus: int) -> float:
    """Shift by inserting a word less that of the mean control; NaN where it cannot be inserted or is not recognised."""
    try:
        trial = run_trial(instrument, EditRequest("insert", voxel, stimulus, word, seed=stimulus))
    except EditError:
        return float("nan")
    if not trial.edit.verified:
        return float("nan")
    return float(trial.shift.shift[voxel] - trial.shift.controls[:, voxel].mean())
