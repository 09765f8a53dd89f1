"""How sure the accuracy of a region is, and the difference between two encoders: intervals over other test stimuli.

Voxels of one brain share their stimuli, so an interval that resamples voxels is far too narrow: here stimuli are drawn with
replacement, the same for all voxels, encoders and regions, by weighing sums over stimuli.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.encoding.noise_ceiling import CeilingEstimate, RepeatMoments
from mine_core.encoding.scoring import check_test_values
from mine_core.errors import EncodingError
from mine_core.statistics import basic_interval, resample_counts

Statistic = Literal["r", "r2", "normalised"]
PairedStatistic = Literal["r", "r2"]

VOXELS_PER_BLOCK = 256
CEILING_FLOOR = 0.1
# A variance below this share of the voxel's own is rounding error: a resample of one stimulus alone, or of equal responses.
ROUNDING = 1e-10


@dataclass(frozen=True)
class RegionIntervals:
    """Mean over each region's voxels and the interval in which it lies for other test stimuli (NaN: unknown).

    `n_voxels` counted towards the mean; `resampled` says what was drawn again.
    """

    estimate: Float[np.ndarray, " region"]
    low: Float[np.ndarray, " region"]
    high: Float[np.ndarray, " region"]
    n_voxels: Int[np.ndarray, " region"]
    statistic: str
    resampled: str
    level: float
    n_resamples: int


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of encoder a less that of encoder b, of each voxel and, in `regions`, of their means; with intervals."""

    difference: Float[np.ndarray, " voxel"]
    low: Float[np.ndarray, " voxel"]
    high: Float[np.ndarray, " voxel"]
    regions: RegionIntervals


def region_interval(
    predicted: Float[np.ndarray, "stimulus voxel"],
    measured: Float[np.ndarray, "stimulus voxel"],
    membership: Bool[np.ndarray, "region voxel"],
    rng: np.random.Generator,
    *,
    statistic: Statistic = "r2",
    ceiling: CeilingEstimate | None = None,
    floor: float = CEILING_FLOOR,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> RegionIntervals:
    """Mean accuracy of each region with a basic bootstrap interval over test stimuli.

    Each resample draws as many test stimuli with replacement, the same for all voxels, and computes the whole statistic anew;
    `basic_interval` says how its quantiles become an interval, and why that may lie to one side of the estimate.

    Parameters
    ----------
    predicted, measured : of test stimuli, in the same units.
    membership : which voxels each region holds; regions may overlap, and a row of True is the whole brain.
    statistic : "r", "r2", or "normalised", R2 / ceiling over voxels whose ceiling is at least `floor`.
    ceiling : for "normalised" alone. Where it comes from repeats of test stimuli it is estimated anew in every resample; where
        from repeats of others, those are resampled too, independently; a given one is taken as exact. The floor applies to
        the ceilings of the resample, as it does to those observed.

    Returns
    -------
    Intervals; NaN where no voxel of a region has a known ceiling of at least the floor.

    Raises
    ------
    EncodingError
        If a test value is not finite or does not vary, the statistic is unknown, or "normalised" comes without a ceiling or a
        floor above 0.
    MineError
        If the level is not between 0 and 1 or there is no resample.

    Notes
    -----
    It speaks of other stimuli of the same kind shown to the same voxels, read with the same encoder: not of another training
    set, nor of another brain. A resample in which a voxel's responses do not vary leaves that voxel out.

    Simulated with 250 test stimuli, three repeats and 120 voxels whose ceilings spread from 0 to 0.7, intervals of 95 % covered
    the truth in 91 to 95 % for r, R2, and R2 over a ceiling that was given, or came from 2,000 others with a floor of 0.1 or more.
    A ceiling from the test stimuli themselves chooses voxels by its own errors: the normalised accuracy is then too low by a
    twentieth, and its interval covered 67 % at a floor of 0.1 and 88 % at 0.4, erring low.
    """
    _check(predicted, measured, statistic, get_args(Statistic))
    if statistic == "normalised" and (ceiling is None or not floor > 0):
        raise EncodingError(f"R2 over the noise ceiling needs a ceiling and a floor above 0 ({floor} was given).")
    drawn = _with_observed(resample_counts(len(measured), n_resamples, rng))
    of_others = _counts_of_others(ceiling, statistic, n_resamples, rng)
    sums, counted = np.zeros((2, len(drawn), len(membership)))
    for block in _blocks(measured.shape[1]):
        moments = _Moments.of(measured[:, block], drawn)
        values = moments.score(predicted[:, block], "r" if statistic == "r" else "r2")
        if statistic == "normalised" and ceiling is not None:
            highest = _ceilings(ceiling, block, drawn, of_others)
            values = values / np.where(highest >= floor, highest, np.nan)
        _add(values, membership[:, block], sums, counted)
    return _intervals(sums, counted, statistic, _words(ceiling, statistic), level)


def paired_difference(
    predicted_a: Float[np.ndarray, "stimulus voxel"],
    predicted_b: Float[np.ndarray, "stimulus voxel"],
    measured: Float[np.ndarray, "stimulus voxel"],
    membership: Bool[np.ndarray, "region voxel"],
    rng: np.random.Generator,
    *,
    statistic: PairedStatistic = "r2",
    noise_ceiling: Float[np.ndarray, " voxel"] | None = None,
    floor: float = CEILING_FLOOR,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> PairedDifference:
    """Accuracy of encoder a less that of b on the same test stimuli, with basic bootstrap intervals over stimuli.

    difference_v = statistic(a)_v - statistic(b)_v, of a region the mean over its voxels; each resample draws the same stimuli for
    both encoders and all voxels. With a noise ceiling, R2 is divided by it, taken as exact, and voxels below `floor` are NaN.

    Raises
    ------
    EncodingError
        If a test value is not finite or does not vary, the statistic is unknown, or a noise ceiling comes with r.
    MineError
        If the level is not between 0 and 1 or there is no resample.

    Notes
    -----
    As `region_interval`. The intervals of voxels are one by one, not corrected for their number.
    """
    _check(predicted_a, measured, statistic, get_args(PairedStatistic))
    _check(predicted_b, measured, statistic, get_args(PairedStatistic))
    if noise_ceiling is not None and (statistic != "r2" or not floor > 0):
        raise EncodingError(f"A noise ceiling divides R2, with a floor above 0; statistic '{statistic}' and floor {floor} were given.")
    drawn = _with_observed(resample_counts(len(measured), n_resamples, rng))
    sums, counted = np.zeros((2, len(drawn), len(membership)))
    difference, low, high = np.empty((3, measured.shape[1]))
    for block in _blocks(measured.shape[1]):
        moments = _Moments.of(measured[:, block], drawn)
        values = moments.score(predicted_a[:, block], statistic) - moments.score(predicted_b[:, block], statistic)
        if noise_ceiling is not None:
            values = values / np.where(noise_ceiling[block] >= floor, noise_ceiling[block], np.nan)
        difference[block], (low[block], high[block]) = values[0], basic_interval(values[0], values[1:], level)
        _add(values, membership[:, block], sums, counted)
    return PairedDifference(difference, low, high, _intervals(sums, counted, statistic, "test stimuli", level))


@dataclass(frozen=True)
class _Moments:
    """Responses of a block of voxels, centred, and their weighed first two moments in every resample."""

    measured: Float[np.ndarray, "stimulus voxel"]
    weights: Float[np.ndarray, "resample stimulus"]
    mean: Float[np.ndarray, "resample voxel"]
    square: Float[np.ndarray, "resample voxel"]

    @classmethod
    def of(cls, measured: Float[np.ndarray, "stimulus voxel"], counts: Float[np.ndarray, "resample stimulus"]) -> "_Moments":
        exact, weights = np.asarray(measured, np.float64), counts / counts.sum(axis=1, keepdims=True)
        centred = exact - exact.mean(axis=0)
        return cls(exact, weights, weights @ centred, weights @ centred**2)

    def score(self, predicted: Float[np.ndarray, "stimulus voxel"], statistic: PairedStatistic) -> Float[np.ndarray, "resample voxel"]:
        """Pearson r or R2 in every resample; NaN where responses (for r, or predictions) do not vary in it."""
        variance = self._variance(self.square, self.mean)
        if statistic == "r2":
            return 1 - self.weights @ (self.measured - predicted) ** 2 / variance
        ours = np.asarray(predicted, np.float64)
        ours = ours - ours.mean(axis=0)
        theirs = self.measured - self.measured.mean(axis=0)
        mean = self.weights @ ours
        shared = self.weights @ (ours * theirs) - mean * self.mean
        return shared / np.sqrt(variance * self._variance(self.weights @ ours**2, mean))

    @staticmethod
    def _variance(
        square: Float[np.ndarray, "resample voxel"], mean: Float[np.ndarray, "resample voxel"]
    ) -> Float[np.ndarray, "resample voxel"]:
        variance = square - mean**2
        return np.where(variance > ROUNDING * variance[0], variance, np.nan)


def _check(predicted: np.ndarray, measured: np.ndarray, statistic: str, known: tuple[str, ...]) -> None:
    if statistic not in known:
        raise EncodingError(f"Unknown statistic '{statistic}'; expected one of {', '.join(known)}.")
    check_test_values(predicted, measured)


def _with_observed(counts: Float[np.ndarray, "resample stimulus"]) -> Float[np.ndarray, "row stimulus"]:
    """Put every stimulus once before the resamples: row 0 is what was observed."""
    return np.vstack([np.ones(counts.shape[1]), counts])


def _counts_of_others(
    ceiling: CeilingEstimate | None, statistic: str, n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "row stimulus"] | None:
    if statistic != "normalised" or ceiling is None or ceiling.repeats is None or ceiling.of_test:
        return None
    return _with_observed(resample_counts(ceiling.repeats.shape[1], n_resamples, rng))


def _ceilings(
    ceiling: CeilingEstimate,
    block: slice,
    of_test: Float[np.ndarray, "row stimulus"],
    of_others: Float[np.ndarray, "row other"] | None,
) -> Float[np.ndarray, "row voxel"]:
    if ceiling.repeats is None:
        return np.broadcast_to(ceiling.values[block], (len(of_test), len(ceiling.values[block])))
    moments = RepeatMoments.of(ceiling.repeats[:, :, block])
    if of_others is None or ceiling.inverse_repeats is None:
        return moments.ceiling(of_test)
    ratio = moments.signal_to_noise(of_others)
    return ratio / (ratio + ceiling.inverse_repeats[block])


def _add(
    values: Float[np.ndarray, "row voxel"],
    membership: Bool[np.ndarray, "region voxel"],
    sums: Float[np.ndarray, "row region"],
    counted: Float[np.ndarray, "row region"],
) -> None:
    defined = ~np.isnan(values)
    inside = membership.T.astype(np.float64)
    sums += np.where(defined, values, 0.0) @ inside
    counted += defined @ inside


def _intervals(
    sums: Float[np.ndarray, "row region"], counted: Float[np.ndarray, "row region"], statistic: str, resampled: str, level: float
) -> RegionIntervals:
    means = np.where(counted > 0, sums / np.maximum(counted, 1), np.nan)
    low, high = basic_interval(means[0], means[1:], level)
    return RegionIntervals(means[0], low, high, counted[0].astype(int), statistic, resampled, level, len(means) - 1)


def _words(ceiling: CeilingEstimate | None, statistic: str) -> str:
    if statistic != "normalised" or ceiling is None:
        return "test stimuli"
    if ceiling.repeats is None:
        return f"test stimuli; the noise ceiling is {ceiling.source} and held fixed"
    if ceiling.of_test:
        return "test stimuli, the noise ceiling estimated again on them"
    return f"test stimuli, and for the noise ceiling the stimuli of its {ceiling.source}"


def _blocks(n_voxels: int) -> Iterator[slice]:
    return (slice(start, start + VOXELS_PER_BLOCK) for start in range(0, n_voxels, VOXELS_PER_BLOCK))
