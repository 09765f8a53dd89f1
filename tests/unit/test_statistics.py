"""Nulls and uncertainties agree with independent computations and hold their promised rates."""

import numpy as np
import pytest
from scipy import stats

from mine_core.errors import MineError
from mine_core.statistics import (
    benjamini_hochberg,
    bootstrap_mean_interval,
    pearson_columns,
    permutation_p,
    rank_p,
    standardise_columns,
)


def test_q_equals_the_definition(rng):
    p = rng.uniform(size=40)
    ordered = np.argsort(p)
    expected = np.empty(40)
    for place, index in enumerate(ordered):
        expected[index] = min(p[ordered[later]] * 40 / (later + 1) for later in range(place, 40))
    np.testing.assert_allclose(benjamini_hochberg(p), np.minimum(expected, 1))
    np.testing.assert_allclose(benjamini_hochberg(p.reshape(5, 8)), np.minimum(expected, 1).reshape(5, 8))


def test_the_false_discovery_rate_is_held(rng):
    shares = []
    for _ in range(200):
        effect = np.zeros(200)
        effect[:60] = 3
        called = benjamini_hochberg(stats.norm.sf(rng.normal(size=200) + effect)) <= 0.1
        shares.append(called[60:].sum() / max(called.sum(), 1))
    assert 0.03 < np.mean(shares) < 0.1  # BH holds 0.1 * 140/200 = 0.07


@pytest.mark.parametrize("p", [np.array([0.1, np.nan]), np.array([-0.1]), np.array([1.5]), np.array([])])
def test_what_is_no_p_is_refused(p):
    with pytest.raises(MineError, match="p-values"):
        benjamini_hochberg(p)


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


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, np.nan])])
def test_values_without_an_interval_are_refused(values, rng):
    with pytest.raises(MineError, match="at least 2 values"):
        bootstrap_mean_interval(values, rng)


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
