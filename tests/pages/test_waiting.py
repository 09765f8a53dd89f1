"""Long work as a page shows it: how far it is, a way to stop it, and why it ended without a result."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from streamlit.testing.v1 import AppTest

from mine_core.errors import MineError
from mine_core.jobs import Job, Worker
from mine_core.ui import resources


def page() -> None:
    from mine_core.ui import resources
    from mine_core.ui.waiting import wait_for

    job = resources.worker().find("k")
    if job is not None and job.state != "done":
        wait_for(job)


@dataclass
class Gated:
    """Work that waits for the test between its two reports."""

    worker: Worker
    began: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    ends_with: Exception | None = None

    def __call__(self, on_progress, cancelled):
        on_progress(1, 4, "weighing clouds")
        self.began.set()
        assert self.gate.wait(30)
        on_progress(3, 4, "weighing clouds")
        if self.ends_with is not None:
            raise self.ends_with
        return "weighed"

    def start(self) -> Job:
        job = self.worker.submit("k", "Weighing", self)
        assert self.began.wait(30)
        return job


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gated]:
    worker = Worker()
    monkeypatch.setattr(resources, "worker", lambda: worker)
    gated = Gated(worker)
    yield gated
    gated.gate.set()


def ended(job: Job) -> None:
    for _ in range(3000):
        if not job.active:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"job still {job.state} after 30 s")


def shown() -> AppTest:
    return AppTest.from_function(page, default_timeout=30).run()


def bars(app: AppTest) -> list[tuple[int, str]]:
    return [(bar.value, bar.text) for bar in app.get("progress")]


def test_a_running_job_shows_how_far_it_is_and_can_be_stopped(work):
    job = work.start()
    app = shown()
    assert bars(app) == [(25, "Weighing clouds")]
    app.button("stop_k").click().run()
    assert bars(app) == [(25, "Stopping at the next step")]
    assert app.button("stop_k").disabled
    work.gate.set()
    ended(job)
    app.run()
    assert job.state == "cancelled"
    assert bars(app) == []
    assert [note.value for note in app.info] == ["Stopped. What was finished is kept."]


def test_what_was_stopped_can_be_started_again(work):
    job = work.start()
    job.cancel()
    work.gate.set()
    ended(job)
    app = shown()
    app.button("again_k").click().run()
    assert work.worker.find("k") is None
    assert not app.exception


def test_a_refusal_is_shown_in_its_own_words_and_a_fault_is_not(work):
    for error, said in ((MineError("Found 3; expected 4."), "Found 3; expected 4."), (ValueError("secret"), "a fault of the program")):
        work.ends_with = error
        work.gate.set()
        ended(work.start())
        app = shown()
        assert len(app.error) == 1 and said in app.error[0].value and "secret" not in app.error[0].value
        assert bars(app) == []


def test_the_page_goes_on_when_the_job_is_done(work):
    job = work.start()
    app = shown()
    work.gate.set()
    ended(job)
    app.run()
    assert job.outcome == "weighed"
    assert bars(app) == [] and not app.info and not app.error
