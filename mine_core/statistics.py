"""Nulls and uncertainties: permutation p-values, false discovery rates, bootstrap intervals, ranks among controls."""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from mine_core.errors import MineError


def benjamini_hochberg(p: Float[np.ndarray, "*tests"]) -> Float[np.ndarray, "*tests"]:
    """False discovery rate at which each test would be called (Benjamini and Hochberg 1995, 10.1111/j.2517-6161.1995.tb02031.x).

    q_(i) = min_{j >= i} p_(j) n / j, over all entries of `p` together. Valid under independence or positive dependence.

    Raises
    ------
    MineError
        If a p is not between 0 and 1, or there is none.
    """
    if not p.size or not ((p >= 0) & (p <= 1)).all():
        raise MineError(f"{p.size} p-values were given, of which {int((~((p >= 0) & (p <= 1))).sum())} are not within 0 to 1.")
    return stats.false_discovery_control(p.ravel(), method="bh").reshape(p.shape)


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
