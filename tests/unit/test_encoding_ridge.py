"""Ridge weights, penalties and predictions equal scikit-learn's and the closed form."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mine_core.encoding import gram, ridge
from mine_core.encoding.blocks import each_block, products_on_one_thread
from mine_core.encoding.gram import Design, GramFit, join
from mine_core.encoding.ridge import DualFit, fit_ridge, solve_ridge
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


def assert_same_model(coef, intercept, wanted, features) -> None:
    """Equal within 1e-5 of the voxel's largest weight of standardised features, and of the SD of its predictions.

    A weight near zero has no digits of its own, and an intercept takes what weights lose times how far features lie from 0. Blocks
    of another size or order take other kernels of BLAS: what that moves (3e-6 at most in eight draws) depends on the processor.
    """
    sd = features.pooled.std(axis=0)[:, None]
    np.testing.assert_array_less(abs(coef - wanted.coef) * sd, 1e-5 * (abs(wanted.coef) * sd).max(axis=0) * np.ones_like(coef))
    expected = features.pooled @ wanted.coef + wanted.intercept
    moved = features.pooled @ coef + intercept - expected
    np.testing.assert_array_less(abs(moved), 1e-5 * expected.std(axis=0) * np.ones_like(moved))


def test_voxel_order_and_block_size_do_not_matter(rng, monkeypatch):
    features, responses, splits = a_recording(rng, v=11)
    model = fit_ridge(features, responses, splits, ALPHAS)
    order = rng.permutation(11)
    shuffled = fit_ridge(features, replace(responses, values=responses.values[:, order]), splits, ALPHAS)
    back = np.argsort(order)
    assert_same_model(shuffled.coef[:, back], shuffled.intercept[back], model, features)
    np.testing.assert_array_equal(shuffled.alpha, model.alpha[order])
    monkeypatch.setattr(ridge, "VOXELS_PER_BLOCK", 3)
    blocks: list[tuple[int, int]] = []
    small = fit_ridge(features, responses, splits, ALPHAS, on_progress=lambda done, total, _: blocks.append((done, total)))
    assert_same_model(small.coef, small.intercept, model, features)
    assert blocks == [(3, 11), (6, 11), (9, 11), (11, 11)]


def test_the_user_may_stop_between_blocks(rng, monkeypatch):
    features, responses, splits = a_recording(rng, v=11)
    monkeypatch.setattr(ridge, "VOXELS_PER_BLOCK", 1)
    with pytest.raises(Cancelled, match="after 0 of 11"):
        fit_ridge(features, responses, splits, ALPHAS, cancelled=lambda: True)
    done: list[int] = []
    with pytest.raises(Cancelled, match=r"after (\d+) of 11") as stopped:
        fit_ridge(
            features,
            responses,
            splits,
            ALPHAS,
            on_progress=lambda finished, _total, _message: done.append(finished),
            cancelled=lambda: len(done) >= 3,
        )
    assert str(done[-1]) in str(stopped.value) and done == [1, 2, 3]


def test_a_feature_that_does_not_vary_gets_no_weight(rng):
    features, responses, splits = a_recording(rng)
    features.pooled[:, 4] = 0.1
    model = fit_ridge(features, responses, splits, ALPHAS)
    np.testing.assert_array_equal(model.coef[4], 0)
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


def wide_and_tall(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal scale and correlation, one that never varies and one that varies in the last stimuli alone."""
    X = rng.normal(size=(93, 70)) @ rng.normal(size=(70, 70)) * np.logspace(-3, 3, 70) + rng.normal(size=70) * 100
    X[:, 3], X[:80, 7] = 4.2, 0.3
    return X, (X @ rng.normal(size=(70, 9)) / X.std(axis=0).sum() + rng.normal(size=(93, 9)) * np.logspace(-1, 1, 9)) + 5


def everything(_: np.ndarray) -> None:
    """Take any responses."""


def test_sums_over_folds_equal_the_products_of_each_training_part(rng):
    X, Y = wide_and_tall(rng)
    Y[:, 2] += 1e6
    design = Design.of(X, 4, 1e-9)
    assert design.dtype == np.float64
    crossed = design.cross(lambda rows: Y[rows], everything)
    Z = (X - X.mean(axis=0)) / np.where(np.arange(70) == 3, 1, X.std(axis=0))
    for fold, (train, _) in enumerate(KFold(4).split(X)):
        kept = [other for other in range(4) if other != fold]
        products, mean, average = join(
            [crossed.products[k] for k in kept], design.means[kept], crossed.means[kept], design.counts[kept]
        )
        centred = Z[train] - Z[train].mean(axis=0)
        np.testing.assert_allclose(mean, Z[train].mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(crossed.centre + crossed.unit * average, Y[train].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(products * crossed.unit, centred.T @ (Y[train] - Y[train].mean(axis=0)), atol=1e-6)
        within, _, _ = join(design.within[kept], design.means[kept], design.means[kept], design.counts[kept])
        np.testing.assert_allclose(within, centred.T @ centred, atol=1e-10)


@pytest.mark.parametrize("strip", [7, 64, 200])
def test_the_quadratic_form_is_the_error_on_the_held_out_fold(rng, monkeypatch, strip):
    monkeypatch.setattr(gram, "STRIP", strip)
    X, Y = wide_and_tall(rng)
    alphas, design = np.array(ALPHAS), Design.of(X, 3, 1e-9)
    crossed = design.cross(lambda rows: Y[rows], everything)
    for fold, (train, held_out) in enumerate(KFold(3).split(X)):
        found = design.errors([design.part(fold, alphas)], crossed)
        expected = []
        for alpha in ALPHAS:
            fitted = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X[train], Y[train])
            expected.append(((fitted.predict(X[held_out]) - Y[held_out]) ** 2).sum(axis=0))
        constant = ((Y[held_out] - Y[train].mean(axis=0)) ** 2).sum(axis=0)
        np.testing.assert_allclose(found + constant, expected, rtol=1e-7)


def test_both_routes_agree_where_features_are_about_as_many_as_stimuli(rng):
    X, Y = wide_and_tall(rng)
    one, other = (kind.of(X, 4, ALPHAS).fit(lambda rows: Y[rows], everything) for kind in (GramFit, DualFit))
    assert len(set(one.alpha)) >= 3
    np.testing.assert_array_equal(one.alpha, other.alpha)
    np.testing.assert_allclose(X @ one.weights, X @ other.weights, atol=1e-3)
    np.testing.assert_allclose(one.prediction_sd, ((X - X.mean(axis=0)) @ one.weights).std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(other.prediction_sd, ((X - X.mean(axis=0)) @ other.weights).std(axis=0), rtol=1e-9)


def test_what_float32_loses_is_below_its_bound(rng, monkeypatch):
    # nearly collinear features and small penalties: the largest eigenvalue is 2e6 of the smallest penalty
    X = rng.normal(size=(2000, 1)) * 3 + rng.normal(size=(2000, 40)) * np.logspace(-1, -3, 40)
    Y = X @ rng.normal(size=(40, 60)) + rng.normal(size=(2000, 60)) * np.logspace(-1, 1, 60)
    grid = tuple(np.logspace(-1, 4, 8))
    rough = GramFit.of(X, 5, grid)
    monkeypatch.setattr(gram, "LARGEST_ROUNDING", 0.0)
    exact = GramFit.of(X, 5, grid)
    assert (rough.design.dtype, exact.design.dtype) == (np.float32, np.float64)
    ours, reference = (fit.fit(lambda rows: Y[rows], everything) for fit in (rough, exact))
    assert len(set(reference.alpha)) >= 3
    assert (ours.alpha == reference.alpha).mean() > 0.9
    lost = ((X - X.mean(axis=0)) @ (ours.weights - reference.weights)).std(axis=0) / Y.std(axis=0)
    assert lost[ours.alpha == reference.alpha].max() < 1e-4
    assert lost.max() < 1e-2
    monkeypatch.undo()
    assert GramFit.of(X, 5, (1e-7, *grid)).design.dtype == np.float64


def test_penalties_and_accuracy_equal_himalayas(rng):
    from himalaya.ridge import RidgeCV

    n, d, v = 600, 40, 50
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    # folds that are standardised alike: the library standardises once
    X = np.concatenate([(part - part.mean(axis=0)) / part.std(axis=0) for part in np.split(X, 5)])
    Y = (X @ rng.normal(size=(d, v)) + rng.normal(size=(n, v)) * np.logspace(0.5, 2, v)).astype(np.float32)
    theirs = RidgeCV(alphas=np.array(ALPHAS), fit_intercept=True, cv=KFold(5)).fit(X, Y.astype(np.float64))
    ours = GramFit.of(X, 5, ALPHAS).fit(lambda rows: Y[rows], everything)
    assert len(set(ours.alpha)) >= 3
    np.testing.assert_allclose(ours.alpha, theirs.best_alphas_)
    np.testing.assert_allclose(ours.weights, theirs.coef_, atol=1e-4 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("d", [10, 70], ids=["more stimuli", "more features"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30], ids=str)
def test_the_units_of_the_responses_do_not_matter(rng, d, scale):
    features, responses, splits = a_recording(rng, d=d)
    model = fit_ridge(features, responses, splits, ALPHAS, folds=4)
    scaled = fit_ridge(features, replace(responses, values=responses.values.astype(np.float64) * scale), splits, ALPHAS, folds=4)
    np.testing.assert_array_equal(scaled.alpha, model.alpha)
    np.testing.assert_allclose(scaled.coef / np.float32(scale), model.coef, atol=1e-4 * np.abs(model.coef).max())
    np.testing.assert_allclose(scaled.prediction_sd / np.float32(scale), model.prediction_sd, rtol=1e-4)


@pytest.mark.parametrize("d", [10, 70], ids=["more stimuli", "more features"])
def test_half_precision_responses_do_not_overflow(rng, d):
    features, responses, splits = a_recording(rng, n=400, d=d)
    # 200 training responses of 30,000 sum to 6 million, and their squares to 2e11: far above the 65,504 of float16
    half = (responses.values / np.abs(responses.values).max() * 30000 + 20000).astype(np.float16)
    ours = fit_ridge(features, replace(responses, values=half), splits, ALPHAS, folds=4)
    reference = fit_ridge(features, replace(responses, values=half.astype(np.float64)), splits, ALPHAS, folds=4)
    np.testing.assert_array_equal(ours.alpha, reference.alpha)
    np.testing.assert_allclose(ours.coef, reference.coef, atol=1e-4 * np.abs(reference.coef).max())
    np.testing.assert_allclose(ours.intercept, reference.intercept, rtol=1e-3)
    too_large = half.copy()
    too_large[splits.train[1], 6] = np.inf
    with pytest.raises(EncodingError, match=r"first: row 1, column 6"):
        fit_ridge(features, replace(responses, values=too_large), splits, ALPHAS)


@pytest.mark.parametrize("d", [10, 70], ids=["more stimuli", "more features"])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan], ids=str)
def test_infinite_and_missing_responses_are_named_by_their_voxel(rng, monkeypatch, d, wrong):
    features, responses, splits = a_recording(rng, d=d, v=11)
    monkeypatch.setattr(ridge, "VOXELS_PER_BLOCK", 4)
    values = responses.values.copy()
    values[splits.train[20], 9] = wrong
    with pytest.raises(EncodingError, match=r"1 values that are NaN or infinite \(first: row 20, column 9\)"):
        fit_ridge(features, replace(responses, values=values), splits, ALPHAS)
    values[splits.train[20], 9] = 0
    values[splits.train, 10] = 1e-3
    with pytest.raises(EncodingError, match=r"1 voxels do not vary over the 60 training stimuli \(first: 10\)"):
        fit_ridge(features, replace(responses, values=values), splits, ALPHAS)
    huge = responses.values.astype(np.float64)
    huge[:, 5] *= 1e300
    with pytest.raises(EncodingError, match=r"reach .*e\+30\d \(voxel 5\)"):
        fit_ridge(features, replace(responses, values=huge), splits, ALPHAS)


def test_a_feature_that_varies_in_one_fold_alone_gets_the_weight_of_brute_force(rng):
    X, Y = wide_and_tall(rng)
    X = X[:, :10]
    expected = [brute_force(X, Y[:, voxel], 4) for voxel in range(9)]
    np.testing.assert_array_equal(GramFit.of(X, 4, ALPHAS).fit(lambda rows: Y[rows], everything).alpha, expected)


def test_the_number_of_threads_is_given_back_after_a_refusal_and_a_nested_use():
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    def refuse(block: slice) -> None:
        raise EncodingError(f"block {block.start}")

    with threadpool_limits(2, user_api="blas"):
        with products_on_one_thread() as n_threads, products_on_one_thread() as inner:
            assert (n_threads, inner, threads()) == (2, 2, {1})
        assert threads() == {2}
        with pytest.raises(EncodingError, match="block 0"):
            each_block(refuse, [slice(0, 1), slice(1, 2), slice(2, 3)], "refusing")
        assert threads() == {2}
