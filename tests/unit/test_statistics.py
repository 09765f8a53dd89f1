"""Nulls and uncertainties agree with independent computations and hold their promised rates."""

import numpy as np
import pytest
from scipy import stats

from mine_core.errors import MineError
from mine_core.statistics import (
    basic_interval,
    bootstrap_mean_interval,
    false_discovery_rate,
    pearson_columns,
    permutation_p,
    rank_p,
    resample_counts,
    share_interval,
    standardise_columns,
    t_interval,
)


def test_q_equals_the_definition(rng):
    p = rng.uniform(size=40)
    ordered = np.argsort(p)
    expected = np.empty(40)
    for place, index in enumerate(ordered):
        expected[index] = min(p[ordered[later]] * 40 / (later + 1) for later in range(place, 40))
    np.testing.assert_allclose(false_discovery_rate(p), np.minimum(expected, 1))
    np.testing.assert_allclose(false_discovery_rate(p.reshape(5, 8)), np.minimum(expected, 1).reshape(5, 8))


def test_under_any_dependence_q_is_larger_by_the_harmonic_number(rng):
    p = rng.uniform(size=(5, 8)) ** 6
    harmonic = sum(1 / place for place in range(1, 41))
    ordered = np.sort(p.ravel())
    expected = [min(1, min(ordered[later] * 40 * harmonic / (later + 1) for later in range(place, 40))) for place in range(40)]
    found = false_discovery_rate(p, method="by")
    np.testing.assert_allclose(np.sort(found.ravel()), expected)
    assert (found >= false_discovery_rate(p, method="bh")).all()
    np.testing.assert_array_equal(false_discovery_rate(p), false_discovery_rate(p, "bh"))


def test_another_method_is_refused():
    ask = getattr(false_discovery_rate, "__wrapped__", false_discovery_rate)
    with pytest.raises(MineError, match="Unknown method 'storey' .* expected one of bh, by"):
        ask(np.array([0.1]), method="storey")


def test_false_discoveries_are_held_where_voxels_are_tuned_oppositely(rng):
    shares = {"bh": [], "by": []}
    for _ in range(400):
        noise = rng.normal() * 0.8 * np.where(np.arange(150) % 2, 1, -1) + 0.6 * rng.normal(size=150)  # pairs correlate +-0.64
        p = stats.norm.sf(noise + 3 * (np.arange(150) < 50))
        for method, held in shares.items():
            called = false_discovery_rate(p, method=method) <= 0.1
            held.append(called[50:].sum() / max(called.sum(), 1))
    assert np.mean(shares["bh"]) < 0.1 and np.mean(shares["by"]) < np.mean(shares["bh"]) / 3


def test_resamples_count_draws_with_replacement(rng):
    counts = resample_counts(50, 4000, rng)
    assert (counts.sum(axis=1) == 50).all() and (counts % 1 == 0).all()
    assert abs((counts == 0).mean() - (1 - 1 / 50) ** 50) < 0.005
    assert abs(np.cov(counts[:, 0], counts[:, 1])[0, 1] + 1 / 50) < 0.06
    with pytest.raises(MineError, match="5 resamples of 1"):
        resample_counts(1, 5, rng)


def test_a_basic_interval_reflects_quantiles_about_what_was_observed(rng):
    drawn = rng.normal(size=(5000, 3)) + [0, 2, -1]
    low, high = basic_interval(np.zeros(3), drawn, 0.9)
    np.testing.assert_allclose(low, [-1.645, -3.645, -0.645], atol=0.1)
    np.testing.assert_allclose(high, [1.645, -0.355, 2.645], atol=0.1)


def test_a_basic_interval_of_a_mean_equals_scipy(rng):
    values = rng.exponential(size=200)
    drawn = resample_counts(200, 20_000, rng) @ values[:, None] / 200
    low, high = basic_interval(values.mean(keepdims=True), drawn, 0.95)
    found = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="basic", rng=rng).confidence_interval
    np.testing.assert_allclose([low[0], high[0]], [found.low, found.high], atol=0.01)


def test_a_basic_interval_leaves_out_what_is_undefined(rng):
    drawn = rng.normal(size=(1000, 4))
    drawn[:400, 1], drawn[:600, 2] = np.nan, np.nan
    low, high = basic_interval(np.array([0, 0, 0, np.nan]), drawn, 0.95)
    np.testing.assert_array_equal(np.isnan(low), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(high), [False, False, True, True])
    assert (low[1], high[1]) == tuple(-np.quantile(drawn[400:, 1], [0.975, 0.025]))
    with pytest.raises(MineError, match="level of 95.0"):
        basic_interval(np.zeros(4), drawn, 95.0)


def test_the_false_discovery_rate_is_held(rng):
    shares = []
    for _ in range(200):
        effect = np.zeros(200)
        effect[:60] = 3
        called = false_discovery_rate(stats.norm.sf(rng.normal(size=200) + effect)) <= 0.1
        shares.append(called[60:].sum() / max(called.sum(), 1))
    assert 0.03 < np.mean(shares) < 0.1  # BH holds 0.1 * 140/200 = 0.07


@pytest.mark.parametrize("p", [np.array([0.1, np.nan]), np.array([-0.1]), np.array([1.5]), np.array([])])
def test_what_is_no_p_is_refused(p):
    with pytest.raises(MineError, match="p-values"):
        false_discovery_rate(p)


def test_permutation_p_counts_ties_and_itself():
    null = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]])
    np.testing.assert_allclose(permutation_p(np.array([1.0, 8.0]), null), [3 / 4, 1 / 4])
    with pytest.raises(MineError, match="0 permutations"):
        permutation_p(np.array([1.0]), np.empty((0, 1)))
    with pytest.raises(MineError, match="NaN"):
        permutation_p(np.array([np.nan]), np.zeros((3, 1)))


def test_rank_among_controls_follows_the_direction_of_the_effect():
    controls = np.array([[0.5, -0.5, 1.0, 0.0], [3.0, -3.0, -1.0, 0.0], [-9.0, 9.0, 2.0, 1.0]])
    p, rank = rank_p(np.array([2.0, -2.0, 2.0, 0.0]), controls)
    np.testing.assert_array_equal(rank, [2, 2, 2, 4])
    np.testing.assert_allclose(p, [0.5, 0.5, 0.5, 1.0])
    with pytest.raises(MineError, match="0 controls"):
        rank_p(np.array([1.0]), np.empty((0, 1)))


def test_rank_p_is_uniform_without_an_effect(rng):
    p, _ = rank_p(np.abs(rng.normal(size=4000)), np.abs(rng.normal(size=(19, 4000))))
    assert abs((p <= 0.05).mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_the_bootstrap_interval_covers_at_its_level(rng):
    covered = [low <= 2 <= high for low, high in (bootstrap_mean_interval(rng.normal(2, 1, 60), rng, 300, 0.9) for _ in range(300))]
    assert abs(np.mean(covered) - 0.9) < 0.06
    low, high = bootstrap_mean_interval(rng.normal(size=400), rng, 2000, 0.95)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)


def test_the_bootstrap_is_drawn_by_its_generator():
    values = np.arange(30.0)
    one, same = (bootstrap_mean_interval(values, np.random.default_rng(3)) for _ in range(2))
    assert one == same != bootstrap_mean_interval(values, np.random.default_rng(4))


def test_students_interval_equals_scipys_and_covers_what_it_promises(rng):
    for n in (2, 3, 5, 40):
        values = rng.normal(3, 2, n)
        for level in (0.5, 0.95):
            known = stats.ttest_1samp(values, 0).confidence_interval(level)
            np.testing.assert_allclose(t_interval(values, level), (known.low, known.high))
    covered = [low <= 2 <= high for low, high in (t_interval(rng.normal(2, 1, 3)) for _ in range(2000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02), "three values are enough"


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, np.nan])])
def test_values_without_an_interval_are_refused(values, rng):
    with pytest.raises(MineError, match="at least 2 values"):
        bootstrap_mean_interval(values, rng)
    with pytest.raises(MineError, match="at least 2 finite values"):
        t_interval(values)


def test_correlations_equal_scipy_columnwise(rng):
    a = rng.normal(size=(25, 6)) * [1, 1e-6, 1e6, 1, 1, 1] + [0, 0, 0, 1e3, 0, 0]
    b = 0.4 * a + rng.normal(size=(25, 6)) * a.std(0)
    np.testing.assert_allclose(pearson_columns(a, b), [stats.pearsonr(*pair)[0] for pair in zip(a.T, b.T, strict=True)])
    np.testing.assert_allclose(pearson_columns(a, -3 * a + 1), -1)


def test_a_column_without_a_correlation_is_refused_by_number(rng):
    a = rng.normal(size=(9, 4))
    a[:, 2] = 0.1
    with pytest.raises(MineError, match=r"1 constant columns \(first: 2\)"):
        pearson_columns(a, rng.normal(size=(9, 4)))
    a[3, 1] = np.nan
    with pytest.raises(MineError, match=r"1 columns with NaN or infinity \(first: 1\)"):
        standardise_columns(a, "a")


def test_a_share_has_wilsons_interval_also_where_none_or_all_came_out_right(rng) -> None:
    assert share_interval(np.array([True] * 3 + [False] * 7)) == pytest.approx((0.10779, 0.60322), abs=1e-4)
    low, high = share_interval(np.zeros(60, bool))
    assert low == 0 and high == pytest.approx(1.959964**2 / (60 + 1.959964**2))  # Wilson's formula at none of n
    assert share_interval(np.ones(60)) == pytest.approx((1 - high, 1.0))
    held = [share_interval(rng.random(40) < 0.1) for _ in range(500)]
    assert np.mean([low <= 0.1 <= high for low, high in held]) > 0.92
    with pytest.raises(MineError, match="no trials"):
        share_interval(np.zeros(0))
