"""Curves, critical sets, token tests and receptive fields: by hand where the answer is known, and against their nulls."""

import numpy as np
import pytest
import torch
from attribution_case import query_encoder, read_out, scene_of, small_backbone, some_images

from mine_core.attribution.critical import critical_set, first_to_reach, steps_of
from mine_core.attribution.faithfulness import (
    SHARES,
    counts_of,
    curve_areas,
    highest_first,
    patched_predictions,
    r_squared,
    rank_agreement,
    replacements,
    taken_away,
    token_test,
)
from mine_core.attribution.receptive_field import covariance_shares, field_of
from mine_core.backbones.randomising import shuffled_backbone
from mine_core.errors import EncodingError
from mine_core.experiments.attribution_curves import difference

SIDE, GRID = 24, (4, 4)


def brightness(images: np.ndarray) -> np.ndarray:
    """An embedding whose feature p is the mean of patch p: what each patch does is known."""
    return images.reshape(len(images), 4, 6, 4, 6, 3).mean(axis=(2, 4, 5)).reshape(len(images), 16)


def planted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, weights of its patches, and the exact attribution against a black image."""
    image = rng.integers(100, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    weights = np.zeros(16)
    weights[[5, 6, 9]] = 3.0, 2.0, 1.0
    return image, weights, (brightness(image[None])[0] * weights).reshape(GRID)


def curves_of(image: np.ndarray, weights: np.ndarray, orders: list[np.ndarray]) -> list[np.ndarray]:
    fill = replacements(np.zeros_like(image))["mean"]
    return [brightness(taken_away(image, order, counts_of(16), GRID, fill)) @ weights for order in orders]


def test_the_true_order_beats_random_and_reverse(rng):
    image, weights, values = planted(rng)
    order = highest_first(values)
    random = [rng.permutation(16) for _ in range(20)]
    highest, lowest, *others = curves_of(image, weights, [order, order[::-1], *random])
    found = curve_areas(highest, lowest, np.stack(others))
    assert found.deletion < 0.15 and found.insertion > 0.85
    assert 0.35 < found.random < 0.65
    # the reverse heatmap is as wrong as the true one is right, and a shuffled one no better than chance
    reverse = curve_areas(lowest, highest, np.stack(others))
    assert (reverse.deletion, reverse.insertion) == (found.insertion, found.deletion)


def test_areas_by_hand():
    steps = np.array([1.0, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0])
    by_hand = 0.125 * (1 + 0.5) / 2 + 0.125 * (0.5 + 0.25) / 2 + 0.25 * 0.25 / 2
    found = curve_areas(10 + 4 * steps, 10 + 4 * np.ones(7) * (np.array(SHARES) < 1), (14 - 4 * np.array(SHARES))[None])
    assert found.deletion == pytest.approx(by_hand) and found.random == pytest.approx(0.5)
    assert found.insertion == pytest.approx(1 - 0.125 / 2)
    with pytest.raises(EncodingError, match="not above"):
        curve_areas(-steps, -steps, -steps[None])


def test_what_is_taken_away_is_replaced_and_nothing_else(rng):
    image, mean = rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    order = np.array([5, *[p for p in range(16) if p != 5]])
    for name, replace in replacements(mean).items():
        shown = taken_away(image, order, np.array([0, 1, 16]), GRID, replace)
        assert (shown[0] == image).all()
        inside = np.zeros((SIDE, SIDE), bool)
        inside[6:12, 6:12] = True
        assert (shown[1][~inside] == image[~inside]).all() and (shown[1][inside] != image[inside]).any()
        if name != "blur":
            assert (shown[2] == mean).all()
    assert (replacements(mean)["mean"](image, inside)[inside] == mean[inside]).all()


def test_the_same_images_serve_deletion_and_insertion():
    assert np.allclose(np.array(SHARES) + np.array(SHARES)[::-1], 1)
    assert (counts_of(64) + counts_of(64)[::-1] == 64).all()


# --- critical set ----------------------------------------------------------------------------------------------------


def test_the_critical_set_is_the_smallest_that_takes_the_share_away(rng):
    image, weights, values = planted(rng)
    fill = replacements(np.zeros_like(image))["mean"]
    shares = np.sort(values.ravel())[::-1].cumsum() / values.sum()
    for share in (0.2, 0.6, 0.95):
        found = critical_set(brightness, image, values, weights, 7.0, fill, share=share, rng=rng)
        expected = int(np.searchsorted(shares, share)) + 1
        assert found.patches.sum() == expected and found.removed == pytest.approx(shares[expected - 1])
        assert found.predicted[0] == pytest.approx(values.sum() + 7) and found.predicted[-1] == pytest.approx(7)
        assert (found.random >= found.predicted - 1e-9).all() and found.random[1:4].mean() > found.predicted[1:4].mean()
    assert sorted(np.flatnonzero(found.patches)) == [5, 6, 9]


def test_nothing_to_take_away_gives_no_set(rng):
    image, weights, values = planted(rng)
    found = critical_set(brightness, image, values, -weights, 0.0, replacements(np.zeros_like(image))["mean"], rng=rng)
    assert not found.patches.any() and np.isnan(found.removed)
    assert first_to_reach(np.array([3.0, 2.9, 0.0]), 0.5) is None  # only the whole image takes that much away
    with pytest.raises(EncodingError, match="share"):
        critical_set(brightness, image, values, weights, 0.0, replacements(image)["mean"], share=1.0, rng=rng)


def test_steps_are_few_and_reach_from_none_to_all():
    assert (steps_of(16) == np.arange(17)).all()
    for n in (64, 196, 576):
        steps = steps_of(n)
        assert steps[0] == 0 and steps[-1] == n and len(steps) <= 33 and steps[1] <= 3


# --- tokens ----------------------------------------------------------------------------------------------------------


def token_case(kind: str):
    rng = np.random.default_rng(3)
    backbone = small_backbone()
    embedding = backbone.embed(some_images(rng, 30))
    encoder = read_out(rng, backbone) if kind == "ridge" else query_encoder(rng, backbone)
    return rng, encoder, embedding.patches, embedding.pooled, embedding.patches.mean(axis=0)


@pytest.mark.parametrize("kind", ["ridge", "query_attention"])
def test_patching_all_tokens_leaves_the_average_image_and_none_the_prediction(kind):
    _, encoder, patches, pooled, mean = token_case(kind)
    everything, nothing = np.ones(patches.shape[:2], bool), np.zeros(patches.shape[:2], bool)
    whole = patched_predictions(encoder, patches, pooled, mean, everything, 2)
    expected = encoder.predict(pooled)[:, 2] if kind == "ridge" else encoder.predict_tokens(patches, pooled)[:, 2]
    assert np.abs(whole - expected).max() < 1e-4
    empty = patched_predictions(encoder, patches, pooled, mean, nothing, 2)
    assert np.ptp(empty) < 1e-4 < np.ptp(whole)


def test_the_tokens_that_carry_a_prediction_are_necessary_and_sufficient():
    rng, model, patches, pooled, mean = token_case("ridge")
    place = rng.integers(0, 16, len(patches))
    patches = np.broadcast_to(mean, patches.shape).copy()
    patches[np.arange(len(patches)), place] += rng.normal(size=(len(patches), patches.shape[2])).astype(np.float32)
    pooled = patches.sum(axis=1)
    measured = model.predict(pooled)[:, 1]
    values = np.abs((patches - mean) @ model.coef[:, 1])
    found = token_test(model, patches, pooled, mean, values, measured, 1, 1, rng=rng)
    assert found.whole == pytest.approx(1, abs=1e-4) and found.highest_alone == pytest.approx(1, abs=1e-4)
    assert found.without_highest < 0.05 and found.random_alone < 0.5 and found.lowest_alone < 0.05


def test_r_squared_by_hand():
    measured = np.array([0.0, 2.0, 4.0])
    assert r_squared(measured, measured) == 1
    assert r_squared(np.full(3, 2.0), measured) == 0
    assert r_squared(np.array([0.0, 2.0, 2.0]), measured) == pytest.approx(0.5)


def test_agreement_is_of_ranks():
    values = np.arange(16.0).reshape(GRID)
    assert rank_agreement(values, np.exp(values)) == pytest.approx(1)
    assert rank_agreement(values, -values) == pytest.approx(-1)
    assert rank_agreement(values, np.ones(GRID)) == 0


def test_an_interval_resamples_images_with_all_their_pairs(rng):
    values, groups = rng.normal(1, 1, 40), np.repeat(np.arange(40), 1)
    alone = difference(values, groups, np.random.default_rng(0))
    copies = difference(np.repeat(values, 10), np.repeat(groups, 10), np.random.default_rng(0))
    assert alone["mean"] == pytest.approx(copies["mean"]) and alone["interval"] == pytest.approx(copies["interval"])
    assert alone["interval"][0] < 1 < alone["interval"][1]
    assert difference(values, np.zeros(40, int), rng)["interval"] is None


# --- receptive fields ------------------------------------------------------------------------------------------------


def test_a_receptive_field_is_found_where_the_variance_comes_from(rng):
    rows, cols = np.indices((8, 8)) + 0.5
    weight = np.exp(-((cols - 5.5) ** 2 + (rows - 2.5) ** 2) / (2 * 0.9**2))
    values = rng.normal(size=(2000, 8, 8)) * weight
    response = 3 + values.sum(axis=(1, 2)) + rng.normal(size=2000)
    # two places that carry much and cancel each other take no part
    values[:, 7, 0] = 3 * rng.normal(size=2000)
    values[:, 7, 1] = -values[:, 7, 0]
    shares = covariance_shares(values, response)
    found = field_of(shares)
    assert shares.sum() == pytest.approx(1)
    assert abs(found.x * 8 - 5.5) < 0.25 and abs(found.y * 8 - 2.5) < 0.25
    broad = rng.normal(size=(2000, 8, 8)) * np.sqrt(weight)
    assert field_of(covariance_shares(broad, broad.sum(axis=(1, 2)))).size > found.size
    by_hand = np.cov(values[:, 2, 5], response)[0, 1] / np.cov(values.sum(axis=(1, 2)), response)[0, 1]
    assert shares[2, 5] == pytest.approx(by_hand)
    for unrelated in (np.ones(2000), -response):
        with pytest.raises(EncodingError, match="does not rise"):
            covariance_shares(values, unrelated)
    with pytest.raises(EncodingError, match="same share"):
        field_of(np.full((8, 8), 1 / 64))


# --- shuffled weights ------------------------------------------------------------------------------------------------


def test_a_forgetful_backbone_keeps_its_weights_and_loses_what_they_do(rng):
    backbone = small_backbone()
    images = some_images(rng, 3)
    before = backbone.embed(images).pooled
    other = shuffled_backbone(backbone, torch.Generator().manual_seed(1))
    assert (backbone.embed(images).pooled == before).all()
    assert np.abs(other.embed(images).pooled - before).max() > 0.1
    for mine, theirs in zip(backbone._visual.parameters(), other._visual.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
    assert scene_of(other, images[0]).patches.shape == (16, 10)
