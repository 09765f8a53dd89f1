"""Nulls and uncertainties: permutation p-values, false discovery rates, intervals, ranks among controls."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mine_core.errors import MineError

FdrMethod = Literal["bh", "by"]


def false_discovery_rate(p: Float[np.ndarray, "*tests"], method: FdrMethod = "bh") -> Float[np.ndarray, "*tests"]:
    """False discovery rate at which each test would be called: the expected share of the called tests without an effect.

    q_(i) = min_{j >= i} p_(j) n c / j, at most 1, over all n entries of `p` together.

    Parameters
    ----------
    method : "bh" (Benjamini and Hochberg 1995), c = 1, holds for tests that are independent or depend positively; "by"
        (Benjamini and Yekutieli 2001), c = 1 + 1/2 + ... + 1/n, holds under any dependence.

    Raises
    ------
    MineError
        If a p is not between 0 and 1, or there is none, or the method is another.

    Notes
    -----
    It bounds the false share of what is called, not the share of tests without an effect that is called: that share is about
    q times the share of all tests that are called.

    References
    ----------
    Benjamini and Hochberg (1995), 10.1111/j.2517-6161.1995.tb02031.x. Benjamini and Yekutieli (2001), 10.1214/aos/1013699998.
    """
    if method not in get_args(FdrMethod):
        raise MineError(f"Unknown method '{method}' against false discoveries; expected one of {', '.join(get_args(FdrMethod))}.")
    if not p.size or not ((p >= 0) & (p <= 1)).all():
        raise MineError(f"{p.size} p-values were given, of which {int((~((p >= 0) & (p <= 1))).sum())} are not within 0 to 1.")
    return stats.false_discovery_control(p.ravel(), method=method).reshape(p.shape)


def permutation_p(observed: Float[np.ndarray, "*tests"], null: Float[np.ndarray, "permutation ..."]) -> Float[np.ndarray, "*tests"]:
    """One-sided p of a statistic that is large when there is an effect.

    p = (1 + #{null >= observed}) / (1 + n_permutations), never 0 (Phipson and Smyth 2010, 10.2202/1544-6115.1585).

    Raises
    ------
    MineError
        If there is no permutation, or a NaN.
    """
    if not len(null) or np.isnan(null).any() or np.isnan(observed).any():
        raise MineError(f"{len(null)} permutations were given; at least one is needed, and no value may be NaN.")
    return (1 + (null >= observed).sum(axis=0)) / (1 + len(null))


def rank_p(
    observed: Float[np.ndarray, " voxel"], controls: Float[np.ndarray, "control voxel"]
) -> tuple[Float[np.ndarray, " voxel"], Int[np.ndarray, " voxel"]]:
    """Where an effect stands among matched controls, in the effect's own direction.

    rank = 1 + #{controls at least as extreme}, p = rank / (1 + n_controls); rank 1 exceeds every control. An effect of
    exactly 0 has no direction: every control counts against it.

    Raises
    ------
    MineError
        If there is no control, or a NaN.
    """
    if not len(controls) or np.isnan(controls).any() or np.isnan(observed).any():
        raise MineError(f"{len(controls)} controls were given; at least one is needed, and no value may be NaN.")
    direction = np.sign(observed)
    rank = 1 + (controls * direction >= np.abs(observed)).sum(axis=0)
    return rank / (1 + len(controls)), rank


def bootstrap_mean_interval(
    values: Float[np.ndarray, " sample"], rng: np.random.Generator, n: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979, 10.1214/aos/1176344552).

    Resamples entries with replacement: it holds for independent entries; neighbouring voxels are not, so an interval over
    voxels speaks of these voxels and not of another brain.

    Raises
    ------
    MineError
        If there are fewer than two values, a NaN, or a level not between 0 and 1.
    """
    if len(values) < 2 or np.isnan(values).any() or not 0 < level < 1 or n < 1:
        raise MineError(
            f"{len(values)} values ({int(np.isnan(values).sum())} NaN), {n} resamples and level {level} were given; "
            "at least 2 values without NaN, 1 resample and a level between 0 and 1 are needed."
        )
    exact = np.asarray(values, np.float64)
    means = np.array([exact[rng.integers(0, len(exact), len(exact))].mean() for _ in range(n)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def t_interval(values: Float[np.ndarray, " sample"], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean: mean -+ t(1/2 + level/2, n - 1) sd / sqrt(n), sd with n - 1 (Student 1908, 10.2307/2331554).

    For a handful of independent and roughly normal values, too few to be drawn from again: a bootstrap of three is far too narrow.

    Raises
    ------
    MineError
        If there are fewer than two values, one that is not finite, or a level not between 0 and 1.
    """
    exact = np.asarray(values, np.float64)
    if len(exact) < 2 or not np.isfinite(exact).all() or not 0 < level < 1:
        raise MineError(
            f"{len(exact)} values ({int((~np.isfinite(exact)).sum())} not finite) and level {level} were given; "
            "at least 2 finite values and a level between 0 and 1 are needed."
        )
    half = float(stats.t.ppf(0.5 + level / 2, len(exact) - 1)) * float(exact.std(ddof=1)) / np.sqrt(len(exact))
    return float(exact.mean() - half), float(exact.mean() + half)


def resample_counts(n_samples: int, n_resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "resample sample"]:
    """How often each sample is drawn when as many are drawn with replacement: sums over draws are `counts @ values`.

    Raises
    ------
    MineError
        If there are fewer than two samples, or no resample.
    """
    if n_samples < 2 or n_resamples < 1:
        raise MineError(f"{n_resamples} resamples of {n_samples} were asked for; at least 1 of 2 is needed.")
    return rng.multinomial(n_samples, np.full(n_samples, 1 / n_samples), size=n_resamples).astype(np.float64)


def basic_interval(
    observed: Float[np.ndarray, " column"], drawn: Float[np.ndarray, "resample column"], level: float
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Basic bootstrap interval of each column: [2 observed - high quantile, 2 observed - low quantile] of what was drawn.

    A statistic that resamples find lower than the observed one, as R2 is, is itself too low by about as much: this
    interval makes up for it, where one of plain percentiles counts the bias twice (of means of R2 over voxels it covers a third
    to three quarters instead of 95 %). The observed value may lie near one end of it, or beyond.

    Resamples in which a column is undefined (NaN) are left out; both ends are NaN where that is more than half of them, or
    where nothing was observed.

    Raises
    ------
    MineError
        If the level is not between 0 and 1.

    References
    ----------
    Davison and Hinkley (1997), 10.1017/CBO9780511802843 (section 5.2).
    """
    if not 0 < level < 1:
        raise MineError(f"A level of {level} was given; it must be between 0 and 1.")
    quantiles = np.full((2, len(observed)), np.nan)
    ends, undefined = [(1 + level) / 2, (1 - level) / 2], np.isnan(drawn).sum(axis=0)
    whole = undefined == 0
    quantiles[:, whole] = np.quantile(drawn[:, whole], ends, axis=0)
    for column in np.flatnonzero(~whole & (2 * undefined <= len(drawn))):
        quantiles[:, column] = np.quantile(drawn[~np.isnan(drawn[:, column]), column], ends)
    low, high = 2 * observed - quantiles
    return low, high


def standardise_columns(values: Float[np.ndarray, "sample column"], name: str) -> Float[np.ndarray, "sample column"]:
    """Give every column mean 0 and length 1, so that a product of two such columns is their correlation.

    Raises
    ------
    MineError
        If a value is not finite, or a column is constant: its correlation with anything is undefined.
    """
    unfit = ~np.isfinite(values).all(axis=0)
    if unfit.any():
        raise MineError(f"`{name}` has {int(unfit.sum())} columns with NaN or infinity (first: {int(np.argmax(unfit))}).")
    centred = values - values.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=0)
    # a constant column is left with rounding error alone
    constant = length <= 1e-12 * np.abs(values).max(axis=0, initial=0) * np.sqrt(len(values))
    if constant.any():
        raise MineError(
            f"`{name}` has {int(constant.sum())} constant columns (first: {int(np.argmax(constant))}); a correlation with "
            "them is undefined. Leave them out."
        )
    return centred / length


def pearson_columns(a: Float[np.ndarray, "sample column"], b: Float[np.ndarray, "sample column"]) -> Float[np.ndarray, " column"]:
    """Pearson correlation of each column of `a` with the same column of `b`, between -1 and 1.

    Raises
    ------
    MineError
        If a value is not finite or a column is constant.
    """
    r = np.einsum("sc,sc->c", standardise_columns(a, "a"), standardise_columns(b, "b"))
    # rounding may carry a perfect correlation past 1 by an ulp
    return np.clip(r, -1.0, 1.0)


def share_interval(right: Bool[np.ndarray, " trial"] | Float[np.ndarray, " trial"]) -> tuple[float, float]:
    """95 % interval of the share of independent trials that came out right (Wilson 1927, 10.1080/01621459.1927.10502953).

    It has a width where none or all did, which resampling gives none. Raises MineError without a trial.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not len(right):
        raise MineError("A share of no trials has no interval; give one trial at least.")
    low, high = proportion_confint(int(np.count_nonzero(right)), len(right), method="wilson")
    share = np.count_nonzero(right) / len(right)  # the ends are off it by rounding where it is 0 or 1
    return min(float(low), share), max(float(high), share)
