"""How much a condition changes a value, where the same voxels and images come again: mixed models, and nulls that keep the pairs."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mine_core.errors import MineError
from mine_core.statistics import resample_counts

LEVEL, N_RESAMPLES, N_PERMUTATIONS = 0.05, 2000, 2000
LEAST_VOXELS, LEAST_ROWS = 4, 8
COMPONENTS = ("voxel", "image", "voxel by condition", "residual")
OF_PAIRS = ("voxel by condition", "image by condition", "residual of differences")
Method = Literal["mixed model", "two-way cluster bootstrap"]


@dataclass(frozen=True)
class Effect:
    """Mean change of a value from the reference to the treated condition, with a 95 % interval.

    `sd` holds the SDs of the random effects and of what is left, in the unit of the value (empty for a bootstrap); `converged` says
    whether the mixed model did; `method` is what made the interval.
    """

    estimate: float
    low: float
    high: float
    method: Method
    converged: bool
    sd: dict[str, float]
    n: int
    n_voxels: int
    n_images: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes no change."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "interval": [self.low, self.high]}


class Rows(NamedTuple):
    """One value an entry: whether it was measured under the treated condition, and of which voxel and image."""

    value: Float[np.ndarray, " row"]
    treated: Bool[np.ndarray, " row"]
    voxel: Int[np.ndarray, " row"]
    image: Int[np.ndarray, " row"]


def condition_effect(rows: Rows, rng: np.random.Generator) -> Effect:
    """Fixed effect of a condition, with voxels and images as crossed random effects.

    Where both conditions were measured once in each pair of voxel and image, of the differences, from which all that a voxel, an
    image and their pair have in common is gone:

    d_vi = y_vi(treated) - y_vi(reference) = b + s_v + t_i + e_vi

    otherwise, with x = -1/2 (reference) or +1/2 (treated):

    y_j = b0 + b x_j + u_voxel(j) + w_image(j) + x_j s_voxel(j) + e_j

    All but b and b0 are normal with SDs of their own, by restricted maximum likelihood; s is how differently voxels change, without
    which the interval speaks of these voxels alone. The interval of b is Student's, with n_voxels - 1 degrees of freedom. Where the
    fit does not converge, `method` says so and the interval is of a bootstrap that draws voxels and images anew, each whole.

    Parameters
    ----------
    rows : at least 8 of at least 4 voxels, finite, some of them under each condition.

    Raises
    ------
    MineError
        If there are fewer, a value is not finite, or a condition is empty.

    Notes
    -----
    Neighbouring voxels share noise, so they are not as independent as the model takes them for: the interval speaks of voxels drawn
    from this subject as these were, and not of another brain.

    References
    ----------
    Baayen, Davidson, Bates (2008), 10.1016/j.jml.2007.12.005; slopes: Barr et al. (2013), 10.1016/j.jml.2012.11.001; bootstrap of
    crossed factors: Owen (2007), 10.1214/07-AOAS122.
    """
    _require(rows)
    counts = {"n": len(rows.value), "n_voxels": len(np.unique(rows.voxel)), "n_images": len(np.unique(rows.image))}
    fitted = _mixed_model(rows)
    if fitted is None:
        estimate = _difference(rows, np.ones(len(rows.value)))
        low, high = _cluster_bootstrap(rows, rng)
        return Effect(estimate, low, high, "two-way cluster bootstrap", False, {}, **counts)
    estimate, error, sd = fitted
    reach = float(stats.t.ppf(1 - LEVEL / 2, counts["n_voxels"] - 1)) * error
    return Effect(estimate, estimate - reach, estimate + reach, "mixed model", True, sd, **counts)


def _require(rows: Rows) -> None:
    n_voxels, bad = len(np.unique(rows.voxel)), int((~np.isfinite(rows.value)).sum())
    n_treated = int(rows.treated.sum())
    if len(rows.value) < LEAST_ROWS or n_voxels < LEAST_VOXELS or bad or not 0 < n_treated < len(rows.value):
        raise MineError(
            f"{len(rows.value)} values of {n_voxels} voxels were given, {n_treated} under the condition, {bad} not finite; at least "
            f"{LEAST_ROWS} finite ones of {LEAST_VOXELS} voxels are needed, some under each condition. Take more voxels or images."
        )


def _mixed_model(rows: Rows) -> tuple[float, float, dict[str, float]] | None:
    """Estimate, standard error and SDs of the components; None where it does not converge."""
    pairs = _differences(rows)
    if pairs is not None:
        value, by_voxel, by_image = pairs
        return _fitted(value, np.ones((len(value), 1)), dict(zip(OF_PAIRS, (by_voxel, by_image), strict=False)), OF_PAIRS[-1])
    x = np.where(rows.treated, 0.5, -0.5)
    by_voxel, by_image = (_indicators(labels) for labels in (rows.voxel, rows.image))
    designs = dict(zip(COMPONENTS, (by_voxel, by_image, by_voxel * x[:, None]), strict=False))
    return _fitted(rows.value, np.stack([np.ones(len(x)), x], axis=1), designs, COMPONENTS[-1])


def _differences(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Treated less reference in each pair of voxel and image, and whose they are; None unless each was measured once under both."""
    keys = np.stack([rows.voxel, rows.image], axis=1)
    (treated, first), (reference, second) = (np.unique(keys[side], axis=0, return_index=True) for side in (rows.treated, ~rows.treated))
    if len(first) + len(second) < len(rows.value) or not np.array_equal(treated, reference):
        return None
    value = rows.value[rows.treated][first] - rows.value[~rows.treated][second]
    return value, _indicators(treated[:, 0]), _indicators(treated[:, 1])


def _fitted(
    value: Float[np.ndarray, " row"], exog: Float[np.ndarray, "row effect"], designs: dict[str, np.ndarray], left: str
) -> tuple[float, float, dict[str, float]] | None:
    """Last fixed effect, its standard error, and SDs of the random effects and of what is left."""
    import warnings

    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    names = [[[f"{name} {i}" for i in range(each.shape[1])]] for name, each in designs.items()]
    spec = VCSpec(list(designs), names, [[each] for each in designs.values()])
    spread = float(np.std(value)) or 1.0  # optimised in units of the spread, so that the scale of the value does not matter
    model = MixedLM(value / spread, exog, np.zeros(len(value), int), exog_vc=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a component at zero is no fault; what failed is seen below
        try:
            fit = model.fit(reml=True, method=["lbfgs", "powell"])
        except (np.linalg.LinAlgError, ValueError):
            return None
        error = float(fit.bse[exog.shape[1] - 1]) if fit.converged else np.nan
    variances = np.array([*np.asarray(fit.vcomp, np.float64), float(fit.scale)])
    if not (np.isfinite(error) and error > 0 and np.isfinite(variances).all()):
        return None
    sd = {name: float(spread * np.sqrt(max(part, 0.0))) for name, part in zip((*designs, left), variances, strict=True)}
    return float(fit.fe_params[-1]) * spread, error * spread, sd


def _indicators(labels: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row label"]:
    names, place = np.unique(labels, return_inverse=True)
    return np.eye(len(names))[place]


def _difference(rows: Rows, weight: Float[np.ndarray, " row"]) -> float:
    """Weighted mean of treated values less that of the others; NaN where one side weighs nothing."""
    sides = [np.where(side, weight, 0.0) for side in (rows.treated, ~rows.treated)]
    if min(side.sum() for side in sides) <= 0:
        return float("nan")
    treated, other = (float(side @ rows.value / side.sum()) for side in sides)
    return treated - other


def _cluster_bootstrap(rows: Rows, rng: np.random.Generator) -> tuple[float, float]:
    drawn = []
    places = [np.unique(labels, return_inverse=True) for labels in (rows.voxel, rows.image)]
    counts = [resample_counts(max(len(names), 2), N_RESAMPLES, rng)[:, : len(names)] for names, _ in places]
    for by_voxel, by_image in zip(*counts, strict=True):
        drawn.append(_difference(rows, by_voxel[places[0][1]] * by_image[places[1][1]]))
    low, high = np.nanquantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


class Null(NamedTuple):
    """What the difference of conditions is where their names are dealt out at random: 95 % of draws, and the two-sided p."""

    low: float
    high: float
    p: float


def exchanged(rows: Rows, within: Int[np.ndarray, " row"], rng: np.random.Generator) -> Null:
    """Null of the difference of means: the names of the conditions are dealt out anew within each of the groups `within`.

    Groups are the pairs of voxel and image where both conditions were measured there, the voxels where they were not.
    p = (1 + #{|drawn| >= |observed|}) / (1 + n), n = 2,000 draws.
    """
    observed, dealt = _difference(rows, np.ones(len(rows.value))), np.empty((N_PERMUTATIONS, len(rows.value)), bool)
    for name in np.unique(within):
        group = np.flatnonzero(within == name)
        order = rng.random((N_PERMUTATIONS, len(group))).argsort(axis=1)
        dealt[:, group] = rows.treated[group][order]
    n_treated, total = int(rows.treated.sum()), float(rows.value.sum())
    treated = dealt @ rows.value
    drawn = treated / n_treated - (total - treated) / (len(rows.value) - n_treated)
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    p = (1 + int((np.abs(drawn) >= abs(observed) - 1e-12).sum())) / (1 + N_PERMUTATIONS)
    return Null(float(low), float(high), p)
