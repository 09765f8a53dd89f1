"""Measurements: hand-computed on toy arrays, right where the answer was planted, and refused where none is known."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mine_core.errors import MineError, SubjectError
from mine_core.experiments import EXPERIMENTS, encoding_accuracy, experiment, explain_speed, planted, removal_effect
from mine_core.experiments.attribution_accuracy import mass_on, points_at
from mine_core.types import VoxelIndex


def quiet(*_: object) -> None:
    """Take a report and say nothing."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_found(name: str) -> None:
    assert experiment(name).__name__ == "measure"


def test_a_heatmap_points_at_its_highest_pixel() -> None:
    values = np.zeros((4, 4))
    values[1, 2] = 1.0
    mask = np.zeros((32, 32), bool)
    mask[8:16, 16:24] = True
    assert points_at(values, mask)
    assert not points_at(values, ~mask)
    assert not points_at(values.T, mask)
    # where everything lowers the prediction it points at what lowers it least
    assert points_at(values - 5, mask)


def test_mass_counts_each_patch_by_how_much_of_it_the_mask_covers() -> None:
    values = np.array([[3.0, 1.0], [-9.0, 4.0]])
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # half of the first patch
    mask[4:, 4:5] = True  # a quarter of the last one
    mask[4:, :4] = True  # all of the one that lowers the prediction
    assert mass_on(values, mask) == pytest.approx((3 * 0.5 + 4 * 0.25) / 8)
    assert mass_on(values, np.ones((8, 8), bool)) == pytest.approx(1)
    assert mass_on(-np.abs(values), mask) == 0


def toy(r2: list[float], ceiling: list[float], q: list[float], regions: dict[str, list[int]]) -> Any:
    """An instrument of a few voxels whose predictions are its stored embedding, and responses that these are."""
    rng = np.random.default_rng(3)
    n_voxels = len(r2)
    responses = rng.normal(size=(60, n_voxels))
    membership = np.zeros((len(regions), n_voxels), bool)
    for row, voxels in enumerate(regions.values()):
        membership[row, voxels] = True
    index = VoxelIndex("toy", np.full(n_voxels, -1), (), tuple(regions), membership)
    score = SimpleNamespace(r=np.sqrt(np.maximum(r2, 0)), r2=np.array(r2), noise_ceiling=np.array(ceiling), q=np.array(q), n_test=20)
    return SimpleNamespace(
        score=score,
        model=SimpleNamespace(kind="ridge", predict=lambda pooled: pooled),
        features=SimpleNamespace(pooled=responses),
        subject=SimpleNamespace(
            name="toy",
            responses=SimpleNamespace(values=responses, voxels=index),
            splits=SimpleNamespace(train=np.arange(40), test=np.arange(40, 60)),
        ),
        truth_path=None,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, Any]]:
    def measure(instrument: Any) -> dict[str, Any]:
        monkeypatch.setattr(encoding_accuracy, "build_instrument", lambda *_, **__: instrument)
        return encoding_accuracy.measure(SimpleNamespace(backbone="none"), None, quiet)

    return measure


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins are no instruments; a function that is to take one is called without the check of its types."""
    for module in (encoding_accuracy, removal_effect):
        for name in ("measure", "_summary", "_by_region", "_null_voxels", "_shuffled", "summary"):
            found = getattr(module, name, None)
            if hasattr(found, "__wrapped__"):
                monkeypatch.setattr(module, name, found.__wrapped__)


def test_encoding_accuracy_is_what_the_toy_voxels_were_given(unchecked: None, measured: Callable[[Any], dict[str, Any]]) -> None:
    r2, ceiling = [0.36, 0.16, 0.09, 0.01], [0.9, 0.4, 0.3, 0.05]
    found = measured(toy(r2, ceiling, [0.01, 0.05, 0.2, 0.9], {"a": [0, 1], "b": [1], "empty": []}))
    assert found["normalised_accuracy"] == pytest.approx((0.4 + 0.4 + 0.3) / 3) and found["n_normalised"] == 3
    low, high = found["normalised_accuracy_interval"]
    assert 0.3 <= low <= found["normalised_accuracy"] <= high <= 0.4
    assert found["share_significant"] == 0.5
    assert found["median_r2"] == pytest.approx(0.125) and found["median_r"] == pytest.approx(0.35)
    assert found["median_noise_ceiling"] == pytest.approx(0.35)
    assert found["null_voxel_false_positive_rate"] is None and found["n_null_voxels"] == 0
    assert abs(found["shuffled_median_r"]) < 0.4
    assert set(found["by_region"]) == {"a", "b", "no region"}
    assert found["by_region"]["a"]["n"] == 2 and found["by_region"]["a"]["normalised_accuracy"] == pytest.approx(0.4)
    assert found["by_region"]["b"] == {
        "n": 1,
        "median_r": pytest.approx(0.4),
        "normalised_accuracy": pytest.approx(0.4),
        "interval": None,
        "n_normalised": 1,
    }
    assert found["by_region"]["no region"]["n_normalised"] == 1


def test_voxels_without_a_ceiling_are_not_normalised(unchecked: None, measured: Callable[[Any], dict[str, Any]]) -> None:
    found = measured(toy([0.5, 0.4], [np.nan, np.nan], [0.01, 0.01], {}))
    assert found["normalised_accuracy"] is None and found["normalised_accuracy_interval"] is None
    assert found["median_noise_ceiling"] is None and found["by_region"] == {}


def test_null_voxels_are_counted_where_they_were_planted(
    unchecked: None, measured: Callable[[Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = toy([0.5] * 4, [0.9] * 4, [0.01, 0.04, 0.5, 0.02], {})
    instrument.truth_path = "there"
    truth = SimpleNamespace(of_kind=lambda kind: np.array([1, 2]) if kind == "null" else np.array([0, 3]))
    monkeypatch.setattr(encoding_accuracy, "truth_of", lambda _: truth)
    found = measured(instrument)
    assert (found["null_voxel_false_positive_rate"], found["n_null_voxels"]) == (0.5, 2)


def trial(shift: float, controls: list[float], instant: float) -> Any:
    table = np.array(controls)[:, None]
    rank = 1 + int((table <= shift).sum())
    shown = SimpleNamespace(shift=np.array([shift]), controls=table, control_names=("x",) * len(controls), rank=np.array([rank]))
    return SimpleNamespace(shift=shown, instant=np.array([instant]), edit=SimpleNamespace(changed_outside_mask=0))


def test_the_effect_of_removal_is_its_shift_beyond_the_mean_control(unchecked: None) -> None:
    trials = [(0, trial(-3.0, [-1.0, 0.0, 1.0], -2.0)), (0, trial(-1.0, [-2.0, 0.0], -0.5)), (0, trial(-2.0, [0.5, -0.5], -1.25))]
    found = removal_effect.summary(trials, 4)
    assert (found["n_pairs"], found["n_not_editable"], found["n_controls_median"]) == (3, 4, 2.0)
    assert found["beyond_all_controls"] == pytest.approx(2 / 3)
    assert found["mean_shift"] == pytest.approx(-2) and found["mean_control_shift"] == pytest.approx(-1 / 3)
    assert found["effect_size"] == pytest.approx(-5 / 3)
    low, high = found["effect_size_interval"]
    assert -3 <= low <= -5 / 3 <= high <= 0
    assert found["instant_estimate_correlation"] == pytest.approx(1)
    assert found["pixels_changed_outside"] == 0


def test_driving_concepts_weigh_at_least_half_of_the_strongest_and_never_inhibit() -> None:
    weights = np.array([[0.0, 2.0, 1.0, 0.9, -3.0], [0.0, 0.0, 0.0, 0.0, -1.0]])
    truth = SimpleNamespace(concept_weights=weights)
    choose = getattr(planted.driving_concepts, "__wrapped__", planted.driving_concepts)
    np.testing.assert_array_equal(choose(truth, 0), [1, 2])
    assert not len(choose(truth, 1))


@pytest.mark.parametrize("name", ["attribution", "removal"])
def test_what_needs_a_planted_answer_refuses_a_subject_without_one(name: str, small: Any) -> None:
    with pytest.raises(SubjectError, match="'small' has no planted truth") as refused:
        experiment(name)(small.config, small.store, quiet)
    assert isinstance(refused.value, MineError) and "\n" not in str(refused.value)


def test_encoding_is_measured_on_a_subject_of_ones_own(small: Any) -> None:
    found = experiment("encoding")(small.config, small.store, quiet)
    assert found["n_voxels"] == small.signal.shape[1] and found["n_test"] == len(small.instrument.subject.splits.test)
    assert found["null_voxel_false_positive_rate"] is None
    assert set(found["by_region"]) == {"what", "colour", "no region"}
    assert abs(found["shuffled_median_r"]) < 0.3 < found["median_r"]


def test_the_speed_of_an_answer_is_measured_on_all_voxels_of_a_small_subject(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_speed, "N_IMAGES", 2)
    monkeypatch.setattr(explain_speed, "N_STEPS", 2)
    monkeypatch.setattr(explain_speed, "N_GRADIENT_VOXELS", 1)
    found = experiment("explain")(small.config, small.store, quiet)
    assert found["n_voxels"] == small.signal.shape[1]
    assert 0 < found["p50_seconds"] <= found["p95_seconds"]
    assert found["ratio"] == pytest.approx(found["integrated_gradients_seconds"] / found["p50_seconds"])


def test_a_truth_is_opened_only_where_there_is_one(small: Any) -> None:
    with pytest.raises(SubjectError, match="no readable planted truth|No readable planted truth"):
        planted.truth_of(replace(small.instrument, truth_path=small.store.root / "nothing"))
