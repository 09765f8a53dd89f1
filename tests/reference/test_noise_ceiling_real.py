"""The noise ceilings of a real recording with uneven repeats, beside three estimates that share no code with ours."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mine_core.encoding.noise_ceiling import ncsnr_from_repeats, noise_ceiling_from_ncsnr, noise_ceiling_from_repeats

FILE = "v4_210325_repeats/responses_210325.npy"


@pytest.fixture(scope="module")
def by_unit() -> np.ndarray:
    """Single responses [unit, stimulus, repeat], NaN where there was no repeat."""
    path = Path(__file__).resolve().parents[3] / "shared" / "real" / FILE
    if not path.is_file():
        pytest.skip("real recordings are not on this machine (shared/real beside the checkout)")
    return np.load(path, allow_pickle=False)


def shown(unit: np.ndarray) -> list[np.ndarray]:
    return [row[np.isfinite(row)] for row in unit]


def step_up(ratio: float, counts: np.ndarray) -> float:
    return ratio / (ratio + np.mean(1 / counts))


def by_analysis_of_variance(unit: np.ndarray) -> float:
    """One-way random effects, noise pooled over degrees of freedom (Henderson's first method)."""
    rows = shown(unit)
    counts, means = np.array([len(row) for row in rows]), np.array([row.mean() for row in rows])
    total, grand = counts.sum(), np.concatenate(rows).mean()
    within = sum(((row - row.mean()) ** 2).sum() for row in rows) / (total - len(rows))
    between = (counts * (means - grand) ** 2).sum() / (len(rows) - 1)
    size = (total - (counts**2).sum() / total) / (len(rows) - 1)
    return step_up(max((between - within) / size, 0) / within, counts)


def by_restricted_likelihood(unit: np.ndarray) -> float:
    """Mixed model `response = mean + stimulus + noise`, its ratio of variances where the restricted likelihood is highest."""
    rows = shown(unit)
    counts, means = np.array([len(row) for row in rows]), np.array([row.mean() for row in rows])
    within = sum(((row - row.mean()) ** 2).sum() for row in rows)

    def loss(log_ratio: float) -> float:
        ratio = np.exp(log_ratio)
        weights = counts / (1 + counts * ratio)  # of the stimuli's means, in units of the noise
        centre = (weights * means).sum() / weights.sum()
        squares = within + (weights * (means - centre) ** 2).sum()
        return (counts.sum() - 1) * np.log(squares) + np.log1p(counts * ratio).sum() + np.log(weights.sum())

    best = minimize_scalar(loss, bounds=(-12, 4), method="bounded", options={"xatol": 1e-8})
    return step_up(float(np.exp(best.x)), counts)


def split_half(unit: np.ndarray, rng: np.random.Generator, n_splits: int = 40) -> float:
    """Mean correlation of averages over two halves of six showings, stepped up (Spearman 1910; Brown 1910)."""
    counts = np.isfinite(unit).sum(axis=1)
    assert counts.min() >= 6
    correlations = []
    for _ in range(n_splits):
        order = np.argsort(np.where(np.isfinite(unit), rng.uniform(size=unit.shape), np.inf), axis=1)
        drawn = np.take_along_axis(unit, order, axis=1)
        correlations.append(np.corrcoef(drawn[:, :3].mean(axis=1), drawn[:, 3:6].mean(axis=1))[0, 1])
    reliability = np.mean(correlations)  # of averages of three
    return step_up(reliability / (1 - reliability) / 3, counts)


@pytest.fixture(scope="module")
def ceiling(by_unit: np.ndarray) -> np.ndarray:
    return noise_ceiling_from_repeats(by_unit.transpose(2, 1, 0))


def test_the_recording_has_uneven_repeats(by_unit, ceiling):
    assert np.isnan(by_unit).any() and len(np.unique(np.isfinite(by_unit).sum(axis=2))) > 3
    assert np.isfinite(ceiling).all() and ceiling.min() >= 0 and ceiling.max() < 1
    assert np.median(ceiling) > 0.2


def test_ceilings_equal_an_analysis_of_variance(by_unit, ceiling):
    # the analysis pools the noise over degrees of freedom, ours weighs stimuli alike: the counts differ by less than twofold
    expected = [by_analysis_of_variance(unit) for unit in by_unit]
    np.testing.assert_allclose(ceiling, expected, atol=0.015)
    assert np.abs(ceiling - expected).mean() < 0.005


def test_ceilings_equal_a_mixed_model(by_unit, ceiling):
    np.testing.assert_allclose(ceiling, [by_restricted_likelihood(unit) for unit in by_unit], atol=0.015)


def test_ceilings_equal_split_halves_within_their_error(by_unit, ceiling, rng):
    halves = np.array([split_half(unit, rng) for unit in by_unit])
    assert abs((halves - ceiling).mean()) < 0.005
    np.testing.assert_allclose(ceiling, halves, atol=0.025)


def test_cutting_the_recording_to_even_repeats_is_an_analysis_of_variance_exactly(by_unit):
    even = np.stack([[row[np.isfinite(row)][:6] for row in unit] for unit in by_unit])
    expected = [by_analysis_of_variance(unit) for unit in even]
    np.testing.assert_allclose(noise_ceiling_from_repeats(even.transpose(2, 1, 0)), expected, rtol=1e-9)


def test_a_ratio_from_half_of_the_stimuli_gives_the_ceiling_of_the_other_half(by_unit):
    repeats = by_unit.transpose(2, 1, 0)
    counts = np.isfinite(repeats[:, 1::2]).sum(axis=0)
    carried = noise_ceiling_from_ncsnr(ncsnr_from_repeats(repeats[:, ::2]), counts)
    own = noise_ceiling_from_repeats(repeats[:, 1::2])
    assert np.corrcoef(carried, own)[0, 1] > 0.9 and abs((carried - own).mean()) < 0.02
