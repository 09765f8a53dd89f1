"""Ridge regression from sums over folds: no response is looked at more than once, however many folds and penalties there are.

The products X'X and X'Y of a training part are sums over the folds that it is made of, and the error on a held-out fold is a
quadratic form in its own X'X. Sums are kept about each fold's mean and joined by the means' differences (Chan, Golub and
LeVeque 1983, 10.1080/00031305.1983.10483115), so nothing large is subtracted from anything large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import KFold

from mine_core.encoding.blocks import each

Take = Callable[[slice], np.ndarray]
Check = Callable[[np.ndarray], None]
STRIP = 64
LARGEST_ROUNDING = 1e-4
CONSTANT = 1e-10
# the mean square of a block in float32: outside, the block is looked at and standardised in float64
SMALLEST_SQUARE, LARGEST_SQUARE, SMALLEST_SHARE = 1e-20, 1e20, 1e-8


@dataclass(frozen=True)
class Part:
    """A training part in the axes of its X'X, and the held-out fold as a quadratic form in them for every penalty.

    error(alpha) = sum y^2 - 2 b'd + b'K b with b = p / (eigenvalues + alpha), p = axes' X'Y of the training part, and
    d = axes' X'Y, K = axes' X'X axes of the held-out fold. `forms` hold K for each penalty with b's divisors multiplied in,
    the upper triangle alone, in strips of rows.
    """

    fold: int
    axes: Float[np.ndarray, "component feature"]
    divisors: Float[np.ndarray, "alpha component"]
    forms: tuple[Float[np.ndarray, "_ _"], ...]

    def errors(
        self, trained: Float[np.ndarray, "feature voxel"], held_out: Float[np.ndarray, "feature voxel"]
    ) -> Float[np.ndarray, "alpha voxel"]:
        """Squared error on the held-out fold less the squares of the responses, which no penalty changes."""
        projected = self.axes @ trained
        errors = self.divisors @ (projected * (self.axes @ held_out))
        errors *= -2
        n_alphas, n_components = self.divisors.shape
        for strip, form in zip(range(0, n_components, STRIP), self.forms, strict=True):
            rows = projected[strip : strip + STRIP]
            product = (form @ projected[strip:]).reshape(n_alphas, *rows.shape)
            errors += np.einsum("acv,cv->av", product, rows)
        return errors


@dataclass(frozen=True)
class Whole:
    """All training stimuli in the axes of their X'X: coef = axes' @ diag(1 / (eigenvalues + alpha)) @ axes @ X'Y."""

    axes: Float[np.ndarray, "component feature"]
    eigenvalues: Float[np.ndarray, " component"]

    def solve(
        self, crossed: Float[np.ndarray, "feature voxel"], alphas: Float[np.ndarray, " voxel"]
    ) -> tuple[Float[np.ndarray, "feature voxel"], Float[np.ndarray, " voxel"]]:
        """Coefficients of standardised features, and the sum of squares of the predictions."""
        scaled = self.axes @ crossed
        scaled /= (self.eigenvalues[:, None] + alphas).astype(scaled.dtype)
        return self.axes.T @ scaled, np.einsum("c,cv,cv->v", self.eigenvalues, scaled, scaled, dtype=np.float64)


@dataclass(frozen=True)
class Crossed:
    """Sums over each fold of a block of responses: response = centre + unit * y; products are X'y about the fold's mean."""

    products: Float[np.ndarray, "fold feature voxel"]
    means: Float[np.ndarray, "fold voxel"]
    centre: Float[np.ndarray, " voxel"]
    unit: Float[np.ndarray, " voxel"]


@dataclass(frozen=True)
class Solution:
    """A block of voxels solved: prediction = average + (features - their mean) @ weights, in the responses' own units."""

    alpha: Float[np.ndarray, " voxel"]
    weights: Float[np.ndarray, "feature voxel"]
    average: Float[np.ndarray, " voxel"]
    prediction_sd: Float[np.ndarray, " voxel"]


@dataclass(frozen=True)
class Design:
    """Training features, standardised over all training stimuli, as sums over each fold.

    `means[fold]` and `within[fold]` are a fold's mean and its X'X about that mean (float64), `centred[fold]` its features
    about it, in the precision that responses are met in, and `peaks[fold]` the largest size of each feature before its mean
    was taken off, in SD. A feature that does not vary is 0 throughout.
    """

    mean: Float[np.ndarray, " feature"]
    sd: Float[np.ndarray, " feature"]
    rows: tuple[slice, ...]
    counts: Int[np.ndarray, " fold"]
    means: Float[np.ndarray, "fold feature"]
    within: Float[np.ndarray, "fold feature feature"]
    peaks: Float[np.ndarray, "fold feature"]
    centred: tuple[Float[np.ndarray, "_ feature"], ...]

    @classmethod
    def of(cls, X: Float[np.ndarray, "stimulus feature"], folds: int, smallest_alpha: float) -> "Design":
        """Standardise and sum in float64, and keep float32 for the responses where that is harmless.

        With unit roundoff u, rounding X'y moves the predictions of all training stimuli by about u ||X|| ||y|| /
        (2 sqrt(alpha)) at most, for s / (s^2 + alpha) is at most 1 / (2 sqrt(alpha)) for any singular value s of X. Where that
        may be above 1e-4 of the response, or a training part has more features than stimuli, so that held-out stimuli lie in
        directions that it knows nothing of, everything is done in float64.
        """
        mean, sd, varies = moments(X)
        rows = tuple(slice(int(held[0]), int(held[-1]) + 1) for _, held in KFold(folds).split(X))
        Z = (X - mean) * (varies / sd)
        means = np.stack([Z[fold].mean(axis=0) for fold in rows])
        parts = [Z[fold] - average for fold, average in zip(rows, means, strict=True)]
        within = np.stack(each(lambda part: part.T @ part, parts))
        counts = np.array([len(part) for part in parts])
        gram, _, _ = join(within, means, means, counts)
        # no eigenvalue is above the largest sum of a row's sizes
        rounding = 2.0**-24 * np.sqrt(np.abs(gram).sum(axis=0).max() / smallest_alpha) / 2
        enough = len(Z) - counts.max() >= X.shape[1]
        dtype = np.float32 if enough and rounding <= LARGEST_ROUNDING else np.float64
        peaks = np.stack([np.abs(X[fold]).max(axis=0) / sd for fold in rows])
        return cls(mean, sd, rows, counts, means, within, peaks, tuple(part.astype(dtype) for part in parts))

    @property
    def dtype(self) -> np.dtype:
        """Precision in which responses are met."""
        return self.centred[0].dtype

    def whole(self, weights: Float[np.ndarray, " feature"] | None = None) -> Whole:
        """Decompose X'X over all training stimuli, each feature scaled by its weight."""
        gram, _, _ = join(self.within, self.means, self.means, self.counts)
        scale = (np.diag(gram) > 0) * (1.0 if weights is None else weights)
        eigenvalues, axes = np.linalg.eigh(scale[:, None] * gram * scale)
        return Whole((scale[:, None] * axes).T.astype(self.dtype), np.maximum(eigenvalues, 0))

    def part(self, fold: int, alphas: Float[np.ndarray, " alpha"], weights: Float[np.ndarray, " feature"] | None = None) -> Part:
        """Decompose X'X of all folds but one, standardised over them and then scaled, and turn the held-out fold's into it."""
        kept = np.delete(np.arange(len(self.counts)), fold)
        gram, mean, _ = join(self.within[kept], self.means[kept], self.means[kept], self.counts[kept])
        sd = np.sqrt(np.diag(gram) / self.counts[kept].sum())
        varies = sd > CONSTANT * self.peaks[kept].max(axis=0)
        scale = varies / np.where(varies, sd, 1.0) * (1.0 if weights is None else weights)
        eigenvalues, axes = np.linalg.eigh(scale[:, None] * gram * scale)
        turn = scale[:, None] * axes
        apart = self.means[fold] - mean
        form = turn.T @ (self.within[fold] + self.counts[fold] * np.outer(apart, apart)) @ turn
        divisors = 1 / (np.maximum(eigenvalues, 0) + alphas[:, None])
        strips = tuple(_strip(form, divisors, start).astype(self.dtype) for start in range(0, len(form), STRIP))
        return Part(fold, turn.T.astype(self.dtype), divisors.astype(self.dtype), strips)

    def cross(self, take: Take, check: Check) -> Crossed:
        """Sum a block of responses over each fold, where `take(rows)` are those of some of the training stimuli.

        What looks odd in float32 is given to `check` in float64, which may refuse it, and is standardised in float64.
        """
        centre = _as_float(take(self.rows[0])).mean(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            crossed, square = self._sums(take, centre)
            sound = (square > SMALLEST_SHARE * centre**2) & (square > SMALLEST_SQUARE) & (square < LARGEST_SQUARE)
        if sound.all():
            return crossed
        Y = np.concatenate([take(fold) for fold in self.rows]).astype(np.float64)
        check(Y)
        centre, unit = Y.mean(axis=0), Y.std(axis=0)
        Y = (Y - centre) / unit
        crossed, _ = self._sums(lambda fold: Y[fold], np.zeros(len(unit)))
        return replace(crossed, centre=centre, unit=unit)

    def _sums(self, take: Take, centre: Float[np.ndarray, " voxel"]) -> tuple[Crossed, Float[np.ndarray, " voxel"]]:
        n_voxels = len(centre)
        products = np.empty((len(self.rows), len(self.mean), n_voxels), self.dtype)
        means, square = np.empty((len(self.rows), n_voxels)), np.zeros(n_voxels)
        for fold, rows in enumerate(self.rows):
            y = (_as_float(take(rows)) - centre).astype(self.dtype, copy=False)
            means[fold] = y.mean(axis=0)
            square += np.einsum("sv,sv->v", y, y)
            np.matmul(self.centred[fold].T, y, out=products[fold])
        return Crossed(products, means, centre.astype(np.float64), np.ones(n_voxels)), square / self.counts.sum()

    def errors(self, parts: Sequence[Part], crossed: Crossed) -> Float[np.ndarray, "alpha voxel"]:
        """Squared error of each penalty summed over held-out folds (float64), less a constant for each voxel."""
        return np.stack([self._errors(part, crossed) for part in parts]).sum(axis=0, dtype=np.float64)

    def _errors(self, part: Part, crossed: Crossed) -> Float[np.ndarray, "alpha voxel"]:
        fold, kept = part.fold, np.delete(np.arange(len(self.counts)), part.fold)
        trained, mean, average = join(
            [crossed.products[other] for other in kept], self.means[kept], crossed.means[kept], self.counts[kept]
        )
        apart = (self.counts[fold] * (self.means[fold] - mean)).astype(self.dtype)
        held_out = np.outer(apart, (crossed.means[fold] - average).astype(self.dtype))
        held_out += crossed.products[fold]
        return part.errors(trained, held_out)

    def solve(self, whole: Whole, crossed: Crossed, alphas: Float[np.ndarray, " voxel"]) -> Solution:
        """Coefficients in the responses' own units for each voxel's penalty."""
        products, _, average = join(list(crossed.products), self.means, crossed.means, self.counts)
        coef, squares = whole.solve(products, alphas)
        weights = coef * crossed.unit
        weights /= self.sd[:, None]
        spread = crossed.unit * np.sqrt(squares / self.counts.sum())
        return Solution(alphas, weights, crossed.centre + crossed.unit * average, spread)


@dataclass(frozen=True)
class GramFit:
    """Everything about ridge regression with cross-validation that no response changes, for no more features than stimuli."""

    design: Design
    parts: tuple[Part, ...]
    whole: Whole
    alphas: Float[np.ndarray, " alpha"]

    @classmethod
    def of(cls, X: Float[np.ndarray, "stimulus feature"], folds: int, alphas: Sequence[float]) -> "GramFit":
        """Sum the features over folds and decompose each training part."""
        grid = np.asarray(alphas, np.float64)
        design = Design.of(X, folds, float(grid.min()))
        made: list[Any] = each(lambda fold: design.whole() if fold < 0 else design.part(fold, grid), range(-1, folds))
        return cls(design, tuple(made[1:]), made[0], grid)

    def fit(self, take: Take, check: Check) -> Solution:
        """Choose each voxel's penalty by the squared error summed over held-out folds, and solve with it."""
        crossed = self.design.cross(take, check)
        errors = self.design.errors(self.parts, crossed)
        return self.design.solve(self.whole, crossed, self.alphas[np.argmin(errors, axis=0)])


def product_operations(n_stimuli: int, n_features: int, n_voxels: int, folds: int, n_alphas: int) -> float:
    """Multiplications and additions in the matrix products that `GramFit.fit` does for so many voxels."""
    triangle = sum(min(STRIP, n_features - start) * (n_features - start) for start in range(0, n_features, STRIP))
    per_fold = 4 * n_features**2 + 2 * n_alphas * (triangle + n_features)
    return float(n_voxels) * (2 * n_stimuli * n_features + folds * per_fold + 4 * n_features**2)


def moments(
    X: Float[np.ndarray, "stimulus feature"],
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"], Bool[np.ndarray, " feature"]]:
    """Mean and SD of each feature and whether it varies; the SD of one that does not is 1, so that it can be divided by."""
    mean, sd = X.mean(axis=0), X.std(axis=0)
    varies = sd > CONSTANT * np.abs(X).max(axis=0)
    return mean, np.where(varies, sd, 1.0), varies


def join(
    products: Sequence[Float[np.ndarray, "feature column"]] | Float[np.ndarray, "fold feature column"],
    means: Float[np.ndarray, "fold feature"],
    other_means: Float[np.ndarray, "fold column"],
    counts: Int[np.ndarray, " fold"],
) -> tuple[Float[np.ndarray, "feature column"], Float[np.ndarray, " feature"], Float[np.ndarray, " column"]]:
    """Products about the joint means, and those means, from products of each fold about its own: X'Y = sum_f X_f'Y_f + n_f m_f m_f'."""
    mean, other = counts @ means / counts.sum(), counts @ other_means / counts.sum()
    between = ((means - mean) * counts[:, None]).T.astype(products[0].dtype) @ (other_means - other).astype(products[0].dtype)
    return reduce(np.add, products, between), mean, other


def _strip(
    form: Float[np.ndarray, "component component"], divisors: Float[np.ndarray, "alpha component"], start: int
) -> Float[np.ndarray, "rows columns"]:
    """Some rows of the upper triangle of a quadratic form for each penalty, what lies right of the diagonal block doubled."""
    rows = form[start : start + STRIP, start:].copy()
    rows[:, STRIP:] *= 2
    scaled = divisors[:, start : start + STRIP, None] * rows * divisors[:, None, start:]
    return scaled.reshape(-1, rows.shape[1])


def _as_float(values: np.ndarray) -> np.ndarray:
    """Values in which sums do not overflow: float16 as float32, all else as it is."""
    return np.asarray(values, np.float32) if values.dtype.itemsize < 4 else np.asarray(values)
