"""Noise ceilings equal an analysis of variance, recover what was planted, are as biased as is said, and unknown where they are."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import f_oneway
from sklearn.metrics import r2_score

from mine_core.encoding.noise_ceiling import (
    RepeatMoments,
    ceiling_for_test,
    ncsnr_from_repeats,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
)
from mine_core.errors import EncodingError
from mine_core.types import Responses, Splits, VoxelIndex


def simulated(rng: np.random.Generator, ncsnr: np.ndarray, n_stimuli: int, n_repeats: int) -> np.ndarray:
    signal = ncsnr * rng.normal(size=(n_stimuli, len(ncsnr)))
    return 5 + 2 * (signal + rng.normal(size=(n_repeats, n_stimuli, len(ncsnr))))


def thinned(repeats: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Repeats of which stimulus i keeps the first `counts[i]`."""
    return np.where(np.arange(len(repeats))[:, None, None] < counts[:, None], repeats, np.nan)


def test_a_planted_noise_ceiling_is_recovered(rng):
    ncsnr = np.repeat([0.3, 0.6, 1.2], 20)
    repeats = simulated(rng, ncsnr, 4000, 3)
    found, ceiling, expected = ncsnr_from_repeats(repeats), noise_ceiling_from_repeats(repeats), ncsnr**2 / (ncsnr**2 + 1 / 3)
    np.testing.assert_allclose(found, ncsnr, atol=0.08)
    np.testing.assert_allclose(ceiling, expected, atol=0.08)
    np.testing.assert_allclose(found.reshape(3, 20).mean(1), [0.3, 0.6, 1.2], atol=0.015)
    np.testing.assert_allclose(ceiling.reshape(3, 20).mean(1), expected[::20], atol=0.015)


def test_the_ceiling_is_what_a_perfect_model_reaches_also_with_uneven_repeats(rng):
    signal = 0.7 * rng.normal(size=(6000, 30))
    repeats = thinned(signal + rng.normal(size=(3, 6000, 30)), np.repeat([3, 2, 1], 2000))
    ceiling = noise_ceiling_from_repeats(repeats)
    np.testing.assert_allclose(ceiling, 0.49 / (0.49 + (1 / 3 + 1 / 2 + 1) / 3), atol=0.05)
    reached = r2_score(np.nanmean(repeats, axis=0), signal, multioutput="raw_values")
    assert abs(ceiling.mean() - reached.mean()) < 0.01


def test_even_ceilings_are_one_less_the_inverse_of_f(rng):
    repeats = simulated(rng, np.array([0.5, 1.0, 2.0]), 25, 4)
    f = [f_oneway(*repeats[:, :, voxel].T).statistic for voxel in range(3)]
    np.testing.assert_allclose(noise_ceiling_from_repeats(repeats), 1 - 1 / np.array(f), rtol=1e-10)


def in_loops(repeats: np.ndarray) -> float:
    """Noise ceiling of one voxel, one stimulus at a time."""
    shown = [row[np.isfinite(row)] for row in repeats.T]
    noise = np.mean([row.var(ddof=1) for row in shown if len(row) > 1])
    everything, counts = np.concatenate(shown), np.array([len(row) for row in shown])
    spread = ((everything - everything.mean()) ** 2).sum()
    signal = (spread - (len(everything) - 1) * noise) / (len(everything) - (counts**2).sum() / len(everything))
    ratio = max(signal, 0) / noise
    return ratio / (ratio + np.mean(1 / counts[counts > 0]))


def test_uneven_ceilings_equal_a_plain_computation(rng):
    repeats = simulated(rng, np.array([0.2, 0.5, 1.0]), 60, 5)
    repeats[rng.uniform(size=repeats.shape) < 0.4] = np.nan
    expected = [in_loops(repeats[:, :, voxel]) for voxel in range(3)]
    np.testing.assert_allclose(noise_ceiling_from_repeats(repeats), expected, rtol=1e-10)


def at_four_errors(values: np.ndarray) -> float:
    return 4 * float(values.std() / np.sqrt(len(values)))


@pytest.mark.parametrize("counts", [np.full(12, 3), np.repeat([4, 3, 2, 1], 3), np.array([1] * 8 + [5] * 4)])
def test_the_signal_variance_is_unbiased_with_few_stimuli_even_and_uneven(rng, counts):
    repeats = thinned(simulated(rng, np.full(20_000, 1.5), len(counts), 5), counts)
    noise = np.nanvar(repeats[:, counts > 1], axis=0, ddof=1).mean(axis=0)
    signal = ncsnr_from_repeats(repeats) ** 2 * noise  # rarely 0 at this ratio, so that nothing is cut off
    assert abs(noise.mean() - 4) < at_four_errors(noise)
    assert abs(signal.mean() - 9) < at_four_errors(signal)


def test_the_ceiling_is_low_by_what_is_documented(rng):
    ceiling = noise_ceiling_from_repeats(simulated(rng, np.full(20_000, 1.5), 20, 3))
    planted = 2.25 / (2.25 + 1 / 3)
    assert abs(ceiling.mean() - (planted - (1 - planted) * 2 / 17)) < at_four_errors(ceiling)
    assert abs(ceiling.mean() - planted) > at_four_errors(ceiling)


@pytest.mark.parametrize("counts", [np.full(250, 3), np.repeat([3, 2, 1, 2, 3], 50)])
def test_the_bias_is_below_a_hundredth_at_250_stimuli(rng, counts):
    ncsnr = np.repeat([0.25, 0.5, 1.0], 1000)
    ceiling = noise_ceiling_from_repeats(thinned(simulated(rng, ncsnr, 250, 3), counts)).reshape(3, 1000)
    expected = ncsnr[::1000] ** 2 / (ncsnr[::1000] ** 2 + (1 / counts).mean())
    np.testing.assert_allclose(ceiling.mean(axis=1), expected, atol=0.01)


def test_without_signal_the_ceiling_is_near_zero_and_never_below(rng):
    ceiling = noise_ceiling_from_repeats(simulated(rng, np.zeros(2000), 250, 3))
    assert ceiling.min() == 0 and abs((ceiling == 0).mean() - 0.5) < 0.08
    assert 0.03 < ceiling.mean() < 0.05  # the documented 0.04: a negative signal variance counts as 0


def test_voxels_without_repeats_are_unknown_and_spoil_no_other(rng):
    repeats = simulated(rng, np.full(7, 0.8), 50, 3)
    expected = noise_ceiling_from_repeats(repeats)
    repeats[1:, :, 0] = np.nan  # every stimulus once
    repeats[:, 1:, 1] = np.nan  # one stimulus, three times
    repeats[:, :, 2] = np.nan  # nothing
    repeats[:, :, 3] = 0.0  # a unit that is silent
    repeats[:, :, 4] = repeats[0, :, 4]  # the average in place of the repeats
    found = noise_ceiling_from_repeats(repeats)
    np.testing.assert_array_equal(np.isnan(found), np.arange(7) < 5)
    np.testing.assert_allclose(found[5:], expected[5:])
    np.testing.assert_array_equal(np.isnan(ncsnr_from_repeats(repeats)), np.arange(7) < 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda repeats: repeats[:1], "None of 4 voxels has two stimuli of which one was shown twice"),
        (lambda repeats: repeats[:, :1], "None of 4 voxels has two stimuli"),
        (lambda repeats: np.repeat(repeats[:1], 3, axis=0), "All 4 repeated voxels of 4 answer every repeat alike"),
        (lambda repeats: np.where(repeats > 7, np.inf, repeats), "infinite values"),
    ],
)
def test_repeats_without_any_ceiling_are_refused(rng, change, words):
    with pytest.raises(EncodingError, match=words):
        noise_ceiling_from_repeats(change(simulated(rng, np.full(4, 0.5), 50, 3)))


def test_half_precision_repeats_do_not_overflow(rng):
    coarse = (simulated(rng, np.array([0.5, 1.0]), 300, 3) * 1000 + 40_000).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(coarse.sum(axis=1, dtype=np.float16)).any()
    np.testing.assert_allclose(noise_ceiling_from_repeats(coarse), noise_ceiling_from_repeats(coarse.astype(np.float64)), rtol=1e-12)


@pytest.mark.parametrize("uneven", [False, True])
def test_weighing_stimuli_is_drawing_them_again(rng, uneven):
    repeats = simulated(rng, np.array([0.4, 0.8, 1.6]), 40, 4)
    if uneven:
        repeats[rng.uniform(size=repeats.shape) < 0.3] = np.nan
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=5)
    moments = RepeatMoments.of(repeats)
    expected = [noise_ceiling_from_repeats(np.repeat(repeats, row, axis=1)) for row in counts]
    np.testing.assert_allclose(moments.ceiling(counts.astype(float)), expected, rtol=1e-9)
    np.testing.assert_allclose(moments.ceiling(), noise_ceiling_from_repeats(repeats), rtol=1e-12)


def test_a_published_ratio_gives_the_ceiling_of_the_repeats_at_hand(rng):
    counts = np.repeat([3, 2, 1], [5, 3, 2])
    inverse = (5 / 3 + 3 / 2 + 2) / 10
    ceiling = noise_ceiling_from_ncsnr(np.array([0.0, 0.5, np.nan, 2.0]), counts)
    np.testing.assert_allclose(ceiling, [0, 0.25 / (0.25 + inverse), np.nan, 4 / (4 + inverse)])
    repeats = thinned(simulated(rng, np.array([0.5, 1.0]), 10, 3), counts)
    np.testing.assert_allclose(noise_ceiling_from_ncsnr(ncsnr_from_repeats(repeats), counts), noise_ceiling_from_repeats(repeats))
    by_voxel = noise_ceiling_from_ncsnr(np.array([0.5, 0.5]), np.stack([counts, np.full(10, 3)], axis=1))
    np.testing.assert_allclose(by_voxel, [0.25 / (0.25 + inverse), 0.25 / (0.25 + 1 / 3)])


@pytest.mark.parametrize(
    ("ncsnr", "counts", "words"),
    [
        ([0.5, -0.1], [3], r"1 of 2 ncsnr are negative or infinite \(first: voxel 1, -0.1\)"),
        ([np.inf, 0.1], [3], "1 of 2 ncsnr .*voxel 0, inf"),
        ([0.5], [3, 0], "Repeats of 2 test stimuli were given, the smallest is 0"),
        ([0.5], [], "Repeats of 0 test stimuli were given, there is none"),
    ],
)
def test_a_ratio_or_count_that_cannot_be_is_refused(ncsnr, counts, words):
    with pytest.raises(EncodingError, match=words):
        noise_ceiling_from_ncsnr(np.array(ncsnr), np.array(counts, int))


def answers(repeats: np.ndarray | None, n_voxels: int = 3) -> tuple[Responses, Splits]:
    """40 training and 20 test stimuli."""
    voxels = VoxelIndex("s", np.arange(n_voxels), (n_voxels,), (), np.zeros((0, n_voxels), bool))
    values = np.zeros((60, n_voxels), np.float32) if repeats is None else np.nanmean(repeats, axis=0)
    return Responses(values, repeats, tuple(map(str, range(60))), voxels, "z"), Splits(np.arange(40), np.arange(0), np.arange(40, 60))


def test_the_ceiling_of_test_responses_comes_from_where_there_are_repeats(rng):
    repeats = simulated(rng, np.array([0.5, 1.0, 2.0]), 60, 4)
    found = ceiling_for_test(*answers(repeats))
    assert found.source == "repeats of training stimuli" and not found.of_test
    np.testing.assert_allclose(found.values, noise_ceiling_from_repeats(repeats[:, :40]))
    # the ratio is that of training stimuli, the number of showings that of test stimuli
    fewer = thinned(repeats, np.r_[np.full(40, 4), np.full(19, 1), 2])
    expected = noise_ceiling_from_ncsnr(ncsnr_from_repeats(repeats[:, :40]), np.r_[np.full(19, 1), 2])
    np.testing.assert_allclose(ceiling_for_test(*answers(fewer)).values, expected)
    once = thinned(repeats, np.r_[np.full(39, 1), 2, np.full(20, 4)])
    found = ceiling_for_test(*answers(once))
    assert found.source == "repeats of test stimuli" and found.of_test
    np.testing.assert_allclose(found.values, noise_ceiling_from_repeats(repeats[:, 40:]))


def test_a_ceiling_is_given_or_unknown(rng):
    repeats = simulated(rng, np.full(3, 0.5), 60, 2)
    responses, splits = answers(repeats)
    given = ceiling_for_test(responses, splits, np.array([0.1, np.nan, 0.3]))
    assert given.source == "given" and given.n_unknown == 1
    np.testing.assert_array_equal(given.values, [0.1, np.nan, 0.3])
    for none in (None, repeats[:1]):
        unknown = ceiling_for_test(replace(responses, repeats=none), splits)
        assert unknown.source == "unknown" and unknown.n_unknown == 3 and np.isnan(unknown.values).all()
