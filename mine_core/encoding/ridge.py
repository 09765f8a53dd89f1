"""Ridge regression from the pooled embedding to every voxel, each with a penalty of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import KFold

from mine_core.encoding.alignment import check_disjoint, check_positions, check_same_stimuli
from mine_core.errors import Cancelled, EncodingError
from mine_core.types import EncodingModel, Features, IsCancelled, OnProgress, Responses, Splits

ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 6, 12))
VOXELS_PER_BLOCK = 2048


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
    _check_finite("X", X)
    _check_finite("Y", Y)
    penalties = np.broadcast_to(np.asarray(alphas, np.float64), Y.shape[1])
    _check_alphas(penalties)
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

    def errors(self, Y: Float[np.ndarray, "stimulus voxel"], alphas: Sequence[float]) -> Float[np.ndarray, "alpha voxel"]:
        """Squared error on the held-out stimuli, of each penalty and voxel."""
        average = Y[self.train].mean(axis=0, dtype=np.float64)
        projected = self.right @ (Y[self.train] - average).astype(np.float32)
        truth = (Y[self.held_out] - average).astype(np.float32)
        errors = np.empty((len(alphas), Y.shape[1]))
        for row, alpha in enumerate(alphas):
            residual = (self.held_out_axes * (1 / (self.eigenvalues + alpha)).astype(np.float32)) @ projected
            residual -= truth
            errors[row] = np.einsum("sv,sv->v", residual, residual)
        return errors


def make_folds(X: Float[np.ndarray, "stimulus feature"], folds: int) -> list[Fold]:
    """Split stimuli into contiguous folds and decompose each fold's training part, standardised by itself.

    Raises
    ------
    EncodingError
        If there are fewer than two folds, or fewer stimuli than two per fold.
    """
    if folds < 2 or len(X) < 2 * folds:
        raise EncodingError(f"{folds} folds of {len(X)} stimuli were asked for; at least 2 folds of 2 stimuli are needed.")
    made = []
    for train, held_out in KFold(folds).split(X):
        mean, sd = _moments(X[train])
        solver = RidgeSolver.of((X[train] - mean) / sd)
        held_out_axes = ((X[held_out] - mean) / sd) @ solver.left
        made.append(Fold(train, held_out, solver.eigenvalues, solver.right.astype(np.float32), held_out_axes.astype(np.float32)))
    return made


def choose_alphas(
    folds: Sequence[Fold], Y: Float[np.ndarray, "stimulus voxel"], alphas: Sequence[float]
) -> Float[np.ndarray, " voxel"]:
    """Each voxel's best penalty, by the squared error on held-out stimuli summed over folds.

    alpha_v = argmin_alpha sum_folds ||Y_v,held_out - Yhat_v(alpha)||^2
    """
    errors = sum(fold.errors(Y, alphas) for fold in folds)
    return np.asarray(alphas, np.float64)[np.argmin(errors, axis=0)]


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
    standardisation is folded into `coef` and `intercept` (float32). A feature that does not vary gets the coefficient 0
    (to rounding).

    Parameters
    ----------
    alphas : penalties to choose from, for standardised features and responses in their own units.
    folds : contiguous parts of the training stimuli.

    Raises
    ------
    AlignmentError
        If features and responses differ in their stimuli or the order of them, or splits overlap.
    EncodingError
        If a training value is not finite, a voxel's responses do not vary, or a penalty is not above 0.
    Cancelled
        When `cancelled()` becomes True between blocks of voxels.

    Notes
    -----
    A linear read-out shows what of the embedding predicts a voxel, not what the voxel computes; correlated features share
    a weight among them. Validation and test stimuli are not looked at.

    References
    ----------
    Hoerl and Kennard (1970), 10.1080/00401706.1970.10488634.
    """
    check_same_stimuli(features, responses)
    check_disjoint(splits)
    check_positions("train", splits.train, len(features.stimulus_ids), at_least=2 * folds)
    _check_alphas(alphas)
    X = np.asarray(features.pooled[splits.train], np.float64)
    _check_finite("features", X)
    mean, sd = _moments(X)
    solver, parts = RidgeSolver.of((X - mean) / sd), make_folds(X, folds)
    n_voxels = responses.values.shape[1]
    coef = np.empty((X.shape[1], n_voxels), np.float32)
    intercept, alpha, prediction_sd = (np.empty(n_voxels, np.float32) for _ in range(3))
    for block in _blocks(n_voxels):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {block.start} of {n_voxels} voxels; nothing was kept.")
        Y = responses.values[splits.train, block]
        _check_responses(Y, block.start)
        chosen, average = choose_alphas(parts, Y, alphas), Y.mean(axis=0, dtype=np.float64)
        standardised = solver.left @ ((solver.right @ (Y - average)) / (solver.eigenvalues[:, None] + chosen))
        weights = standardised / sd[:, None]
        coef[:, block], intercept[block], alpha[block] = weights, average - mean @ weights, chosen
        prediction_sd[block] = ((X - mean) @ weights).std(axis=0)
        if on_progress is not None:
            on_progress(block.stop, n_voxels, "fitting voxels")
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


def _moments(X: Float[np.ndarray, "stimulus feature"]) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """Mean and SD of each feature; the SD of a feature that does not vary is 1, so that it stays 0 when standardised."""
    mean, sd = X.mean(axis=0), X.std(axis=0)
    constant = sd <= 1e-10 * np.abs(X).max(axis=0)
    return mean, np.where(constant, 1.0, sd)


def _blocks(n_voxels: int) -> list[slice]:
    return [slice(start, min(start + VOXELS_PER_BLOCK, n_voxels)) for start in range(0, n_voxels, VOXELS_PER_BLOCK)]


def _check_alphas(alphas: Sequence[float] | Float[np.ndarray, " alpha"]) -> None:
    grid = np.asarray(alphas, np.float64)
    if not grid.size or not ((grid > 0) & np.isfinite(grid)).all():
        found = f"from {grid.min():g} to {grid.max():g}" if grid.size else "none"
        raise EncodingError(f"Penalties {found} were given; at least one is needed, each finite and above 0.")


def _check_finite(name: str, values: Float[np.ndarray, "stimulus column"]) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise EncodingError(
            f"`{name}` has {int(wrong.sum())} values that are NaN or infinite (first: row {row}, column {column}); "
            "leave those stimuli or voxels out."
        )


def _check_responses(Y: Float[np.ndarray, "stimulus voxel"], first_voxel: int) -> None:
    _check_finite("responses", Y)
    still = Y.std(axis=0, dtype=np.float64) <= 1e-10 * np.abs(Y).max(axis=0)
    if still.any():
        first = first_voxel + int(np.argmax(still))
        raise EncodingError(
            f"{int(still.sum())} voxels do not vary over the {len(Y)} training stimuli (first: {first}); leave them out."
        )
