"""A concept tested on the small instrument: which images are chosen, what is edited and kept, what is refused."""

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.cli import main
from mine_core.counterfactual import concept_test
from mine_core.counterfactual.concept_test import VERDICTS
from mine_core.errors import Cancelled, EditError
from mine_core.experiments.concept_accuracy import rate
from mine_core.instrument import concept_edits, concept_stimuli, trials
from mine_core.instrument.concept_edits import edit_images
from mine_core.instrument.concept_stimuli import choose_stimuli
from mine_core.instrument.concept_tables import drivers_of_refused, region_table, summary_of, voxel_table
from mine_core.instrument.concepts import run_concept
from mine_core.instrument.search import embed_texts
from mine_core.instrument.things import things_of
from mine_core.subjects.phantom.scenes import CONCEPTS, GROUPS

GROUP_OF = {concept.name: concept.group for concept in CONCEPTS}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds that 34 held-out images can meet."""
    changed = {"N_POSITIVE": 4, "LEAST_POSITIVE": 2, "LEAST_APART": 2, "LEAST_SHOWING": 1, "LEAST_NEGATIVE": 2, "N_NEUTRAL": 2}
    for name, value in changed.items():
        monkeypatch.setattr(concept_stimuli, name, value)
    monkeypatch.setattr(concept_test, "LEAST_EDITED", 2)


@pytest.fixture
def shown(small) -> str:
    """The thing that most held-out images show."""
    held_out = range(76, len(small.scenes))
    counts = {name: sum(any(item.concept == name for item in small.scenes[i].objects) for i in held_out) for name in GROUP_OF}
    return max(counts, key=counts.__getitem__)


def test_images_are_held_out_and_show_what_they_are_chosen_for(small, few, shown) -> None:
    instrument = small.instrument
    chosen = choose_stimuli(instrument, shown)
    assert instrument.held_out[chosen.positives].all() and instrument.held_out[chosen.negatives].all()
    assert not set(chosen.negatives.ravel()) & set(chosen.apart) and not set(chosen.neutral) & set(chosen.positives)
    assert shown not in chosen.words and len(set(chosen.words)) == len(chosen.words) <= 10
    seen = [{item.concept for item in scene.objects} for scene in small.scenes]
    assert np.mean([shown in seen[i] for i in chosen.positives]) >= 0.75
    assert np.mean([shown in seen[i] for i in chosen.negatives.ravel()]) <= 0.1
    named = [word in seen[i] for row in chosen.negatives for word, i in zip(chosen.words, row, strict=True) if word in GROUP_OF]
    assert np.mean(named) >= 0.7
    # one word of two of its group is nearer than chance: the words are sorted by their texts
    texts = embed_texts(instrument, (shown, *chosen.words))
    assert (np.diff(texts[1:] @ texts[0]) <= 1e-6).all()


def test_company_is_what_training_images_show_with_it_however_seldom_it_is_shown_alone(small, few, shown, monkeypatch) -> None:
    """Company that images never show without the concept was no negative, and was left out of the company, too."""
    instrument = small.instrument
    plain = choose_stimuli(instrument, shown)
    things = [word for words in things_of(instrument.vocabulary).values() for word in words if word != shown]
    texts = embed_texts(instrument, (shown, *things))
    pooled = np.asarray(instrument.features.pooled[instrument.subject.splits.train], np.float64)
    scores = pooled / np.linalg.norm(pooled, axis=1, keepdims=True) @ texts.T
    together = [np.corrcoef(scores[:, 0], column)[0, 1] for column in scores.T[1:]]
    nearest = [things[i] for i in np.argsort(together)[::-1][: concept_stimuli.N_COMPANY]]
    assert list(plain.company) == nearest
    kept = concept_stimuli._related

    def without_the_first(near: list[int], within: list[bool]) -> list[int]:
        return [word for word in kept(near, within) if things[word] != plain.company[0]]

    monkeypatch.setattr(concept_stimuli, "_related", without_the_first)
    again = choose_stimuli(instrument, shown)
    assert plain.company[0] not in again.words
    assert again.company == plain.company and np.array_equal(again.apart, plain.apart)


def test_negatives_are_nearest_in_what_else_they_show(rng) -> None:
    """Of images that show the word, the one whose other content is the positive's, whatever it shows of the two texts."""
    texts = np.eye(6, dtype=np.float32)[:2]
    context = np.eye(6, dtype=np.float32)[2:]
    seen = np.stack([3 * texts[0] + context[1], 9 * texts[1] + context[1], 3 * texts[0] + context[0], 2 * texts[1] + context[0]])
    found = concept_stimuli._nearest_context(seen, texts, np.array([0, 2]), np.array([1, 3]))
    assert list(found) == [1, 3]


def test_a_test_is_made_once_and_says_the_same_again(small, few, shown) -> None:
    small.store.made.clear()
    first = run_concept(small.instrument, small.store, shown)
    n_images = len(first.removals) + len(first.insertions)
    assert small.store.made.count("concept-edits") == n_images > 3
    small.store.made.clear()
    again = run_concept(small.instrument, small.store, f"  {shown} ")
    assert small.store.made == [] and np.array_equal(first.scores.verdict, again.scores.verdict)
    assert np.array_equal(first.scores.low, again.scores.low, equal_nan=True)
    for one in first.removals:
        if not one.refused:
            assert len(one.edited) == len(one.compared) == 2 and one.edit_mask.any()
            original = np.asarray(small.instrument.subject.stimuli.images[one.stimulus])
            assert (one.picture == original)[~one.edit_mask].all()


def test_voxels_that_answer_the_group_lose_most_by_removal(small, few, shown) -> None:
    """Planted: one voxel a group (twice), colours of each half, noise."""
    scores = run_concept(small.instrument, small.store, shown).scores
    own = list(GROUPS).index(GROUP_OF[shown])
    assert np.argmax(scores.s_edit[: len(GROUPS)] - scores.s_elsewhere[: len(GROUPS)]) == own
    assert scores.s_pos[own] > 0.8
    unreliable = ~small.instrument.reliable
    assert (scores.verdict[unreliable] == VERDICTS.index("not tested")).all() and np.isnan(scores.q_causal[unreliable]).all()


def test_stopped_work_is_kept_and_gone_on_with(small, few, shown, apart: ArtifactStore) -> None:
    chosen, asked = choose_stimuli(small.instrument, shown), []

    def cancelled() -> bool:
        asked.append(1)
        return len(list(apart.root.glob("concept-edits/[!.]*"))) >= 2

    for folder in apart.root.glob("concept-edits/*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with pytest.raises(Cancelled):
        edit_images(small.instrument, apart, chosen, cancelled=cancelled)
    kept = {path.name for path in apart.root.glob("concept-edits/*")}
    assert len(kept) == 2
    edit_images(small.instrument, apart, chosen)
    assert kept < {path.name for path in apart.root.glob("concept-edits/*")}


def test_an_image_that_cannot_be_edited_is_named_and_left_out(small, few, shown, apart: ArtifactStore, monkeypatch) -> None:
    def refuse(*_, **__):
        raise EditError("No patch shows it.")

    monkeypatch.setattr(trials, "driving_mask", refuse)
    monkeypatch.setattr(concept_edits, "code_version", lambda *_: "another")
    test = run_concept(small.instrument, apart, shown)
    assert all(one.refused == "No patch shows it." for one in test.removals) and test.scores.n_removed == 0
    assert f"image {test.removals[0].stimulus}: No patch shows it." in test.failures
    assert "was not tested: only 0 images" in summary_of(small.instrument, test)["verdict"] or not (test.scores.q_active <= 0.05).any()
    assert not len(test.scores.voxels("causal")) and not len(test.scores.voxels("activation only"))


def test_what_cannot_be_tested_is_refused_with_numbers(small, monkeypatch) -> None:
    with pytest.raises(EditError, match=r"of 34 held-out images show 'dog', and at least 8"):
        choose_stimuli(small.instrument, "dog")
    with pytest.raises(EditError, match="names nothing of the vocabulary's"):
        choose_stimuli(small.instrument, "justice")
    with pytest.raises(EditError, match="'red' is no thing that could be taken out"):
        choose_stimuli(small.instrument, "red")


def test_tables_say_why_a_voxel_was_refused(small, few, shown) -> None:
    test = run_concept(small.instrument, small.store, shown)
    table = voxel_table(small.instrument, test)
    assert len(table) == small.instrument.reliable.sum()
    assert ((table["why_refused"] != "") == (table["verdict"] == "activation only")).all()
    regions = region_table(small.instrument, test)
    for row in regions.itertuples():
        assert row.causal_interval[0] <= row.causal <= row.causal_interval[1]
    refused = table[table["verdict"] == "activation only"]
    assert sum(drivers_of_refused(test).values()) == int((refused["beyond_hardest"] <= 0).sum())
    counts = summary_of(small.instrument, test)["voxels"]
    assert counts["reliable"] + counts["withheld"] == len(small.instrument.reliable)
    called = sum(counts[name] for name in ("causal", "activation_only", "neither"))
    assert called + (table["verdict"] == "not tested").sum() == counts["reliable"]


def test_the_command_refuses_in_one_line(small, apart: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["concept", "justice", "--subject", "small"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("mine: 'justice' names nothing")


def test_rates_are_over_pairs_and_their_intervals_over_voxels_and_concepts(rng) -> None:
    among = np.zeros((3, 40), bool)
    among[:, :20] = True
    hits = np.zeros_like(among)
    hits[0, :20] = True
    found = rate(hits, among, rng)
    assert found["n"] == 60 and found["mean"] == pytest.approx(1 / 3)
    assert found["interval"] == pytest.approx([1 / 3, 1 / 3])  # every voxel has one of three
    assert found["interval_over_concepts"] == pytest.approx([0.0, 1.0])
    assert rate(hits, np.zeros_like(among), rng) == {"n": 0, "mean": None}
