"""The measurement of edits: true shifts by the planted brain, intervals, and what counts as a cause."""

from dataclasses import replace

import numpy as np
import pytest
from phantom_cortex import toy_cortex

from mine_core.experiments import planted_edits
from mine_core.experiments.counterfactual_effects import (
    _agreement,
    _controls,
    _effects,
    _guided,
)
from mine_core.experiments.planted_edits import true_shift
from mine_core.experiments.tried import Tried
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.subjects.phantom.scenes import sample_scene
from mine_core.subjects.phantom.truth import PlantedTruth, drive, object_masks, stimulus_id
from mine_core.subjects.phantom.tuning import plant_tuning
from mine_core.types import ImageEdit, PredictedShift

SIDE = 96


def edit_of(mask: np.ndarray, instruction: str = "remove what drives the voxel", **record: str) -> ImageEdit:
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    return ImageEdit(blank, blank, mask, instruction, "fill", 0, 0, True, record)


def trial(voxel: int, shift: float, controls: dict[str, float], *, verified: bool = True) -> Trial:
    values = np.zeros((len(controls), 9))
    values[:, voxel] = list(controls.values())
    moved = np.where(np.arange(9) == voxel, shift, 0.0)
    shown = PredictedShift(0 * moved, moved, moved, values, tuple(controls), np.ones(9), np.ones(9, int), "guide", None)
    return Trial(replace(edit_of(np.ones((SIDE, SIDE), bool)), verified=verified), shown, 0.0, "")


def tried(voxel: int, shift: float, truth: float, controls: dict[str, float], *, insert: bool = False, verified: bool = True) -> Tried:
    request = EditRequest("insert" if insert else "remove", voxel, 0)
    return Tried.of(request, trial(voxel, shift, controls, verified=verified), truth)


@pytest.fixture
def planted():
    """A category voxel, a scene with an object that drives it, and that object's place in the scene."""
    tuning = plant_tuning(toy_cortex(300), seed=5)
    scale = {name: np.full(len(tuning), value, np.float32) for name, value in (("signal_mean", 0.1), ("signal_sd", 0.4))}
    truth = PlantedTruth(**vars(tuning), **scale, seed=5, image_size=SIDE)
    for voxel in truth.of_kind("category"):
        concept = int(np.argmax(truth.concept_weights[voxel]))
        for seed in range(200):
            scene = sample_scene(seed)
            names = [effects_concept(item.concept) for item in scene.objects]
            masks = object_masks(stimulus_id(seed), SIDE)
            if names.count(concept) == 1 and len(names) > 1 and masks[names.index(concept)].sum() > 200:
                return truth, int(voxel), seed, names.index(concept)
    raise AssertionError("no scene shows what drives a voxel")


def effects_concept(name: str) -> int:
    return planted_edits.CONCEPT_INDEX[name]


def test_the_true_shift_of_a_removal_is_that_of_the_scene_without_the_object(planted) -> None:
    truth, voxel, seed, index = planted
    scene, name = sample_scene(seed), stimulus_id(seed)
    mask = object_masks(name, SIDE)[index]
    rest = tuple(item for place, item in enumerate(scene.objects) if place != index)
    change = drive(replace(scene, objects=rest), truth, np.array([voxel])) - drive(scene, truth, np.array([voxel]))
    ncsnr = float(truth.ncsnr[voxel])
    found = true_shift(truth, name, edit_of(mask), voxel)
    assert found == pytest.approx(float(change[0]) * np.sqrt(ncsnr**2 + 1 / 3) / ncsnr, rel=1e-5) and found < 0
    half = mask & (np.arange(SIDE)[:, None] < np.median(np.nonzero(mask)[0]))
    assert np.isnan(true_shift(truth, name, edit_of(half), voxel))
    assert np.isnan(true_shift(truth, name, edit_of(np.zeros_like(mask)), voxel))


def test_the_true_shift_of_an_insertion_is_that_of_the_scene_with_the_object(planted) -> None:
    truth, voxel, seed, index = planted
    item = sample_scene(seed).objects[index]
    target = next(
        number
        for number in range(400, 900)
        if item.concept not in [other.concept for other in sample_scene(number).objects]
        and not object_masks(stimulus_id(number), SIDE)[:, :40, :40].any()
    )
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:36, 6:34] = True
    found = true_shift(truth, stimulus_id(target), edit_of(mask, "insert it", word=item.concept, exemplar=stimulus_id(seed)), voxel)
    assert found > 0
    scene = sample_scene(target)
    added = replace(item, x=20 / SIDE, y=20 / SIDE, size=32 / SIDE)
    change = drive(replace(scene, objects=(*scene.objects, added)), truth, np.array([voxel])) - drive(scene, truth, np.array([voxel]))
    ncsnr = float(truth.ncsnr[voxel])
    assert found == pytest.approx(float(change[0]) * np.sqrt(ncsnr**2 + 1 / 3) / ncsnr, rel=1e-5)
    assert np.isnan(true_shift(truth, stimulus_id(target), edit_of(mask, "insert it", word="pets", exemplar=stimulus_id(seed)), voxel))


def test_effects_are_over_verified_edits_and_controls_by_kind(rng) -> None:
    moved = [tried(voxel, -2.0 + 0.1 * voxel, -1.0, {"elsewhere": 0.1, "kept": -0.5}) for voxel in range(8)]
    moved.append(tried(8, 5.0, 1.0, {"elsewhere": 0.1}, verified=False))
    found = _effects(moved, -1, np.ones(9, bool), rng)
    assert (found["n"], found["verified_rate"]) == (8, pytest.approx(8 / 9))
    assert found["direction_rate"]["mean"] == 1
    assert found["mean_shift_sd"]["mean"] == pytest.approx(-1.65)
    assert found["mean_shift_beyond_controls_sd"]["mean"] == pytest.approx(-1.45)
    low, high = found["mean_shift_sd"]["interval"]
    assert low < -1.65 < high
    controls = _controls(moved, rng)
    assert controls["elsewhere"]["n"] == 9 and controls["elsewhere"]["still"]
    assert controls["kept"]["mean_shift_sd"]["mean"] == pytest.approx(-0.5) and not controls["kept"]["still"]
    assert controls["all of removals"]["mean_shift_sd"]["mean"] == pytest.approx((8 * -0.2 + 0.1) / 9)
    assert "all of insertions" not in controls
    assert _effects([], 1, np.ones(9, bool), rng) == {"n": 0, "verified_rate": 0.0}


def test_agreement_with_the_truth_and_its_null(rng) -> None:
    truth = rng.normal(size=60)
    trials = [tried(i % 9, truth[i] + 0.3 * rng.normal(), truth[i], {"elsewhere": 0.0}, insert=truth[i] > 0) for i in range(60)]
    found = _agreement([*trials, tried(0, 1.0, float("nan"), {"elsewhere": 0.0})], rng)
    assert found["n"] == 60 and found["n_without_a_true_shift"] == 1
    assert found["interval"][0] < found["r"] < found["interval"][1] and found["r"] > 0.85
    assert abs(found["null_r"]) < 0.4
    assert set(found["within"]) == {"removals", "insertions"} and found["within"]["removals"] < found["r"]
    assert _agreement(trials[:2], rng)["r"] is None


def test_guidance_is_compared_in_the_same_images(rng) -> None:
    pairs = [(tried(i, 1.0 + 0.01 * i, 0.0, {"elsewhere": 0.0}), 0.4) for i in range(8)]
    found = _guided(pairs, rng)
    assert found["mean"] == pytest.approx(found["profile_guided"] - 0.4) and found["interval"][0] > 0
    assert found["other"] == pytest.approx(0.4) and found["equal"] == 0
    assert _guided(pairs[:1], rng) == {"n": 1}
