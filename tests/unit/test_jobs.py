import threading

import pytest

from mine_core.errors import Cancelled, MineError
from mine_core.jobs import Worker


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
