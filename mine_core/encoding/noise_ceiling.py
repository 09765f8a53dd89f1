"""How much of a voxel's variance any model could explain: from repeats, from a published ratio, or unknown (NaN)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.errors import EncodingError
from mine_core.types import Responses, Splits

VOXELS_PER_BLOCK = 256
# A noise variance below this share of the whole is rounding error alone.
ROUNDING = 1e-12


def noise_ceiling_from_repeats(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    """Share of variance (0 to 1) of responses averaged over repeats that a perfect model could explain.

    ceiling = ncsnr^2 / (ncsnr^2 + mean over shown stimuli of 1 / n_repeats), which for n repeats of every stimulus is
    ncsnr^2 / (ncsnr^2 + 1 / n), or 1 - 1 / F of a one-way analysis of variance. It holds for averages over the repeats given.
    `ncsnr_from_repeats` says what is assumed, which voxels are NaN and what is refused.

    Notes
    -----
    As the ratio of two unbiased variances it is itself low by about 2 (1 - ceiling) / (n_stimuli - 3) on average, before
    negative values are set to 0, which makes voxels near 0 high: by 0.04 on average in a voxel without any signal, of which 250
    stimuli were shown three times.

    References
    ----------
    Allen et al. (2022), 10.1038/s41593-021-00962-x.
    """
    return _by_block(repeats, RepeatMoments.ceiling)


def ncsnr_from_repeats(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    """SD of a voxel's signal over that of the noise of a single repeat; NaN in `repeats` where a stimulus was not shown.

    noise variance = mean over stimuli with two repeats or more of var(repeats, ddof=1);
    signal variance = max(0, (SST - (N - 1) noise) / (N - sum n_i^2 / N)), SST the sum of squares of all N single responses
    around their mean, n_i of which were to stimulus i; ncsnr = sqrt(signal / noise).

    Both variances are unbiased before the maximum is taken: the divisor of the signal is what it adds to SST on average,
    where N - 1, as if every response had a signal of its own, would leave it low by a share of up to 1 / n_stimuli. For equal
    counts this is the analysis of variance.

    Returns
    -------
    Per voxel, at least 0; NaN (unknown) for a voxel with fewer than two stimuli or none that was repeated, or whose
    repeats never differ. One such voxel leaves the others as they are.

    Raises
    ------
    EncodingError
        If a value is infinite, or no voxel at all has repeats that differ.

    Notes
    -----
    The noise is taken to be of one size for all stimuli and independent of the signal and of the number of repeats; drift
    between repeats counts as noise. The signal variance cannot be negative: where its estimate is, it is set to 0, so
    voxels without any signal have an ncsnr above 0 on average.

    References
    ----------
    Allen et al. (2022), 10.1038/s41593-021-00962-x. Searle, Casella and McCulloch (1992), 10.1002/9780470316856 (chapter 3).
    """
    return np.sqrt(_by_block(repeats, RepeatMoments.signal_to_noise))


def noise_ceiling_from_ncsnr(
    ncsnr: Float[np.ndarray, " voxel"], n_repeats: Int[np.ndarray, " stimulus"] | Int[np.ndarray, "stimulus voxel"]
) -> Float[np.ndarray, " voxel"]:
    """Share of variance (0 to 1) of averages over repeats that is signal, from a ratio estimated elsewhere.

    ceiling = ncsnr^2 / (ncsnr^2 + mean over stimuli of 1 / n_repeats)

    Parameters
    ----------
    ncsnr : SD of the signal over SD of the noise of a single repeat, at least 0; NaN (unknown) stays NaN.
    n_repeats : how often each test stimulus was shown, at least 1; per voxel where that differs.

    Raises
    ------
    EncodingError
        If a ratio is negative or infinite, there is no stimulus, or a count is below 1.

    References
    ----------
    Allen et al. (2022), 10.1038/s41593-021-00962-x.
    """
    wrong = (ncsnr < 0) | np.isinf(ncsnr)
    if wrong.any():
        raise EncodingError(
            f"{int(wrong.sum())} of {len(ncsnr)} ncsnr are negative or infinite (first: voxel {int(np.argmax(wrong))}, "
            f"{ncsnr[wrong][0]:g}); give SD of signal over SD of noise, and NaN where it is unknown."
        )
    if not n_repeats.size or n_repeats.min() < 1:
        found = f"the smallest is {n_repeats.min()}" if n_repeats.size else "there is none"
        raise EncodingError(f"Repeats of {len(n_repeats)} test stimuli were given, {found}; each needs 1 or more.")
    ratio = np.square(ncsnr, dtype=np.float64)
    return ratio / (ratio + (1 / n_repeats).mean(axis=0))


def n_repeats_of(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Int[np.ndarray, "stimulus voxel"]:
    """How often each stimulus was shown to each voxel: repeats that are not NaN."""
    return (~np.isnan(repeats)).sum(axis=0)


@dataclass(frozen=True)
class RepeatMoments:
    """What a noise ceiling needs of each stimulus, so that stimuli can be drawn again by weighing them.

    `n_repeats` counts the showings; `average` is their mean, from the mean over all stimuli (0 where there is none);
    `within` their variance with ddof=1 (0 where there are fewer than two).
    """

    n_repeats: Float[np.ndarray, "stimulus voxel"]
    average: Float[np.ndarray, "stimulus voxel"]
    within: Float[np.ndarray, "stimulus voxel"]

    @classmethod
    def of(cls, repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> "RepeatMoments":
        """Gather them in float64; NaN is a showing that did not take place. Raises EncodingError for an infinite value."""
        exact = np.asarray(repeats, np.float64)
        if np.isinf(exact).any():
            raise EncodingError(f"`repeats` has {int(np.isinf(exact).sum())} infinite values; give NaN where nothing was shown.")
        shown = ~np.isnan(exact)
        n_repeats = shown.sum(axis=0)
        values = np.where(shown, exact, 0.0)
        values -= shown * (values.sum(axis=(0, 1)) / np.maximum(shown.sum(axis=(0, 1)), 1))
        average = values.sum(axis=0) / np.maximum(n_repeats, 1)
        within = (np.where(shown, values - average, 0.0) ** 2).sum(axis=0) / np.maximum(n_repeats - 1, 1)
        return cls(n_repeats.astype(np.float64), average, within)

    @property
    def repeated(self) -> Bool[np.ndarray, " voxel"]:
        """True for voxels with two stimuli or more, at least one of them shown twice."""
        return ((self.n_repeats >= 1).sum(axis=0) >= 2) & (self.n_repeats >= 2).any(axis=0)

    def signal_to_noise(self, counts: Float[np.ndarray, "resample stimulus"] | None = None) -> Float[np.ndarray, "*resample voxel"]:
        """Signal variance over the noise variance of one showing, at least 0; NaN where it is unknown.

        With `counts`, for each row of them, as if every stimulus had been there so many times.
        """
        weights = np.ones((1, len(self.average))) if counts is None else counts
        n, several = self.n_repeats, (self.n_repeats >= 2).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            showings = _weigh(weights, n)
            squares = weights @ ((n - 1) * self.within * several + n * self.average**2)
            squares -= (weights @ (n * self.average)) ** 2 / showings
            noise = (weights @ self.within) / _weigh(weights, several)
            signal = (squares - (showings - 1) * noise) / (showings - _weigh(weights, n**2) / showings)
            ratio = np.maximum(signal, 0) / noise
        ratio[~(noise > ROUNDING * squares / showings) | ~np.isfinite(ratio)] = np.nan
        return ratio[0] if counts is None else ratio

    def inverse_repeats(self, counts: Float[np.ndarray, "resample stimulus"] | None = None) -> Float[np.ndarray, "*resample voxel"]:
        """Mean of 1 / n_repeats over stimuli that were shown; NaN where none was."""
        weights = np.ones((1, len(self.average))) if counts is None else counts
        shown = (self.n_repeats >= 1).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = _weigh(weights, shown / np.maximum(self.n_repeats, 1)) / _weigh(weights, shown)
        inverse = np.broadcast_to(inverse, (len(weights), self.average.shape[1]))
        return inverse[0] if counts is None else inverse

    def ceiling(self, counts: Float[np.ndarray, "resample stimulus"] | None = None) -> Float[np.ndarray, "*resample voxel"]:
        """Share of the variance of averages that is signal, 0 to 1; NaN where it is unknown."""
        ratio = self.signal_to_noise(counts)
        return ratio / (ratio + self.inverse_repeats(counts))


def _weigh(weights: Float[np.ndarray, "resample stimulus"], values: Float[np.ndarray, "stimulus voxel"]) -> np.ndarray:
    """`weights @ values`, as one column where all voxels agree: counts of repeats mostly do, and products are what costs."""
    return weights @ (values[:, :1] if (values == values[:, :1]).all() else values)


def _by_block(
    repeats: Float[np.ndarray, "repeat stimulus voxel"], measure: Callable[[RepeatMoments], np.ndarray]
) -> Float[np.ndarray, " voxel"]:
    n_voxels = repeats.shape[2]
    measured, repeated = np.empty(n_voxels), np.zeros(n_voxels, bool)
    for start in range(0, n_voxels, VOXELS_PER_BLOCK):
        block = slice(start, start + VOXELS_PER_BLOCK)
        moments = RepeatMoments.of(repeats[:, :, block])
        measured[block], repeated[block] = measure(moments), moments.repeated
    if not repeated.any():
        raise EncodingError(
            f"None of {n_voxels} voxels has two stimuli of which one was shown twice; a noise ceiling needs repeats. "
            "Give a noise ceiling, or leave it unknown."
        )
    if np.isnan(measured).all():
        raise EncodingError(
            f"All {int(repeated.sum())} repeated voxels of {n_voxels} answer every repeat alike; were averages given as repeats?"
        )
    return measured


@dataclass(frozen=True)
class CeilingEstimate:
    """The noise ceiling of the test responses, and what it was estimated from.

    `source` says it in words for reports; `repeats` are the single responses behind it (None where it was given, or is
    unknown); `of_test` is True where they are those of the test stimuli themselves, and `inverse_repeats` the mean of 1 /
    n_repeats over test stimuli where they are not.
    """

    values: Float[np.ndarray, " voxel"]
    source: str
    repeats: Float[np.ndarray, "repeat stimulus voxel"] | None = None
    of_test: bool = False
    inverse_repeats: Float[np.ndarray, " voxel"] | None = None

    @property
    def n_unknown(self) -> int:
        """Voxels whose ceiling is unknown."""
        return int(np.isnan(self.values).sum())


def ceiling_for_test(responses: Responses, splits: Splits, given: Float[np.ndarray, " voxel"] | None = None) -> CeilingEstimate:
    """The noise ceiling of test responses: as given; else from the split with more repeated stimuli; else unknown (NaN).

    ncsnr is estimated on training or on test stimuli, on whichever more were shown twice or more to some voxel, and the
    ceiling is that of the test stimuli's numbers of repeats.

    Notes
    -----
    Taking ncsnr from training stimuli supposes that the signal varies as much over test stimuli.

    Raises
    ------
    EncodingError
        As `ncsnr_from_repeats`.
    """
    n_voxels = responses.values.shape[1]
    if given is not None:
        return CeilingEstimate(np.asarray(given, np.float64), "given")
    if responses.repeats is None:
        return CeilingEstimate(np.full(n_voxels, np.nan), "unknown")
    n_repeated = {name: _n_repeated(responses.repeats, getattr(splits, name)) for name in ("train", "test")}
    if not max(n_repeated.values()):
        return CeilingEstimate(np.full(n_voxels, np.nan), "unknown")
    test = np.asarray(responses.repeats[:, splits.test])
    if n_repeated["test"] >= n_repeated["train"]:
        return CeilingEstimate(noise_ceiling_from_repeats(test), "repeats of test stimuli", test, of_test=True)
    train = np.asarray(responses.repeats[:, splits.train])
    ratio, inverse = ncsnr_from_repeats(train) ** 2, _inverse_of(test)
    return CeilingEstimate(ratio / (ratio + inverse), "repeats of training stimuli", train, inverse_repeats=inverse)


def _n_repeated(repeats: Float[np.ndarray, "repeat stimulus voxel"], positions: Int[np.ndarray, " chosen"]) -> int:
    return int(sum((n_repeats_of(repeats[:, [position]]) >= 2).any() for position in positions))


def _inverse_of(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    n_repeats = n_repeats_of(repeats)
    shown = n_repeats >= 1
    inverse = np.where(shown, 1 / np.maximum(n_repeats, 1), 0).sum(axis=0) / np.maximum(shown.sum(axis=0), 1)
    return np.where(shown.any(axis=0), inverse, np.nan)
