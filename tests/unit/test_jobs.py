import subprocess
import sys
import threading

import pytest

from mine_core import jobs
from mine_core.config import PROJECT
from mine_core.errors import Cancelled, MineError
from mine_core.jobs import Foreground, Job, Worker


def wait(job, event=None):
    for _ in range(1000):
        if not job.active:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"job still {job.state} after 10 s")


def test_work_is_done_once_while_it_runs_and_after():
    worker, gate, calls = Worker(), threading.Event(), []

    def work(on_progress, cancelled):
        calls.append(1)
        gate.wait(10)
        on_progress(3, 4, "three of four")
        return "answer"

    first = worker.submit("k", "title", work)
    assert worker.submit("k", "title", work) is first
    gate.set()
    wait(first)
    assert worker.submit("k", "title", work) is first
    assert (first.state, first.outcome, first.share, calls) == ("done", "answer", 0.75, [1])


def test_cancel_stops_at_the_next_step_and_the_work_may_be_started_again():
    worker, running = Worker(), threading.Event()

    def work(on_progress, cancelled):
        running.set()
        while not cancelled():
            threading.Event().wait(0.005)
        raise Cancelled("Stopped.")

    job = worker.submit("k", "title", work)
    running.wait(10)
    job.cancel()
    wait(job)
    assert job.state == "cancelled"
    assert worker.submit("k", "title", lambda *_: 1) is not job


def test_a_job_cancelled_while_waiting_never_runs():
    worker, gate, calls = Worker(), threading.Event(), []
    first = worker.submit("a", "title", lambda *_: gate.wait(10))
    second = worker.submit("b", "title", lambda *_: calls.append(1))
    second.cancel()
    gate.set()
    wait(first)
    wait(second)
    assert second.state == "cancelled"
    assert calls == []


@pytest.mark.parametrize(("error", "state"), [(MineError("Found 3; expected 4."), "refused"), (ValueError("bug"), "failed")])
def test_a_refusal_is_told_from_a_bug(error, state):
    worker = Worker()

    def work(on_progress, cancelled):
        raise error

    job = worker.submit("k", "title", work)
    wait(job)
    assert job.state == state
    assert job.error is error


def test_a_failed_job_does_not_take_the_worker_with_it():
    worker = Worker()
    wait(worker.submit("bad", "title", lambda *_: 1 / 0))
    job = worker.submit("good", "title", lambda *_: 7)
    wait(job)
    assert job.outcome == 7


def test_work_that_never_asks_is_stopped_at_its_next_report():
    worker, running, gate, after = Worker(), threading.Event(), threading.Event(), []

    def work(on_progress, cancelled):
        on_progress(1, 3, "one")
        running.set()
        gate.wait(10)
        on_progress(2, 3, "two")
        after.append("went on")

    job = worker.submit("k", "title", work)
    running.wait(10)
    job.cancel()
    assert job.stopping
    gate.set()
    wait(job)
    assert (job.state, job.done, job.stopping, after) == ("cancelled", 1, False, [])


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def reported(*reports):
    """A job that was told (seconds, done, total) one after the other, and its clock."""
    clock = Clock()
    job = Job("k", "title", state="running", clock=clock)
    for seconds, done, total in reports:
        clock.now = 1000.0 + seconds
        job.report(done, total, "")
    return job, clock


def test_time_left_is_that_of_the_work_and_not_of_what_was_stored_before():
    stored, clock = reported((0.0, 0, 100), (0.01, 40, 100), (0.3, 60, 100), (10.3, 70, 100))
    assert stored.seconds_left == pytest.approx(30.0)  # 10 of 100 in 10 s, 30 of 100 to go
    clock.now += 4
    assert stored.seconds_left == pytest.approx(42.0)  # 14 s for the same 10: it is slower than it seemed


def test_time_left_counts_from_the_first_report_and_not_from_the_queue():
    waited, _ = reported((500.0, 0, 10), (508.0, 2, 10))
    assert waited.seconds_left == pytest.approx(32.0)


def test_time_left_begins_anew_with_a_new_count():
    counted, _ = reported((0.0, 0, 4), (90.0, 4, 4), (90.1, 0, 60), (120.1, 30, 60))
    assert counted.seconds_left == pytest.approx(30.0)


@pytest.mark.parametrize("reports", [(), ((0, 0, 100),), ((0, 50, 100), (9, 52, 100)), ((0, 100, 100),), ((0, 0, 0), (9, 0, 0))])
def test_no_time_left_is_named_before_a_twentieth_of_the_work_is_done(reports):
    assert reported(*reports)[0].seconds_left is None


def test_a_fault_is_written_to_the_log_with_its_traceback(caplog):
    wait(Worker().submit("bad", "Dividing", lambda *_: 1 / 0))
    assert "Dividing failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_program_ends_without_waiting_for_work_that_is_under_way():
    program = "import time; from mine_core.jobs import Worker; Worker().submit('k', 'title', lambda *_: time.sleep(600))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=PROJECT)


def test_work_nobody_waits_for_stands_back_between_its_steps_while_somebody_waits(monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_STAND", 3600.0)
    foreground, went_on = Foreground(), threading.Event()
    worker = Worker(foreground=foreground)

    def work(on_progress, cancelled):
        on_progress(1, 2, "one of two")
        went_on.set()
        return "answer"

    with foreground.waited_for(), foreground.waited_for():
        job = worker.submit("k", "title", work)
        assert not went_on.wait(0.5)
        assert (job.state, job.done) == ("running", 1)
    wait(job)
    assert went_on.is_set() and job.outcome == "answer"


def test_a_worker_without_a_foreground_stands_back_for_nobody(monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_STAND", 3600.0)
    with Foreground().waited_for():
        job = Worker().submit("k", "title", lambda on_progress, _: on_progress(1, 1, "all"))
        wait(job)
    assert job.state == "done"


def test_what_never_ends_holds_work_up_but_does_not_stop_it(monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_STAND", 0.01)
    foreground = Foreground()
    with foreground.waited_for():
        job = Worker(foreground=foreground).submit("k", "title", lambda on_progress, _: on_progress(1, 1, "all"))
        wait(job)
    assert job.state == "done"


def test_work_that_stands_back_can_be_stopped(monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_STAND", 3600.0)
    foreground, reached = Foreground(), threading.Event()

    def work(on_progress, cancelled):
        reached.set()
        for step in range(3):
            on_progress(step, 3, "steps")

    with foreground.waited_for():
        job = Worker(foreground=foreground).submit("k", "title", work)
        assert reached.wait(10)
        job.cancel()
        wait(job)
    assert job.state == "cancelled"


def test_nobody_waits_any_more_when_what_was_waited_for_failed(monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_STAND", 3600.0)
    foreground = Foreground()
    with pytest.raises(ZeroDivisionError), foreground.waited_for():
        raise ZeroDivisionError
    job = Worker(foreground=foreground).submit("k", "title", lambda on_progress, _: on_progress(1, 1, "all"))
    wait(job)
    assert job.state == "done"
