import numpy as np
import pytest
import torch

from mine_core.backbones.phantom_model import PhantomConfig, build_phantom_coca, normalise_pixels
from mine_core.backbones.train_data import (
    MOST_OBJECTS,
    STORED_SIZE,
    PhraseBank,
    SceneBatches,
    batches,
    held_out,
    patch_coverage,
    scenes,
    vocabulary,
)
from mine_core.backbones.train_phantom import FIRST_SEED


@pytest.fixture(scope="module")
def bank():
    return PhraseBank()


@pytest.fixture(scope="module")
def dataset():
    return SceneBatches(PhantomConfig("phantom", vocabulary(), "masks", heads=3), FIRST_SEED["phantom"], 12)


def test_truth_of_phrases_follows_the_graph(bank):
    for seed in range(60):
        for item in scenes.sample_scene(seed).objects:
            true = {bank.texts[index] for index in bank.true_of(item)}
            labels = item.labels
            for concept in bank.concepts:
                assert (scenes.concept_prompt(concept) in true) == (concept == item.concept)
            for colour in scenes.ATTRIBUTES["colour"]:
                assert (f"something {colour}" in true) == (labels.get("colour") == colour)
                assert (f"a {colour} ball" in true) == (item.concept == "ball" and labels["colour"] == colour)
            assert ("a face with glasses" in true) == (labels.get("glasses") == "yes")
            assert ("a dog on the left" in true) == (item.concept == "dog" and labels["position"] == "left")


def test_what_is_true_is_in_scope(bank):
    for seed in range(60):
        for item in scenes.sample_scene(seed).objects:
            assert set(bank.true_of(item)) <= set(bank.in_scope(item.concept))
    assert bank.index("a red ball") in bank.in_scope("ball")
    assert bank.index("a red ball") not in bank.in_scope("car")


def test_places(bank):
    true = {bank.texts[index] for index in bank.true_in("kitchen")}
    assert true == {"a photo in a kitchen", "in a kitchen", "indoors", "in a built place"}


def test_every_phrase_is_readable_and_distinct(bank):
    known = set(vocabulary())
    assert len(set(bank.texts)) == len(bank.texts)
    assert all(set(text.split()) <= known for text in bank.texts)


def test_coverage_is_the_mean_of_the_mask():
    rendered = scenes.render(scenes.sample_scene(4), STORED_SIZE)
    masks = scenes.masks(rendered)
    coverage = patch_coverage(rendered.object_map, MOST_OBJECTS, 8)
    assert coverage.shape == (MOST_OBJECTS, 64)
    for index, mask in enumerate(masks):
        assert coverage[index, 8 * 3 + 5] == pytest.approx(mask[72:96, 120:144].mean())
        assert coverage[index].mean() == pytest.approx(mask.mean(), abs=1e-6)
    assert not coverage[len(masks) :].any()


def test_batches_are_a_function_of_their_number(dataset):
    first, again, other = dataset[3], dataset[3], dataset[4]
    for name, value in vars(first).items():
        same = torch.equal(value, getattr(again, name)) if isinstance(value, torch.Tensor) else value == again.families
        assert same, name
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (12, 96, 96, 3) and first.coverage.shape == (12, MOST_OBJECTS, 64)


def test_batch_order_and_truth(dataset):
    batch = dataset[0]
    n_concepts = len(scenes.CONCEPTS)
    assert batch.families[:n_concepts] == ("concept",) * n_concepts and "concept" not in batch.families[n_concepts:]
    for row in range(12):
        scene = scenes.sample_scene(FIRST_SEED["phantom"] + row)
        labels = scenes.scene_labels(scene)
        assert np.array_equal(batch.truth[row, :, :n_concepts].any(dim=0).numpy(), labels.present)
        said = dataset.tokenizer.decode(batch.caption_ids[row])
        assert said in scenes.captions(scene, 3)
    composed = batch.truth.any(dim=1).any(dim=0).numpy()[np.array(batch.families) == "composition"]
    assert composed.all()
    assert not (batch.truth & ~batch.scope).any()


def test_batches_resume_where_they_stopped(dataset):
    numbers = [batch.images.float().mean().item() for batch in batches(dataset, 2, 4, 0)]
    assert numbers == [dataset[index].images.float().mean().item() for index in (2, 3)]


def test_training_scenes_are_never_evaluation_scenes():
    most = 100_000_000
    ranges = [range(start, start + most) for start in FIRST_SEED.values()]
    assert ranges[0][-1] < ranges[1][0]
    assert all(held[0] > 2_000_000 for held in ranges)
    shown = held_out(3, 48)
    assert shown.scenes[1] == scenes.sample_scene(1_000_001)
    assert shown.images.shape == (3, 48, 48, 3) and shown.object_maps.shape == (3, STORED_SIZE, STORED_SIZE)


def test_a_fresh_model_can_tell_where_a_token_is(dataset):
    torch.manual_seed(0)
    model = build_phantom_coca(dataset.config).train()
    with torch.no_grad():
        tokens = model.visual.conv1(normalise_pixels(dataset[0].images, dataset.config)).flatten(2)
        positions = model.visual.positional_embedding[1:]
    spread = (positions - positions.mean(dim=0)).std() / (tokens - tokens.mean(dim=(0, 2), keepdim=True)).std()
    assert 0.3 < spread < 3
