"""Ridge weights, penalties and predictions equal scikit-learn's and the closed form."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mine_core.encoding import ridge
from mine_core.encoding.ridge import fit_ridge, solve_ridge
from mine_core.errors import AlignmentError, Cancelled, EncodingError
from mine_core.types import BackboneSpec, Features, Responses, Splits, VoxelIndex

ALPHAS = (0.3, 3.0, 30.0, 300.0, 3000.0)


def voxel_index(n: int, subject: str = "s") -> VoxelIndex:
    return VoxelIndex(subject, np.arange(n), (n,), ("left", "right"), np.array([np.arange(n) < 2, np.arange(n) >= 2]))


def a_recording(rng: np.random.Generator, n: int = 120, d: int = 10, v: int = 7) -> tuple[Features, Responses, Splits]:
    """Responses that are linear in correlated features of very different scale, with noise from none to much."""
    pooled = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.logspace(-2, 2, d) + rng.normal(size=d) * 10
    signal = ((pooled - pooled.mean(0)) / pooled.std(0)) @ rng.normal(size=(d, v))
    values = (signal + rng.normal(size=(n, v)) * np.logspace(-1, 1.5, v) + 4).astype(np.float32)
    ids = tuple(f"i{index}" for index in range(n))
    spec = BackboneSpec("b", (1, 1), d, "hash", "none")
    features = Features(pooled, pooled[:, None], np.zeros_like(pooled), ids, spec)
    order = rng.permutation(n)
    splits = Splits(order[: n // 2], order[n // 2 : 3 * n // 4], order[3 * n // 4 :])
    return features, Responses(values, None, ids, voxel_index(v), "z"), splits


@pytest.mark.parametrize(("n", "d"), [(40, 8), (12, 30)], ids=["more stimuli", "more features"])
def test_weights_equal_the_closed_form_and_scikit_learn(rng, n, d):
    X, Y = rng.normal(size=(n, d)), rng.normal(size=(n, 5))
    for alpha in ALPHAS:
        normal = np.linalg.solve(X.T @ X + alpha * np.eye(d), X.T @ Y)
        np.testing.assert_allclose(solve_ridge(X, Y, alpha), normal, atol=1e-10)
    each = np.array(ALPHAS)
    np.testing.assert_allclose(solve_ridge(X, Y, each), Ridge(each, fit_intercept=False).fit(X, Y).coef_.T, atol=1e-8)


def test_a_rank_deficient_design_is_solved(rng):
    X = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 6))
    Y = rng.normal(size=(20, 2))
    normal = np.linalg.solve(X.T @ X + 0.5 * np.eye(6), X.T @ Y)
    np.testing.assert_allclose(solve_ridge(X, Y, 0.5), normal, atol=1e-10)


def brute_force(X: np.ndarray, y: np.ndarray, folds: int) -> float:
    errors = dict.fromkeys(ALPHAS, 0.0)
    for alpha in ALPHAS:
        for train, held_out in KFold(folds).split(X):
            fitted = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X[train], y[train])
            errors[alpha] += ((fitted.predict(X[held_out]) - y[held_out]) ** 2).sum()
    return min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("d", [10, 70], ids=["more stimuli", "more features"])
def test_penalties_equal_brute_force_cross_validation(rng, d):
    features, responses, splits = a_recording(rng, d=d, v=12)
    X, Y = features.pooled[splits.train], responses.values[splits.train].astype(np.float64)
    expected = [brute_force(X, Y[:, voxel], 4) for voxel in range(12)]
    assert len(set(expected)) >= 3  # the voxels do differ
    np.testing.assert_array_equal(fit_ridge(features, responses, splits, ALPHAS, folds=4).alpha, np.float32(expected))


@pytest.mark.parametrize("d", [10, 70], ids=["more stimuli", "more features"])
def test_the_model_predicts_as_scikit_learn_with_the_chosen_penalties(rng, d):
    features, responses, splits = a_recording(rng, d=d)
    model = fit_ridge(features, responses, splits, ALPHAS, folds=4)
    X, Y = features.pooled[splits.train], responses.values[splits.train]
    for voxel in range(7):
        alpha = brute_force(X, Y[:, voxel].astype(np.float64), 4)
        assert model.alpha[voxel] == np.float32(alpha)
        reference = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X, Y[:, voxel].astype(np.float64))
        expected = reference.predict(features.pooled)
        np.testing.assert_allclose(model.predict(features.pooled)[:, voxel], expected, rtol=1e-4, atol=1e-4 * expected.std())
        assert model.prediction_sd[voxel] == pytest.approx(expected[splits.train].std(), rel=1e-4)


def test_neither_test_nor_validation_stimuli_touch_the_fit(rng):
    features, responses, splits = a_recording(rng)
    model = fit_ridge(features, responses, splits, ALPHAS)
    values = responses.values.copy()
    values[np.concatenate([splits.validation, splits.test])] = 1e6
    np.testing.assert_array_equal(fit_ridge(features, replace(responses, values=values), splits, ALPHAS).coef, model.coef)


def test_voxel_order_and_block_size_do_not_matter(rng, monkeypatch):
    features, responses, splits = a_recording(rng, v=11)
    model = fit_ridge(features, responses, splits, ALPHAS)
    order = rng.permutation(11)
    shuffled = fit_ridge(features, replace(responses, values=responses.values[:, order]), splits, ALPHAS)
    np.testing.assert_allclose(shuffled.coef, model.coef[:, order], rtol=1e-5)
    np.testing.assert_array_equal(shuffled.alpha, model.alpha[order])
    monkeypatch.setattr(ridge, "VOXELS_PER_BLOCK", 3)
    blocks: list[tuple[int, int]] = []
    small = fit_ridge(features, responses, splits, ALPHAS, on_progress=lambda done, total, _: blocks.append((done, total)))
    np.testing.assert_allclose(small.coef, model.coef, rtol=1e-5)
    np.testing.assert_allclose(small.intercept, model.intercept, rtol=1e-5)
    assert blocks == [(3, 11), (6, 11), (9, 11), (11, 11)]
    with pytest.raises(Cancelled, match="after 0 of 11"):
        fit_ridge(features, responses, splits, ALPHAS, cancelled=lambda: True)


def test_a_feature_that_does_not_vary_gets_no_weight(rng):
    features, responses, splits = a_recording(rng)
    features.pooled[:, 4] = 0.1
    model = fit_ridge(features, responses, splits, ALPHAS)
    np.testing.assert_allclose(model.coef[4], 0, atol=1e-10)
    assert np.abs(model.coef).max() > 1e-2 and np.isfinite(model.intercept).all()


def test_the_record_says_how_many_penalties_lie_at_the_ends(rng):
    features, responses, splits = a_recording(rng)
    model = fit_ridge(features, responses, splits, (1e-3, 1e9))
    ends = model.provenance["voxels_at_smallest_alpha"], model.provenance["voxels_at_largest_alpha"]
    assert ends == ((model.alpha == np.float32(1e-3)).sum(), (model.alpha == np.float32(1e9)).sum())
    assert sum(ends) == 7 and min(ends) > 0


def test_what_does_not_align_is_refused_with_numbers(rng):
    features, responses, splits = a_recording(rng)
    swapped = (responses.stimulus_ids[1], responses.stimulus_ids[0], *responses.stimulus_ids[2:])
    with pytest.raises(AlignmentError, match="another order .*position 0: 'i0' and 'i1'"):
        fit_ridge(features, replace(responses, stimulus_ids=swapped), splits)
    renamed = ("x", *responses.stimulus_ids[1:])
    with pytest.raises(AlignmentError, match=r"1 ids only in features, 1 only in responses \(first: 'i0'\)"):
        fit_ridge(features, replace(responses, stimulus_ids=renamed), splits)
    with pytest.raises(AlignmentError, match="2 stimuli are in both the train and the test split"):
        fit_ridge(features, responses, replace(splits, test=np.concatenate([splits.test, splits.train[:2]])))
    with pytest.raises(AlignmentError, match=r"0 \.\.\. 119"):
        fit_ridge(features, responses, replace(splits, train=np.arange(100, 121), validation=np.arange(0), test=np.arange(0)))
    with pytest.raises(AlignmentError, match="9 stimuli; at least 10"):
        fit_ridge(features, responses, replace(splits, train=splits.train[:9]))


def test_what_cannot_be_fit_is_refused_with_numbers(rng):
    features, responses, splits = a_recording(rng)
    values = responses.values.copy()
    values[splits.train[3], 5] = np.nan
    with pytest.raises(EncodingError, match=r"1 values that are NaN or infinite \(first: row 3, column 5\)"):
        fit_ridge(features, replace(responses, values=values), splits)
    values = responses.values.copy()
    values[splits.train, 2] = 0.7
    with pytest.raises(EncodingError, match=r"1 voxels do not vary over the 60 training stimuli \(first: 2\)"):
        fit_ridge(features, replace(responses, values=values), splits)
    for alphas in ((), (0.0, 1.0), (np.inf,), (np.nan,)):
        with pytest.raises(EncodingError, match="at least one is needed, each finite and above 0"):
            fit_ridge(features, responses, splits, alphas)
    with pytest.raises(EncodingError, match="1 folds of 60"):
        fit_ridge(features, responses, splits, folds=1)
    with pytest.raises(EncodingError, match="`X` has 1 values"):
        solve_ridge(np.array([[np.nan], [1.0]]), np.ones((2, 1)), 1.0)
    with pytest.raises(EncodingError, match="from -1 to 1"):
        solve_ridge(np.ones((2, 1)), np.ones((2, 2)), np.array([-1.0, 1.0]))
