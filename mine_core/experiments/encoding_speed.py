"""How fast every voxel is fit with a penalty of its own, beside himalaya and scikit-learn on the same arrays in the same run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from jaxtyping import Float

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.encoding.gram import product_operations
from mine_core.encoding.ridge import ALPHAS, fit_ridge
from mine_core.errors import ConfigError
from mine_core.statistics import pearson_columns
from mine_core.types import BackboneSpec, Features, OnProgress, Responses, Splits, VoxelIndex

RIVALS = ("himalaya", "scikit-learn")
FOLDS, N_TEST, N_LATENT, REPEATS = 5, 500, 64, 3
# voxels at a time for those that would otherwise hold the predictions of every penalty and voxel at once
RIVALS_VOXELS_AT_ONCE = 2048
STATUS = Path("/proc/self/status")

Found = tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, "stimulus voxel"]]


@dataclass(frozen=True)
class Recording:
    """Features and responses that are linear in them with noise from little to much; the last stimuli are test."""

    X: Float[np.ndarray, "stimulus feature"]
    Y: Float[np.ndarray, "stimulus voxel"]

    @property
    def train(self) -> slice:
        """Training stimuli."""
        return slice(0, len(self.X) - N_TEST)

    @property
    def test(self) -> slice:
        """Held-out stimuli."""
        return slice(len(self.X) - N_TEST, len(self.X))


def measure(
    config: InstrumentConfig,
    _store: ArtifactStore,
    on_progress: OnProgress,
    *,
    n_stimuli: int = 3000,
    n_features: int = 256,
    n_voxels: int = 5000,
    against: Sequence[str] = RIVALS,
) -> dict[str, Any]:
    """Time `fit_ridge` and others on one made-up recording (float32), with five folds and twelve penalties.

    Of the settings only the seed is used, which draws the recording; `n_stimuli` are for training, and 500 more for testing.

    The features of every fold have mean 0 and SD 1, as those of a run that is standardised by itself, so that all solve the
    same problem: himalaya's RidgeCV (svd, the same folds) does not standardise each training part. scikit-learn: Ridge behind
    StandardScaler for every fold and penalty, all voxels at once, and once more with the chosen penalties; its own RidgeCV
    chooses one penalty for each voxel by leave-one-out errors alone, which is another criterion, and with folds takes one
    penalty for all voxels.

    Ours is timed three times and the medians are compared; the others run once. Beside the seconds on the clock stand those of
    processors: other work on the machine lengthens the first most where threads wait for each other, and OMP_NUM_THREADS=1
    gives everything one thread. Memory is the largest resident size while fitting less that before it, beside the responses
    themselves. The rate is that of numpy's float32 product of 2,048 x 2,048, the mean of the best of five before and after.

    Raises
    ------
    ConfigError
        If a size is too small or a name in `against` is unknown.
    """
    _check_sizes(n_stimuli, n_features, n_voxels, against)
    steps = REPEATS + len(against)
    on_progress(0, steps, "making a recording")
    recording = make_recording(n_stimuli, n_features, n_voxels, np.random.default_rng(config.seed))
    gigabytes = recording.Y[recording.train].nbytes / 1e9
    before, runs = product_rates(), []
    for repeat in range(REPEATS):
        on_progress(repeat, steps, "fitting")
        runs.append(watched(partial(fit_ours, recording)))
    ours, peak = runs[-1].found, max(run.grown_gb for run in runs)
    seconds, cpu_seconds = (float(np.median(values)) for values in zip(*((run.seconds, run.cpu_seconds) for run in runs), strict=True))
    rate, cpu_rate = (np.array(before) + product_rates()) / 2
    operations = product_operations(n_stimuli, n_features, n_voxels, FOLDS, len(ALPHAS))
    found: dict[str, Any] = {
        "n_stimuli": n_stimuli,
        "n_features": n_features,
        "n_voxels": n_voxels,
        "responses_gb": gigabytes,
        "seconds": seconds,
        "seconds_of_each": [run.seconds for run in runs],
        "cpu_seconds": cpu_seconds,
        "memory_grown_gb": peak if STATUS.exists() else None,
        "memory_over_responses": 1 + peak / gigabytes if STATUS.exists() else None,
        "median_r": float(np.median(accuracy(recording, ours[1]))),
        "product_rate_gflops": float(rate / 1e9),
        "share_of_product_rate": float(operations / seconds / rate),
        "share_of_product_rate_by_cpu": float(operations / cpu_seconds / cpu_rate),
    }
    fits = {"himalaya": fit_himalaya, "scikit-learn": fit_scikit_learn}
    for number, name in enumerate(against):
        on_progress(REPEATS + number, steps, name)
        theirs = watched(partial(fits[name], recording))
        found[name] = {
            "seconds": theirs.seconds,
            "cpu_seconds": theirs.cpu_seconds,
            "memory_grown_gb": theirs.grown_gb if STATUS.exists() else None,
            "ratio": theirs.seconds / seconds,
            "ratio_by_cpu": theirs.cpu_seconds / cpu_seconds,
            **compare(recording, ours, theirs.found),
        }
    return found


def make_recording(n_stimuli: int, n_features: int, n_voxels: int, rng: np.random.Generator) -> Recording:
    """Draw correlated features, standardised in each fold, weights, and noise that leaves from 2 to 80 % of the variance."""
    n = n_stimuli + N_TEST
    latent = rng.standard_normal((n, N_LATENT), np.float32) * np.logspace(0.5, -1, N_LATENT, dtype=np.float32)
    X = latent @ rng.standard_normal((N_LATENT, n_features), np.float32) + rng.standard_normal((n, n_features), np.float32)
    for fold in np.array_split(np.arange(n_stimuli), FOLDS):  # as scikit-learn's KFold cuts them
        X[fold] = (X[fold] - X[fold].mean(axis=0)) / X[fold].std(axis=0)
    X[n_stimuli:] /= X[n_stimuli:].std(axis=0)
    Y = X @ rng.standard_normal((n_features, n_voxels), np.float32)
    explained = np.linspace(0.02, 0.8, n_voxels, dtype=np.float32)
    Y *= np.sqrt(explained) / Y.std(axis=0)
    for start in range(0, n, 1024):
        rows = Y[start : start + 1024]
        rows += rng.standard_normal(rows.shape, np.float32) * np.sqrt(1 - explained)
    return Recording(X, Y)


def fit_ours(recording: Recording) -> Found:
    """Fit with this package; returns each voxel's penalty and the predictions of the test stimuli."""
    n, n_voxels = recording.Y.shape
    ids, spec = tuple(map(str, range(n))), BackboneSpec("made-up", (1, 1), recording.X.shape[1], "none", "none")
    features = Features(recording.X, recording.X[:, None], np.zeros_like(recording.X), ids, spec)
    index = VoxelIndex("made-up", np.arange(n_voxels), (n_voxels,), (), np.zeros((0, n_voxels), bool))
    splits = Splits(np.arange(n - N_TEST), np.arange(0), np.arange(n - N_TEST, n))
    model = fit_ridge(features, Responses(recording.Y, None, ids, index, "SD"), splits, ALPHAS, FOLDS)
    return model.alpha, model.predict(recording.X[recording.test])


def fit_himalaya(recording: Recording) -> Found:
    """Fit with himalaya's RidgeCV, its twelve penalties' predictions of a block of voxels at a time."""
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(recording.X[recording.train])
    batches = {"n_targets_batch": RIVALS_VOXELS_AT_ONCE, "n_targets_batch_refit": RIVALS_VOXELS_AT_ONCE, "warn": False}
    grid = np.asarray(ALPHAS, np.float32)
    model = RidgeCV(alphas=grid, fit_intercept=True, cv=KFold(FOLDS), solver_params=batches)
    model.fit(scaler.transform(recording.X[recording.train]), recording.Y[recording.train])
    return np.asarray(model.best_alphas_), np.asarray(model.predict(scaler.transform(recording.X[recording.test])))


def fit_scikit_learn(recording: Recording) -> Found:
    """Choose by brute force with scikit-learn's Ridge, fold by fold and penalty by penalty."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, Y = recording.X[recording.train], recording.Y[recording.train]
    errors = np.zeros((len(ALPHAS), Y.shape[1]))
    for train, held_out in KFold(FOLDS).split(X):
        for row, alpha in enumerate(ALPHAS):
            residual = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X[train], Y[train]).predict(X[held_out]) - Y[held_out]
            errors[row] += np.einsum("sv,sv->v", residual, residual)
    chosen = np.asarray(ALPHAS)[np.argmin(errors, axis=0)]
    model = make_pipeline(StandardScaler(), Ridge(chosen)).fit(X, Y)
    return chosen, model.predict(recording.X[recording.test])


def compare(recording: Recording, ours: Found, theirs: Found) -> dict[str, float]:
    """Share of voxels with the same penalty, and the largest differences of r, of all voxels and of those that agree."""
    grid = np.asarray(ALPHAS)
    chosen = [np.abs(np.log(alpha[:, None]) - np.log(grid)).argmin(axis=1) for alpha in (ours[0], theirs[0])]
    same = chosen[0] == chosen[1]
    difference = np.abs(accuracy(recording, ours[1]) - accuracy(recording, theirs[1]))
    return {
        "same_penalty": float(same.mean()),
        "furthest_penalty_steps": int(np.abs(chosen[0] - chosen[1]).max()),
        "largest_difference_of_r": float(difference.max()),
        "largest_difference_of_r_same_penalty": float(difference[same].max(initial=0.0)),
    }


def accuracy(recording: Recording, predicted: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    """Correlation of predicted and measured test responses of each voxel."""
    return pearson_columns(predicted, recording.Y[recording.test])


def product_rates(size: int = 2048) -> tuple[float, float]:
    """Operations a second of numpy's float32 matrix product on all its threads, by the clock and by processors, best of five."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), np.float32)
    out, seconds = np.empty_like(left), []
    for _ in range(5):
        started = time.perf_counter(), time.process_time()
        np.matmul(left, left, out=out)
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    clock, cpu = (2 * size**3 / min(values) for values in zip(*seconds, strict=True))
    return clock, cpu


@dataclass(frozen=True)
class Run:
    """What a fit found, its seconds by the clock and by processors, and by how many GB resident memory grew at most."""

    found: Found
    seconds: float
    cpu_seconds: float
    grown_gb: float


def watched(work: Callable[[], Found]) -> Run:
    """Do the work while a thread looks at the memory every 10 ms."""
    start = most = _resident()
    done = Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, _resident())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        found = work()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    finally:
        done.set()
        watcher.join()
    return Run(found, seconds, cpu_seconds, max(most, _resident()) - start)


def _resident() -> float:
    """Resident memory of this process in GB, and 0 where the system does not say."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return sum(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmRSS:"))


def _check_sizes(n_stimuli: int, n_features: int, n_voxels: int, against: Sequence[str]) -> None:
    if n_stimuli < 2 * FOLDS or n_features < 1 or n_voxels < 1:
        raise ConfigError(
            f"{n_stimuli} stimuli, {n_features} features, {n_voxels} voxels were asked for; at least {2 * FOLDS}, 1, 1 are needed."
        )
    unknown = set(against) - set(RIVALS)
    if unknown:
        raise ConfigError(f"'{sorted(unknown)[0]}' is unknown; compare with {', '.join(RIVALS)}.")
