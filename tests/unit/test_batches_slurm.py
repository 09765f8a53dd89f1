"""Batches on SLURM, of which this machine plays the submitting side: the two commands that Dask calls, their jobs processes here."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from test_batches import HERE, LONG, contents, squares

from mine_core.batches import Where, run_batch, slurm_cluster
from mine_core.cli import parser
from mine_core.cli_common import where_of
from mine_core.errors import BatchError, ConfigError

SBATCH = """#!/bin/bash
cd "{folder}"
if [ "$1" = --test-only ]; then
    cat > asked
    [ ! -f hang ] || exec sleep 30
    [ ! -f refusal ] || {{ cat refusal >&2; exit 1; }}
    exit 0
fi
number=0
until mkdir jobs/$number 2> /dev/null; do number=$((number + 1)); done
cp "$1" jobs/$number/script
setsid bash jobs/$number/script > jobs/$number/log 2>&1 &
echo $! > jobs/$number/process
echo "Submitted batch job $number"
"""
SCANCEL = """#!/bin/bash
kill -KILL -- -$(cat "{folder}/jobs/$1/process")
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a SLURM of one machine: jobs/N is of job N."""
    folder = tmp_path / "slurm-of-one"
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script.format(folder=folder))
        path.chmod(0o755)
    (folder / "jobs").mkdir()
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    return folder


def submitted(slurm: Path) -> list[str]:
    """Numbers of the jobs that were submitted."""
    return sorted(path.parent.name for path in slurm.glob("jobs/*/process"))


def test_a_slurm_job_asks_for_what_it_was_told(slurm: Path, tmp_path: Path) -> None:
    options = parser().parse_args(["profile", "--slurm", "4", "--slurm-option", "queue=short", "memory=16GB", "walltime=00:30:00"])
    where = where_of(options)
    assert where.slurm == 4
    with slurm_cluster(where.slurm_options, tmp_path / "logs") as made:
        script = made.job_script()
    wanted = ("#SBATCH -p short", "#SBATCH -t 00:30:00", "#SBATCH --mem=15G", "export OMP_NUM_THREADS=1", "--nthreads 1")
    for line in (*wanted, f"#SBATCH -o {tmp_path}/logs/"):
        assert line in script, line
    assert (slurm / "asked").read_text() == script, "SLURM was asked about the job as it would be"
    assert not submitted(slurm), "and none was submitted"
    for wrong in (["--slurm-option", "queue=short"], ["--slurm", "2", "--slurm-option", "queue"]):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            where_of(parser().parse_args(["profile", *wrong]))
    with pytest.raises(ConfigError, match="not both"):
        Where(dask="tcp://127.0.0.1:9", slurm=2)


def test_what_slurm_would_refuse_is_said_in_one_line_before_anything_starts(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(options: dict[str, str]) -> str:
        with pytest.raises(BatchError) as error:
            list(run_batch(squares(tmp_path / "x"), Where(slurm=2, slurm_options=options), tmp_path))
        assert "\n" not in str(error.value) and not submitted(slurm) and not contents(tmp_path / "x")
        return str(error.value)

    assert "cannot be made so" in refused({"colour": "red"})
    (slurm / "refusal").write_text("sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed\n")
    assert "refuses such jobs: invalid partition specified: nope; Batch job submission failed. Change" in refused({"queue": "nope"})
    (slurm / "hang").touch()
    monkeypatch.setattr("mine_core.batches.PATIENCE", 0.5)
    assert "SLURM did not answer in 0.5 seconds" in refused({})
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "no SLURM here (no command sbatch)" in refused({})


def test_slurm_jobs_that_are_cancelled_are_replaced_and_the_batch_goes_on(slurm: Path, tmp_path: Path) -> None:
    import dask

    list(run_batch(squares(tmp_path / "here", 8), Where(), tmp_path))
    options = {"memory": "1GB", "scheduler_options": {"host": "127.0.0.1"}}
    done, cancelled = [], []
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s", "distributed.adaptive.interval": "500ms"}):
        where, patience = Where(slurm=2, slurm_options=options), time.monotonic() + LONG
        for number in run_batch(squares(tmp_path / "there", 8, 0.5), where, tmp_path, lambda: time.monotonic() > patience):
            done.append(number)
            if len(done) == 2:
                cancelled = submitted(slurm)
                for job in cancelled:
                    subprocess.run(["scancel", job], check=True)
    assert sorted(done) == list(range(8)) and contents(tmp_path / "there") == contents(tmp_path / "here")
    assert cancelled and len(submitted(slurm)) > len(cancelled), "others took their place"
