"""`benchmark encoding` compares solvers that solve the same problem, and refuses sizes and names it does not know."""

import json
from pathlib import Path

import numpy as np
import pytest

from mine_core.cli import REFUSED, main
from mine_core.encoding.gram import STRIP, product_operations
from mine_core.experiments import encoding_speed, experiment

pytestmark = pytest.mark.benchmark


def test_the_solvers_choose_the_same_penalties_on_the_same_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "answer.json"
    sizes = ["--stimuli", "500", "--features", "40", "--voxels", "60"]
    assert main(["benchmark", "encoding", *sizes, "--json", str(answer)]) == 0
    found = json.loads(answer.read_text())
    assert "share_of_product_rate" in capsys.readouterr().out
    assert (found["n_stimuli"], found["n_features"], found["n_voxels"]) == (500, 40, 60)
    assert len(found["seconds_of_each"]) == 3 and found["seconds"] == np.median(found["seconds_of_each"])
    assert found["scikit-learn"]["same_penalty"] == 1 and found["himalaya"]["same_penalty"] > 0.9
    for name in ("himalaya", "scikit-learn"):
        assert found[name]["largest_difference_of_r_same_penalty"] < 1e-3
        assert found[name]["ratio"] == pytest.approx(found[name]["seconds"] / found["seconds"])
    assert 0.3 < found["median_r"] < 0.95


def test_the_operations_counted_are_those_of_the_products() -> None:
    n, d, v, folds, alphas = 1000, 2 * STRIP, 30, 5, 12
    crossed, turned, final = 2 * n * d * v, folds * 2 * 2 * d * d * v, 2 * 2 * d * d * v
    strips = alphas * STRIP * 2 * STRIP + alphas * STRIP * STRIP
    assert product_operations(n, d, v, folds, alphas) == crossed + turned + final + folds * 2 * v * (strips + alphas * d)


def test_unknown_names_and_empty_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "encoding", "--against", "numpy"]) == REFUSED
    assert "'numpy' is unknown" in capsys.readouterr().err
    assert main(["benchmark", "encoding", "--voxels", "0"]) == REFUSED
    assert "0 voxels were asked for" in capsys.readouterr().err
    assert experiment("encoding-speed") is encoding_speed.measure
