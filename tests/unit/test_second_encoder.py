"""The second encoder checks edits and never guides them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mine_core.backbones.presets import Availability, load_backbone
from mine_core.encoding.ridge import fit_ridge
from mine_core.errors import Cancelled, EncodingError, MineError
from mine_core.experiments import removal_effect
from mine_core.experiments.tried import Moved, Tried
from mine_core.features import load_features
from mine_core.instrument import second as module
from mine_core.instrument.second import build_second, second_backbone, second_is_built
from mine_core.instrument.stages import encoding_stages
from mine_core.instrument.trials import STAGES, EditRequest, run_trial
from mine_core.types import Splits


@pytest.fixture(scope="module")
def second(small: Any) -> module.SecondEncoder:
    return build_second(small.config, small.store)


def drawn(instrument: Any) -> bytes:
    height, width = instrument.subject.stimuli.images.shape[1:3]
    region = np.zeros((height, width), bool)
    region[20:60, 20:60] = True
    return np.packbits(region).tobytes()


def test_it_sees_through_another_backbone_and_is_scored_on_the_same_stimuli(small, second):
    assert second_backbone(small.config) == "phantom-plain"
    assert second.model.backbone.name == "phantom-plain" != small.instrument.model.backbone.name
    assert second.model.backbone.weights_hash != small.instrument.model.backbone.weights_hash
    assert second.score.n_test == small.instrument.score.n_test
    np.testing.assert_array_equal(second.score.noise_ceiling, small.instrument.score.noise_ceiling)
    assert second_is_built(small.config, small.store)
    small.store.made.clear()
    assert build_second(small.config, small.store).key == second.key
    assert small.store.made == []


def test_its_check_equals_its_own_predictions_before_and_after(small, second):
    instrument, voxel = small.instrument, 1
    trial = run_trial(instrument, EditRequest("remove", voxel, 3, region=drawn(instrument)), second)
    pooled = load_backbone("phantom-plain").embed(np.stack([trial.edit.original, trial.edit.edited])).pooled.astype(np.float64)
    by_hand = np.diff(second.model.predict(pooled), axis=0)[0] / second.model.prediction_sd
    np.testing.assert_allclose(trial.check.shift, by_hand, atol=1e-4)
    assert trial.check.control_names == trial.shift.control_names
    assert (trial.check.guided_by, trial.check.checked_by) == (instrument.model.provenance["key"], second.key)
    assert not np.allclose(trial.check.shift, trial.shift.shift, atol=1e-3)


def test_it_takes_no_part_in_the_edit_or_in_the_first_encoders_shift(small, second):
    request = EditRequest("remove", 2, 5)
    told: list[list[str]] = [[], []]
    alone = run_trial(small.instrument, request, on_stage=told[0].append)
    checked = run_trial(small.instrument, request, second, on_stage=told[1].append)
    assert alone.check is None and told == [[stage for stage in STAGES if stage != "check"], list(STAGES)]
    np.testing.assert_array_equal(alone.edit.edited, checked.edit.edited)
    np.testing.assert_array_equal(alone.shift.shift, checked.shift.shift)
    np.testing.assert_array_equal(alone.shift.controls, checked.shift.controls)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backbone but the first is on this machine."""
    monkeypatch.setattr(module, "backbone_available", lambda name: Availability(False, "not here", 1))


def test_without_another_backbone_it_is_fit_on_the_validation_stimuli_alone(small, alone, monkeypatch):
    monkeypatch.setattr(module, "LEAST_TO_FIT", 10)
    found = build_second(small.config, small.store)
    assert "10 other images" in found.independence
    subject, splits = small.instrument.subject, small.instrument.subject.splits
    features = load_features(small.store.find(encoding_stages(small.config, small.store)[-2].recipe).path)
    swapped = Splits(train=splits.validation, validation=splits.train, test=splits.test)
    expected = fit_ridge(features, subject.responses, swapped)
    np.testing.assert_array_equal(found.model.coef, expected.coef)
    assert found.key != small.instrument.model.provenance["key"]


def test_with_too_few_images_to_fit_it_on_there_is_none_and_that_is_said(small, alone):
    with pytest.raises(EncodingError, match="10 validation images are too few .*100 are needed") as refusal:
        build_second(small.config, small.store)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, MineError)


def test_building_it_can_be_stopped(small):
    with pytest.raises(Cancelled):
        build_second(replace(small.config, n_permutations=101), small.store, cancelled=lambda: True)


def test_only_voxels_that_it_predicts_reliably_are_counted_in_its_check_of_removals():
    def removed(voxel: int, shift: float, controls: tuple[float, ...]) -> Tried:
        guiding = Moved(9.0, 9, controls)
        checking = Moved(shift, 1 + sum(control <= shift for control in controls), controls)
        return Tried(voxel, 0, False, True, guiding, ("x",) * len(controls), checking, 0.0, 0, None)

    trials = [removed(0, -3.0, (-1.0, 1.0)), removed(0, 0.5, (0.0, 1.0)), removed(1, -9.0, (0.0, 0.0))]
    found = removal_effect.checked(trials, np.array([True, False]))
    assert (found["n_pairs"], found["lower_after_removal"], found["beyond_all_controls"]) == (2, 0.5, 0.5)
    assert found["effect_size"] == pytest.approx((-3.0 + 0.0) / 2)
    assert removal_effect.checked(trials, np.array([False, True])) == {"n_pairs": 1}
