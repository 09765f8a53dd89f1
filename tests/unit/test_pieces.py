"""Experiments as lists of tasks: the same bytes wherever they ran, nothing done twice, and what is kept of a trial."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.errors import Cancelled, EditError, EncodingError
from mine_core.experiments import experiment, measure, removal_effect
from mine_core.experiments.pieces import Pieces, measure_pieces, plain
from mine_core.experiments.removal_effect import removals
from mine_core.experiments.tried import Moved, Tried
from mine_core.instrument import spread
from mine_core.instrument.second import build_second

SENT: list[int] = []


def opening(*_: Any) -> str:
    return "opened"


def squared(opened: Any, number: int) -> dict[str, Any]:
    if number > 8:
        raise EditError(f"{number} is too large.")
    SENT.append(number)
    return {"opened": opened, "squared": np.float32(number) ** 2}


SQUARES = Pieces("squares", opening, squared, about={"version": 1})


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    SENT.clear()


def of(*numbers: int) -> list[dict[str, int]]:
    return [{"number": number} for number in numbers]


def kept(root: Path, name: str) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.glob(f"{name}/*/rows.json")}


def test_processes_find_the_bytes_of_this_process(small: Any, apart: ArtifactStore) -> None:
    """Removals, run by two processes and here, by workers that open what they need."""
    second = build_second(small.config, small.store)
    build_second(small.config, apart)
    asked = [{"voxel": voxel} for voxel in np.argsort(-small.instrument.score.r)[:2].tolist()]
    pieces = Pieces("removal", removal_effect._opened, removals)
    here = measure_pieces(pieces, asked, small.config, small.store, opened=(small.instrument, second))
    there = measure_pieces(pieces, asked, small.config, apart, where=Where(workers=2))
    assert here == there and kept(small.store.root, "removal") == kept(apart.root, "removal")
    assert len(kept(apart.root, "removal")) == 2
    trials = [Tried.from_row(row) for rows in here for row in rows if row]
    assert trials and all(trial.second is not None and not trial.inserted and trial.truth is None for trial in trials)
    assert [json.loads(json.dumps(trial.row())) for trial in trials] == [row for rows in here for row in rows if row]
    assert all(len(trial.guiding.controls) == len(trial.control_names) > 2 for trial in trials)


def test_what_is_done_is_not_done_again_and_answers_keep_their_order(small: Any, apart: ArtifactStore) -> None:
    told: list[tuple[int, int, str]] = []
    with pytest.raises(Cancelled, match="Stopped after 2 of 3 tasks"):
        measure_pieces(SQUARES, of(3, 1, 2), small.config, apart, cancelled=lambda: len(SENT) == 2)
    found = measure_pieces(SQUARES, of(2, 3, 1, 4), small.config, apart, title="squaring", on_progress=lambda *said: told.append(said))
    assert SENT == [3, 1, 2, 4]
    assert [each["squared"] for each in found] == [4, 9, 1, 16]
    assert told == [(2, 4, "squaring"), (3, 4, "squaring"), (4, 4, "squaring")]
    other = Pieces("squares", opening, squared, about={"version": 2})
    measure_pieces(other, of(2), small.config, apart)
    assert SENT == [3, 1, 2, 4, 2]  # of what else the answer depends on


def test_what_is_open_is_used_once_and_no_longer(small: Any, apart: ArtifactStore) -> None:
    [first] = measure_pieces(SQUARES, of(5), small.config, apart, opened="given")
    [second] = measure_pieces(SQUARES, of(6), small.config, apart)
    assert (first["opened"], second["opened"]) == ("given", "opened")


def test_a_refusal_ends_the_list_and_keeps_what_was_done(small: Any, apart: ArtifactStore) -> None:
    with pytest.raises(EditError, match="9 is too large"):
        measure_pieces(SQUARES, of(7, 9, 8), small.config, apart)
    assert SENT == [7]
    measure_pieces(SQUARES, of(7, 8), small.config, apart)
    assert SENT == [7, 8]


def test_values_are_plain_and_finite() -> None:
    found = plain({"a": (np.int64(1), np.bool_(True), None, "x"), "b": {"c": np.float32(0.5)}})
    assert found == {"a": [1, True, None, "x"], "b": {"c": 0.5}}
    with pytest.raises(EncodingError, match=r"^'shift' is nan"):
        plain([{"shift": float("nan")}])


def test_a_trial_survives_being_kept() -> None:
    tried = Tried(3, 5, True, None, Moved(1.5, 1, (0.25, -0.5)), ("elsewhere", "kept"), Moved(0.5, 2, (0.75, 0.0)), 0.1, 4, -2.5)
    assert Tried.from_row(json.loads(json.dumps(tried.row()))) == tried
    assert tried.guiding.mean_control == pytest.approx(-0.125)


def test_an_experiment_makes_what_it_measures_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch, small: Any) -> None:
    """What it needs is made there first; where the measuring is in tasks, they are sent there, too."""
    made: list[str] = []
    monkeypatch.setattr(spread, "spread_stages", lambda _config, _store, where, plan, _told: made.append(f"{plan} by {where.workers}"))
    for name, expected in (("removal", Where(workers=3)), ("encoding", None)):
        seen: list[Any] = []
        module = experiment(name).__module__
        monkeypatch.setattr(f"{module}.measure", lambda *given, seen=seen: seen.append(given[3:]) or {})
        assert measure(name, small.config, small.store, lambda *_: None, Where(workers=3)) == {}
        assert seen == [(expected,) if expected else ()]
    assert made == ["instrument by 3", "second by 3", "instrument by 3"]
