"""The ablation scores what it says, on the voxels that it says."""

import json

import numpy as np
import pytest

from mine_core.encoding.query_attention import QueryAttentionConfig
from mine_core.experiments import encoder_ablation
from mine_core.experiments.encoder_ablation import SEED, SHUFFLED, VARIANTS, measure


def test_every_variant_differs_from_the_encoder_as_it_is_and_is_possible() -> None:
    assert VARIANTS["as it is"] == {}
    for name, changed in VARIANTS.items():
        assert (QueryAttentionConfig(**changed) == QueryAttentionConfig()) == (name == "as it is")


def test_ridge_is_scored_as_the_instrument_scores_it_and_the_whole_differs_from_itself_by_nothing(small) -> None:
    instrument = small.instrument
    found = measure(instrument, 8, ["no feed-forward"])
    assert list(found["variants"]) == ["ridge", "as it is", "no feed-forward", SHUFFLED]
    assert found["n_voxels"] == 8
    voxels = np.random.default_rng(SEED).permutation(len(instrument.score.r))[:8]
    ceiling, r2 = np.asarray(instrument.score.noise_ceiling)[voxels], np.asarray(instrument.score.r2)[voxels]
    known = ceiling >= 0.1
    expected = (r2[known] / ceiling[known]).mean()
    whole, ridge, without = (found["variants"][name]["all voxels"] for name in ("as it is", "ridge", "no feed-forward"))
    assert ridge["normalised_accuracy"] == pytest.approx(expected, rel=1e-4)
    assert (whole["difference"], whole["interval"]) == (0, [0, 0])
    assert ridge["difference"] == pytest.approx(ridge["normalised_accuracy"] - whole["normalised_accuracy"], abs=1e-6)
    assert without["difference"] != 0
    chance = found["variants"][SHUFFLED]["all voxels"]
    assert chance["normalised_accuracy"] < ridge["normalised_accuracy"] - 0.2
    assert found["variants"]["as it is"]["epochs"] >= 1


def test_the_command_writes_the_figures(small, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(encoder_ablation, "build_instrument", lambda config, store: small.instrument)
    encoder_ablation.main(["--seed", "0", "--voxels", "4", "--only", "no feed-forward", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["n_voxels"] == 4
    assert set(found["variants"]) == {"ridge", "as it is", "no feed-forward", SHUFFLED}
