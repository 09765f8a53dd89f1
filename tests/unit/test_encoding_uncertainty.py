"""Intervals equal loops over resampled stimuli, cover what was planted, and are wider than those that resample voxels."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from mine_core.encoding import uncertainty
from mine_core.encoding.noise_ceiling import CeilingEstimate, noise_ceiling_from_repeats
from mine_core.encoding.uncertainty import paired_difference, region_interval
from mine_core.errors import EncodingError, MineError
from mine_core.statistics import basic_interval, bootstrap_mean_interval, resample_counts

SEED = 5


def some_voxels(rng: np.random.Generator, n: int = 60, v: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two encoders' predictions, responses far from 0, and regions that overlap."""
    signal = rng.normal(size=(n, v))
    measured = signal + rng.normal(size=(n, v)) + 50
    membership = np.array([np.ones(v), np.arange(v) < 4, np.arange(v) >= 3], bool)
    return 0.5 * signal + 50, 0.5 * signal + 0.4 * rng.normal(size=(n, v)) + 50.2, measured, membership


def draws(n: int, n_resamples: int) -> list[np.ndarray]:
    """The stimuli of each resample, listed."""
    return [np.repeat(np.arange(n), row.astype(int)) for row in resample_counts(n, n_resamples, np.random.default_rng(SEED))]


def plain(statistic: str, measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    if statistic == "r2":
        return r2_score(measured, predicted, multioutput="raw_values")
    return np.array([pearsonr(*pair)[0] for pair in zip(measured.T, predicted.T, strict=True)])


def in_regions(values: np.ndarray, membership: np.ndarray) -> list[float]:
    return [float(np.nanmean(values[inside])) for inside in membership]


@pytest.mark.parametrize("statistic", ["r", "r2"])
def test_intervals_equal_loops_over_drawn_stimuli(rng, statistic, monkeypatch):
    monkeypatch.setattr(uncertainty, "VOXELS_PER_BLOCK", 4)
    predicted, _, measured, membership = some_voxels(rng)
    found = region_interval(
        predicted, measured, membership, np.random.default_rng(SEED), statistic=statistic, n_resamples=40, level=0.9
    )
    observed = np.array(in_regions(plain(statistic, measured, predicted), membership))
    drawn = [in_regions(plain(statistic, measured[which], predicted[which]), membership) for which in draws(60, 40)]
    high, low = np.quantile(drawn, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(found.estimate, observed, rtol=1e-9)
    np.testing.assert_allclose(found.low, 2 * observed - low, rtol=1e-8)
    np.testing.assert_allclose(found.high, 2 * observed - high, rtol=1e-8)
    np.testing.assert_array_equal(found.n_voxels, [9, 4, 6])
    assert (found.resampled, found.level, found.n_resamples) == ("test stimuli", 0.9, 40)


@pytest.mark.parametrize("of_test", [True, False])
def test_ceilings_are_estimated_again_in_every_resample(rng, of_test):
    predicted, _, measured, membership = some_voxels(rng)
    repeats = measured + 0.8 * rng.normal(size=(3, 60, 9)) if of_test else rng.normal(size=80)[:, None] + rng.normal(size=(4, 80, 9))
    inverse = None if of_test else np.full(9, 1 / 3)

    def ceiling(which: np.ndarray) -> np.ndarray:
        share = noise_ceiling_from_repeats(repeats[:, which])
        if of_test:
            return share
        ratio = share / (1 - share) / 4
        return ratio / (ratio + 1 / 3)

    source = CeilingEstimate(ceiling(np.arange(60 if of_test else 80)), "repeats", repeats, of_test, inverse)
    found = region_interval(
        predicted,
        measured,
        membership,
        np.random.default_rng(SEED),
        statistic="normalised",
        ceiling=source,
        floor=0.5,
        n_resamples=30,
    )
    same = np.random.default_rng(SEED)
    test = resample_counts(60, 30, same).astype(int)
    others = test if of_test else resample_counts(80, 30, same).astype(int)

    def normalised(of_scores: np.ndarray, of_ceiling: np.ndarray) -> list[float]:
        highest = ceiling(of_ceiling)
        share = plain("r2", measured[of_scores], predicted[of_scores]) / highest
        return in_regions(np.where(highest >= 0.5, share, np.nan), membership)

    observed = np.array(normalised(np.arange(60), np.arange(60 if of_test else 80)))
    drawn = [normalised(np.repeat(np.arange(60), a), np.repeat(np.arange(len(b)), b)) for a, b in zip(test, others, strict=True)]
    high, low = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found.estimate, observed, rtol=1e-8)
    np.testing.assert_allclose(np.array([found.low, found.high]), 2 * observed - [low, high], rtol=1e-7)


def test_a_given_ceiling_is_held_fixed_and_an_unknown_one_says_so(rng):
    predicted, _, measured, membership = some_voxels(rng)
    given = np.array([0.5] * 4 + [0.05, 0.8, np.nan, 0.8, 0.8])
    found = region_interval(predicted, measured, membership, rng, statistic="normalised", ceiling=CeilingEstimate(given, "given"))
    r2 = plain("r2", measured, predicted)
    np.testing.assert_allclose(found.estimate, in_regions(np.where(given >= 0.1, r2 / given, np.nan), membership))
    np.testing.assert_array_equal(found.n_voxels, [7, 4, 4])
    assert found.resampled == "test stimuli; the noise ceiling is given and held fixed"
    unknown = CeilingEstimate(np.full(9, np.nan), "unknown")
    found = region_interval(predicted, measured, membership, rng, statistic="normalised", ceiling=unknown)
    assert np.isnan([found.estimate, found.low, found.high]).all() and not found.n_voxels.any()


def drawn_brain(rng: np.random.Generator, n: int, v: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A better and a worse encoder of voxels that share both signal and noise; true R2 0.5 and 0.4, r 0.5 ** 0.5 and 0.4 ** 0.5."""
    shared = rng.normal(size=(3, n, 1))
    signal, noise, miss = (0.7**0.5 * shared[i] + 0.3**0.5 * rng.normal(size=(n, v)) for i in range(3))
    worse = 0.8 * signal + (0.8 * 0.2) ** 0.5 * miss
    return signal, worse, signal + noise


@pytest.mark.parametrize(("statistic", "truth"), [("r2", 0.5), ("r", 0.5**0.5)])
def test_intervals_cover_the_truth_where_resampling_voxels_does_not(statistic, truth):
    covered, by_voxels = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        predicted, _, measured = drawn_brain(rng, 80, 12)
        found = region_interval(predicted, measured, np.ones((1, 12), bool), rng, statistic=statistic, n_resamples=200)
        covered.append(found.low[0] <= truth <= found.high[0])
        low, high = bootstrap_mean_interval(plain(statistic, measured, predicted), rng, 200)
        by_voxels.append(low <= truth <= high)
    assert 0.88 <= np.mean(covered) <= 0.99
    assert np.mean(by_voxels) < 0.6


def test_the_difference_of_two_encoders_equals_loops(rng):
    ours, theirs, measured, membership = some_voxels(rng)
    found = paired_difference(ours, theirs, measured, membership, np.random.default_rng(SEED), n_resamples=40)
    observed = plain("r2", measured, ours) - plain("r2", measured, theirs)
    drawn = np.array(
        [plain("r2", measured[which], ours[which]) - plain("r2", measured[which], theirs[which]) for which in draws(60, 40)]
    )
    low, high = basic_interval(observed, drawn, 0.95)
    np.testing.assert_allclose(found.difference, observed, rtol=1e-8)
    np.testing.assert_allclose(np.array([found.low, found.high]), [low, high], rtol=1e-7)
    np.testing.assert_allclose(found.regions.estimate, in_regions(observed, membership), rtol=1e-8)
    low, high = basic_interval(found.regions.estimate, np.array([in_regions(row, membership) for row in drawn]), 0.95)
    np.testing.assert_allclose(np.array([found.regions.low, found.regions.high]), [low, high], rtol=1e-7)


def test_differences_cover_the_truth_and_pairing_narrows_them():
    covered, narrower = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        better, worse, measured = drawn_brain(rng, 120, 6)
        everywhere = np.ones((1, 6), bool)
        # R2 of the worse one: 1 - (0.04 + 0.16 + 1) / 2
        found = paired_difference(better, worse, measured, everywhere, rng, n_resamples=200).regions
        covered.append(found.low[0] <= 0.1 <= found.high[0])
        alone = [region_interval(p, measured, everywhere, rng, n_resamples=200) for p in (better, worse)]
        unpaired = np.hypot(*(one.high[0] - one.low[0] for one in alone))
        narrower.append((found.high[0] - found.low[0]) / unpaired)
    assert 0.87 <= np.mean(covered) <= 0.99
    assert np.median(narrower) < 0.8


def test_an_encoder_does_not_differ_from_itself(rng):
    predicted, _, measured, membership = some_voxels(rng)
    found = paired_difference(predicted, predicted, measured, membership, rng, statistic="r")
    for values in (found.difference, found.low, found.high, found.regions.estimate, found.regions.low, found.regions.high):
        np.testing.assert_array_equal(values, 0)
    # r does not see scale and offset, R2 does
    scaled = paired_difference(predicted, 3 * predicted - 7, measured, membership, rng, statistic="r")
    np.testing.assert_allclose(scaled.difference, 0, atol=1e-9)


def test_a_voxel_that_rarely_answers_is_left_out_where_it_is_silent(rng):
    predicted, _, measured, membership = some_voxels(rng)
    measured[:, 0] = np.arange(60) == 7  # not drawn in a third of the resamples
    found = region_interval(predicted, measured, membership, rng)
    assert np.isfinite([found.low, found.high]).all()
    alone = paired_difference(predicted, predicted + 1, measured, membership, rng)
    assert np.isfinite(alone.low[0]) and np.isfinite(alone.high).all()


def test_what_has_no_interval_is_refused(rng):
    predicted, _, measured, membership = some_voxels(rng)
    with pytest.raises(EncodingError, match="needs a ceiling and a floor above 0"):
        region_interval(predicted, measured, membership, rng, statistic="normalised")
    with pytest.raises(MineError, match="level of 1.0"):
        region_interval(predicted, measured, membership, rng, level=1.0)
    with pytest.raises(MineError, match="0 resamples of 60"):
        region_interval(predicted, measured, membership, rng, n_resamples=0)
    still = measured.copy()
    still[:, 2] = 3.0
    with pytest.raises(EncodingError, match=r"responses of 1 voxels do not vary over 60 stimuli \(first: voxel 2\)"):
        paired_difference(predicted, predicted, still, membership, rng)
    still[4, 2] = np.inf
    with pytest.raises(EncodingError, match="1 values that are NaN or infinite"):
        region_interval(predicted, still, membership, rng)
    check = getattr(uncertainty._check, "__wrapped__", uncertainty._check)
    with pytest.raises(EncodingError, match="Unknown statistic 'rho'; expected one of r, r2"):
        check(predicted, measured, "rho", ("r", "r2"))
