"""`benchmark words` times what it says, and a search grows no faster than its voxels."""

import time

import numpy as np
import pytest

from mine_core.description.scoring import standardised
from mine_core.description.search import parse_query, search
from mine_core.experiments import experiment, words_speed

pytestmark = pytest.mark.benchmark


def test_a_search_grows_no_faster_than_its_voxels(rng: np.random.Generator) -> None:
    """Medians within one run: ten times the voxels take at most thirty times as long."""

    def median(n_voxels: int) -> float:
        answers, seconds = standardised(rng.normal(size=(500, n_voxels)).astype(np.float32)), []
        for _ in range(9):
            began = time.perf_counter()
            search(parse_query("x"), rng.normal(size=500).astype(np.float32), answers, rng)
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    assert median(20_000) < 30 * median(2_000)


def test_searches_are_timed_one_by_one(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(words_speed, "N_VOXELS", 50)
    monkeypatch.setattr(words_speed, "N_STIMULI", 40)
    found = words_speed._searches(rng)
    assert found.shape == (words_speed.N_SEARCHES,) and (found > 0).all()
    assert experiment("words-speed") is words_speed.measure
