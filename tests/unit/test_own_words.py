"""A user's own words are checked, scored as all words are, told as the user's, kept, and taken away; the stock is left alone."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mine_core.cli import main
from mine_core.description.own_words import MOST_BYTES, MOST_LETTERS, MOST_WORDS, read_words, require_new
from mine_core.description.search import parse_query
from mine_core.description.vocabulary import USER_GROUP, embed_vocabulary, with_words, wordless
from mine_core.description.writing import write
from mine_core.errors import ArtifactError, BackboneError, Cancelled, ConfigError, DescriptionError
from mine_core.instrument import build_instrument
from mine_core.instrument.own_words import add_words, is_scored, kept_words, own_recipe, remove_words, with_own_words
from mine_core.instrument.profiling import profiles_recipe, table_of
from mine_core.instrument.regions import listed, recovered
from mine_core.instrument.search import search_text
from mine_core.instrument.stages import stages_of
from mine_core.instrument.things import insertable_words
from mine_core.instrument.wanting import full_profile


def test_words_are_read_from_lines_and_commas():
    assert read_words("  red   car, dog\n\n,tall tree \r\n") == ("red car", "dog", "tall tree")
    assert read_words("\ufeffmaison d'été\n".encode()) == ("maison d'été",)
    assert len(read_words("\n".join(f"w{i}" for i in range(MOST_WORDS)))) == MOST_WORDS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "No word was found"),
        (" , \n", "No word was found"),
        ("dog\nDog", "1 words are given twice (first: 'dog')"),
        ("a" * (MOST_LETTERS + 1), f"longer than {MOST_LETTERS} letters"),
        ("dog\n???", "no letter or digit"),
        ("dog\x00cat", "cannot be printed"),
        ("dog\u202ecat", "cannot be printed"),
        (b"caf\xe9", "byte 3 is 0xe9"),
        (b"x" * (MOST_BYTES + 1), f"{MOST_BYTES + 1:,} bytes"),
        ("\n".join(f"w{i}" for i in range(MOST_WORDS + 1)), f"{MOST_WORDS + 1} words of your own; at most {MOST_WORDS}"),
    ],
)
def test_what_is_no_list_of_words_is_refused_in_one_line(content, said):
    with pytest.raises(ConfigError) as refused:
        read_words(content)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_words_that_are_there_are_refused_whatever_their_case():
    with pytest.raises(ConfigError, match=r"1 of 2 words are among the 2 there already \(first: 'Dog'\)"):
        require_new(("Dog", "cow"), ("dog", "cat"))
    require_new(("cow",), ("dog", "cat"))


def test_own_words_make_no_group_of_a_sentence():
    mine = dict.fromkeys(("a", "b", "c"), USER_GROUP)
    assert write(("a", "b", "c"), (), (), mine).text == "Images that show a, b and c."
    assert not any(USER_GROUP in feature for feature in write(("a",), (), (), mine).features)


# --- kept with a subject ---------------------------------------------------------------------------------------------

OWN = ("red house", "green tree")


@pytest.fixture(scope="module")
def extended(small: Any) -> Iterator[Any]:
    assert kept_words(small.config, small.store) == ()
    before = sorted(path for path in small.store.root.rglob("*") if path.is_file())
    sizes = {path: path.stat().st_mtime_ns for path in before}
    assert add_words(small.instrument, small.store, "red house\ngreen tree") == OWN
    assert {path: path.stat().st_mtime_ns for path in before} == sizes  # nothing that was built is touched
    yield with_own_words(small.instrument, small.store, OWN)
    assert remove_words(small.instrument, small.store, OWN) == () and kept_words(small.config, small.store) == ()


def test_the_stock_stays_as_it_is_beside_own_words(small: Any, extended: Any) -> None:
    stock, n = small.instrument, len(small.instrument.vocabulary)
    assert extended.own_words == OWN and extended.vocabulary.words == (*stock.vocabulary.words, *OWN)
    assert extended.vocabulary.groups[n:] == (USER_GROUP,) * 2 and extended.key != stock.key
    np.testing.assert_array_equal(extended.vocabulary.embedded()[:n], stock.vocabulary.embedded())
    np.testing.assert_allclose(extended.vocabulary.calibrated()[:n], stock.vocabulary.calibrated(), rtol=1e-6)
    np.testing.assert_allclose(extended.evidence.get().presence[:, :n], stock.evidence.get().presence, atol=1e-3)
    direct = with_words(stock.vocabulary, OWN, stock.backbone.get())
    np.testing.assert_allclose(
        extended.vocabulary.embedded()[n:], embed_vocabulary(direct, stock.backbone.get()).embedded()[n:], atol=1e-6
    )
    assert not any(stage.recipe.key == own_recipe(small.config, small.store, OWN).key for stage in stages_of(small.config, small.store))


def test_own_words_appear_in_decoding_search_and_profiles(small: Any, extended: Any) -> None:
    n = len(small.instrument.vocabulary)
    assert (extended.words.candidates >= n).any() and not (small.instrument.words.candidates >= n).any()
    voxel = int(np.flatnonzero((extended.words.candidates >= n).any(axis=1) & extended.reliable)[0])
    row = table_of(extended, np.array([voxel])).iloc[0]
    assert set(row["own_words"]) <= set(OWN) and set(full_profile(extended, voxel).description.words) & set(OWN) == set(
        row["own_words"]
    )
    assert not len(table_of(small.instrument, np.array([voxel])).iloc[0]["own_words"])
    typed, kept = (search_text(one, parse_query("red house")) for one in (small.instrument, extended))
    np.testing.assert_allclose(typed.r, kept.r, atol=1e-5)
    assert profiles_recipe(small.config, small.store, OWN).key != profiles_recipe(small.config, small.store).key
    assert not set(insertable_words(extended, voxel)) & set(OWN)  # controls of edits stay what they were


def test_own_words_are_of_no_category_and_marked_in_regions(small: Any, extended: Any) -> None:
    assert all(USER_GROUP not in entry.groups for entry in recovered(extended).values())
    assert listed([("red house", 0.25), ("dog", 0.1)], OWN) == ["red house (yours) +0.25", "dog +0.10"]


def test_own_words_are_scored_as_any_word_is(small: Any, extended: Any) -> None:
    """The correlation over held-out stimuli of an own word and a voxel, computed anew."""
    words, n = extended.words, len(small.instrument.vocabulary)
    voxel, place = (int(found[0]) for found in np.nonzero(words.candidates >= n))
    splits = extended.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    text = np.asarray(extended.vocabulary.embedded()[words.candidates[voxel, place]], np.float64)
    likeness = np.asarray(extended.features.pooled[held_out], np.float64) @ text
    expected = np.corrcoef(likeness, extended.subject.responses.values[held_out, voxel])[0, 1]
    assert words.scores[voxel, place] == pytest.approx(expected, abs=1e-3)


def test_the_list_outlives_the_process_and_is_only_kept_once_scored(small: Any, extended: Any) -> None:
    assert kept_words(small.config, small.store) == OWN and is_scored(small.config, small.store, OWN)
    assert not is_scored(small.config, small.store, ("never",)) and is_scored(small.config, small.store, ())
    assert kept_words(replace(small.config, backbone="phantom-plain"), small.store) == ()
    for content, refusal in (
        ("unheardof", BackboneError),
        ("RED house", ConfigError),
        (small.instrument.vocabulary.words[0], ConfigError),
    ):
        with pytest.raises(refusal) as refused:
            add_words(small.instrument, small.store, content)
        assert "\n" not in str(refused.value)
    with pytest.raises(Cancelled):
        add_words(small.instrument, small.store, "blue house", cancelled=lambda: True)
    assert kept_words(small.config, small.store) == OWN
    assert not is_scored(small.config, small.store, (*OWN, "blue house"))


def test_a_backbone_without_words_takes_none(small: Any) -> None:
    silent = replace(small.instrument, vocabulary=wordless(4))
    with pytest.raises(DescriptionError, match="has no words"):
        add_words(silent, small.store, "dog")


def test_a_list_that_cannot_be_read_is_refused(small: Any, extended: Any) -> None:
    [path] = (small.store.root / "own-word-lists").glob("*.json")
    good = path.read_text()
    try:
        path.write_text("{")
        with pytest.raises(ArtifactError, match="delete it and add them again"):
            kept_words(small.config, small.store)
    finally:
        path.write_text(good)


def test_the_command_line_profiles_with_a_file_of_words(
    small: Any, extended: Any, apart: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text("blue car\n")
    out = tmp_path / "profiles.csv"
    call = ["profile", "--subject", "small", "--workers", "1"]
    assert main([*call, "--words", str(listed), "--out", str(out), "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["own_words"] == [*OWN, "blue car"]
    assert "own_words" in out.read_text().splitlines()[0]
    assert main([*call, "--words", str(listed)]) == 2  # they are there already
    assert "first: 'blue car'" in capsys.readouterr().err
    assert main([*call, "--words", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err
    assert main([*call, "--forget-words"]) == 0 and kept_words(small.config, apart) == ()
    assert build_instrument(small.config, apart).own_words == ()
