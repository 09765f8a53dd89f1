"""Ridge regression from the pooled embedding to every voxel, each with a penalty of its own.

With no more features than stimuli to train on, all is done from sums over folds (`gram`); with more, from products among
stimuli.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import KFold

from mine_core.encoding.alignment import check_disjoint, check_positions, check_same_stimuli
from mine_core.encoding.blocks import blocks_of, each, each_block
from mine_core.encoding.gram import CONSTANT, Check, GramFit, Solution, Take, moments
from mine_core.errors import EncodingError
from mine_core.types import EncodingModel, Features, IsCancelled, OnProgress, Responses, Splits

ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 6, 12))
VOXELS_PER_BLOCK = 1024


@dataclass(frozen=True)
class RidgeSolver:
    """The part of a ridge solution that no response and no penalty changes.

    coef = left @ diag(1 / (eigenvalues + alpha)) @ (right @ Y), from one eigendecomposition of X'X or of XX', whichever
    is smaller.
    """

    left: Float[np.ndarray, "feature component"]
    eigenvalues: Float[np.ndarray, " component"]
    right: Float[np.ndarray, "component stimulus"]

    @classmethod
    def of(cls, X: Float[np.ndarray, "stimulus feature"]) -> "RidgeSolver":
        """Decompose, in float64."""
        X = np.asarray(X, np.float64)
        n_stimuli, n_features = X.shape
        if n_stimuli >= n_features:
            eigenvalues, axes = np.linalg.eigh(X.T @ X)
            return cls(axes, np.maximum(eigenvalues, 0), axes.T @ X.T)
        eigenvalues, axes = np.linalg.eigh(X @ X.T)
        return cls(X.T @ axes, np.maximum(eigenvalues, 0), axes.T)


def solve_ridge(
    X: Float[np.ndarray, "stimulus feature"],
    Y: Float[np.ndarray, "stimulus voxel"],
    alphas: float | Float[np.ndarray, " voxel"],
) -> Float[np.ndarray, "feature voxel"]:
    """Solve ridge regression without an intercept, with one penalty for all voxels or one for each.

    b_v = argmin_b ||Y_v - X b||^2 + alpha_v ||b||^2

    Raises
    ------
    EncodingError
        If a value is not finite, or a penalty is not above 0.
    """
    check_finite("X", X)
    check_finite("Y", Y)
    penalties = np.broadcast_to(np.asarray(alphas, np.float64), Y.shape[1])
    check_alphas(penalties)
    solver = RidgeSolver.of(X)
    return solver.left @ ((solver.right @ Y) / (solver.eigenvalues[:, None] + penalties))


@dataclass(frozen=True)
class Fold:
    """One part of cross-validation, with the products over features done: blocks of voxels pass through it in float32."""

    train: Int[np.ndarray, " train"]
    held_out: Int[np.ndarray, " held_out"]
    eigenvalues: Float[np.ndarray, " component"]
    right: Float[np.ndarray, "component train"]
    held_out_axes: Float[np.ndarray, "held_out component"]

    @classmethod
    def of(
        cls, X: Float[np.ndarray, "stimulus feature"], train: Int[np.ndarray, " train"], held_out: Int[np.ndarray, " held"]
    ) -> "Fold":
        """Decompose the training part, standardised by itself."""
        mean, sd, _ = moments(X[train])
        solver = RidgeSolver.of((X[train] - mean) / sd)
        held_out_axes = ((X[held_out] - mean) / sd) @ solver.left
        return cls(train, held_out, solver.eigenvalues, solver.right.astype(np.float32), held_out_axes.astype(np.float32))

    def errors(self, Y: Float[np.ndarray, "stimulus voxel"], alphas: Float[np.ndarray, " alpha"]) -> Float[np.ndarray, "alpha voxel"]:
        """Squared error on the held-out stimuli, of each penalty and voxel."""
        average = Y[self.train].mean(axis=0)
        projected = self.right @ (Y[self.train] - average).astype(np.float32)
        truth = (Y[self.held_out] - average).astype(np.float32)
        errors = np.empty((len(alphas), Y.shape[1]))
        for row, alpha in enumerate(alphas):
            residual = (self.held_out_axes * (1 / (self.eigenvalues + alpha)).astype(np.float32)) @ projected
            residual -= truth
            errors[row] = np.einsum("sv,sv->v", residual, residual)
        return errors


@dataclass(frozen=True)
class DualFit:
    """Everything about ridge regression with cross-validation that no response changes, for more features than stimuli."""

    folds: tuple[Fold, ...]
    solver: RidgeSolver
    sd: Float[np.ndarray, " feature"]
    alphas: Float[np.ndarray, " alpha"]

    @classmethod
    def of(cls, X: Float[np.ndarray, "stimulus feature"], folds: int, alphas: Sequence[float]) -> "DualFit":
        """Decompose XX' of each training part and of all of them."""
        mean, sd, varies = moments(X)
        Z = (X - mean) * (varies / sd)
        splits = list(KFold(folds).split(X))
        made: list[Any] = each(lambda fold: RidgeSolver.of(Z) if fold < 0 else Fold.of(X, *splits[fold]), range(-1, folds))
        return cls(tuple(made[1:]), made[0], sd, np.asarray(alphas, np.float64))

    def fit(self, take: Take, check: Check) -> Solution:
        """Choose each voxel's penalty by the squared error summed over held-out folds, and solve with it."""
        Y = np.asarray(take(slice(None)), np.float64)
        check(Y)
        average, unit = Y.mean(axis=0), Y.std(axis=0)
        Y = (Y - average) / unit
        errors = sum(fold.errors(Y, self.alphas) for fold in self.folds)
        chosen = self.alphas[np.argmin(errors, axis=0)]
        solver = self.solver
        scaled = (solver.right @ Y) / (solver.eigenvalues[:, None] + chosen)
        # the columns of X @ left are orthogonal, and their squared lengths are the eigenvalues times those of left's
        lengths = solver.eigenvalues * np.einsum("fc,fc->c", solver.left, solver.left)
        spread = np.sqrt(np.einsum("c,cv,cv->v", lengths, scaled, scaled) / len(Y))
        return Solution(chosen, (solver.left @ scaled) * (unit / self.sd[:, None]), average, unit * spread)


def fit_ridge(
    features: Features,
    responses: Responses,
    splits: Splits,
    alphas: Sequence[float] = ALPHAS,
    folds: int = 5,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> EncodingModel:
    """Fit every voxel on the training stimuli, its penalty chosen by cross-validation among them.

    prediction = pooled @ coef + intercept; features are standardised over the training stimuli for the fit, and the
    standardisation is folded into `coef` and `intercept` (float32). A feature that does not vary gets the coefficient 0.

    Parameters
    ----------
    alphas : penalties to choose from, for standardised features and responses in their own units.
    folds : contiguous parts of the training stimuli.

    Raises
    ------
    AlignmentError
        If features and responses differ in their stimuli or the order of them, or splits overlap.
    EncodingError
        If a training value is not finite or beyond float32, a voxel's responses do not vary, or a penalty is not above 0.
    Cancelled
        When `cancelled()` becomes True between blocks of voxels.

    Notes
    -----
    A linear read-out shows what of the embedding predicts a voxel, not what the voxel computes; correlated features share
    a weight among them. Validation and test stimuli are not looked at.

    Blocks of voxels are worked through on all cores, each response read once into sums over folds; beside the responses and
    the coefficients only what a block needs is held. Responses of half precision are summed in single precision. Where that
    is shown to be harmless (see `Design.of`), products with responses are done in single precision, else in double. Voxels
    that two penalties predict alike, to about 1e-6 of their variance, may get either.

    References
    ----------
    Hoerl and Kennard (1970), 10.1080/00401706.1970.10488634.
    """
    check_same_stimuli(features, responses)
    check_disjoint(splits)
    check_positions("train", splits.train, len(features.stimulus_ids), at_least=2 * folds)
    check_folds(folds, len(splits.train))
    check_alphas(alphas)
    X = np.asarray(features.pooled[splits.train], np.float64)
    check_finite("features", X)
    n_voxels = responses.values.shape[1]
    coef = np.empty((X.shape[1], n_voxels), np.float32)
    intercept, alpha, prediction_sd = (np.empty(n_voxels, np.float32) for _ in range(3))
    mean, smallest_part = X.mean(axis=0), len(X) - -(-len(X) // folds)
    fit = (GramFit if X.shape[1] <= smallest_part else DualFit).of(X, folds, alphas)

    def work(block: slice) -> None:
        solved = fit.fit(lambda rows: responses.values[splits.train[rows], block], lambda Y: check_responses(Y, block.start))
        coef[:, block], alpha[block], prediction_sd[block] = solved.weights, solved.alpha, solved.prediction_sd
        intercept[block] = solved.average - mean @ coef[:, block]

    each_block(work, blocks_of(n_voxels, VOXELS_PER_BLOCK), "fitting voxels", on_progress, cancelled)
    record = _provenance(alphas, folds, len(X), alpha)
    return EncodingModel("ridge", coef, intercept, alpha, prediction_sd, responses.voxels, features.backbone, record)


def _provenance(alphas: Sequence[float], folds: int, n_train: int, chosen: Float[np.ndarray, " voxel"]) -> dict:
    """What the fit was made of; voxels at the ends of the grid show whether it was wide enough."""
    return {
        "alphas": [float(alpha) for alpha in alphas],
        "folds": folds,
        "n_train": n_train,
        "voxels_at_smallest_alpha": int((chosen == np.float32(min(alphas))).sum()),
        "voxels_at_largest_alpha": int((chosen == np.float32(max(alphas))).sum()),
    }


def check_folds(folds: int, n_stimuli: int) -> None:
    """Raise EncodingError unless there are two folds at least, of two stimuli each at least."""
    if folds < 2 or n_stimuli < 2 * folds:
        raise EncodingError(f"{folds} folds of {n_stimuli} stimuli were asked for; at least 2 folds of 2 stimuli are needed.")


def check_alphas(alphas: Sequence[float] | Float[np.ndarray, " alpha"]) -> None:
    """Raise EncodingError unless there is a penalty, and every one is finite and above 0."""
    grid = np.asarray(alphas, np.float64)
    if not grid.size or not ((grid > 0) & np.isfinite(grid)).all():
        found = f"from {grid.min():g} to {grid.max():g}" if grid.size else "none"
        raise EncodingError(f"Penalties {found} were given; at least one is needed, each finite and above 0.")


def check_finite(name: str, values: Float[np.ndarray, "stimulus column"], first_column: int = 0) -> None:
    """Raise EncodingError if a value is NaN or infinite."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise EncodingError(
            f"`{name}` has {int(wrong.sum())} values that are NaN or infinite (first: row {row}, column {first_column + column}); "
            "leave those stimuli or voxels out."
        )


def check_responses(Y: Float[np.ndarray, "stimulus voxel"], first_voxel: int, split: str = "training") -> None:
    """Raise EncodingError if a value is not finite, is beyond float32, or a voxel does not vary."""
    check_finite("responses", Y, first_voxel)
    peak = np.abs(Y).max(axis=0)
    if peak.max() > np.finfo(np.float32).max:
        first = first_voxel + int(np.argmax(peak))
        raise EncodingError(f"`responses` reach {peak.max():.3g} (voxel {first}); give them in units that float32 can hold.")
    still = Y.std(axis=0, dtype=np.float64) <= CONSTANT * peak
    if still.any():
        first = first_voxel + int(np.argmax(still))
        raise EncodingError(
            f"{int(still.sum())} voxels do not vary over the {len(Y)} {split} stimuli (first: {first}); leave them out."
        )
