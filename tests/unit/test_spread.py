"""Stages made by workers: the same bytes as in one process, nothing twice, and nothing left over."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_batches import cluster, free_port

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.backbones.kept import KeptEmbeddings
from mine_core.batches import Task, Where, run_batch
from mine_core.cli import main
from mine_core.errors import BackboneError
from mine_core.instrument import spread
from mine_core.instrument.feature_makers import BATCH
from mine_core.instrument.second import second_is_built, second_stages
from mine_core.instrument.stages import stages_of

ELSEWHERE = Where(workers=2)
ARRAYS = ("pooled.npy", "patches.npy", "remainder.npy", "features.json")


@pytest.fixture
def unembedded(small: Any, apart: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """The store of the small subject without its features, and tasks of one batch each."""
    monkeypatch.setattr(spread, "PART", BATCH)
    shutil.rmtree(features_of(small, apart).path)
    return apart


def features_of(small: Any, store: ArtifactStore) -> Artifact:
    recipe = next(stage.recipe for stage in stages_of(small.config, store) if stage.name == "features")
    found = store.find(recipe)
    assert found is not None
    return found


def same_as_small(small: Any, store: ArtifactStore) -> bool:
    ours, theirs = features_of(small, store).path, features_of(small, small.store).path
    return all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in ARRAYS)


def unfinished(store: ArtifactStore) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (store.root / "unfinished").rglob("*.npz")}


def here(tasks: list[Task], *_: Any) -> Iterator[int]:
    for number, task in enumerate(tasks):
        task.run(*task.arguments)
        yield number


def test_processes_make_the_features_of_an_unbroken_build(small: Any, unembedded: ArtifactStore) -> None:
    told: list[tuple[int, int, str]] = []
    spread.spread_stages(small.config, unembedded, ELSEWHERE, on_progress=lambda *said: told.append(said))
    assert same_as_small(small, unembedded)
    n = len(small.scenes)
    assert (n, n, f"Embedding the stimuli: {n} of {n} images") in told and told[-1][2] == "Ready"
    assert not unfinished(unembedded), "what was kept on the way is gone when it is joined"


def test_a_cluster_makes_them_too_and_goes_on_after_it_was_lost(small: Any, unembedded: ArtifactStore) -> None:
    tasks = [Task(spread.embed_part, (small.config, unembedded.root, slice(start, start + BATCH))) for start in (32, 0)]
    assert list(here(tasks)) == [0, 1]
    before = unfinished(unembedded)
    assert len(before) == 2
    for task in tasks:  # a task whose worker died after it was done is given to another
        task.run(*task.arguments)
    assert unfinished(unembedded) == before, "what is kept is not made again"
    with cluster(port := free_port()):
        spread.spread_stages(small.config, unembedded, Where(dask=f"tcp://127.0.0.1:{port}"))
    assert same_as_small(small, unembedded)


def test_joining_embeds_nothing_that_was_embedded(small: Any, unembedded: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "run_batch", here)
    reused: list[KeptEmbeddings] = []
    plain = KeptEmbeddings.__init__

    def watched(self: KeptEmbeddings, *given: Any) -> None:
        plain(self, *given)
        reused.append(self)

    monkeypatch.setattr(KeptEmbeddings, "__init__", watched)
    spread.spread_stages(small.config, unembedded, ELSEWHERE)
    assert [kept.reused for kept in reused] == [0, 0, 0, 0, len(small.scenes)], "four parts embed, the last opening reads"
    assert same_as_small(small, unembedded)


def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that are sent to workers from now on; they are done here."""
    names: list[str] = []

    def watched(tasks: list[Task], *_: Any) -> Iterator[int]:
        names.extend(task.arguments[-1] if task.run is spread.make_stage else "part" for task in tasks)
        return here(tasks)

    monkeypatch.setattr(spread, "run_batch", watched)
    return names


def test_every_stage_that_is_missing_is_a_task(small: Any, unembedded: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in stages_of(small.config, unembedded):
        if stage.name in ("encoding", "captions"):
            shutil.rmtree(unembedded.root / stage.recipe.kind / stage.recipe.key)
    names = sent(monkeypatch)
    spread.spread_stages(small.config, unembedded, ELSEWHERE)
    assert names == [*["part"] * 4, "features", "encoding", "captions"]
    for stage in stages_of(small.config, unembedded):
        made, before = (store.root / stage.recipe.kind / stage.recipe.key for store in (unembedded, small.store))
        for file in before.rglob("*.npy"):
            assert (made / file.relative_to(before)).read_bytes() == file.read_bytes(), stage.name
    names.clear()
    spread.spread_stages(small.config, unembedded, ELSEWHERE)
    assert not names
    for stage in second_stages(small.config, unembedded)[-2:]:  # another test may have made them
        shutil.rmtree(unembedded.root / stage.recipe.kind / stage.recipe.key, ignore_errors=True)
    spread.spread_stages(small.config, unembedded, Where(), "second")
    assert not names, "this process is not elsewhere"
    spread.spread_stages(small.config, unembedded, ELSEWHERE, "second")
    assert names == [*["part"] * 4, "features", "encoding"] and second_is_built(small.config, unembedded)


def test_what_is_embedded_is_left_alone(small: Any, apart: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "run_batch", lambda *_: pytest.fail("there is nothing to embed"))
    spread.spread_stages(small.config, apart, ELSEWHERE)
    spread.embed_part(small.config, apart.root, slice(0, BATCH))
    assert not unfinished(apart)


def test_a_worker_that_cannot_embed_is_told_in_one_line(small: Any, unembedded: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise BackboneError("The weights of backbone 'phantom' are not on this machine.")

    monkeypatch.setattr(spread, "run_batch", lambda tasks, _, shared: run_batch([Task(refuse, ()), *tasks], Where(), shared))
    with pytest.raises(BackboneError, match="are not on this machine"):
        spread.spread_stages(small.config, unembedded, ELSEWHERE)
    assert not unfinished(unembedded)


def test_the_command_embeds_on_workers_and_fits(small: Any, unembedded: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--subject", "small", "--workers", "2"]) == 0
    assert same_as_small(small, unembedded)
    assert f"{np.median(small.instrument.score.r):.3f}"[:4] in capsys.readouterr().out
    assert main(["build", "--subject", "small", "--dask", "tcp://127.0.0.1:1", "--workers", "0"]) == 2
    assert "0 workers were asked for" in capsys.readouterr().err
