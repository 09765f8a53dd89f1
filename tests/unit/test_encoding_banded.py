"""Banded ridge equals plain ridge with one band, himalaya with the same shares, and finds which band was planted."""

from dataclasses import replace

import numpy as np
import pytest
from himalaya.ridge import GroupRidgeCV
from himalaya.scoring import r2_score_split
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from mine_core.encoding import banded
from mine_core.encoding.banded import BandedModel, draw_shares, fit_banded, split_variance
from mine_core.encoding.ridge import fit_ridge
from mine_core.errors import AlignmentError, Cancelled, EncodingError
from mine_core.types import BackboneSpec, Features, Responses, Splits, VoxelIndex

ALPHAS = (0.3, 3.0, 30.0, 300.0, 3000.0)
N, WIDTHS, N_VOXELS = 300, {"shape": 12, "colour": 7, "words": 20}, 12


def space(rng: np.random.Generator, name: str, d: int) -> Features:
    pooled = rng.normal(size=(N, d)) @ rng.normal(size=(d, d)) * rng.uniform(0.1, 10, d) + rng.normal(size=d)
    spec = BackboneSpec(name, (1, 1), d, f"hash of {name}", "none")
    return Features(pooled, pooled[:, None], np.zeros_like(pooled), tuple(f"i{i}" for i in range(N)), spec)


def a_recording(rng: np.random.Generator) -> tuple[dict[str, Features], Responses, Splits]:
    """Four voxels driven by each band alone, in turn, with noise of half their variance."""
    spaces = {name: space(rng, name, d) for name, d in WIDTHS.items()}
    values = np.empty((N, N_VOXELS))
    for voxel in range(N_VOXELS):
        X = list(spaces.values())[voxel % 3].pooled
        signal = ((X - X.mean(axis=0)) / X.std(axis=0)) @ rng.normal(size=X.shape[1])
        values[:, voxel] = signal / signal.std() + rng.normal(size=N) + 3
    index = VoxelIndex("s", np.arange(N_VOXELS), (N_VOXELS,), (), np.zeros((0, N_VOXELS), bool))
    ids = next(iter(spaces.values())).stimulus_ids
    order = rng.permutation(N)
    splits = Splits(order[:200], order[200:210], order[210:])
    return spaces, Responses(values.astype(np.float32), None, ids, index, "z"), splits


def pooled(spaces: dict[str, Features]) -> dict[str, np.ndarray]:
    return {name: features.pooled for name, features in spaces.items()}


def test_one_band_is_plain_ridge(rng):
    spaces, responses, splits = a_recording(rng)
    plain = fit_ridge(spaces["shape"], responses, splits, ALPHAS)
    model = fit_banded({"shape": spaces["shape"]}, responses, splits, ALPHAS, rng=rng)
    assert len(set(plain.alpha)) >= 2
    np.testing.assert_array_equal(model.alpha, plain.alpha)
    np.testing.assert_array_equal(model.share, 1)
    np.testing.assert_allclose(model.coef["shape"], plain.coef, atol=1e-5 * np.abs(plain.coef).max())
    X = spaces["shape"].pooled
    np.testing.assert_allclose(model.predict({"shape": X}), plain.predict(X), atol=1e-4)


def brute_force(spaces: dict[str, Features], Y: np.ndarray, train: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each voxel's draw and penalty by scikit-learn, fold by fold, on features scaled by the roots of their shares."""
    X = np.concatenate([features.pooled[train] for features in spaces.values()], axis=1)
    roots = np.repeat(np.sqrt(shares), [features.pooled.shape[1] for features in spaces.values()], axis=1)
    errors = np.zeros((len(shares), len(ALPHAS), Y.shape[1]))
    for inside, held_out in KFold(4).split(X):
        mean, sd = X[inside].mean(axis=0), X[inside].std(axis=0)
        Z = (X - mean) / sd
        for draw, root in enumerate(roots):
            for row, alpha in enumerate(ALPHAS):
                fitted = Ridge(alpha).fit(Z[inside] * root, Y[inside])
                errors[draw, row] += ((fitted.predict(Z[held_out] * root) - Y[held_out]) ** 2).sum(axis=0)
    best = errors.reshape(-1, Y.shape[1]).argmin(axis=0)
    return best // len(ALPHAS), np.array(ALPHAS)[best % len(ALPHAS)]


def test_shares_and_penalties_equal_brute_force_and_the_parts_sum_to_scikit_learns_prediction(rng):
    spaces, responses, splits = a_recording(rng)
    model = fit_banded(spaces, responses, splits, ALPHAS, 4, rng=np.random.default_rng(5), n_draws=6)
    shares = draw_shares(3, 6, np.random.default_rng(5))
    Y = responses.values[splits.train].astype(np.float64)
    draw, alpha = brute_force(spaces, Y, splits.train, shares)
    assert len(set(draw)) >= 3
    np.testing.assert_array_equal(model.alpha, np.float32(alpha))
    np.testing.assert_array_equal(model.share, np.float32(shares[draw].T))
    X = np.concatenate([features.pooled for features in spaces.values()], axis=1)
    Z = (X - X[splits.train].mean(axis=0)) / X[splits.train].std(axis=0)
    parts = model.predict_bands(pooled(spaces))
    np.testing.assert_allclose(parts.sum(axis=0) + model.average, model.predict(pooled(spaces)), atol=1e-10)
    np.testing.assert_allclose(parts[:, splits.train].mean(axis=1), 0, atol=1e-5)
    for voxel in range(N_VOXELS):
        root = np.repeat(np.sqrt(shares[draw[voxel]]), list(WIDTHS.values()))
        reference = Ridge(alpha[voxel]).fit(Z[splits.train] * root, Y[:, voxel]).predict(Z * root)
        np.testing.assert_allclose(model.predict(pooled(spaces))[:, voxel], reference, atol=1e-4)


def test_himalaya_finds_the_same_coefficients_with_the_same_shares(rng, monkeypatch):
    spaces, responses, splits = a_recording(rng)
    # folds that are standardised alike: the library standardises once
    folds = np.split(np.arange(N), 5)
    for features in spaces.values():
        for rows in folds:
            features.pooled[rows] -= features.pooled[rows].mean(axis=0)
            features.pooled[rows] /= features.pooled[rows].std(axis=0)
    splits = Splits(np.arange(N), np.arange(0), np.arange(0))
    # the library divides by shares, so that none may be 0
    shares = rng.dirichlet(np.ones(3), 6)
    monkeypatch.setattr(banded, "draw_shares", lambda *_: shares)
    model = fit_banded(spaces, responses, splits, ALPHAS, rng=rng)
    assert len(np.unique(model.share[0])) >= 3
    params = {"n_iter": shares, "alphas": np.array(ALPHAS), "progress_bar": False, "warn": False}
    groups = np.repeat(np.arange(3), list(WIDTHS.values()))
    theirs = GroupRidgeCV(groups=groups, cv=KFold(5), fit_intercept=True, solver_params=params)
    theirs.fit(np.concatenate(list(pooled(spaces).values()), axis=1), responses.values.astype(np.float64))
    ours = np.concatenate(list(model.coef.values()))
    np.testing.assert_allclose(ours, theirs.coef_, atol=1e-4 * np.abs(theirs.coef_).max())


def test_the_planted_band_carries_the_variance_and_a_band_of_noise_none(rng):
    spaces, responses, splits = a_recording(rng)
    model = fit_banded(spaces, responses, splits, rng=rng, n_draws=10)
    found = split_variance(model, spaces, responses, splits.test)
    planted = np.arange(N_VOXELS) % 3
    np.testing.assert_array_equal(found.r2_of_band.argmax(axis=0), planted)
    of_planted = found.r2_of_band[planted, np.arange(N_VOXELS)]
    assert np.median(of_planted) > 0.3
    others = (found.r2_of_band.sum(axis=0) - of_planted) / 2
    assert np.abs(others).max() < 0.1
    assert np.median(model.share[planted, np.arange(N_VOXELS)]) > 0.8
    shuffled = replace(responses, values=responses.values[rng.permutation(N)])
    null = split_variance(fit_banded(spaces, shuffled, splits, rng=rng, n_draws=10), spaces, shuffled, splits.test)
    assert null.r2_of_band.max() < 0.1 and np.median(null.r2) < 0.02


def test_the_split_sums_to_r2_and_equals_himalayas(rng):
    spaces, responses, splits = a_recording(rng)
    model = fit_banded(spaces, responses, splits, ALPHAS, rng=rng, n_draws=4)
    found = split_variance(model, spaces, responses, splits.test)
    test = {name: X[splits.test] for name, X in pooled(spaces).items()}
    measured = responses.values[splits.test].astype(np.float64)
    np.testing.assert_allclose(found.r2, r2_score(measured, model.predict(test), multioutput="raw_values"), atol=1e-5)
    average = np.broadcast_to(model.average, measured.shape)
    np.testing.assert_allclose(found.r2_of_average, r2_score(measured, average, multioutput="raw_values"), atol=1e-5)
    np.testing.assert_allclose(found.r2_of_average + found.r2_of_band.sum(axis=0), found.r2, atol=1e-12)
    assert (found.r2_of_average <= 0).all()
    # the library takes responses of mean 0: the model's average is made theirs, and nothing is left for it to explain
    centred = replace(model, average=measured.mean(axis=0).astype(np.float32))
    split = r2_score_split(measured - measured.mean(axis=0), model.predict_bands(test))
    np.testing.assert_allclose(split_variance(centred, spaces, responses, splits.test).r2_of_band, split, atol=1e-5)


def test_band_order_and_block_size_do_not_matter_and_the_seed_does(rng, monkeypatch):
    spaces, responses, splits = a_recording(rng)
    one = {name: spaces[name] for name in ("shape", "words")}
    model = fit_banded(one, responses, splits, ALPHAS, rng=np.random.default_rng(1), n_draws=5)
    monkeypatch.setattr(banded, "VOXELS_PER_BLOCK", 5)
    small = fit_banded(one, responses, splits, ALPHAS, rng=np.random.default_rng(1), n_draws=5)
    np.testing.assert_array_equal(small.share, model.share)
    for band in one:
        np.testing.assert_allclose(small.coef[band], model.coef[band], atol=1e-5 * np.abs(model.coef[band]).max())
    found, again = (split_variance(each, one, responses, splits.test) for each in (small, model))
    np.testing.assert_allclose(found.r2_of_band, again.r2_of_band, atol=1e-5)
    # without random draws nothing but the order differs
    ours, turned = (
        fit_banded({name: spaces[name] for name in order}, responses, splits, ALPHAS, rng=rng, n_draws=0)
        for order in (("shape", "words"), ("words", "shape"))
    )
    np.testing.assert_array_equal(turned.share, ours.share[::-1])
    np.testing.assert_allclose(turned.predict(pooled(one)), ours.predict(pooled(one)), atol=1e-4)
    other = fit_banded(one, responses, splits, ALPHAS, rng=np.random.default_rng(2), n_draws=5)
    assert other.provenance["shares"] != model.provenance["shares"] == small.provenance["shares"]


def test_more_features_than_stimuli_are_fit(rng):
    spaces, responses, splits = a_recording(rng)
    few = Splits(splits.train[:30], splits.validation, splits.test)
    model = fit_banded(spaces, responses, few, ALPHAS, 3, rng=rng, n_draws=0)
    X = np.concatenate([features.pooled for features in spaces.values()], axis=1)
    Z = (X - X[few.train].mean(axis=0)) / X[few.train].std(axis=0)
    for voxel in range(N_VOXELS):
        root = np.repeat(np.sqrt(model.share[:, voxel]), list(WIDTHS.values()))
        fitted = Ridge(model.alpha[voxel]).fit(Z[few.train] * root, responses.values[few.train, voxel].astype(np.float64))
        np.testing.assert_allclose(model.predict(pooled(spaces))[:, voxel], fitted.predict(Z * root), atol=1e-3)


def test_the_user_may_stop_the_search(rng):
    spaces, responses, splits = a_recording(rng)
    tried: list[int] = []

    def progress(done: int, total: int, message: str) -> None:
        if message.startswith("trying"):
            tried.append(done)
            assert total == 6

    with pytest.raises(Cancelled, match="after 2 of 6 shares"):
        fit_banded(spaces, responses, splits, ALPHAS, rng=rng, n_draws=2, on_progress=progress, cancelled=lambda: len(tried) >= 2)
    with pytest.raises(Cancelled, match="after 0 of 12 voxels"):
        fit_banded(spaces, responses, splits, ALPHAS, rng=rng, cancelled=lambda: True)


def test_what_cannot_be_fit_or_split_is_refused(rng):
    spaces, responses, splits = a_recording(rng)
    model: BandedModel = fit_banded(spaces, responses, splits, ALPHAS, rng=rng, n_draws=0)
    with pytest.raises(EncodingError, match="No feature space"):
        fit_banded({}, responses, splits, rng=rng)
    with pytest.raises(EncodingError, match="-1 random shares"):
        fit_banded(spaces, responses, splits, rng=rng, n_draws=-1)
    moved = replace(spaces["colour"], stimulus_ids=("x", *spaces["colour"].stimulus_ids[1:]))
    with pytest.raises(AlignmentError, match="only in features"):
        fit_banded(spaces | {"colour": moved}, responses, splits, rng=rng)
    values = responses.values.copy()
    values[splits.train[4], 3] = np.inf
    with pytest.raises(EncodingError, match="row 4, column 3"):
        fit_banded(spaces, replace(responses, values=values), splits, rng=rng)
    with pytest.raises(AlignmentError, match="bands shape, colour, words; shape were given"):
        model.predict({"shape": spaces["shape"].pooled})
    other = replace(spaces["words"], backbone=replace(spaces["words"].backbone, name="other"))
    with pytest.raises(AlignmentError, match="Band 'words' was fit on backbone 'words', not 'other'"):
        split_variance(model, spaces | {"words": other}, responses, splits.test)
    strangers = replace(responses, voxels=replace(responses.voxels, subject="t"))
    with pytest.raises(AlignmentError, match="12 voxels of 's', the responses of 12 of 't'"):
        split_variance(model, spaces, strangers, splits.test)
    values = responses.values.copy()
    values[splits.test, 2] = 1.0
    with pytest.raises(EncodingError, match=r"1 voxels do not vary over the 90 test stimuli \(first: 2\)"):
        split_variance(model, spaces, replace(responses, values=values), splits.test)
