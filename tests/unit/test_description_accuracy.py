"""Rates of descriptions equal a count by hand, and descriptions of other voxels are right as often as chance says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mine_core.experiments.description_accuracy import RIGHT, RIGHT_ATTRIBUTE, _flagged, _rate
from mine_core.experiments.planted_words import PlantedWords

GROUP_OF = {"ball": "toys", "cup": "toys", "dog": "animals"}


def row(*phrases: str, words: tuple[str, ...] = (), attribute: str = "", company: tuple[str, ...] = ()) -> SimpleNamespace:
    tried = [
        {"attribute": "position", "word": "at the left", "stands": True},
        {"attribute": "colour", "word": attribute, "stands": True},
    ]
    return SimpleNamespace(phrases=list(phrases), words=list(words or phrases), tried=json.dumps(tried), company=list(company))


def answer(*words: str, group: str = "toys", attribute: str = "", driver: str = "", company: str = "") -> PlantedWords:
    return PlantedWords(frozenset(words), group, attribute, driver, company)


def test_rates_are_counted():
    rows = [row("ball", attribute="red"), row("cup", words=("cup", "ball")), row("dog", words=("dog",) * 5 + ("ball",)), row()]
    planted = [answer("ball", attribute="red")] * 4
    found = {name: _rate(rows, planted, right, GROUP_OF)["rate"] for name, right in (RIGHT | RIGHT_ATTRIBUTE).items()}
    assert found["concept_top1"] == 0.25 and found["concept_top5"] == 0.5 and found["group_accuracy"] == 0.5
    assert found["attribute_accuracy"] == found["attribute_named_and_right"] == 0.25  # a place is no attribute
    assert _rate(rows[:1], planted[:1], RIGHT["concept_top1"], GROUP_OF) == {"n": 1}


def test_the_shuffled_rate_is_that_of_other_voxels():
    rows = [row("ball")] * 50 + [row("dog")] * 50
    planted = [answer("ball")] * 50 + [answer("dog", group="animals")] * 50
    found = _rate(rows, planted, RIGHT["concept_top1"], GROUP_OF)
    assert found["rate"] == 1 and found["interval"] == [1, 1] and found["shuffled"] == pytest.approx(0.5, abs=0.05)
    inside = _rate(rows[:50], planted[:50], RIGHT["concept_top1"], GROUP_OF, rows)
    assert inside["shuffled"] == pytest.approx(0.5, abs=0.06)  # not the 1 of voxels that are all alike


def test_company_is_flagged_where_it_is_told_and_not_taken_for_the_cause():
    company = ("person beside ball",)
    rows = [row("ball", company=company), row("ball", "person", company=company), row("ball"), row("dog")]
    planted = [answer("ball", driver="ball", company="person")] * 3 + [answer("dog", group="animals")]
    found = _flagged(rows, planted)
    assert found["rate"] == pytest.approx(1 / 3) and found["n"] == 3 and found["driver_first"] == 1
    assert found["company_taken_for_a_phrase"] == pytest.approx(1 / 3)
    assert np.isfinite(found["shuffled"])
