"""The phantom's stimuli: what is drawn is what the scene graph, the labels and the captions say."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binom

from mine_core.errors import SubjectError
from mine_core.subjects.phantom.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    CO_OCCURRENCE,
    CONCEPTS,
    GROUPS,
    VOCABULARY,
    Scene,
    SceneObject,
    attribute_prompts,
    background_prompt,
    captions,
    concept_prompt,
    masks,
    render,
    render_isolated,
    sample_scene,
    scene_labels,
)

ROOT = Path(__file__).resolve().parents[2]
N_SCENES = 3000
COLOURED = ("apple", "ball", "bicycle", "boat", "book", "bus", "car", "chair", "cup", "flower", "skis", "umbrella")
# Colours as anyone would name them, not those of the drawing code: the reference for the direction of a colour change.
NAMED = {"red": (255, 0, 0), "yellow": (255, 220, 0), "green": (0, 150, 0), "blue": (0, 0, 255), "purple": (128, 0, 160)}
NAMED["white"] = (255, 255, 255)
FACE = {"expression": "serious", "glasses": "no", "hat": "no", "hair": "brown", "age": "young", "view": "front"}
GOLDEN_GRAPH = (("snow", 1), (("tower", 0.83636, 0.65806, 0.66388),))
GOLDEN_CAPTION = "a tower in the snow"
GOLDEN_BACKGROUNDS = [
    [165.1, 186.3, 193.3],
    [87.0, 101.3, 61.7],
    [121.9, 151.4, 139.7],
    [203.1, 211.6, 220.2],
    [131.0, 115.6, 113.4],
    [198.6, 182.7, 165.0],
    [163.3, 157.2, 160.3],
    [147.9, 146.0, 144.2],
]
# fmt: off
GOLDEN_CONCEPTS = [
    125.1, 104.1, 143.1, 145.8, 75.0, 181.0, 172.2, 211.4, 145.3, 115.2, 133.9, 129.1, 136.0, 95.3,
    149.9, 193.7, 128.2, 116.7, 118.8, 185.4, 166.3, 111.8, 147.8, 135.0, 166.3, 65.6, 140.9, 130.6,
    102.4, 137.0, 78.7, 160.3, 76.0, 158.5, 71.0, 93.4, 95.7, 90.8, 165.3, 92.9,
]
# fmt: on


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, ...]:
    return tuple(sample_scene(seed) for seed in range(N_SCENES))


def names(scene: Scene) -> set[str]:
    return {item.concept for item in scene.objects}


def face_attributes(concept: str, **changes: str) -> dict[str, str]:
    skipped = ("hair", "age") if concept == "clown" else ()
    return {name: value for name, value in (FACE | changes).items() if name not in skipped}


def plain_attributes(concept: str) -> dict[str, str]:
    if concept in ("man", "woman", "child", "clown"):
        return face_attributes(concept)
    if concept == "person":
        return {"pose": "standing"}
    return {"colour": "red"} if concept in COLOURED else {}


def test_the_vocabulary_of_concepts_attributes_and_backgrounds_is_what_was_asked_for() -> None:
    assert len(CONCEPTS) >= 36
    assert tuple(dict.fromkeys(concept.group for concept in CONCEPTS)) == GROUPS
    assert len({concept.name for concept in CONCEPTS}) == len(CONCEPTS)
    assert len(ATTRIBUTES) >= 12 and len(BACKGROUNDS) >= 8
    assert {background.indoor for background in BACKGROUNDS} == {True, False}
    assert {background.built for background in BACKGROUNDS} == {True, False}


def test_a_scene_is_a_pure_function_of_its_seed() -> None:
    first = [render(sample_scene(seed), 96) for seed in range(6)]
    again = [render(sample_scene(seed), 96) for seed in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.object_map.tobytes() == other.object_map.tobytes()
    assert len({one.image.tobytes() for one in first}) == len(first)
    assert all(captions(sample_scene(seed)) == captions(sample_scene(seed)) for seed in range(50))
    assert len({captions(sample_scene(seed)) for seed in range(50)}) == 50


def test_another_process_with_another_hash_seed_makes_the_same_bytes() -> None:
    code = (
        "import hashlib\n"
        "from mine_core.subjects.phantom.scenes import captions, render, sample_scene\n"
        "digest = hashlib.sha256()\n"
        "for seed in range(12):\n"
        "    scene = sample_scene(seed)\n"
        "    digest.update(repr((scene, captions(scene))).encode() + render(scene, 64).image.tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    answers = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1


def test_every_concept_background_and_attribute_value_occurs(scenes: tuple[Scene, ...]) -> None:
    labels = [scene_labels(scene) for scene in scenes[:2000]]
    assert np.stack([label.present for label in labels]).any(axis=0).all()
    assert {label.background for label in labels} == set(range(len(BACKGROUNDS)))
    values = np.concatenate([label.attributes for label in labels])
    for column, (name, options) in enumerate(ATTRIBUTES.items()):
        drawn = values[:, column]
        share = np.bincount(drawn[drawn >= 0], minlength=len(options)) / np.count_nonzero(drawn >= 0)
        assert share.min() > 0.4 / len(options), name
        assert share.max() < 1.9 / len(options), name


def test_concepts_are_about_equally_frequent_and_scenes_hold_one_to_four(scenes: tuple[Scene, ...]) -> None:
    share = np.stack([scene_labels(scene).present for scene in scenes]).mean(axis=0)
    assert share.min() > 0.03 and share.max() < 0.11
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}


def test_planted_co_occurrences_hold_and_do_not_hold_without_the_cue(scenes: tuple[Scene, ...]) -> None:
    for rule in CO_OCCURRENCE:
        with_cue = [scene for scene in scenes if rule.cue in names(scene)]
        without = [scene for scene in scenes if rule.cue not in names(scene)]
        partner = [rule.partner == scene.background or rule.partner in names(scene) for scene in with_cue]
        low, high = binom.interval(0.999, len(with_cue), rule.probability)
        assert low <= sum(partner) <= high, rule
        assert 0 < sum(partner) < len(partner), rule
        chance = np.mean([rule.partner == scene.background or rule.partner in names(scene) for scene in without])
        assert chance < rule.probability / 2, rule


def test_labels_follow_from_the_graph(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes[:300]:
        label = scene_labels(scene)
        assert {CONCEPTS[index].name for index in np.flatnonzero(label.present)} == names(scene)
        assert BACKGROUNDS[label.background].name == scene.background
        place = BACKGROUNDS[label.background]
        for row, item in enumerate(scene.objects):
            assert CONCEPTS[label.concepts[row]].name == item.concept
            told = {
                name: values[label.attributes[row, column]]
                for column, (name, values) in enumerate(ATTRIBUTES.items())
                if label.attributes[row, column] >= 0
            }
            derived = {"indoor": "indoor" if place.indoor else "outdoor", "natural": "built" if place.built else "natural"}
            assert told == {**dict(item.attributes), **derived, "size": told["size"], "position": told["position"]}


def test_position_and_size_labels_agree_with_the_pixels() -> None:
    """Drawn silhouettes, measured alone, lie where and are as large as the graph says."""
    grid = (np.arange(192) + 0.5) / 192
    for seed in range(60):
        for item in sample_scene(seed).objects:
            drawn = masks(render(Scene(seed, "office", (item,), 1), 192))[0]
            x, y = grid[drawn.any(axis=0)], grid[drawn.any(axis=1)]
            assert max(np.ptp(x), np.ptp(y)) == pytest.approx(item.size, rel=0.2), item
            middle_x, middle_y = (x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2
            assert abs(middle_x - item.x) < 0.17 * item.size and abs(middle_y - item.y) < 0.17 * item.size, item
            label = item.labels["position"]
            if label != "centre":
                off = {"left": 0.5 - middle_x, "right": middle_x - 0.5, "top": 0.5 - middle_y, "bottom": middle_y - 0.5}
                assert off[label] > 0.13 - 0.17 * item.size, item
    small, large = (SceneObject("dog", 0.5, 0.5, size, (), 1) for size in (0.39, 0.41))
    assert (small.labels["size"], large.labels["size"]) == ("small", "large")


def test_masks_are_disjoint_and_are_the_object_map() -> None:
    for seed in range(40):
        scene = sample_scene(seed)
        drawn = render(scene, 96)
        regions = masks(drawn)
        assert regions.shape == (len(scene.objects), 96, 96)
        assert regions.sum(axis=0).max() == 1
        assert np.array_equal(np.where(regions.any(axis=0), regions.argmax(axis=0), -1), drawn.object_map)


def test_visible_share_is_the_shown_part_of_the_silhouette_drawn_alone() -> None:
    covered = 0
    for seed in range(80):
        scene = sample_scene(seed)
        together = render(scene, 96)
        for index, item in enumerate(scene.objects):
            alone = masks(render(replace(scene, objects=(item,)), 96))[0]
            shown = masks(together)[index]
            assert not (shown & ~alone).any()
            assert together.visible[index] == pytest.approx(shown.sum() / alone.sum(), abs=1e-12)
            covered += together.visible[index] < 0.999
    assert covered > 10


def test_no_object_is_hidden() -> None:
    assert min(render(sample_scene(seed), 64).visible.min() for seed in range(300)) >= 0.35


def test_the_later_object_is_in_front() -> None:
    pizza, clock = (SceneObject(name, 0.5, 0.5, 0.5, (), 3) for name in ("pizza", "clock"))
    for objects in ((pizza, clock), (clock, pizza)):
        drawn = render(Scene(1, "beach", objects, 1), 96)
        assert drawn.object_map[48, 48] == 1
        assert drawn.visible[1] == 1.0
        assert drawn.visible[0] < 0.1


def test_an_object_changes_pixels_only_around_itself() -> None:
    apple = SceneObject("apple", 0.25, 0.3, 0.2, (("colour", "red"),), 3)
    boat = SceneObject("boat", 0.7, 0.6, 0.4, (("colour", "blue"),), 4)
    scene = Scene(1, "beach", (boat, apple), 1)
    changed = (render(scene, 192).image != render(replace(scene, objects=(boat,)), 192).image).any(axis=-1)
    row, column = np.nonzero(changed)
    distance = np.maximum(abs((column + 0.5) / 192 - apple.x), abs((row + 0.5) / 192 - apple.y))
    assert changed.sum() > 500
    assert distance.max() < 0.75 * apple.size
    assert masks(render(scene, 192))[1][changed].mean() > 0.7


@pytest.mark.parametrize("concept", COLOURED)
def test_colour_moves_the_mean_colour_of_the_mask_in_its_direction(concept: str) -> None:
    options = ("red", "yellow", "green") if concept == "apple" else ATTRIBUTES["colour"]
    for seed in (5, 6):
        mean = {}
        for colour in options:
            drawn = render_isolated(concept, {"colour": colour}, seed=seed, size=96)
            mean[colour] = drawn.image[masks(drawn)[0]].astype(float).mean(axis=0)
        for one, other in combinations(options, 2):
            moved, expected = mean[one] - mean[other], np.subtract(NAMED[one], NAMED[other]).astype(float)
            assert moved @ expected > 0.8 * np.linalg.norm(moved) * np.linalg.norm(expected), (one, other)
            assert np.linalg.norm(moved) > 10, (one, other)


@pytest.mark.parametrize("concept", ["man", "woman", "child", "clown"])
@pytest.mark.parametrize(
    ("attribute", "value", "left", "top", "bottom"),
    [
        ("glasses", "yes", 0.65, -0.5, 0.25),
        ("hat", "yes", 0.90, -1.1, -0.1),
        ("expression", "smiling", 0.45, -0.4, 0.52),
        ("expression", "sad", 0.45, -0.4, 0.52),
    ],
)
def test_facial_attributes_change_the_face_and_nothing_else(
    concept: str, attribute: str, value: str, left: float, top: float, bottom: float
) -> None:
    """Changed pixels, in units of half the portrait about its middle, stay where eyes, crown or mouth and brows are."""
    item = SceneObject(concept, 0.4, 0.55, 0.6, tuple(face_attributes(concept).items()), 8)
    other = replace(item, attributes=tuple(face_attributes(concept, **{attribute: value}).items()))
    plain, altered = (render(Scene(2, "street", (which,), 1), 192) for which in (item, other))
    row, column = np.nonzero((plain.image != altered.image).any(axis=-1))
    half = item.size * 192 / 2
    x, y = (column + 0.5 - item.x * 192) / half, (row + 0.5 - item.y * 192) / half
    assert np.abs(x).max() < left and y.min() > top and y.max() < bottom
    strong = np.abs(plain.image.astype(int) - altered.image).max(axis=-1) > 40
    assert strong.sum() > 0.02 * masks(plain)[0].sum()
    if attribute == "expression":
        rows = (np.arange(192) + 0.5 - item.y * 192) / half
        assert strong[rows < 0].sum() > 20, "brows"
        assert strong[rows > 0.15].sum() > 60, "mouth"


@pytest.mark.parametrize("attribute", ["age", "hair", "view"])
def test_every_value_of_the_other_facial_attributes_looks_different(attribute: str) -> None:
    for concept in ("man", "woman"):
        images = [
            render_isolated(concept, face_attributes(concept, **{attribute: value}), seed=4, size=96).image.astype(int)
            for value in ATTRIBUTES[attribute]
        ]
        for one, other in combinations(images, 2):
            assert (np.abs(one - other).max(axis=-1) > 30).sum() > 50


def test_poses_have_different_outlines() -> None:
    outlines = [masks(render_isolated("person", {"pose": pose}, seed=4, size=96))[0] for pose in ATTRIBUTES["pose"]]
    for one, other in combinations(outlines, 2):
        assert (one & other).sum() / (one | other).sum() < 0.8


def test_sizes_agree_after_area_downsampling() -> None:
    """The 96 pixel picture is the 192 pixel one to within anti-aliasing; another scene is several times farther away."""
    pairs = []
    for seed in range(40):
        fine, coarse = render(sample_scene(seed), 192), render(sample_scene(seed), 96)
        shrunk = cv2.resize(fine.image, (96, 96), interpolation=cv2.INTER_AREA).astype(int)
        pairs.append((shrunk, coarse.image.astype(int)))
        blocks = fine.object_map.reshape(96, 2, 96, 2)
        sure = blocks.max(axis=(1, 3)) == blocks.min(axis=(1, 3))
        assert (blocks[:, 0, :, 0] == coarse.object_map)[sure].mean() > 0.96
    error = [np.abs(shrunk - coarse).mean() for shrunk, coarse in pairs]
    other = [np.abs(one[0] - two[1]).mean() for one, two in zip(pairs, pairs[1:], strict=False)]
    assert max(error) < 16
    assert np.mean(other) > 5 * np.mean(error)


def test_captions_are_plain_short_and_in_the_vocabulary(scenes: tuple[Scene, ...]) -> None:
    assert tuple(sorted(set(VOCABULARY))) == VOCABULARY and len(VOCABULARY) < 160
    known = set(VOCABULARY)
    for scene in scenes[:700]:
        for text in captions(scene):
            words = text.split(" ")
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", text), text
            assert set(words) <= known, text
            assert len(words) <= 32, text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_captions_name_every_object_and_claim_nothing_that_is_not_there(scenes: tuple[Scene, ...]) -> None:
    nouns = {concept.name for concept in CONCEPTS}
    for scene in scenes[:700]:
        labels = [item.labels for item in scene.objects]
        for text in captions(scene):
            words = Counter(text.split())
            assert {word for word in words if word in nouns} - {scene.background} == names(scene), text
            for attribute in ("expression", "age", "pose", "size"):
                claimed = words.keys() & set(ATTRIBUTES[attribute])
                assert claimed <= {label.get(attribute) for label in labels}, text
            coloured = {label.get("colour") for label in labels} | {label.get("hair") for label in labels}
            assert words.keys() & set(ATTRIBUTES["colour"] + ATTRIBUTES["hair"]) <= coloured, text
            for worn in ("glasses", "hat"):
                assert words[worn] <= sum(label.get(worn) == "yes" for label in labels), text
            places = words.keys() & {background.name for background in BACKGROUNDS}
            assert places <= {scene.background}, text


def test_captions_vary_in_what_they_tell(scenes: tuple[Scene, ...]) -> None:
    texts = [captions(scene) for scene in scenes[:400]]
    assert np.mean([len(set(group)) for group in texts]) > 2.5
    assert all(len(captions(scenes[0], n)) == n for n in (1, 5))
    told = [scene.background in text.split() for scene, group in zip(scenes, texts, strict=False) for text in group]
    assert 0.5 < np.mean(told) < 0.95


def test_prompts_are_distinct_complete_and_in_the_vocabulary() -> None:
    prompts = attribute_prompts()
    assert set(prompts) == {(name, value) for name, values in ATTRIBUTES.items() for value in values}
    phrases = [concept_prompt(concept.name) for concept in CONCEPTS]
    phrases += [background_prompt(background.name) for background in BACKGROUNDS] + list(prompts.values())
    assert len(set(phrases)) == len(phrases)
    assert {word for phrase in phrases for word in phrase.split(" ")} <= set(VOCABULARY)
    for concept in CONCEPTS:
        assert concept.name in concept_prompt(concept.name).split()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(SubjectError, match="negative"):
        sample_scene(-1)
    for size in (31, 769):
        with pytest.raises(SubjectError, match=str(size)):
            render(sample_scene(0), size)
    with pytest.raises(SubjectError, match="zebra"):
        render_isolated("zebra", {}, seed=1)
    with pytest.raises(SubjectError, match="moon"):
        render_isolated("dog", {}, seed=1, background="moon")


def test_the_graph_is_the_one_that_the_backbones_were_trained_on() -> None:
    """Weights are tied to these scenes: a change of graph, words or pixels must be noticed, not shipped."""
    scene = sample_scene(0)
    assert (scene.background, scene.light) == GOLDEN_GRAPH[0]
    assert tuple((item.concept, item.x, item.y, item.size) for item in scene.objects) == GOLDEN_GRAPH[1]
    assert captions(scene, 1)[0] == GOLDEN_CAPTION
    dog = SceneObject("dog", 0.5, 0.5, 0.3, (), 1)
    places = [render(Scene(1, place.name, (dog,), 1), 64).image.mean(axis=(0, 1)) for place in BACKGROUNDS]
    np.testing.assert_allclose(places, GOLDEN_BACKGROUNDS, atol=0.5)
    alone = [render_isolated(concept.name, plain_attributes(concept.name), seed=1, size=64) for concept in CONCEPTS]
    np.testing.assert_allclose([drawn.image[masks(drawn)[0]].mean() for drawn in alone], GOLDEN_CONCEPTS, atol=0.5)
