"""Batches: the same wherever they run, and nothing is done twice whatever dies meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mine_core.artifacts import ArtifactStore, write_text
from mine_core.batches import Task, Where, run_batch
from mine_core.cli import main
from mine_core.cli_batch import do_task, tasks_of
from mine_core.config import InstrumentConfig
from mine_core.errors import BatchError, ConfigError, SubjectError
from mine_core.instrument import profiling

HERE = Path(__file__).parent
LONG = 120


def write_square(folder: Path, number: int, seconds: float) -> None:
    path = folder / f"{number}.txt"
    if not path.is_file():
        time.sleep(seconds)
        write_text(path, f"{number**2} after {number}")


def refuse(number: int) -> None:
    raise SubjectError(f"There is no subject {number}.")


def squares(folder: Path, n: int = 8, seconds: float = 0.0) -> list[Task]:
    folder.mkdir(exist_ok=True)
    return [Task(write_square, (folder, number, seconds)) for number in range(n)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def started(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HERE)


@contextmanager
def cluster(port: int, n_workers: int = 2) -> Iterator[tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A scheduler and its workers, each a process of its own that can be killed."""
    from distributed import Client

    scheduler = started("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    flags = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "30")
    workers = [started("dask_worker", f"tcp://127.0.0.1:{port}", *flags) for _ in range(n_workers)]
    try:
        with Client(f"tcp://127.0.0.1:{port}", timeout=LONG, set_as_default=False) as client:
            if n_workers:
                client.wait_for_workers(n_workers, timeout=LONG)
        yield scheduler, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_processes_do_what_this_process_does(tmp_path: Path) -> None:
    for name, where in (("here", Where()), ("beside", Where(workers=2))):
        assert sorted(run_batch(squares(tmp_path / name), where, tmp_path)) == list(range(8))
    assert contents(tmp_path / "here") == contents(tmp_path / "beside")
    with pytest.raises(SubjectError, match="no subject 3"):
        list(run_batch([Task(refuse, (3,))], Where(workers=2), tmp_path))


def test_a_cluster_loses_a_worker_and_its_scheduler_and_the_batch_goes_on(tmp_path: Path) -> None:
    list(run_batch(squares(tmp_path / "here", 14), Where(), tmp_path))
    tasks, done = squares(tmp_path / "there", 14, 0.5), list[int]()
    port = free_port()
    where = Where(dask=f"tcp://127.0.0.1:{port}")
    with cluster(port) as (scheduler, workers), pytest.raises(BatchError, match=r"lost after \d+ of 14 tasks") as lost:
        for number in run_batch(tasks, where, tmp_path):
            done.append(number)
            if len(done) == 2:
                workers[0].send_signal(signal.SIGKILL)
            if len(done) == 6:
                scheduler.send_signal(signal.SIGKILL)
    assert "\n" not in str(lost.value) and 6 <= len(done) < 14, str(lost.value)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "there").glob("*.txt")}
    assert len(kept) < 14
    with cluster(port := free_port()):
        assert sorted(run_batch(tasks, Where(dask=f"tcp://127.0.0.1:{port}"), tmp_path)) == list(range(14))
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())


def test_profiles_made_on_a_cluster_are_those_made_here(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "CHUNK", 9)
    folders = [tmp_path / "here", tmp_path / "there"]
    port = free_port()
    with cluster(port):
        for folder, where in zip(folders, (Where(), Where(dask=f"tcp://127.0.0.1:{port}")), strict=True):
            folder.mkdir()
            table = profiling.profile_blocks(small.instrument, small.store, folder, where, lambda *_: None)
            assert len(table) == len(small.instrument.score.r)
        with pytest.raises(SubjectError, match="no subject 5"):
            list(run_batch([Task(refuse, (5,))], Where(dask=f"tcp://127.0.0.1:{port}"), small.store.root))
        stop = threading.Event()
        slow = run_batch(squares(tmp_path / "slow", 9, 0.4), Where(dask=f"tcp://127.0.0.1:{port}"), tmp_path, stop.is_set)
        next(slow)
        stop.set()
        assert len(list(slow)) < 8
    assert len(contents(folders[0])) == 4 and contents(folders[0]) == contents(folders[1])


def test_no_scheduler_and_no_workers_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mine_core.batches.PATIENCE", 1.0)
    with pytest.raises(BatchError, match="No Dask scheduler answers at tcp://127.0.0.1:9") as refused:
        list(run_batch(squares(tmp_path / "x"), Where(dask="tcp://127.0.0.1:9"), tmp_path))
    assert "\n" not in str(refused.value)
    monkeypatch.setattr("mine_core.batches.PATIENCE", 30.0)
    with cluster(port := free_port(), 0), pytest.raises(BatchError, match="no workers"):
        list(run_batch(squares(tmp_path / "x"), Where(dask=f"tcp://127.0.0.1:{port}"), tmp_path))
    assert not contents(tmp_path / "x")


def test_what_does_not_share_the_store_or_the_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(port := free_port(), 1):
        where = Where(dask=f"tcp://127.0.0.1:{port}")
        monkeypatch.setattr("mine_core.batches._answer", blind)
        with pytest.raises(BatchError, match="does not see the store"):
            list(run_batch(squares(tmp_path / "x"), where, tmp_path))
        monkeypatch.setattr("mine_core.batches._answer", stranger)
        with pytest.raises(BatchError, match="another version of this program"):
            list(run_batch(squares(tmp_path / "x"), where, tmp_path))


def blind(mark: str) -> tuple[str, str]:
    from mine_core.batches import _code

    return _code(), ""


def stranger(mark: str) -> tuple[str, str]:
    return "other", Path(mark).read_text()


def test_a_batch_of_commands_keeps_a_file_a_task_and_tries_what_was_refused_again(
    apart: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [name for name, _ in tasks_of(["profile", "build"], ["small"], [1, 2], ["phantom"])] == ["build", "profile"]
    assert [config.seed for _, config in tasks_of(["build"], ["phantom", "small"], [1, 2], ["phantom"])] == [1, 2, 0]
    with pytest.raises(ConfigError, match="twice"):
        tasks_of(["build", "build"], ["small"], [0], ["phantom"])
    out = tmp_path / "out"
    call = ["batch", "build", "profile", "evaluate-removal", "--subjects", "small", "--out", str(out), "--workers", "1"]
    assert main(call) == 0
    assert "no planted truth" in capsys.readouterr().out
    assert sorted(contents(out)) == ["build-small-0-phantom.json", "profile-small-0-phantom.json"]
    before = contents(out)
    monkeypatch.setattr("mine_core.cli_batch._found", lambda *_: {"n": 1})
    assert main(call) == 0
    assert {name: contents(out)[name] for name in before} == before and len(contents(out)) == 3
    do_task("build", InstrumentConfig("small"), apart.root, out / "evaluate-removal-small-0-phantom.json")
