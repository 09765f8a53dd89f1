"""Work through blocks of voxels on all cores: a thread per core, and matrix products that keep to their thread."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import ThreadpoolController, threadpool_limits

from mine_core.errors import Cancelled
from mine_core.types import IsCancelled, OnProgress

Task = TypeVar("Task")
Made = TypeVar("Made")

_LOCK = threading.Lock()
_HELD: list = []  # the limit in force and its users: the library's own restores would cross between threads


@contextmanager
def products_on_one_thread() -> Iterator[int]:
    """Keep numpy's matrix products and eigendecompositions to the thread that calls them; yields how many threads they had.

    A product over several threads waits for the slowest: beside other work on the same cores, an eigendecomposition of
    512 x 512 was seen to take seconds instead of a seventh of one. The limit holds for the whole process while any user is
    inside, and is lifted by the last.
    """
    with _LOCK:
        if not _HELD:
            pools = [pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"]
            _HELD.extend([threadpool_limits(1, user_api="blas"), max(pools, default=1), 0])
        _HELD[2] += 1
        n_threads = _HELD[1]
    try:
        yield n_threads
    finally:
        with _LOCK:
            _HELD[2] -= 1
            if not _HELD[2]:
                _HELD[0].restore_original_limits()
                _HELD.clear()


def blocks_of(n_voxels: int, size: int) -> list[slice]:
    """Slices of at most `size` voxels that cover all of them in order."""
    return [slice(start, min(start + size, n_voxels)) for start in range(0, n_voxels, size)]


def each(work: Callable[[Task], Made], tasks: Sequence[Task]) -> list[Made]:
    """Do independent pieces of work on all cores; the results are in the order of the tasks."""
    with products_on_one_thread() as n_threads, ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, tasks))


def each_block(
    work: Callable[[slice], None],
    blocks: Sequence[slice],
    message: str,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> None:
    """Do the work of every block, at most one a core at a time; `work` keeps what it makes.

    The first refusal in the order of blocks is raised, whichever thread was first.

    Raises
    ------
    Cancelled
        When `cancelled()` is True before a block is started; blocks under way are finished first.
    """
    total, done = blocks[-1].stop if blocks else 0, 0
    waiting: deque[tuple[slice, Future]] = deque()

    def finish() -> int:
        block, future = waiting.popleft()
        future.result()
        if on_progress is not None:
            on_progress(block.stop, total, message)
        return block.stop

    with products_on_one_thread() as n_threads, ThreadPoolExecutor(n_threads) as pool:
        try:
            for block in blocks:
                if cancelled is not None and cancelled():
                    raise Cancelled(f"Stopped after {done} of {total} voxels; nothing was kept.")
                if len(waiting) == n_threads:
                    done = finish()
                waiting.append((block, pool.submit(work, block)))
            while waiting:
                finish()
        finally:
            for _, future in waiting:
                future.cancel()
