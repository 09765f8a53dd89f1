"""Measurements: hand-computed on toy arrays, right where the answer was planted, and refused where none is known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError, EditError, MineError, SubjectError
from mine_core.experiments import (
    EXPERIMENTS,
    attribution_accuracy,
    edit_speed,
    encoding_accuracy,
    experiment,
    explain_speed,
    planted,
    removal_effect,
)
from mine_core.experiments.attribution_pointing import mass_on, points_at
from mine_core.experiments.attribution_speed import random_backbone
from mine_core.experiments.synthetic_subject import Size, synthetic_subject
from mine_core.experiments.tried import Moved, Tried
from mine_core.instrument.explain import explain_voxel
from mine_core.instrument.trials import STAGES
from mine_core.types import Responses, Splits, VoxelIndex


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


def toy(r2: list[float], ceiling: list[float] | None, q: list[float], regions: dict[str, list[int]]) -> Any:
    """An instrument of a few voxels whose predictions are its stored embedding, as wrong on the 20 test stimuli as `r2` says."""
    rng = np.random.default_rng(3)
    n_voxels = len(r2)
    responses, wrong = rng.normal(size=(2, 60, n_voxels))
    spread = ((responses[40:] - responses[40:].mean(axis=0)) ** 2).sum(axis=0)
    predictions = responses + wrong * np.sqrt((1 - np.array(r2)) * spread / (wrong[40:] ** 2).sum(axis=0))
    membership = np.zeros((len(regions), n_voxels), bool)
    for row, voxels in enumerate(regions.values()):
        membership[row, voxels] = True
    index = VoxelIndex("toy", np.full(n_voxels, -1), (), tuple(regions), membership)
    known = np.full(n_voxels, np.nan) if ceiling is None else np.array(ceiling)
    score = SimpleNamespace(
        r=np.sqrt(np.maximum(r2, 0)), r2=np.array(r2), noise_ceiling=known, p=np.array(q) / 2, q=np.array(q), n_test=20
    )
    return SimpleNamespace(
        score=score,
        model=SimpleNamespace(kind="ridge", predict=lambda pooled: pooled),
        features=SimpleNamespace(pooled=predictions),
        subject=SimpleNamespace(
            name="toy",
            responses=Responses(responses, None, tuple(map(str, range(60))), index, "z"),
            splits=Splits(np.arange(40), np.arange(0), np.arange(40, 60)),
            noise_ceiling=None if ceiling is None else known,
        ),
        truth_path=None,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, Any]]:
    def measure(instrument: Any) -> dict[str, Any]:
        monkeypatch.setattr(encoding_accuracy, "build_instrument", lambda *_, **__: instrument)
        monkeypatch.setattr(encoding_accuracy, "compare", lambda *_: {})
        return encoding_accuracy.measure(SimpleNamespace(backbone="none"), None, quiet)

    return measure


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins are no instruments; a function that is to take one is called without the check of its types."""
    for name in ("measure", "_summaries", "_places", "_over_voxels", "_test_pairs", "_null_voxels", "_shuffled", "summary"):
        found = getattr(encoding_accuracy, name, None)
        if hasattr(found, "__wrapped__"):
            monkeypatch.setattr(encoding_accuracy, name, found.__wrapped__)


def test_encoding_accuracy_is_what_the_toy_voxels_were_given(unchecked: None, measured: Callable[[Any], dict[str, Any]]) -> None:
    r2, ceiling = [0.36, 0.16, 0.09, 0.01], [0.9, 0.4, 0.3, 0.05]
    found = measured(toy(r2, ceiling, [0.01, 0.05, 0.2, 0.9], {"a": [0, 1], "b": [1], "empty": []}))
    assert found["normalised_accuracy"] == pytest.approx((0.4 + 0.4 + 0.3) / 3) and found["n_normalised"] == 3
    low, high = found["normalised_accuracy_interval_over_voxels"]
    assert 0.3 <= low <= found["normalised_accuracy"] <= high <= 0.4
    # the toy has 20 test stimuli, and says so
    over_voxels, (low, high) = high - low, found["normalised_accuracy_interval"]
    assert high - low > 3 * over_voxels and low < found["normalised_accuracy"] < high
    assert found["resampled"] == "test stimuli; the noise ceiling is given and held fixed"
    assert found["noise_ceiling_source"] == "given" and found["n_unknown_ceiling"] == 0
    assert found["mean_r2"] == pytest.approx(0.155) and found["mean_r2_interval"][0] < 0.155 < found["mean_r2_interval"][1]
    assert found["share_significant"] == 0.5
    assert found["median_r2"] == pytest.approx(0.125) and found["median_r"] == pytest.approx(0.35)
    assert found["median_noise_ceiling"] == pytest.approx(0.35)
    assert found["null_voxel_false_positive_rate"] is None and found["n_null_voxels"] == 0
    assert abs(found["shuffled_median_r"]) < 0.4
    assert set(found["by_region"]) == {"a", "b", "no region"}
    assert found["by_region"]["a"]["n"] == 2 and found["by_region"]["a"]["normalised_accuracy"] == pytest.approx(0.4)
    only = found["by_region"]["b"]
    assert (only["n"], only["n_normalised"]) == (1, 1)
    assert only["median_r"] == pytest.approx(0.4) and only["mean_r2"] == pytest.approx(0.16)
    assert only["normalised_accuracy"] == pytest.approx(0.4)
    # one voxel has an interval too: its ceiling is held fixed, so it is that of R2 over 0.4
    np.testing.assert_allclose(only["interval"], np.array(only["mean_r2_interval"]) / 0.4)
    assert found["by_region"]["no region"]["n_normalised"] == 1


def test_voxels_without_a_ceiling_are_not_normalised(unchecked: None, measured: Callable[[Any], dict[str, Any]]) -> None:
    found = measured(toy([0.5, 0.4], None, [0.01, 0.01], {}))
    assert found["normalised_accuracy"] is None and found["normalised_accuracy_interval"] is None
    assert found["normalised_accuracy_interval_over_voxels"] is None and found["n_normalised"] == 0
    assert found["median_noise_ceiling"] is None and found["by_region"] == {}
    assert found["noise_ceiling_source"] == "unknown" and found["n_unknown_ceiling"] == 2
    assert found["mean_r2"] == pytest.approx(0.45) and found["mean_r_interval"] is not None
    some = measured(toy([0.5, 0.4], [np.nan, 0.8], [0.01, 0.01], {"a": [0]}))
    assert some["n_unknown_ceiling"] == 1 and some["median_noise_ceiling"] == 0.8
    assert some["normalised_accuracy"] == pytest.approx(0.5) and some["n_normalised"] == 1
    assert some["by_region"]["a"]["normalised_accuracy"] is None and some["by_region"]["a"]["interval"] is None
    json.dumps(some, allow_nan=False)


def test_null_voxels_are_counted_where_they_were_planted(
    unchecked: None, measured: Callable[[Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = toy([0.5] * 4, [0.9] * 4, [0.01, 0.04, 0.5, 0.02], {})
    instrument.truth_path = "there"
    truth = SimpleNamespace(of_kind=lambda kind: np.array([1, 2]) if kind == "null" else np.array([0, 3]))
    monkeypatch.setattr(encoding_accuracy, "truth_of", lambda _: truth)
    found = measured(instrument)
    assert (found["null_voxel_false_positive_rate"], found["n_null_voxels"]) == (0.5, 2)
    # p are 0.005, 0.02, 0.25 and 0.01: four tests, and 1 + 1/2 + 1/3 + 1/4 = 25/12 under any dependence
    plain, strict = found["false_discoveries"]["bh"], found["false_discoveries"]["by"]
    assert (plain["null_called"], plain["found"], plain["proportion_false"]) == (0.5, 1.0, pytest.approx(1 / 3))
    assert (strict["null_called"], strict["found"], strict["proportion_false"]) == (0.0, 1.0, 0.0)
    np.testing.assert_allclose(strict["null_called_interval"], [0, 1 - 0.025**0.5])
    np.testing.assert_allclose(plain["found_interval"], [0.025**0.5, 1])


def removed(shift: float, controls: tuple[float, ...], instant: float) -> Tried:
    moved = Moved(shift, 1 + sum(control <= shift for control in controls), controls)
    return Tried(0, 0, False, True, moved, ("x",) * len(controls), None, instant, 0, None)


def test_the_effect_of_removal_is_its_shift_beyond_the_mean_control() -> None:
    trials = [removed(-3.0, (-1.0, 0.0, 1.0), -2.0), removed(-1.0, (-2.0, 0.0), -0.5), removed(-2.0, (0.5, -0.5), -1.25)]
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


def test_what_needs_a_planted_answer_refuses_a_subject_without_one(small: Any) -> None:
    with pytest.raises(SubjectError, match="'small' has no planted truth") as refused:
        experiment("removal")(small.config, small.store, quiet)
    assert isinstance(refused.value, MineError) and "\n" not in str(refused.value)


def test_attribution_is_measured_on_a_subject_of_ones_own(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("N_POOL", "N_WIDE_POOL", "N_REGION", "N_REGION_DEFAULT", "N_TOKEN", "N_TOKEN_SLOW", "N_SHUFFLED", "N_COMPLETENESS"):
        monkeypatch.setattr(attribution_accuracy, name, 3)
    monkeypatch.setattr(attribution_accuracy, "N_TOKEN_IMAGES", 4)
    found = experiment("attribution")(small.config, small.store, quiet)
    json.dumps(found, allow_nan=False)
    assert found["method"] == "traced" and found["completeness_error_max"] < 1e-3 and "pointing_game" not in found
    for name, entry in found["encoders"]["ridge"]["methods"].items():
        assert entry["pointing_game"] is None and entry["small_objects"]["n_pairs"] == 0, name
        assert -1 <= entry["occlusion_agreement"] <= 1 and entry["sufficiency"] <= 1


def test_encoding_is_measured_on_a_subject_of_ones_own(small: Any) -> None:
    found = experiment("encoding")(small.config, small.store, quiet)
    assert found["n_voxels"] == small.signal.shape[1] and found["n_test"] == len(small.instrument.subject.splits.test)
    assert found["null_voxel_false_positive_rate"] is None and found["false_discoveries"] is None
    score = small.instrument.score
    kept = score.noise_ceiling >= 0.1
    assert found["normalised_accuracy"] == pytest.approx(float((score.r2[kept] / score.noise_ceiling[kept]).mean()), rel=1e-5)
    assert found["noise_ceiling_source"] == "repeats of training stimuli"
    assert found["resampled"].endswith("for the noise ceiling the stimuli of its repeats of training stimuli")
    low, high = found["by_region"]["what"]["mean_r_interval"]
    assert low < found["by_region"]["what"]["mean_r"] < high
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


def test_a_made_up_subject_is_clicked_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_speed, "N_VOXELS", 5)
    size = Size(voxels=30, images=600, grid=(2, 3), features=8)
    found = explain_speed.measure_synthetic(ArtifactStore(tmp_path), quiet, size)
    assert (found["voxels"], found["images"], found["patches"], found["n_voxels"]) == (30, 600, 6, 5)
    assert 0 < found["p50_seconds"] <= found["p95_seconds"]
    assert not list(tmp_path.iterdir())
    with synthetic_subject(size, tmp_path, np.random.default_rng(0)) as (instrument, traced):
        top = explain_voxel(instrument, 3, heat=lambda stimuli: traced.values(instrument, stimuli, 3))
        # a click reads only images whose parts were drawn
        assert all(item.stimulus < 500 and np.abs(item.values).max() > 0 for item in top)


def test_every_method_is_timed_beside_captums_own() -> None:
    found = experiment("attribution-speed").__wrapped__(
        InstrumentConfig(), ArtifactStore(Path("nowhere")), quiet, architecture="ViT-S-32-alt"
    )
    assert found["patches"] == 49 and found["features"] == 256
    timed = [*found["stored"].values(), *found["computed"].values(), *found["captum"].values()]
    assert len(timed) == 9 and all(seconds > 0 for seconds in timed)
    ratio = found["captum"]["integrated_gradients_16_steps"] / found["stored"]["traced"]
    assert found["captum_integrated_gradients_over_traced"] == pytest.approx(ratio)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="ViT-Q-1"):
        random_backbone("ViT-Q-1", 0)


def test_a_truth_is_opened_only_where_there_is_one(small: Any) -> None:
    with pytest.raises(SubjectError, match="no readable planted truth|No readable planted truth"):
        planted.truth_of(replace(small.instrument, truth_path=small.store.root / "nothing"))


def test_an_edit_is_timed_by_stages_that_sum_to_the_whole(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_speed, "N_VOXELS", 5)
    found = experiment("edit")(small.config, small.store, quiet)
    json.dumps(found, allow_nan=False)
    assert found["n_voxels_predicted"] == len(small.instrument.score.r)
    seconds = found["remove"]["p50_seconds"]
    assert found["remove"]["n_edits"] > 0 and set(seconds) == {*STAGES, "whole"} and seconds["re-encode"] > 0
    rows = [{"mask": 1.0, "whole": 3.0}, {"mask": 2.0, "generate": 4.0, "whole": 6.0}]
    told = edit_speed._summary(rows)["p50_seconds"]
    assert (told["mask"], told["generate"], told["whole"], told["check"]) == (1.5, 2.0, 4.5, 0.0)
    monkeypatch.setattr(edit_speed, "_timed", lambda *_: None)
    with pytest.raises(EditError, match="0 of"):
        experiment("edit")(small.config, small.store, quiet)
