"""Batches: lists of small tasks, run in this process, in processes beside it, or on a Dask cluster; killed at any moment, they go on.

A task is a function of this package and plain arguments. It keeps what it makes in one atomic move, in a folder that every worker
sees, and does nothing where that is there already; so it does not matter where a task runs, how often, or what dies meanwhile.
"""

import logging
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from mine_core.artifacts import code_version, write_text
from mine_core.errors import BatchError, ConfigError, MineError
from mine_core.types import IsCancelled

POLL, PATIENCE = 1.0, 30.0
SLURM_CORES = 1


class Task(NamedTuple):
    """One piece of a batch: `run(*arguments)`, a function at the top of a module and arguments that a process can be sent."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Where:
    """Where tasks run: this process (one worker), processes beside it, or a Dask cluster.

    `dask` is the address of a scheduler, such as tcp://10.0.0.1:8786; `slurm` the number of jobs that a cluster of one's own is made
    of, with `slurm_options` as `dask_jobqueue.SLURMCluster` takes them (queue, account, memory, walltime).
    """

    workers: int = 1
    dask: str = ""
    slurm: int = 0
    slurm_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"{self.workers} workers were asked for; at least 1 is needed.")
        if self.slurm < 0 or (self.dask and self.slurm):
            raise ConfigError("Give the address of a Dask scheduler or a number of SLURM jobs from 1, not both.")


def run_batch(tasks: Sequence[Task], where: Where, shared: Path, cancelled: IsCancelled = lambda: False) -> Iterator[int]:
    """Run tasks, and tell the number of each (its place in `tasks`) when it is done; the order is that of finishing.

    Parameters
    ----------
    shared : folder of the store, which must be the same on every worker of a cluster; it is tried before anything runs.
    cancelled : asked while waiting for a cluster; what has not begun is then taken back.

    Raises
    ------
    BatchError
        If a cluster cannot be reached, does not see `shared`, runs another version of this package, or is lost. What was finished is
        kept by the tasks themselves: the same command goes on from there.
    MineError
        What a task refused with.
    """
    if where.dask or where.slurm:
        yield from _on_cluster(tasks, where, shared, cancelled)
    elif where.workers == 1:
        for number, task in enumerate(tasks):
            task.run(*task.arguments)
            yield number
    else:
        yield from _in_processes(tasks, where.workers)


def _in_processes(tasks: Sequence[Task], workers: int) -> Iterator[int]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        number_of: dict[Future[None], int] = {pool.submit(task.run, *task.arguments): n for n, task in enumerate(tasks)}
        waiting = set(number_of)
        try:
            while waiting:
                ready, waiting = wait(waiting, return_when="FIRST_COMPLETED")
                for future in ready:
                    future.result()
                    yield number_of[future]
        finally:
            for future in waiting:
                future.cancel()


def _on_cluster(tasks: Sequence[Task], where: Where, shared: Path, cancelled: IsCancelled) -> Iterator[int]:
    import distributed

    with ExitStack() as stack:
        stack.enter_context(_one_line_only())
        address: Any = where.dask
        if where.slurm:
            address = stack.enter_context(slurm_cluster(where.slurm_options, shared / "slurm"))
            # a job that is cancelled, or whose time is over, is replaced
            address.adapt(minimum_jobs=where.slurm, maximum_jobs=where.slurm)
        try:
            client = stack.enter_context(distributed.Client(address, timeout=PATIENCE, set_as_default=False))
        except (OSError, ValueError) as error:
            raise BatchError(
                f"No Dask scheduler answers at {where.dask} ({_short(error)}); start one, or check the address."
            ) from error
        _check_workers(client, shared, wait_for_one=bool(where.slurm))
        number_of = {client.submit(task.run, *task.arguments, pure=False): n for n, task in enumerate(tasks)}
        waiting, done = set(number_of), 0
        while waiting:
            ready = _finished(client, waiting, done, len(tasks))
            for future in ready:
                _settle(future, done, len(tasks))
                waiting.discard(future)
                done += 1
                yield number_of[future]
            if cancelled():
                client.cancel(list(waiting))
                return


@contextmanager
def _one_line_only() -> Iterator[None]:
    """Keep Dask from logging tracebacks of a lost connection, which is told in one line."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _finished(client: Any, waiting: set[Any], done: int, total: int) -> list[Any]:
    """Futures that have ended, waiting a moment for one; raises BatchError if the scheduler is gone."""
    import distributed

    try:
        with client.as_current():
            ready = distributed.wait(waiting, timeout=POLL, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        ready = set()
    except Exception as error:  # of many kinds, by what broke first
        raise _lost(done, total, error) from error
    if client.status != "running":
        raise _lost(done, total, None)
    return list(ready)


def _settle(future: Any, done: int, total: int) -> None:
    """Raise what a task raised; a task that the cluster lost is a lost cluster."""
    if future.status == "finished":
        return
    error = future.exception() if future.status == "error" else None
    if isinstance(error, MineError):
        raise error
    raise _lost(done, total, error)


def _lost(done: int, total: int, error: BaseException | None) -> BatchError:
    why = f" ({_short(error)})" if error is not None else ""
    return BatchError(
        f"The cluster was lost after {done} of {total} tasks{why}. What was finished is kept: start the scheduler and its workers, "
        "and give the same command again."
    )


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _check_workers(client: Any, shared: Path, *, wait_for_one: bool) -> None:
    """See to it that every worker reads this package and this store; raises BatchError otherwise."""
    if wait_for_one:
        client.wait_for_workers(1)
    mark = shared / "locks" / "cluster"
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_text(mark, token := uuid.uuid4().hex)
    answers: Mapping[str, tuple[str, str]] = client.run(_answer, str(mark))
    if not answers:
        raise BatchError("The Dask scheduler has no workers; start some: dask worker ADDRESS --nthreads 1.")
    for worker, (theirs, seen) in answers.items():
        if theirs != _code():
            raise BatchError(f"Worker {worker} runs another version of this program; install the same one on every machine.")
        if seen != token:
            raise BatchError(f"Worker {worker} does not see the store {shared}; set MINE_CACHE to a folder that all machines share.")


def _answer(mark: str) -> tuple[str, str]:
    """What a worker's program is, and what it reads at a path."""
    path = Path(mark)
    return _code(), path.read_text(encoding="utf-8") if path.is_file() else ""


def _code() -> str:
    return code_version(".")


@contextmanager
def slurm_cluster(options: Mapping[str, Any], logs: Path) -> Iterator[Any]:
    """Dask cluster of SLURM jobs, none submitted yet, with one single-threaded worker each; what they print goes to files in `logs`.

    Raises BatchError for an option that dask-jobqueue lacks, without SLURM, or with SLURM's reason where it would refuse such jobs.
    """
    from dask_jobqueue import SLURMCluster

    given = {"cores": SLURM_CORES, "processes": 1, "memory": "8GB", "walltime": "04:00:00", "log_directory": str(logs), **options}
    prologue = ["export OMP_NUM_THREADS=1"]
    try:
        cluster = SLURMCluster(job_script_prologue=prologue, **given)
    except (TypeError, ValueError) as error:
        raise BatchError(f"SLURM jobs cannot be made so: {_short(error)}.") from error
    with cluster:
        _check_submission(cluster.job_script())
        yield cluster


def _check_submission(script: str) -> None:
    """Ask SLURM whether it would take such a job; raises BatchError if not (Dask would try again for ever)."""
    try:
        asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError as error:
        raise BatchError("There is no SLURM here (no command sbatch): start this on a machine that submits jobs.") from error
    except subprocess.TimeoutExpired as error:
        raise BatchError(f"SLURM did not answer in {PATIENCE:g} seconds (sbatch --test-only); is its controller running?") from error
    if asked.returncode:
        told = [line.removeprefix("sbatch: error: ") for line in asked.stderr.splitlines() if line.startswith("sbatch: error:")]
        reason = ("; ".join(told) or " ".join(asked.stderr.split()))[:240].rstrip(".")
        raise BatchError(f"SLURM refuses such jobs: {reason}. Change --slurm-option (queue, account, memory, walltime).")
