"""Pages are run in this process; what they leave behind must not reach other tests."""

import sys
import time
from collections.abc import Iterator

import pytest

from mine_core.ui import resources


@pytest.fixture(autouse=True)
def main_module_kept() -> Iterator[None]:
    """A page run by AppTest becomes `__main__`, which processes started later would run again."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(scope="session", autouse=True)
def no_work_left() -> Iterator[None]:
    """Work that pages began is stopped before the interpreter ends: a thread of torch that outlives it aborts the process."""
    yield
    jobs = [job for worker in (resources.worker(), resources.preparer()) for job in worker.jobs()]
    for job in jobs:
        job.cancel()
    for _ in range(600):
        if not any(job.active for job in jobs):
            return
        time.sleep(0.1)
