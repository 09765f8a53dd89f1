"""The Counterfactual page while something is painted: foreseen, watched, stopped, finished, several seeds, pinned."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory
from mine_core.counterfactual.editor_presets import RemovalError
from mine_core.counterfactual.editors import finish_edit, stop_if
from mine_core.errors import EditError
from mine_core.instrument import Instrument, build_instrument, trials
from mine_core.instrument.live import foresee
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.jobs import Job, Worker
from mine_core.ui import counterfactual, resources

IMAGE, STEPS = 7, 3
create_editor = trials.create_editor


@dataclass
class Gated:
    """Paints a colour, one step whenever it is let; remembers its seeds."""

    name: str = "phantom"
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    told: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    seeds: list[int] = field(default_factory=list)
    refuse: bool = False

    def edit(self, image, edit_mask, instruction, *, seed, on_step=None, cancelled=None):
        self.seeds.append(seed)
        if self.refuse:
            raise EditError("The editor has no colours left; give it some.")
        for step in range(1, STEPS + 1):
            assert self.gate.acquire(timeout=120)
            stop_if(cancelled)
            edited = np.where(edit_mask[..., None], np.array([60 * step, 30 + 9 * seed, 40], np.uint8), image)
            if on_step is not None:
                on_step(step, STEPS, edited)
            self.told.release()
        record = {"word": instruction.partition(" ")[2], "pipeline": "gated"}
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance=record)

    def let(self, n: int) -> None:
        """Let it take so many steps, and wait until it has."""
        for _ in range(n):
            self.gate.release()
        for _ in range(n):
            assert self.told.acquire(timeout=120)


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


@pytest.fixture
def editor(monkeypatch) -> Iterator[Gated]:
    made, worker = Gated(), Worker()
    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ("phantom",))
    monkeypatch.setattr(counterfactual, "measured_quality", lambda name: (0.97, 0.95, 0.98))
    monkeypatch.setattr(counterfactual, "placer", lambda *_, **__: (48, 48))
    monkeypatch.setattr(
        trials, "create_editor", lambda name, **settings: made if name == "diffusion" else create_editor(name, **settings)
    )
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)
    monkeypatch.setattr(resources, "worker", lambda: worker)
    yield made
    for job in worker.jobs():
        job.cancel()
    for _ in range(50):
        made.gate.release()
    for job in worker.jobs():
        ended(job)


def ended(job: Job) -> Job:
    for _ in range(1200):
        if not job.active:
            return job
        threading.Event().wait(0.1)
    pytest.fail(f"job still {job.state} after two minutes")


def opened(voxel: int | str, **more: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    app.query_params.update({"voxel": str(voxel), "image": str(IMAGE), "edit": "insert"} | more)
    app.run()
    app.switch_page("pages/counterfactual.py").run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    shown = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]
    return "\n".join(element.value for element in shown)


def painting(app: AppTest) -> Job:
    """Press the button, and return the job that it began."""
    app.button("cf_paint").click().run()
    assert not app.exception
    return resources.worker().jobs()[-1]


def test_foreseen_watched_and_finished(instrument, editor):
    voxel = int(instrument.score.r.argmax())
    app = opened(voxel)
    request = EditRequest("insert", voxel, IMAGE, word=app.selectbox("cf_phrase").value, place=(48, 48), editor="phantom")
    instant = foresee(instrument, request).instant
    assert f"#### Instant estimate {instant:+.2f} SD" in texts(app)
    assert editor.seeds == [] and app.button("cf_paint").label == "Paint it"
    job = painting(app)
    editor.let(2)
    app.run()
    step = job.watched.runs[-1].steps[-1]
    assert [bar.text for bar in app.get("progress")] == ["Painting"]
    assert f"Step 2 of {STEPS}: predicted shift so far {step.shift:+.2f} SD" in texts(
        app
    ) and f"masked patches: {instant:+.2f} SD" in texts(app)
    assert "cf_paint" not in [button.key for button in app.button], "it is not begun twice"
    editor.let(1)
    ended(job)
    app.run()
    trial = run_trial_again(instrument, request, editor)
    assert f"### Predicted shift {trial.shift.shift[voxel]:+.2f} SD" in texts(app)
    assert editor.seeds == [0, 0], "once for the page, once for this test"
    [table] = app.table
    assert [edit.endswith(", seed 0") for edit in table.value["edit"]] == [True]


def run_trial_again(instrument: Instrument, request: EditRequest, editor: Gated) -> trials.Trial:
    for _ in range(STEPS):
        editor.gate.release()
    return run_trial(instrument, request)


def test_a_painting_that_was_stopped_leaves_a_sentence_and_a_way_to_begin_again(instrument, editor):
    app = opened(int(instrument.score.r.argmax()))
    job = painting(app)
    editor.let(1)
    app.run()
    next(button for button in app.button if button.label == "Stop").click().run()
    editor.gate.release()
    assert ended(job).state == "cancelled" and job.outcome is None and job.watched.runs == ()
    for _ in range(2):
        app.run()
        assert [note.value for note in app.info] == ["Stopped. The image is as it was, and nothing of what was being painted is kept."]
        assert "Predicted shift" not in texts(app).replace("predicted shift of the painted", "")
    again = painting(app)
    assert again is not job
    editor.let(STEPS)
    assert ended(again).state == "done"
    app.run()
    assert "### Predicted shift" in texts(app) and not app.info


def test_seeds_beside_each_other_paint_only_what_is_new_and_the_one_shown_is_pinned(instrument, editor, tmp_path, monkeypatch):
    monkeypatch.setenv("MINE_NOTEBOOK", str(tmp_path))
    voxel = int(instrument.score.r.argmax())
    app = opened(voxel)
    job = painting(app)
    editor.let(STEPS)
    ended(job)
    app.run()
    app.button_group("cf_seeds").set_value(3).run()
    assert app.button("cf_paint").label == "Paint 2 more seeds"
    job = painting(app)
    editor.let(2 * STEPS)
    runs = ended(job).outcome
    app.run()
    assert editor.seeds == [0, 1, 2] and len(runs) == 3
    shifts = [float(run.trial.shift.shift[voxel]) for run in runs]
    for run, shift in zip(runs, shifts, strict=True):
        assert any(f"**{shift:+.2f} SD**  \nSeed {run.seed} · rank" in caption.value for caption in app.caption)
    verified = [shift for run, shift in zip(runs, shifts, strict=True) if run.trial.edit.verified]
    said = texts(app)
    assert (f"Mean of seeds {np.mean(verified):+.2f} SD" in said) if verified else (f"All {len(runs)} seeds failed" in said)
    app.button_group("cf_seed_3").set_value(2).run()
    assert f"### Predicted shift {shifts[2]:+.2f} SD" in texts(app)
    assert app.table[0].value["edit"].tolist()[0].endswith(", seed 2")
    next(button for button in app.button if button.label == "Pin").click().run()
    assert not app.exception
    [pin] = resources.notebook().pins()
    assert pin.settings["request"]["seed"] == 2 and pin.settings["request"]["editor"] == "phantom"
    app = opened(**(pin.view | {"pin": str(pin.id)}))
    job = resources.worker().jobs()[-1]
    assert job.active, "a pinned painting is made again unasked"
    editor.let(STEPS)
    ended(job)
    app.run()
    assert editor.seeds == [0, 1, 2, 2] and f"### Predicted shift {shifts[2]:+.2f} SD" in texts(app)


def test_a_painter_that_is_seldom_recognised_is_not_offered_first_and_says_so(instrument, editor, monkeypatch):
    monkeypatch.setattr(counterfactual, "measured_quality", lambda name: (0.71, 0.66, 0.75))
    app = opened(int(instrument.score.r.argmax()))
    assert "independent judge" not in texts(app) and not [box for box in app.selectbox if box.key == "cf_phrase"]
    app.segmented_control("cf_how").set_value(True).run()
    assert "recognises 71 % of its insertions (95 % interval 66 to 75)" in texts(app)
    assert app.selectbox("cf_phrase").value


def test_painters_are_chosen_among_those_at_hand_and_their_want_is_said(instrument, editor, monkeypatch):
    voxel = int(instrument.score.r.argmax())
    monkeypatch.setattr(counterfactual, "measured_quality", lambda name: None)
    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ("sd15-inpaint-lcm", "sdxl-inpaint"))
    app = opened(voxel)
    app.segmented_control("cf_how").set_value(True).run()
    app.selectbox("cf_painter_name").set_value("sdxl-inpaint").run()
    assert "SDXL inpainting" in texts(app) and "was not measured here" in texts(app)
    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ())
    app = opened(voxel)
    assert "no editor that paints" not in texts(app)  # the phantom has its own, or none


def test_what_the_editor_refuses_is_said_in_one_line(instrument, editor):
    editor.refuse = True
    app = opened(int(instrument.score.r.argmax()))
    ended(painting(app))
    app.run()
    assert [error.value for error in app.error] == ["The editor has no colours left; give it some."]
    assert app.button("cf_paint").label == "Paint it"


def test_another_painting_takes_the_place_of_one_that_nobody_looks_at(instrument, editor):
    app = opened(int(instrument.score.r.argmax()))
    first = painting(app)
    editor.let(1)
    words = app.selectbox("cf_phrase")
    words.set_value(words.options[1]).run()
    assert first.active, "a choice alone stops nothing"
    second = painting(app)
    editor.gate.release()
    assert ended(first).state == "cancelled"
    editor.let(STEPS)
    assert ended(second).state == "done"


@pytest.fixture
def to_remove(monkeypatch, instrument) -> int:
    """A voxel that image IMAGE drives, and no brush on the painted region."""
    monkeypatch.setattr(counterfactual, "painter", lambda *_, **__: None)
    return int(np.where(instrument.reliable, [instrument.predicted(v)[IMAGE] for v in range(len(instrument.score.r))], -9).argmax())


def test_a_removal_is_filled_at_once_or_painted_as_an_insertion_is(instrument, editor, to_remove, tmp_path, monkeypatch):
    monkeypatch.setenv("MINE_NOTEBOOK", str(tmp_path))
    app = opened(to_remove, edit="remove")
    choice = app.selectbox("cf_fill")
    assert choice.options == ["patches of the image (patch-fill)", "colours around it (smooth-fill)", "painted (phantom)"]
    shown = {}
    for fill, asked in (("patch-fill", ""), ("smooth-fill", "smooth-fill")):
        app.selectbox("cf_fill").set_value(fill).run()
        assert not app.exception and "cf_paint" not in [button.key for button in app.button]
        trial = run_trial(instrument, EditRequest("remove", to_remove, IMAGE, editor=asked))
        shown[fill] = float(trial.shift.shift[to_remove])
        assert trial.edit.editor == fill and f"### Predicted shift {shown[fill]:+.2f} SD" in texts(app)
    assert len(set(shown.values())) == 2 and editor.seeds == []
    app.selectbox("cf_fill").set_value("phantom").run()
    request = EditRequest("remove", to_remove, IMAGE, editor="phantom")
    assert f"#### Instant estimate {foresee(instrument, request).instant:+.2f} SD" in texts(app) and editor.seeds == []
    job = painting(app)
    editor.let(2)
    app.run()
    step = job.watched.runs[-1].steps[-1]
    assert f"Step 2 of {STEPS}: predicted shift so far {step.shift:+.2f} SD" in texts(app)
    next(button for button in app.button if button.label == "Stop").click().run()
    editor.gate.release()
    assert ended(job).state == "cancelled" and job.watched.runs == ()
    app.run()
    assert "nothing of what was being painted is kept" in texts(app)
    app.button_group("cf_seeds").set_value(3).run()
    for _ in range(3 * (STEPS + STEPS * trials.N_ELSEWHERE)):  # every control elsewhere is painted, too
        editor.gate.release()
    runs = ended(painting(app)).outcome
    app.run()
    for run in runs:
        shift = float(run.trial.shift.shift[to_remove])
        assert any(f"**{shift:+.2f} SD**  \nSeed {run.seed} · rank" in caption.value for caption in app.caption)
    first = runs[0].trial
    assert np.array_equal(first.edit.edit_mask, foresee(instrument, request).region) and "verification" in first.edit.provenance
    assert first.shift.control_names.count("same size, elsewhere") == 2
    said = texts(app)
    assert f"### Predicted shift {first.shift.shift[to_remove]:+.2f} SD" in said and "Beyond the mean control" in said
    assert app.table[0].value["edit"].tolist() == ["remove, phantom, seed 0", "remove, smooth-fill", "remove, patch-fill"]
    next(button for button in app.button if button.label == "Pin").click().run()
    [pin] = resources.notebook().pins()
    assert (pin.settings["request"]["kind"], pin.settings["request"]["editor"]) == ("remove", "phantom")


def test_which_removal_is_nearer_to_the_truth_is_read_from_what_was_measured(instrument, editor, to_remove, monkeypatch):
    found = {
        "phantom": RemovalError(21.04, 19.0, 23.1, 90, 0.0, 0.0, 0.0),
        "patch-fill": RemovalError(22.0, 20.0, 24.0, 90, 0.96, -0.4, 2.3),
        "smooth-fill": RemovalError(20.5, 18.0, 23.0, 90, -0.54, -1.0, -0.1),
        "ring median": RemovalError(30.0, 28.0, 32.0, 90, 8.96, 7.0, 11.0),
    }
    monkeypatch.setattr(counterfactual, "measured_removals", lambda name: found)
    said = texts(opened(to_remove, edit="remove"))
    assert "over 90 scenes also drawn without the object (95 % intervals): painted by phantom 21.0 (19.0 to 23.1)." in said
    assert "Beyond that, in the same scenes: smooth-fill -0.5 (-1.0 to -0.1); patch-fill +1.0 (-0.4 to +2.3); the median colour" in said
    assert "which knows nothing, +9.0 (+7.0 to +11.0)." in said
    found.clear()
    app = opened(to_remove, edit="remove")
    assert "what is behind" not in texts(app)
    app.selectbox("cf_fill").set_value("phantom").run()
    assert "How near it comes to what is behind was not measured here." in texts(app)


def test_without_a_painter_removals_are_filled(instrument, editor, to_remove, monkeypatch):
    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ())
    app = opened(to_remove, edit="remove")
    assert app.selectbox("cf_fill").options == ["patches of the image (patch-fill)", "colours around it (smooth-fill)"]
    assert "### Predicted shift" in texts(app) and "no editor" not in texts(app).lower()
