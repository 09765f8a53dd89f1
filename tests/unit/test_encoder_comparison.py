"""Encoders are set side by side on the same test stimuli, and what is not better is not called better."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mine_core.encoding.scoring import score_predictions
from mine_core.errors import Cancelled, ConfigError, EncodingError
from mine_core.experiments import encoder_comparison as comparison
from mine_core.instrument import encoders as module
from mine_core.instrument.encoders import FittedEncoder, encoder_stages, fit_encoder, fitted_encoders
from mine_core.instrument.makers import ceiling_of


def an_encoder(small: Any, predicted: np.ndarray) -> FittedEncoder:
    subject = small.instrument.subject
    rng = np.random.default_rng(3)
    scored = score_predictions(predicted, subject.responses, subject.splits.test, 199, rng, noise_ceiling=ceiling_of(subject))
    return FittedEncoder("query_attention", scored, predicted, {})


@pytest.fixture
def beside(small: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compare ridge with an encoder that predicts what is given."""

    def with_predictions(predicted: np.ndarray) -> dict[str, Any]:
        ridge = fitted_encoders(small.config, small.store)["ridge"]
        found = {"ridge": ridge, "query_attention": an_encoder(small, predicted)}
        monkeypatch.setattr(comparison, "fitted_encoders", lambda *_: found)
        return comparison.compare(small.instrument, small.store)

    return with_predictions


def test_ridge_of_the_build_is_found_with_its_predictions_and_scores(small):
    found = fitted_encoders(small.config, small.store)
    assert set(found) == {"ridge"}
    test = small.instrument.subject.splits.test
    expected = small.instrument.model.predict(np.asarray(small.instrument.features.pooled[test]))
    np.testing.assert_array_equal(found["ridge"].predicted, expected)
    np.testing.assert_array_equal(found["ridge"].score.r, small.instrument.score.r)
    assert fit_encoder(small.config, small.store, "ridge").provenance["key"] == small.instrument.model.provenance["key"]


def test_an_encoder_that_knows_the_signal_is_better_where_there_is_one(small, beside):
    subject = small.instrument.subject
    n_with_signal = (small.signal.std(axis=0) > 0).sum()
    rng = np.random.default_rng(8)
    test = small.signal[subject.splits.test]
    predicted = np.where(small.signal.std(axis=0) > 0, test, 0.01 * rng.normal(size=test.shape))
    found = beside(predicted)["query_attention"]["difference_to_ridge"]
    assert found["colour"]["interval"][0] > 0.05
    assert found["all voxels"]["n_voxels"] >= n_with_signal
    assert set(found) >= {"all voxels", "what", "colour"}


def test_the_same_predictions_differ_by_exactly_nothing(small, beside):
    ridge = fitted_encoders(small.config, small.store)["ridge"]
    entry = beside(np.asarray(ridge.predicted))
    for group in entry["query_attention"]["difference_to_ridge"].values():
        assert (group["difference"], group["interval"]) == (0.0, [0.0, 0.0])
    assert entry["query_attention"]["normalised_accuracy"] == entry["ridge"]["normalised_accuracy"]
    assert "difference_to_ridge" not in entry["ridge"]


def test_an_unknown_kind_and_a_missing_feature_space_are_refused_in_one_line(small, monkeypatch):
    with pytest.raises(ConfigError, match="no encoder 'lasso'; expected one of ridge, query_attention, banded"):
        getattr(encoder_stages, "__wrapped__", encoder_stages)(small.config, small.store, "lasso")
    monkeypatch.setattr(module, "second_backbone", lambda config: None)
    with pytest.raises(EncodingError, match="needs a second feature space"):
        encoder_stages(small.config, small.store, "banded")
    assert set(fitted_encoders(small.config, small.store)) == {"ridge"}


def test_other_settings_are_another_encoder(small):
    keys = {
        encoder_stages(config, small.store, kind)[-1].recipe.key
        for config in (small.config, replace(small.config, n_permutations=999))
        for kind in ("ridge", "query_attention", "banded")
    }
    assert len(keys) == 6


@pytest.fixture
def apart(small: Any, tmp_path: Path) -> Any:
    """A store of its own, so that what is fit here is found nowhere else."""
    shutil.copytree(small.store.root, tmp_path / "cache")
    return type(small.store)(tmp_path / "cache")


def test_every_kind_is_fit_kept_and_scored_on_what_it_predicts(small, apart):
    subject = small.instrument.subject
    measured = np.asarray(subject.responses.values[subject.splits.test], np.float64)
    for kind in ("query_attention", "banded"):
        fitted = fit_encoder(small.config, apart, kind)
        found = fitted_encoders(small.config, apart)[kind]
        np.testing.assert_array_equal(found.predicted, fitted.predicted)
        expected = [np.corrcoef(found.predicted[:, voxel], measured[:, voxel])[0, 1] for voxel in range(measured.shape[1])]
        np.testing.assert_allclose(found.score.r, expected, atol=1e-5)
        np.testing.assert_array_equal(found.score.noise_ceiling, small.instrument.score.noise_ceiling)
        assert found.score.r[:8].mean() > 0.15
    assert not list((apart.root / "unfinished").glob("*"))
    entries = comparison.compare(small.instrument, apart)
    assert set(entries) == {"ridge", "query_attention", "banded"}
    apart.made.clear()
    fit_encoder(small.config, apart, "query_attention")
    assert apart.made == []


def test_a_stopped_fit_keeps_nothing_that_would_be_found(small, apart):
    there = len(list(apart.root.glob("features/[!.]*"))) > 1  # another test may have embedded the images by the second backbone
    with pytest.raises(Cancelled):
        fit_encoder(small.config, apart, "banded", cancelled=lambda: there or "features" in apart.made)
    assert set(fitted_encoders(small.config, apart)) == {"ridge"}
