"""What is called a cause: by correlation, by insertion, by measured responses, and by both; on planted confounds and nulls."""

import numpy as np
import pytest
from test_counterfactual_effects import trial

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.errors import EditError
from mine_core.experiments import causal_calls
from mine_core.experiments.causal_calls import called_by_edits, correlated_things, inserted_things, measure_calls, planted_things
from mine_core.experiments.planted import truth_of
from mine_core.experiments.planted_words import planted_words
from mine_core.instrument import build_instrument

EFFECTS = {"ball": 2.0, "person": 0.6, "clown": 1.8, "dog": 0.0}


def test_a_cause_moves_at_least_half_as_much_as_the_strongest(monkeypatch, small, rng) -> None:
    """Of words that all go with the responses, the company moves little, and one that is not recognised is left out."""

    def run(instrument, request):
        if request.word == "dog":
            raise EditError("nothing to cut out")
        shift = EFFECTS[request.word] + 0.2 * rng.normal()
        return trial(2, shift, {"elsewhere": 0.1}, verified=request.word != "clown" or request.stimulus % 2 == 0)

    monkeypatch.setattr(causal_calls, "run_trial", run)
    assert inserted_things(small.instrument, 2, ("person", "ball", "dog")) == ("ball",)
    monkeypatch.setattr(causal_calls, "N_TESTED", 12)
    assert inserted_things(small.instrument, 2, ("person", "ball", "clown")) == ("ball", "clown")
    assert inserted_things(small.instrument, 2, ("dog",)) == () and inserted_things(small.instrument, 2, ()) == ()


def test_the_correlational_method_finds_what_goes_with_the_responses_in_order(small) -> None:
    instrument = small.instrument
    voxel = int(np.argmax(instrument.score.r))
    words = set(instrument.vocabulary.words)
    found = correlated_things(instrument, voxel, words)
    train = instrument.subject.splits.train
    pooled = np.asarray(instrument.features.pooled[train], np.float64)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    response = instrument.measured(voxel)[train]
    r = [
        np.corrcoef(pooled @ instrument.vocabulary.embedded()[instrument.vocabulary.words.index(word)], response)[0, 1]
        for word in found
    ]
    assert len(found) > 1 and r == sorted(r, reverse=True) and r[-1] > 0
    assert correlated_things(instrument, voxel, {found[1]}) == (found[1],)


@pytest.fixture(scope="module")
def planted():
    instrument = build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))
    return instrument, truth_of(instrument)


def by_edits(instrument):
    things = planted_things(instrument)
    return lambda voxels: [called_by_edits(instrument, voxel, things) for voxel in voxels]


def test_an_encoder_that_believes_in_the_company_is_refuted_by_measured_responses(monkeypatch, planted, rng) -> None:
    """Every insertion raises the prediction here, as where the encoder learnt the company: drivers pass, company and nulls do not."""
    instrument, truth = planted
    monkeypatch.setattr(causal_calls, "inserted_things", lambda instrument, voxel, words: tuple(words))
    monkeypatch.setattr(causal_calls, "N_CONFOUNDED", 40)
    found = measure_calls(instrument, truth, rng, by_edits(instrument))
    confounded, null = found["confounded"], found["null"]
    assert confounded["n"] == 40 and null["n"] == causal_calls.N_NULL
    assert confounded["false_positive_rate_insertion_alone"]["mean"] > 0.8  # the edit alone cannot refute it
    assert confounded["false_positive_rate_causal"]["mean"] < 0.1
    assert confounded["true_positive_rate_causal"]["mean"] > 0.8
    assert null["false_positive_rate_causal"]["mean"] < 0.1


def test_both_halves_of_the_causal_test_are_needed(monkeypatch, planted, rng) -> None:
    """Where no insertion moves anything, nothing is a cause, whatever the measured responses say."""
    instrument, truth = planted
    monkeypatch.setattr(causal_calls, "inserted_things", lambda instrument, voxel, words: ())
    monkeypatch.setattr(causal_calls, "N_CONFOUNDED", 5)
    confounded = measure_calls(instrument, truth, rng, by_edits(instrument))["confounded"]
    assert confounded["true_positive_rate_measured_alone"]["mean"] > 0 == confounded["true_positive_rate_causal"]["mean"]


def test_company_that_is_a_place_is_left_out_and_counted(monkeypatch, planted, rng) -> None:
    instrument, truth = planted
    monkeypatch.setattr(
        causal_calls,
        "called_things",
        lambda instrument, voxels, *rest: {int(v): {m: set() for m in causal_calls.METHODS} for v in voxels},
    )
    monkeypatch.setattr(causal_calls, "N_CONFOUNDED", 10_000)
    confounded = measure_calls(instrument, truth, rng, by_edits(instrument))["confounded"]
    voxels = truth.of_kind("confounded")
    words = [planted_words(truth, int(voxel)) for voxel in voxels[instrument.reliable[voxels]]]
    things = planted_things(instrument)
    assert confounded["n"] == sum(each.company in things and each.driver in things for each in words)
    assert confounded["n"] + confounded["n_place_as_company"] == len(words)
