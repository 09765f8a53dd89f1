"""Long work off the page: one worker thread, progress, cancel, and never the same work twice.

A job is known by a key of what it does, so a page that is left and opened again, or a second browser window, finds the
job that is running instead of starting another.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from mine_core.errors import Cancelled, MineError
from mine_core.types import IsCancelled, OnProgress

logger = logging.getLogger(__name__)
Work = Callable[[OnProgress, IsCancelled], Any]
JobState = Literal["waiting", "running", "done", "cancelled", "refused", "failed"]
ACTIVE: tuple[JobState, ...] = ("waiting", "running")
# Reports within so many seconds of the first tell what was stored before, not what is being done.
STORED_BEFORE = 1.0
WORTH_A_GUESS = 0.05
# Seconds that work stands back at a time: a page that never ends, or one that waits for that very work, does not stop it for good.
LONGEST_STAND = 5.0
LOOK_AGAIN = 0.05


@dataclass
class Job:
    """One piece of long work and how far it is; read by pages, written by the worker alone.

    `watched` is what the work shows of itself while it runs, beyond a share and a message, for whoever finds the job.
    """

    key: str
    title: str
    state: JobState = "waiting"
    done: int = 0
    total: int = 1
    message: str = ""
    outcome: Any = None
    error: BaseException | None = None
    watched: Any = None
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    _first: tuple[float, float] | None = None
    _base: tuple[float, float] | None = None

    @property
    def active(self) -> bool:
        """Whether the worker still has it."""
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left if it goes on at the rate of its real work; None before a twentieth of that is done.

        left = (now - t0) (1 - share) / (share - share0), from the report (t0, share0) at which real work began: the last one
        within a second of the first, for what was stored before is reported done at once. Where the share falls, a new
        count has begun, and the time is that of the new count. Even work is assumed; a slow last step is not foreseen.
        """
        base, share = self._base, self.share
        if base is None or share - base[1] < WORTH_A_GUESS * (1 - base[1]) or share <= base[1]:
            return None
        return (self.clock() - base[0]) * (1 - share) / (share - base[1])

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and has not stopped yet."""
        return self.active and self.stop.is_set()

    def cancel(self) -> None:
        """Ask it to stop at its next step."""
        self.stop.set()

    def report(self, done: int, total: int, message: str) -> None:
        """Take a progress report of the work; raises Cancelled if it was asked to stop, so that any work can be stopped here."""
        if self.stop.is_set():
            raise Cancelled(f"Stopped: {self.title}. What was finished is kept.")
        fell = done * self.total < self.done * total
        self.done, self.total, self.message = done, total, message
        here = (self.clock(), self.share)
        if self._first is None or fell:
            self._first = here
        if here[0] - self._first[0] < STORED_BEFORE or self._base is None:
            self._base = here


class Foreground:
    """Counts what users are waiting for, so that work nobody waits for can stand back between its steps.

    Standing back is better than a lower priority of the worker's thread: threads share the interpreter and the locks of modules and
    of models, and a page that waits for what a slow thread holds is as slow as that thread.
    """

    def __init__(self) -> None:
        self._waited, self._lock = 0, threading.Lock()

    @property
    def waiting(self) -> int:
        """How many users wait."""
        return self._waited

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Have other work stand back while this block runs."""
        with self._lock:
            self._waited += 1
        try:
            yield
        finally:
            with self._lock:
                self._waited -= 1

    def stand_back(self, stopped: IsCancelled) -> None:
        """Return when no user waits, the work is to stop, or five seconds have passed."""
        until = time.monotonic() + LONGEST_STAND
        while self._waited and not stopped() and time.monotonic() < until:
            time.sleep(LOOK_AGAIN)


class Worker:
    """One thread that does jobs in the order they came; given a `foreground`, it stands back for that at each report of progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, foreground: Foreground | None = None) -> None:
        self._clock, self._foreground = clock, foreground
        self._queue: queue.SimpleQueue[tuple[Job, Work]] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        # A daemon, so that the app ends when it is told to: the store keeps nothing of what was half made.
        threading.Thread(target=self._serve, name="mine-worker", daemon=True).start()

    def submit(self, key: str, title: str, work: Work, watched: Any = None) -> Job:
        """Start `work(on_progress, cancelled)`, or return the job of that key that is active or done, with what that one shows."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and (job.active or job.state == "done"):
                return job
            job = self._jobs[key] = Job(key, title, watched=watched, clock=self._clock)
        self._queue.put((job, work))
        return job

    def find(self, key: str) -> Job | None:
        """Return the latest job of that key, whatever became of it."""
        with self._lock:
            return self._jobs.get(key)

    def forget(self, key: str) -> None:
        """Drop a job that is no longer active, so that it may be started again."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and not job.active:
                del self._jobs[key]

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def _serve(self) -> None:
        while True:
            self._run(*self._queue.get())

    def _run(self, job: Job, work: Work) -> None:
        if job.stop.is_set():
            job.state = "cancelled"
            return
        job.state = "running"
        try:
            job.outcome = work(self._reporting(job), job.stop.is_set)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except MineError as error:
            job.error, job.state = error, "refused"
        except BaseException as error:
            logger.exception("%s failed", job.title)
            job.error, job.state = error, "failed"

    def _reporting(self, job: Job) -> OnProgress:
        foreground = self._foreground
        if foreground is None:
            return job.report

        def report(done: int, total: int, message: str) -> None:
            job.report(done, total, message)
            foreground.stand_back(job.stop.is_set)

        return report
