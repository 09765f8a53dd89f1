"""The batch says of every voxel what a click says, goes on where it was stopped, and writes what it found."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mine_core.batches import Where
from mine_core.cli import parser
from mine_core.description.regions import GroupRecovery, RegionParts
from mine_core.description.search import parse_query
from mine_core.errors import Cancelled, ConfigError
from mine_core.experiments import words_speed
from mine_core.experiments.description_texts import spoken
from mine_core.instrument import profiling
from mine_core.instrument.profiling import find_profiles, profile_all, profiles_recipe, summary_of
from mine_core.instrument.regions import known_group, parts_of, recovered, region_profiles, region_rows, voxel_rows
from mine_core.instrument.search import search_text
from mine_core.instrument.tables import write_table
from mine_core.instrument.wanting import full_profile


@pytest.fixture(scope="module")
def blocks(small: Any) -> Iterator[list[int]]:
    """Small blocks, and the starts of those that were done."""
    done: list[int] = []
    patch = pytest.MonkeyPatch()
    original = profiling._do_block

    def counted(*given: Any) -> None:
        done.append(given[-2])
        original(*given)

    patch.setattr(profiling, "CHUNK", 12)
    patch.setattr(profiling, "_do_block", counted)
    yield done
    patch.undo()


@pytest.fixture(scope="module")
def table(small: Any, blocks: list[int]) -> pd.DataFrame:
    with pytest.raises(Cancelled, match="goes on from there"):
        profile_all(small.config, small.store, cancelled=lambda: len(blocks) >= 1)
    assert find_profiles(small.config, small.store) is None and blocks == [0]
    seen: list[tuple[int, int]] = []
    found = profile_all(small.config, small.store, on_progress=lambda done, total, _: seen.append((done, total)))
    assert blocks == [0, 12, 24]  # the first was kept
    assert seen[-3:] == [(1, 3), (2, 3), (3, 3)]
    profile_all(small.config, small.store)
    assert blocks == [0, 12, 24]  # and the whole is never done twice
    return found


def test_the_batch_says_what_a_click_says(small: Any, table: pd.DataFrame) -> None:
    ids = small.instrument.subject.stimuli.ids
    assert table["voxel"].tolist() == list(range(len(small.instrument.score.r)))
    for voxel in (0, 5, int(small.instrument.score.r.argmax()), int(small.instrument.score.r.argmin())):
        row, profile = table.iloc[voxel], full_profile(small.instrument, voxel)
        assert row["withheld"] == profile.withheld and row["text"] == profile.text
        assert list(row["phrases"]) == list(profile.description.phrases if profile.description else ())
        assert list(row["exemplars"]) == [ids[i] for i in profile.exemplars]
        assert list(row["caveats"]) == list(profile.caveats)


def test_a_voxel_that_earns_nothing_gets_nothing(small: Any, table: pd.DataFrame) -> None:
    withheld = table[~small.instrument.reliable]
    assert len(withheld) and (withheld["text"] == "").all() and (withheld["withheld"] != "").all()
    assert all(not len(cell) for cell in withheld["features"])


def test_profiles_are_found_again_and_written(small: Any, table: pd.DataFrame, tmp_path: Any) -> None:
    assert find_profiles(small.config, small.store).equals(table)
    write_table(table, tmp_path / "p.parquet")
    write_table(table, tmp_path / "p.csv")
    assert pd.read_parquet(tmp_path / "p.parquet").equals(table)
    flat = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert flat["voxel"].tolist() == table["voxel"].tolist()
    assert flat["phrases"].tolist() == ["; ".join(cell) for cell in table["phrases"]]
    for name in ("p.txt", "nowhere/p.csv"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write_table(table, tmp_path / name)
    told = summary_of(table)
    assert told["n_voxels"] == len(table) and told["n_described"] == (table["text"] != "").sum()
    json.dumps(told, allow_nan=False)


def test_the_key_follows_what_profiles_are_made_of(small: Any) -> None:
    recipe = profiles_recipe(small.config, small.store)
    assert recipe.kind == "profiles" and len(recipe.inputs) == 3
    with pytest.raises(ConfigError, match="0 workers"):
        Where(workers=0)
    options = parser().parse_args(["profile", "--workers", "3", "--out", "x.csv"])
    assert options.workers == 3 and options.out.name == "x.csv"


def test_a_search_and_the_regions_of_an_instrument(small: Any) -> None:
    instrument = small.instrument
    found = search_text(instrument, parse_query("house, castle", "ball"))
    assert found.r.shape == instrument.score.r.shape and found.n_held_out == 34
    free = search_text(instrument, parse_query("a red car"))  # not in the vocabulary: the backbone reads it
    assert np.isfinite(free.r).all()
    assert set(recovered(instrument)) == {"what", "colour"}
    assert known_group("FFA-1") == "faces" and known_group("VWFA-2") == "words" and known_group("V1") == ""
    assert spoken(["house", "snow"], instrument.vocabulary) == "a house and in the snow"
    with pytest.raises(Exception, match="reliable voxels are in the region"):
        parts_of(instrument, "colour")


def test_the_profiles_that_are_timed_are_those_that_are_kept(small: Any, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_speed, "N_VOXELS", 60)
    monkeypatch.setattr(words_speed, "N_STIMULI", 40)
    before = sorted(small.store.root.iterdir())
    found = words_speed.measure(small.config, small.store, lambda *_: None, workers=1)
    assert found["profile_voxels"] == len(table) and found["n_described"] == (table["text"] != "").sum()
    assert 0 < found["search_p50_seconds"] <= found["search_p95_seconds"] and found["profile_seconds"] > 0
    assert sorted(small.store.root.iterdir()) == before  # nothing of it is kept


def test_regions_are_told_as_tables(small: Any, tmp_path: Any) -> None:
    regions, voxels = region_profiles(small.instrument)
    assert regions["region"].tolist() == list(small.instrument.subject.responses.voxels.regions)
    found = recovered(small.instrument)
    for row in regions.itertuples():
        assert row.goes_with == found[row.region].best and row.r == pytest.approx(found[row.region].r.max())
        assert "reliable voxels are in the region" in row.withheld and not row.words  # eight voxels make no parts
    assert voxels.columns.tolist() == ["region", "voxel", "part", "own_words"] and not len(voxels)
    write_table(regions, tmp_path / "r.csv")
    write_table(regions, tmp_path / "r.parquet")
    assert pd.read_parquet(tmp_path / "r.parquet")["lead"].tolist() == regions["lead"].tolist()
    assert (pd.read_csv(tmp_path / "r.csv")["region"] == regions["region"]).all()


def test_a_region_and_its_parts_are_rows() -> None:
    recovery = GroupRecovery(
        ("faces", "food"), np.array([0.3, 0.1]), np.array([0.2, 0]), np.array([0.4, 0.2]), "faces", 0.2, 0.1, 0.3, 40
    )
    own = ((("hat", 0.2),), (("beard", 0.3),))
    alone = ((), (("dog", 0.25),), ())
    parts = RegionParts(np.array([4, 7, 9]), np.array([0, 1, 0]), (("face", 0.4),), own, {2: 0.8, 3: 0.2}, alone)
    whole, first, second = region_rows("FFA-1", recovery, parts)
    assert (whole["known"], whole["recovered"], whole["n_parts"], whole["words"]) == ("faces", True, 2, ["face +0.40"])
    assert json.loads(whole["stability"]) == {"2": 0.8, "3": 0.2} and whole["n_reliable"] == 3 and whole["withheld"] == ""
    assert (first["part"], first["n_reliable"], first["words"]) == (1, 2, ["hat +0.20"]) and second["n_reliable"] == 1
    rows = voxel_rows("FFA-1", parts)
    assert [(row["voxel"], row["part"], row["own_words"]) for row in rows] == [(4, 1, []), (7, 2, ["dog +0.25"]), (9, 1, [])]
    one = RegionParts(np.array([4]), np.array([0]), (), (), {2: 0.1}, ((),))
    assert "No split repeats" in region_rows("FFA-1", recovery, one)[0]["withheld"]
    assert region_rows("V1", recovery, None, "too few")[0]["recovered"] is None
