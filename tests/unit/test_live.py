"""Edits as they are painted: every step's record, cancelling, several seeds, and what seeds say together."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_pipelines import tiny_pipeline

from mine_core.counterfactual.diffusion import DiffusionEditor, LoadedPipeline
from mine_core.counterfactual.editor_presets import find_editor_preset
from mine_core.counterfactual.editors import finish_edit
from mine_core.errors import Cancelled, EditError
from mine_core.instrument import Instrument, trials
from mine_core.instrument.live import AFTERWARDS, Board, SeedRun, foresee, run_live, summarise
from mine_core.instrument.trials import EditRequest, run_trial

VOXEL, STIMULUS, STEPS = 5, 3, 3
REQUEST = EditRequest("insert", VOXEL, STIMULUS, word="a red ball", place=(40, 50), editor="phantom")


class Dissolve:
    """Paints a colour in over some steps; `strength` 0 changes nothing at all."""

    name = "dissolve"

    def __init__(self, strength: float = 1.0) -> None:
        self.strength, self.seeds = strength, []

    def edit(self, image, edit_mask, instruction, *, seed, on_step=None, cancelled=None):
        self.seeds.append(seed)
        colour = np.array([200, 30 + 40 * seed, 40])
        for step in range(1, STEPS + 1):
            share = self.strength * step / STEPS
            edited = np.where(edit_mask[..., None], (1 - share) * image + share * colour, image).astype(np.uint8)
            if on_step is not None:
                on_step(step, STEPS, edited)
        record = {"word": instruction.partition(" ")[2]}
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance=record)


@pytest.fixture(scope="module")
def tiny() -> DiffusionEditor:
    preset = replace(find_editor_preset("phantom"), side=32, steps=STEPS)
    return DiffusionEditor(preset, LoadedPipeline(tiny_pipeline(preset.pipeline), "w", "processor"))


@pytest.fixture
def use(monkeypatch) -> Iterator[Any]:
    """Makes trials use a certain editor, and few controls."""
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)
    yield lambda editor: monkeypatch.setattr(trials, "create_editor", lambda name, **settings: editor)


@pytest.fixture(scope="module")
def instrument(small: Any) -> Instrument:
    return small.instrument


def never() -> bool:
    return False


def unheard(done: int, total: int, message: str) -> None:
    """Nobody asked how far it is."""


def live(instrument: Instrument, request: EditRequest = REQUEST, **more: Any) -> tuple[SeedRun, ...]:
    return run_live(instrument, request, **{"board": Board(), "on_progress": unheard, "cancelled": never} | more)


def test_the_last_step_is_the_finished_edit(instrument, use) -> None:
    use(Dissolve())
    [run] = live(instrument)
    assert [(step.step, step.n_steps) for step in run.steps] == [(i, STEPS) for i in range(1, STEPS + 1)]
    assert np.array_equal(run.steps[-1].preview, run.trial.edit.edited)
    assert run.steps[-1].shift == pytest.approx(float(run.trial.shift.shift[VOXEL]), abs=1e-4)
    shifts = [step.shift for step in run.steps]
    assert len(set(shifts)) == STEPS and 0 not in shifts
    for step in run.steps:
        outside = ~run.trial.edit.edit_mask
        assert np.array_equal(step.preview[outside], run.trial.edit.original[outside]) and not step.preview.flags.writeable
    seconds = np.array([(step.reading, step.seconds) for step in run.steps])
    assert (np.diff(seconds, axis=0) > 0).all() and (seconds[:, 0] <= seconds[:, 1]).all()


def test_a_pipeline_of_diffusers_is_watched_to_its_end(instrument, use, tiny) -> None:
    use(tiny)
    [run] = live(instrument)
    assert len(run.steps) == STEPS
    assert np.abs(run.steps[-1].preview.astype(int) - run.trial.edit.edited).max() <= 1
    moved = max(abs(step.shift) for step in run.steps)
    assert run.steps[-1].shift == pytest.approx(float(run.trial.shift.shift[VOXEL]), abs=0.02 * moved)
    unwatched = run_trial(instrument, REQUEST)
    assert np.array_equal(run.trial.edit.edited, unwatched.edit.edited), "watching changes nothing"
    assert np.array_equal(run.trial.shift.shift, unwatched.shift.shift)


def test_an_edit_that_changes_nothing_shifts_nothing_at_any_step(instrument, use) -> None:
    use(Dissolve(strength=0))
    [run] = live(instrument)
    assert [step.shift for step in run.steps] == [0] * STEPS and float(run.trial.shift.shift[VOXEL]) == 0


@pytest.mark.parametrize("stopped_by", ["cancelled", "on_progress"])
def test_it_can_be_stopped_at_any_step_and_nothing_is_kept(instrument, use, tiny, stopped_by) -> None:
    use(tiny)
    whole = live(instrument, n_seeds=2)
    for last in range(1, 2 * STEPS):  # of both seeds, the first of which is complete in the second half
        board, taken = Board(), [0]

        def heard(done: int, total: int, message: str, board=board, taken=taken, last=last) -> None:
            taken.append(sum(len(run.steps) for run in board.runs))
            if stopped_by == "on_progress" and taken[-1] == last:
                raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            asked = (lambda taken=taken, last=last: taken[-1] == last) if stopped_by == "cancelled" else never
            live(instrument, n_seeds=2, board=board, on_progress=heard, cancelled=asked)
        assert board.runs == () and not tiny.loaded.lock.locked()
        assert max(taken) == last, "not a step is taken after it was stopped"
    again = live(instrument, n_seeds=2)
    assert [np.array_equal(a.trial.edit.edited, b.trial.edit.edited) for a, b in zip(whole, again, strict=True)] == [True, True]


def test_every_seed_is_the_trial_of_that_seed_and_none_is_painted_twice(instrument, use) -> None:
    editor = Dissolve()
    use(editor)
    one = live(instrument)
    three = live(instrument, n_seeds=3, known=one)
    assert editor.seeds == [0, 1, 2] and three[0] is one[0]
    assert [run.seed for run in three] == [run.trial.edit.seed for run in three] == [0, 1, 2]
    alone = run_trial(instrument, replace(REQUEST, seed=2))
    assert np.array_equal(three[2].trial.shift.shift, alone.shift.shift)
    assert np.array_equal(three[2].trial.shift.controls, alone.shift.controls)
    later = live(instrument, replace(REQUEST, seed=7), n_seeds=2)
    assert [run.trial.edit.seed for run in later] == [7, 8]


def test_progress_never_falls_and_names_the_seed(instrument, use) -> None:
    use(Dissolve())
    told: list[tuple[float, str]] = []
    live(instrument, n_seeds=2, on_progress=lambda done, total, what: told.append((done / total, what)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0 and 0.9 < shares[-1] < 1
    assert [what for _, what in told].count("seed 2 of 2: painting") == STEPS + 1
    assert len(set(shares)) >= 2 * (STEPS + len(AFTERWARDS)) - 3, "it moves at every step and stage"


def test_readers_never_see_half_an_account(instrument, use) -> None:
    use(Dissolve())
    board, wrong, stop = Board(), [], threading.Event()

    def read() -> None:
        most = 0
        while not stop.wait(0.001):
            runs = board.runs
            length = sum(len(run.steps) for run in runs)
            whole = all([step.step for step in run.steps] == list(range(1, len(run.steps) + 1)) for run in runs)
            complete = all(run.trial is not None and len(run.steps) == STEPS for run in runs[:-1])
            if not (whole and complete and length >= most):
                wrong.append(runs)
            most = max(most, length)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        live(instrument, n_seeds=2, board=board)
    finally:
        stop.set()
        reader.join()
    assert wrong == [] and len(board.runs) == 2 and all(run.trial is not None for run in board.runs)


def test_what_is_foreseen_is_what_the_trial_says(instrument, use) -> None:
    use(Dissolve())
    packed = np.zeros((96, 96), bool)
    packed[10:40, 20:60] = True
    for request in (REQUEST, replace(REQUEST, place=None), replace(REQUEST, place=None, region=np.packbits(packed).tobytes())):
        foreseen, trial = foresee(instrument, request), run_trial(instrument, request)
        assert foreseen.instant == trial.instant
        assert np.array_equal(foreseen.region, trial.edit.edit_mask)
    for wrong in (replace(REQUEST, word="a zebra"), replace(REQUEST, place=(400, 3))):
        with pytest.raises(EditError):
            foresee(instrument, wrong)


def test_seeds_are_summed_up_without_those_that_failed(instrument, use) -> None:
    use(Dissolve())
    runs = live(instrument, n_seeds=3)
    shifts = [2.0, 5.0, 4.0]
    made = []
    for run, shift, verified in zip(runs, shifts, (True, False, True), strict=True):
        moved = replace(run.trial.shift, shift=np.full_like(run.trial.shift.shift, shift), rank=np.full(32, 1 + (shift == 4)))
        made.append(replace(run, trial=replace(run.trial, shift=moved, edit=replace(run.trial.edit, verified=verified))))
    found = summarise(made, VOXEL)
    assert (found.n, found.n_failed, found.n_beyond, found.mean) == (2, 1, 1, 3.0)
    assert found.interval == pytest.approx((3 - 12.7062, 3 + 12.7062), abs=1e-3), "Student's t with one degree of freedom"
    assert [run.failed for run in made] == [False, True, False]
    one = summarise(made[:2], VOXEL)
    assert (one.n, one.mean, one.interval) == (1, 2.0, None)
    none = summarise(made[1:2], VOXEL)
    assert (none.n, none.n_failed, none.mean, none.interval) == (0, 1, None, None)
    assert summarise((SeedRun(0),), VOXEL).n_failed == 0, "a seed that is at work has not failed"


def test_what_cannot_be_painted_is_refused(instrument, use) -> None:
    use(Dissolve())
    with pytest.raises(EditError, match="name a generative editor"):
        live(instrument, replace(REQUEST, editor=""))
    with pytest.raises(EditError, match="at least 1 seed"):
        live(instrument, n_seeds=0)
