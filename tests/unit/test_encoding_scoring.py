"""Scores equal scikit-learn's, nulls are null, and planted noise ceilings are recovered."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest, pearsonr
from sklearn.metrics import r2_score

from mine_core.encoding.alignment import check_images_apart
from mine_core.encoding.noise_ceiling import noise_ceiling_from_repeats
from mine_core.encoding.ridge import fit_ridge
from mine_core.encoding.scoring import (
    VOXELS_PER_BLOCK,
    normalised_accuracy,
    pearson_with_p,
    score,
    score_predictions,
)
from mine_core.errors import AlignmentError, EncodingError
from mine_core.types import BackboneSpec, EncodingModel, EncodingScore, Features, Responses, Splits, StimulusSet, VoxelIndex


def a_subject(rng: np.random.Generator, n: int = 300, d: int = 12, v: int = 40) -> tuple[Features, Responses, Splits]:
    """Half of the voxels are linear in the features with noise, half are noise; three repeats of every stimulus."""
    pooled = rng.normal(size=(n, d)).astype(np.float32)
    weights = rng.normal(size=(d, v)) * (np.arange(v) < v // 2)
    repeats = (pooled @ weights + 3 * rng.normal(size=(3, n, v))).astype(np.float32)
    ids = tuple(map(str, range(n)))
    voxels = VoxelIndex("s", np.arange(v), (v,), (), np.zeros((0, v), bool))
    features = Features(pooled, pooled[:, None], np.zeros_like(pooled), ids, BackboneSpec("b", (1, 1), d, "hash", "none"))
    responses = Responses(repeats.mean(0), repeats, ids, voxels, "z")
    return features, responses, Splits(np.arange(n // 2), np.arange(0), np.arange(n // 2, n))


def fit_and_score(rng: np.random.Generator, subject: tuple[Features, Responses, Splits]) -> tuple[EncodingModel, EncodingScore]:
    features, responses, splits = subject
    model = fit_ridge(features, responses, splits)
    return model, score(model, features, responses, splits.test, 200, rng)


def test_scores_equal_scikit_learn_and_scipy(rng):
    subject = features, responses, splits = a_subject(rng)
    model, scored = fit_and_score(rng, subject)
    predicted, measured = model.predict(features.pooled[splits.test]), responses.values[splits.test]
    np.testing.assert_allclose(scored.r2, r2_score(measured, predicted, multioutput="raw_values"), atol=1e-6)
    expected = [pearsonr(*pair)[0] for pair in zip(predicted.T, measured.T, strict=True)]
    np.testing.assert_allclose(scored.r, expected, atol=1e-6)
    assert (scored.n_test, scored.n_permutations) == (150, 200)


def test_any_predictions_are_scored_as_those_of_a_read_out(rng):
    features, responses, splits = a_subject(rng)
    model = fit_ridge(features, responses, splits)
    test = rng.permutation(splits.test)
    expected = score(model, features, responses, test, 50, np.random.default_rng(1))
    predicted = model.predict(features.pooled)[test]
    found = score_predictions(predicted, responses, test, 50, np.random.default_rng(1))
    for name in ("r", "r2", "p", "q", "noise_ceiling"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    # rows in the order of the split: the same predictions sorted by position are other predictions
    assert np.median(score_predictions(predicted[np.argsort(test)], responses, test, 9, rng).r) < 0.2
    for wrong in (predicted[:-1], model.predict(features.pooled), predicted[:, :-1]):
        with pytest.raises(AlignmentError, match=r"expected \[test stimulus, voxel\] = \(150, 40\) of subject 's'"):
            score_predictions(wrong, responses, test, 9, rng)


def test_planted_voxels_are_called_and_null_voxels_are_not(rng):
    _, scored = fit_and_score(rng, a_subject(rng, v=200))
    assert (scored.q[:100] < 0.05).all()
    assert (scored.q[100:] < 0.05).mean() <= 0.05
    assert scored.r2[100:].mean() < 0.01
    # 200 permutations cannot tell 100 clear voxels of 200 at q = 0.05 under any dependence: the clear ones are permuted more often
    assert scored.p.min() == pytest.approx(1 / 4001)


def test_few_clear_voxels_among_many_are_called_and_the_others_keep_their_p(rng):
    n, v, clear = 120, 400, 20
    measured = rng.normal(size=(n, v))
    predicted = rng.normal(size=(n, v))
    predicted[:, :clear] = measured[:, :clear] + rng.normal(size=(n, clear))
    index = VoxelIndex("s", np.full(v, -1), (), (), np.zeros((0, v), bool))
    responses = Responses(measured, None, tuple(map(str, range(n))), index, "z")
    scored = score_predictions(predicted, responses, np.arange(n), 199, np.random.default_rng(2))
    np.testing.assert_array_equal(np.flatnonzero(scored.q <= 0.05), np.arange(clear))
    _, coarse = pearson_with_p(predicted, measured, 199, np.random.default_rng(2))
    unclear = coarse > 1 / 200
    np.testing.assert_array_equal(scored.p[unclear], coarse[unclear])
    assert scored.p[:clear].max() < 1 / 1000
    # with nothing to be found nothing is called, however often it is permuted
    nothing = score_predictions(rng.normal(size=(n, v)), responses, np.arange(n), 199, np.random.default_rng(3))
    assert not (nothing.q <= 0.05).any()


def test_without_an_effect_p_is_uniform_and_almost_nothing_is_called(rng):
    features, responses, splits = a_subject(rng, v=400)
    order = rng.permutation(300)
    null = replace(responses, values=responses.values[order], repeats=None)
    _, scored = fit_and_score(rng, (features, null, splits))
    # voxels share stimuli and features, so p is uniform in law but not independent: a wide bar, that a bias would cross
    assert kstest(scored.p, "uniform").statistic < 0.2
    assert (scored.q < 0.05).mean() <= 0.05


def test_p_equals_counting_over_all_orders_by_hand(rng):
    predicted, measured = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    predicted[:, 2] = measured[:, 2] + 0.3 * rng.normal(size=8)
    _, p = pearson_with_p(predicted, measured, 300, np.random.default_rng(4))
    same = np.random.default_rng(4)
    orders = [same.permutation(8) for _ in range(300)]
    for voxel in range(3):
        observed = np.corrcoef(predicted[:, voxel], measured[:, voxel])[0, 1]
        null = [np.corrcoef(predicted[order, voxel], measured[:, voxel])[0, 1] for order in orders]
        assert p[voxel] == pytest.approx((1 + sum(value >= observed - 1e-6 for value in null)) / 301)


def test_p_approaches_the_exact_permutation_distribution(rng):
    predicted = np.array([[0.0], [0.1], [1.0], [1.0], [0.1], [1.0]])  # orders that tie with the observed one count
    measured = rng.normal(size=(6, 1)) + predicted
    observed = np.corrcoef(predicted[:, 0], measured[:, 0])[0, 1]
    every = [np.corrcoef(predicted[list(order), 0], measured[:, 0])[0, 1] for order in itertools.permutations(range(6))]
    _, p = pearson_with_p(predicted, measured, 8000, rng)
    exact = np.mean(np.array(every) >= observed - 1e-9)
    assert p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 8000) + 2e-4)


def test_a_perfect_prediction_ties_only_with_itself(rng):
    measured = rng.normal(size=(50, 2)) * [1, 1e4]
    r, p = pearson_with_p(measured * 3 + 1, measured, 99, rng)
    np.testing.assert_allclose(r, 1)
    np.testing.assert_allclose(p, 0.01)


def test_voxel_order_and_blocks_do_not_matter(rng):
    predicted = rng.normal(size=(30, VOXELS_PER_BLOCK + 50))
    measured = predicted * 0.2 + rng.normal(size=predicted.shape)
    order = rng.permutation(predicted.shape[1])
    r, p = pearson_with_p(predicted, measured, 150, np.random.default_rng(0))
    shuffled_r, shuffled_p = pearson_with_p(predicted[:, order], measured[:, order], 150, np.random.default_rng(0))
    np.testing.assert_allclose(shuffled_r, r[order])
    np.testing.assert_array_equal(shuffled_p, p[order])


def test_normalised_accuracy_is_the_mean_share_of_the_ceiling():
    r2, ceiling = np.array([0.1, 0.2, 0.5, -0.1, 0.3]), np.array([0.2, 0.8, 0.05, 0.1, np.nan])
    assert normalised_accuracy(r2, ceiling) == pytest.approx(np.mean([0.5, 0.25, -1.0]))
    assert normalised_accuracy(r2, ceiling, floor=0.5) == pytest.approx(0.25)
    with pytest.raises(EncodingError, match=r"No voxel of 5 has a noise ceiling of 0.9 or more \(the highest is 0.800\)"):
        normalised_accuracy(r2, ceiling, floor=0.9)
    with pytest.raises(EncodingError, match="none is known"):
        normalised_accuracy(r2, np.full(5, np.nan))
    with pytest.raises(EncodingError, match="floor of 0"):
        normalised_accuracy(r2, ceiling, floor=0.0)


def test_the_ceiling_comes_from_test_repeats_is_given_or_is_unknown(rng):
    subject = features, responses, splits = a_subject(rng)
    model, scored = fit_and_score(rng, subject)
    np.testing.assert_allclose(scored.noise_ceiling, noise_ceiling_from_repeats(responses.repeats[:, splits.test]))
    given = np.linspace(0, 1, 40)
    np.testing.assert_array_equal(score(model, features, responses, splits.test, 9, rng, given).noise_ceiling, given)
    unknown = score(model, features, replace(responses, repeats=None), splits.test, 9, rng)
    assert np.isnan(unknown.noise_ceiling).all()


def test_what_does_not_belong_to_the_model_is_refused(rng):
    subject = features, responses, splits = a_subject(rng)
    model, _ = fit_and_score(rng, subject)
    other = replace(features, backbone=replace(features.backbone, weights_hash="another"))
    with pytest.raises(AlignmentError, match=r"backbone 'b' \(weights hash\), the features come from 'b' \(weights another\)"):
        score(model, other, responses, splits.test, 9, rng)
    index = replace(responses.voxels, flat_index=responses.voxels.flat_index[::-1].copy())
    with pytest.raises(AlignmentError, match="40 voxels of 's'"):
        score(model, features, replace(responses, voxels=index), splits.test, 9, rng)
    with pytest.raises(AlignmentError, match="2 stimuli; at least 3"):
        score(model, features, responses, splits.test[:2], 9, rng)
    with pytest.raises(EncodingError, match="0 permutations"):
        score(model, features, responses, splits.test, 0, rng)


def test_test_responses_that_cannot_be_scored_are_refused(rng):
    subject = features, responses, splits = a_subject(rng)
    model, _ = fit_and_score(rng, subject)
    values = responses.values.copy()
    values[splits.test[4], 7] = np.nan
    with pytest.raises(EncodingError, match=r"Test responses have 1 values .*voxel 7"):
        score(model, features, replace(responses, values=values), splits.test, 9, rng)
    values = responses.values.copy()
    values[splits.test, 3] = 0.5
    with pytest.raises(EncodingError, match=r"Test responses of 1 voxels do not vary over 150 stimuli \(first: voxel 3\)"):
        score(model, features, replace(responses, values=values), splits.test, 9, rng)


def test_half_precision_responses_do_not_overflow(rng):
    features, responses, splits = a_subject(rng)
    model = fit_ridge(features, responses, splits)
    predicted = model.predict(features.pooled[splits.test])
    large = replace(responses, values=(responses.values * 100 + 30_000).astype(np.float16), repeats=None)
    given = predicted * 100 + 30_000
    with np.errstate(over="ignore"):
        assert np.isinf(large.values.sum(axis=0)).any()
    found = score_predictions(given, large, splits.test, 9, np.random.default_rng(1))
    exact = replace(large, values=large.values.astype(np.float64))
    expected = score_predictions(given, exact, splits.test, 9, np.random.default_rng(1))
    for name in ("r", "r2", "p"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)


def test_one_voxel_without_repeats_has_no_ceiling_and_all_others_do(rng):
    features, responses, splits = a_subject(rng)
    model = fit_ridge(features, responses, splits)
    repeats = responses.repeats.copy()
    repeats[1:, :, 5] = np.nan
    found = score(model, features, replace(responses, repeats=repeats), splits.test, 9, np.random.default_rng(1))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found.noise_ceiling)), [5])
    assert np.isfinite(found.r).all() and np.isfinite(found.q).all()
    once = score(model, features, replace(responses, repeats=repeats[:1]), splits.test, 9, np.random.default_rng(1))
    assert np.isnan(once.noise_ceiling).all()


@pytest.mark.parametrize(("wrong", "words"), [(np.full(40, 40.0), "40 of them not within 0 to 1"), (np.zeros(39), "39 noise ceilings")])
def test_a_ceiling_that_is_no_share_of_variance_is_refused(rng, wrong, words):
    features, responses, splits = a_subject(rng)
    predicted = fit_ridge(features, responses, splits).predict(features.pooled[splits.test])
    with pytest.raises(EncodingError, match=words):
        getattr(score_predictions, "__wrapped__", score_predictions)(predicted, responses, splits.test, 9, rng, wrong)


def some_images(rng: np.random.Generator) -> tuple[StimulusSet, Splits]:
    images = rng.integers(0, 256, size=(12, 8, 8, 3), dtype=np.uint8)
    ids = tuple(f"photo-{number}" for number in range(12))
    return StimulusSet(ids, images, ((),) * 12, "none"), Splits(np.arange(6), np.arange(6, 9), np.arange(9, 12))


def test_images_that_are_in_two_splits_are_refused_by_name(rng):
    stimuli, splits = some_images(rng)
    check_images_apart(stimuli, splits)
    stimuli.images[4] = stimuli.images[2]  # twice in training is no leak
    check_images_apart(stimuli, splits)
    stimuli.images[10] = stimuli.images[2]
    with pytest.raises(AlignmentError, match=r"^1 images .* 'photo-2' \(train\) and 'photo-10' \(test\)\. Put"):
        check_images_apart(stimuli, splits)
    stimuli.images[10, 0, 0, 0] ^= 1  # a single bit is another image
    check_images_apart(stimuli, splits)
    stimuli.images[9] = stimuli.images[8]
    with pytest.raises(AlignmentError, match=r"^1 images .* 'photo-8' \(validation\) and 'photo-9' \(test\)\. Put"):
        check_images_apart(stimuli, splits)
    stimuli.images[6:9] = stimuli.images[:3]
    with pytest.raises(AlignmentError, match=r"^6 images .*'photo-0' \(train\) and 'photo-6' \(validation\).* and 1 more\. Put"):
        check_images_apart(replace(stimuli, images=np.concatenate([stimuli.images[:9], stimuli.images[:3]])), splits)
