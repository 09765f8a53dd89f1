"""An edit while it is painted: after each step its preview and the shift predicted of it, for one seed or several."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.counterfactual.instant import masked_patch_estimate
from mine_core.counterfactual.shift import predict_shift
from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.trials import STAGES, EditRequest, Stage, Trial, planned_region, run_trial
from mine_core.instrument.where import heat_of
from mine_core.statistics import t_interval
from mine_core.types import IsCancelled, OnProgress

AFTERWARDS: tuple[Stage, ...] = STAGES[STAGES.index("controls") :]
DOING: dict[Stage, str] = {
    "mask": "getting the editor ready",
    "generate": "painting",
    "controls": "making its controls",
    "re-encode": "reading it and its controls",
    "predict": "predicting every voxel",
    "check": "asking the second encoder",
    "verify": "checking what was painted",
}


@dataclass(frozen=True, eq=False)
class LiveStep:
    """One step of the denoising: the picture that is expected in the end, and the shift predicted of it.

    `preview` is the whole image, outside the region with the original's bytes (the original itself, and a shift of 0, where an
    editor cannot tell what it expects). `shift` is in SD of the voxel's predictions. `seconds` of this seed's painting have
    passed, of which `reading` went into embedding previews.
    """

    step: int
    n_steps: int
    preview: UInt8[np.ndarray, "height width 3"]
    shift: float
    seconds: float
    reading: float


@dataclass(frozen=True, eq=False)
class SeedRun:
    """One seed's painting: its steps so far, and its trial once that is complete."""

    seed: int
    steps: tuple[LiveStep, ...] = ()
    trial: Trial | None = None

    @property
    def failed(self) -> bool:
        """Whether the finished edit did not do what was asked, as far as the backbone can tell."""
        return self.trial is not None and self.trial.edit.verified is False


class Board:
    """What pages see of an edit under way: an immutable account, which the worker replaces whole and never changes."""

    def __init__(self) -> None:
        self._runs: tuple[SeedRun, ...] = ()

    @property
    def runs(self) -> tuple[SeedRun, ...]:
        """Seeds that are complete, and the one at work last; empty before, and after it was stopped."""
        return self._runs

    def show(self, runs: Sequence[SeedRun]) -> None:
        """Replace the account."""
        self._runs = tuple(runs)


@dataclass(frozen=True, eq=False)
class Foreseen:
    """What is known before anything is painted: the region (True = may change) and the instant estimate from its patches, in SD."""

    region: Bool[np.ndarray, "height width"]
    instant: float


@dataclass(frozen=True)
class SeedSummary:
    """What seeds say together of one voxel.

    `mean` is over the `n` seeds whose edit did not fail, in SD of the voxel's predictions (None without any); `interval` is
    Student's at 95 % (None with fewer than two); `n_beyond` of them exceed all their controls; `n_failed` are left out.
    """

    n: int
    n_failed: int
    n_beyond: int
    mean: float | None
    interval: tuple[float, float] | None


def foresee(instrument: Instrument, request: EditRequest) -> Foreseen:
    """Region of an edit and the instant estimate of its shift: no editing, no forward pass.

    The estimate is `masked_patch_estimate`: what the region's patches give to the prediction is lost. It knows nothing of what
    will be painted there.

    Raises
    ------
    EditError : if the word, the place or the region makes no sense, or a removal finds nothing to remove.
    """
    region = planned_region(instrument, request)
    heat = heat_of(instrument, request.voxel, request.stimulus)
    return Foreseen(region, masked_patch_estimate(heat, region, instrument.sd(request.voxel)))


def run_live(
    instrument: Instrument,
    request: EditRequest,
    second: SecondEncoder | None = None,
    *,
    n_seeds: int = 1,
    known: Sequence[SeedRun] = (),
    board: Board,
    on_progress: OnProgress,
    cancelled: IsCancelled,
) -> tuple[SeedRun, ...]:
    """Paint an edit with `n_seeds` seeds from the request's on, each with its own controls, and show every step on the board.

    Parameters
    ----------
    known : runs of the same request that are complete; their seeds are not painted again.
    board : holds the runs so far after every step.

    Returns
    -------
    One complete run a seed, in order; the trials are those of `run_trial`.

    Raises
    ------
    EditError : if the request names no generative editor, no seed is asked for, or the edit cannot be made.
    Cancelled : if `cancelled()` became True or `on_progress` raised it; then nothing is kept, not even seeds that were
        complete: a mean over those would depend on when it was stopped.
    """
    if not request.painted or n_seeds < 1:
        raise EditError(f"{n_seeds} seeds of editor '{request.editor}' were asked for; name a generative editor and at least 1 seed.")
    done = [run for run in known if run.trial is not None and 0 <= run.seed - request.seed < n_seeds]
    try:
        for seed in range(request.seed, request.seed + n_seeds):
            if all(run.seed != seed for run in done):
                at = _At(seed - request.seed, n_seeds, on_progress)
                watch = _Watch(instrument, replace(request, seed=seed), at, lambda run: board.show([*done, run]))
                done.append(watch.watched(second, cancelled))
            board.show(done)
    except BaseException:
        board.show(())
        raise
    return tuple(sorted(done, key=lambda run: run.seed))


def summarise(runs: Sequence[SeedRun], voxel: int) -> SeedSummary:
    """Mean and interval of a voxel's predicted shift over complete seeds; failed ones are counted and left out.

    Notes
    -----
    The interval is about the editor's chance alone: image, region, words and encoder are the same for every seed.
    """
    complete = [run for run in runs if run.trial is not None]
    trials = [run.trial for run in complete if run.trial is not None and not run.failed]
    shifts = np.array([trial.shift.shift[voxel] for trial in trials], np.float64)
    return SeedSummary(
        n=len(trials),
        n_failed=len(complete) - len(trials),
        n_beyond=sum(int(trial.shift.rank[voxel]) == 1 for trial in trials),
        mean=float(shifts.mean()) if len(shifts) else None,
        interval=t_interval(shifts) if len(shifts) > 1 else None,
    )


@dataclass(frozen=True)
class _At:
    """Which of how many seeds is at work, and whom to tell how far all of them are."""

    index: int
    n_seeds: int
    on_progress: OnProgress

    def tell(self, done: int, of: int, what: str) -> None:
        seed = f"seed {self.index + 1} of {self.n_seeds}: " if self.n_seeds > 1 else ""
        self.on_progress(self.index * of + done, self.n_seeds * of, seed + what)


class _Watch:
    """One seed at work: what its trial tells, kept as a run."""

    def __init__(self, instrument: Instrument, request: EditRequest, at: _At, show: Callable[[SeedRun], None]) -> None:
        self.instrument, self.request, self.at, self.show = instrument, request, at, show
        self.image = np.asarray(instrument.subject.stimuli.images[request.stimulus])
        # not at the first preview: the backbone must be loaded before the editor's own mode of torch is on
        self.before = self._embedded(self.image)
        self.began, self.reading = time.perf_counter(), 0.0
        self.steps: tuple[LiveStep, ...] = ()

    def watched(self, second: SecondEncoder | None, cancelled: IsCancelled) -> SeedRun:
        trial = run_trial(self.instrument, self.request, second, cancelled, self._stage, self._step)
        return SeedRun(self.request.seed, self.steps, trial)

    def _stage(self, stage: Stage) -> None:
        n_steps = self.steps[-1].n_steps if self.steps else 0
        later = AFTERWARDS.index(stage) if stage in AFTERWARDS else -n_steps
        self.at.tell(n_steps + later, n_steps + len(AFTERWARDS), DOING[stage])
        self.began = time.perf_counter() if stage == "generate" else self.began

    def _step(self, step: int, n_steps: int, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        start = time.perf_counter()
        shift = self._shift(picture)
        now = time.perf_counter()
        self.reading += now - start
        preview = picture.copy()
        preview.flags.writeable = False
        told = LiveStep(step, n_steps, preview, shift, now - self.began, self.reading)
        # an editor that ran out of memory begins again
        self.steps = (*(each for each in self.steps if each.step < step), told)
        self.show(SeedRun(self.request.seed, self.steps))
        self.at.tell(step, n_steps + len(AFTERWARDS), DOING["generate"])

    def _shift(self, picture: UInt8[np.ndarray, "height width 3"]) -> float:
        """The same shift as a finished edit's, of this picture."""
        after = self.before if np.array_equal(picture, self.image) else self._embedded(picture)
        none = np.empty((0, len(after)), after.dtype)
        found = predict_shift(self.instrument.model, self.before, after, none, (), direction=0, guided_by="")
        return float(found.shift[self.request.voxel])

    def _embedded(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, " feature"]:
        return self.instrument.backbone.get().embed(image[None]).pooled[0]
