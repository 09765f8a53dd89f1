"""The drive of a voxel is what its tuning says, recomputed here by other means, and moves as the scene is changed."""

from dataclasses import replace

import numpy as np
import pytest
from phantom_cortex import toy_cortex

from mine_core.subjects.phantom.contrast import quadrature_filters
from mine_core.subjects.phantom.responses import (
    contributions,
    gather_evidence,
    noisy_repeats,
    raw_drive,
    receptive_field_weights,
    select,
    signal_scale,
)
from mine_core.subjects.phantom.scenes import BACKGROUNDS, RenderedScene, Scene, SceneObject, render, sample_scene, scene_labels
from mine_core.subjects.phantom.scenes.concepts import CONCEPT_INDEX
from mine_core.subjects.phantom.tuning import Tuning, plant_tuning

SIZE = 96
ATTRIBUTES_OF = {
    "ball": (("colour", "red"),),
    "person": (("pose", "standing"),),
    "skis": (("colour", "blue"),),
    "dog": (),
    "house": (),
}


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return plant_tuning(toy_cortex(1500), seed=5)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(seed) for seed in range(40)]


def raw(tuning: Tuning, scenes: list[Scene], rendered: list[RenderedScene] | None = None) -> np.ndarray:
    pictures = rendered or [render(scene, SIZE) for scene in scenes]
    return raw_drive(tuning, gather_evidence(scenes, pictures, quadrature_filters()))


def scene_with(*objects: tuple[str, float, float, float], background: str = "beach") -> Scene:
    things = tuple(
        SceneObject(name, x, y, size, ATTRIBUTES_OF[name], seed=7 + index) for index, (name, x, y, size) in enumerate(objects)
    )
    return Scene(seed=11, background=background, objects=things, light=1)


def drive_by_hand(tuning: Tuning, voxel: int, scene: Scene, object_map: np.ndarray) -> float:
    """One category voxel, one scene, object by object in float64, with cells averaged by reshaping."""
    x0, y0, sigma = tuning.receptive_field[voxel].astype(float)
    centres = (np.arange(24) + 0.5) / 24
    field = np.exp(-((centres[None] - x0) ** 2 + (centres[:, None] - y0) ** 2) / (2 * sigma**2))
    field /= field.sum()

    def effect(index: int) -> float:
        shown = (object_map == index).reshape(24, 4, 24, 4).mean(axis=(1, 3))
        share = float((shown * field).sum())
        return share / (share + float(tuning.semi_saturation[voxel]))

    labels = scene_labels(scene)
    background = [place.name for place in BACKGROUNDS].index(scene.background)
    total = float(tuning.background_weights[voxel, background]) * effect(-1)
    for index, item in enumerate(scene.objects):
        weight = float(tuning.concept_weights[voxel, CONCEPT_INDEX[item.concept]])
        factor = 1.0
        if tuning.attribute[voxel] >= 0:
            has = labels.attributes[index, tuning.attribute[voxel]] == tuning.attribute_value[voxel]
            if tuning.conjunction[voxel]:
                factor = 1.0 if has else 0.1
            elif has:
                factor = 1.0 + float(tuning.attribute_gain[voxel])
        total += weight * factor * effect(index)
    return float(np.tanh(float(tuning.gain[voxel]) * total))


def test_category_drive_is_what_the_tuning_says(tuning: Tuning, scenes: list[Scene], rng: np.random.Generator) -> None:
    found = raw(tuning, scenes)
    driven = np.flatnonzero((tuning.kind == 1) | (tuning.kind == 3))
    picky = driven[tuning.attribute[driven] >= 0]
    chosen = np.concatenate([rng.choice(driven, 10, replace=False), rng.choice(picky, 10, replace=False)])
    maps = [render(scene, SIZE).object_map for scene in scenes[:12]]
    expected = np.array([[drive_by_hand(tuning, voxel, *shown) for voxel in chosen] for shown in zip(scenes, maps, strict=False)])
    assert expected.std() > 0.1
    np.testing.assert_allclose(found[:12][:, chosen], expected, atol=2e-6)


def test_early_drive_is_energy_under_the_receptive_field(tuning: Tuning, scenes: list[Scene]) -> None:
    """In float64 from the definitions, cell by cell and channel by channel."""
    evidence = gather_evidence(scenes[:5], [render(scene, SIZE) for scene in scenes[:5]], quadrature_filters())
    found = raw_drive(tuning, evidence)
    for voxel in tuning.of_kind("early")[:15]:
        x0, y0, sigma = tuning.receptive_field[voxel].astype(float)
        cells = (np.arange(24) + 0.5) / 24
        field = np.exp(-((cells[None] - x0) ** 2 + (cells[:, None] - y0) ** 2) / (2 * sigma**2)).ravel()
        weights = [
            np.exp(2 * (np.cos(2 * (tuning.orientation[voxel] - orientation)) - 1))
            * np.exp(-(np.log2(tuning.frequency[voxel] / frequency) ** 2) / 0.5)
            for orientation in (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
            for frequency in (6, 12, 24)
        ]
        weights = np.array(weights) / np.sum(weights)
        for row in range(5):
            expected = np.sqrt(weights @ evidence.energy[row].astype(float) @ (field / field.sum()))
            np.testing.assert_allclose(found[row, voxel], expected, rtol=2e-4)


def test_null_voxels_are_not_driven(tuning: Tuning, scenes: list[Scene]) -> None:
    found = raw(tuning, scenes)
    assert not found[:, tuning.of_kind("null")].any()
    assert (np.delete(found, tuning.of_kind("null"), axis=1).std(axis=0) > 0).mean() > 0.9


def test_contributions_add_up_to_the_drive(tuning: Tuning, scenes: list[Scene]) -> None:
    evidence = gather_evidence(scenes, [render(scene, SIZE) for scene in scenes], quadrature_filters())
    driven = np.flatnonzero((tuning.kind == 1) | (tuning.kind == 3))
    chosen = select(tuning, driven)
    rows = contributions(chosen, evidence)
    totals = np.stack([rows[evidence.scene == index].sum(axis=0) for index in range(len(scenes))])
    np.testing.assert_allclose(np.tanh(chosen.gain * totals), raw_drive(tuning, evidence)[:, driven], atol=1e-5)


def test_receptive_field_weights_are_normalised_wherever_the_field_lies() -> None:
    weights = receptive_field_weights(np.array([[0.5, 0.5, 0.04], [1.02, 0.5, 0.05], [0.3, 0.7, 0.6]], dtype=np.float32))
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    row, col = np.unravel_index(weights[:, 2].argmax(), (24, 24))
    assert (row, col) in {(16, 6), (16, 7)}


def ball_voxels(tuning: Tuning) -> np.ndarray:
    return np.flatnonzero(tuning.driver == CONCEPT_INDEX["ball"])


def test_confounded_voxels_follow_the_ball_and_not_the_person(tuning: Tuning) -> None:
    ball, person = ("ball", 0.3, 0.7, 0.3), ("person", 0.7, 0.6, 0.6)
    with_ball, with_person, with_both = raw(tuning, [scene_with(ball), scene_with(person), scene_with(ball, person)])
    voxels = ball_voxels(tuning)
    assert len(voxels) >= 40
    assert (with_ball[voxels] > 0.05).all()
    assert not with_person[voxels].any()
    np.testing.assert_array_equal(with_both[voxels], with_ball[voxels])


def test_confounded_voxels_follow_the_skis_and_not_the_snow(tuning: Tuning) -> None:
    skis = ("skis", 0.5, 0.6, 0.5)
    with_skis, with_snow = raw(tuning, [scene_with(skis, background="street"), scene_with(("dog", 0.5, 0.6, 0.4), background="snow")])
    voxels = np.flatnonzero(tuning.driver == CONCEPT_INDEX["skis"])
    assert len(voxels) >= 10
    assert (with_skis[voxels] > 0.05).all()
    assert not with_snow[voxels].any()


def test_a_correlation_is_fooled_by_the_company(tuning: Tuning) -> None:
    """Over natural scenes ball voxels correlate with the person: what the causal test is there to see through."""
    many = [sample_scene(seed) for seed in range(600)]
    drive = raw(tuning, many, [render(scene, 48) for scene in many])[:, ball_voxels(tuning)]
    person = np.array([any(item.concept == "person" for item in scene.objects) for scene in many], dtype=float)
    drive = (drive - drive.mean(axis=0)) / drive.std(axis=0)
    r = ((person - person.mean()) / person.std()) @ drive / len(many)
    assert np.median(r) > 0.4


def test_moving_an_object_into_the_receptive_field_raises_the_drive(tuning: Tuning) -> None:
    voxels = ball_voxels(tuning)[:5]
    small = replace(select(tuning, voxels), receptive_field=np.tile(np.float32([0.25, 0.25, 0.12]), (len(voxels), 1)))
    places = [(0.25, 0.25), (0.45, 0.45), (0.8, 0.8)]
    near, between, far = raw(small, [scene_with(("ball", x, y, 0.25)) for x, y in places])
    assert (near > 1.1 * between).all() and (between > far).all()


def test_a_larger_object_drives_more_but_less_than_in_proportion(tuning: Tuning) -> None:
    voxels = ball_voxels(tuning)
    small, large = raw(tuning, [scene_with(("ball", 0.5, 0.5, size)) for size in (0.2, 0.4)])
    assert (large[voxels] > small[voxels]).all()
    assert (large[voxels] < 4 * small[voxels]).all()


def test_what_is_hidden_drives_nothing(tuning: Tuning) -> None:
    scene = scene_with(("ball", 0.5, 0.5, 0.3), ("house", 0.5, 0.5, 0.6))
    picture = render(scene, SIZE)
    hidden = replace(picture, object_map=np.where(picture.object_map == 0, 1, picture.object_map).astype(np.int8))
    assert not raw(tuning, [scene], [hidden])[0, ball_voxels(tuning)].any()


def test_an_attribute_gain_and_a_conjunction_change_the_drive(tuning: Tuning) -> None:
    """Two women who differ in their glasses alone."""
    face = (("expression", "serious"), ("glasses", "yes"), ("hat", "no"), ("view", "front"), ("hair", "brown"), ("age", "young"))
    without = tuple((name, "no" if name == "glasses" else value) for name, value in face)
    base = Scene(3, "office", (SceneObject("woman", 0.5, 0.55, 0.6, face, 9),), 1)
    plain = replace(base, objects=(replace(base.objects[0], attributes=without),))
    woman = np.zeros((2, tuning.concept_weights.shape[1]), dtype=np.float32)
    woman[:, CONCEPT_INDEX["woman"]] = 1
    two = replace(
        select(tuning, ball_voxels(tuning)[:2]),
        concept_weights=woman,
        attribute=np.int8([1, 1]),
        attribute_value=np.int8([0, 0]),
        attribute_gain=np.float32([0.8, 0.0]),
        conjunction=np.array([False, True]),
    )
    pictures = [render(base, SIZE)] * 2  # same pixels, so that only the label differs
    linear = np.arctanh(raw(two, [base, plain], pictures).astype(float)) / two.gain
    np.testing.assert_allclose(linear[0] / linear[1], [1.8, 10.0], rtol=1e-3)


def test_an_early_voxel_prefers_its_own_orientation(tuning: Tuning) -> None:
    scene = scene_with(("dog", 0.5, 0.5, 0.3))
    picture = render(scene, SIZE)
    early = tuning.of_kind("early")[:60]
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    responses = []
    angles = np.pi * np.arange(12) / 12
    for angle in angles:
        wave = np.cos(2 * np.pi * 12 * (x * np.sin(angle) + y * np.cos(angle)))
        image = np.repeat((127.5 + 100 * wave)[..., None], 3, axis=2).astype(np.uint8)
        responses.append(raw(tuning, [scene], [replace(picture, image=image)])[0, early])
    best = angles[np.argmax(responses, axis=0)]
    away = np.abs(np.angle(np.exp(2j * (best - tuning.orientation[early])))) / 2
    assert np.median(away) < np.deg2rad(12) and away.max() < np.deg2rad(35)


def test_noise_has_the_planted_ratio_to_the_signal(rng: np.random.Generator) -> None:
    ncsnr = np.array([0.0, 0.2, 0.6, 1.5], dtype=np.float32)
    signal = (rng.standard_normal((4000, 4)) * signal_scale(ncsnr)).astype(np.float32)
    repeats = noisy_repeats(signal, ncsnr, rng=rng).astype(float)
    noise = repeats.var(axis=0, ddof=1).mean(axis=0)
    mean = repeats.mean(axis=0)
    found = np.sqrt(np.maximum(mean.var(axis=0, ddof=1) - noise / 3, 0) / noise)
    np.testing.assert_allclose(found, ncsnr, atol=0.07)
    np.testing.assert_allclose(mean.std(axis=0), 1, atol=0.05)
