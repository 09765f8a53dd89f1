"""The hardest comparison of an insertion: related things in its place; and how far an edit goes beyond its controls."""

import numpy as np
import pytest
from scipy import stats
from test_counterfactual_controls import an_insertion

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.counterfactual.controls import RELATED, make_related
from mine_core.counterfactual.exemplars import _one_piece
from mine_core.counterfactual.shift import beyond_controls, predict_shift
from mine_core.errors import EditError
from mine_core.instrument import Instrument, build_instrument, things
from mine_core.instrument.related import beside_related
from mine_core.instrument.things import exemplars_of, related_words, text_of, things_of
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.types import PredictedShift
from mine_core.ui.related import sentence


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


def a_shift(moved: list[float], controls: list[float]) -> PredictedShift:
    arrays = {name: np.array(moved) for name in ("before", "after", "shift", "p")}
    of_controls = np.array(controls)[:, None] * np.ones(len(moved))
    return PredictedShift(
        **arrays,
        controls=of_controls,
        control_names=("x",) * len(controls),
        rank=np.ones(len(moved), int),
        guided_by="",
        checked_by=None,
    )


def test_the_effect_beyond_controls_has_the_interval_of_their_mean(rng: np.random.Generator) -> None:
    """Against scipy's interval; and over many draws it holds the true mean control in 95 of 100."""
    controls = rng.normal(0.3, 0.5, 12)
    effect, low, high = beyond_controls(a_shift([1.5], controls.tolist()), 0)
    wanted = stats.ttest_1samp(controls, 0).confidence_interval()
    assert effect == pytest.approx(1.5 - controls.mean())
    assert (1.5 - high, 1.5 - low) == pytest.approx((wanted.low, wanted.high))
    ends = [beyond_controls(a_shift([1.5], rng.normal(0.3, 0.5, 6).tolist()), 0)[1:] for _ in range(800)]
    assert np.mean([low <= 1.2 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.025)
    assert np.isnan(beyond_controls(a_shift([1.5], [0.1]), 0)[1:]).all()


def test_related_words_are_the_nearest_of_the_own_group_and_then_of_others(instrument: Instrument) -> None:
    by_group = things_of(instrument.vocabulary)
    every = [word for words in by_group.values() for word in words]
    texts = np.stack([text_of(instrument, word) for word in every]).astype(float)
    nearness = dict(zip(every, np.corrcoef(np.eye(len(every)) @ (texts - texts.mean(0)))[every.index("dog")], strict=True))
    found = related_words(instrument, "dog")
    own = next(words for words in by_group.values() if "dog" in words)
    assert len(found) == len(set(found)) == things.N_RELATED and "dog" not in found
    inside = [word in own for word in found]
    assert inside == sorted(inside, reverse=True) and 0 < sum(inside) <= things.N_RELATED - 2
    passed = [word for word in own if word not in (*found, "dog") and nearness[word] > nearness[found[0]] + 0.05]
    for word in passed:  # nearer, and left out: nothing shows it clearly
        with pytest.raises(EditError):
            exemplars_of(instrument, word)
    assert related_words(instrument, "no such thing") == []


def test_another_name_of_the_same_thing_is_not_related_to_it(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    first = related_words(instrument, "dog")[0]
    plain = things.text_of
    monkeypatch.setattr(things, "text_of", lambda of, word: plain(of, "dog" if word == first else word))
    assert first not in related_words(instrument, "dog")


def test_an_insertion_is_compared_with_related_things_in_its_place(instrument: Instrument) -> None:
    voxel = int(instrument.score.r.argmax())
    trial = run_trial(instrument, EditRequest("insert", voxel, 3, word="dog"))
    related = beside_related(instrument, trial.edit)
    assert related.words == tuple(related_words(instrument, "dog"))
    np.testing.assert_allclose(related.shift.shift, trial.shift.shift, atol=1e-4)  # the same edit, embedded in another batch
    covered = (trial.edit.edited != trial.edit.original).any(-1)
    direct = run_trial(instrument, EditRequest("insert", voxel, 3, word=related.words[0], region=np.packbits(covered).tobytes()))
    # the same exemplar, a little larger or smaller, in nearly the same place: over voxels it is nearer to that than to any other
    agreement = [np.corrcoef(row, direct.shift.shift)[0, 1] for row in (*related.shift.controls, trial.shift.shift)]
    assert int(np.argmax(agreement)) == 0 and agreement[0] > 0.6
    text = sentence(related, voxel)
    effect = related.shift.shift[voxel] - related.shift.controls[:, voxel].mean()
    assert f"{effect:+.2f} SD beyond the mean of {len(related.words)} things" in text
    raised = [word for word, row in zip(related.words, related.shift.controls, strict=True) if row[voxel] >= related.shift.shift[voxel]]
    assert text.startswith(f"{', '.join(raised)} would raise" if raised else "None of the")


def test_what_inserted_nothing_by_name_has_nothing_related(instrument: Instrument) -> None:
    voxel = int(instrument.score.r.argmax())
    image = np.zeros(instrument.subject.stimuli.images.shape[1:3], bool)
    image[40:90, 40:90] = True
    trial = run_trial(instrument, EditRequest("remove", voxel, 3, region=np.packbits(image).tobytes()))
    with pytest.raises(EditError, match="inserted nothing by name"):
        beside_related(instrument, trial.edit)


def test_a_cut_out_is_one_piece(rng: np.random.Generator) -> None:
    """A person cut out together with a ball would raise whatever wants balls."""
    mask = np.zeros((64, 64), bool)
    mask[8:40, 4:20] = True
    mask[40:60, 40:60] = True
    heat = np.zeros((8, 8))
    heat[1:5, 0:3], heat[5:8, 5:8] = 1.0, 0.4
    piece, share = _one_piece(mask, heat)
    assert piece[8:40, 4:20].all() and not piece[:, 32:].any()
    whole, both = _one_piece(np.ones((64, 64), bool), heat)
    assert whole.all() and both == pytest.approx(1.0) and 0.5 < share < 1


def test_related_things_take_the_place_of_what_was_inserted(rng: np.random.Generator) -> None:
    edit, pool = an_insertion(rng)
    others = [exemplar for exemplar in pool if exemplar.word != edit.provenance["word"]]
    related = make_related(edit, others)
    covered = (edit.edited != edit.original).any(-1)
    assert [item.detail for item in related] == [exemplar.word for exemplar in others] and len(others)
    for item in related:
        assert item.name == RELATED and np.array_equal(item.image[~item.edit_mask], edit.original[~item.edit_mask])
        assert (item.edit_mask & covered).sum() > 0.6 * covered.sum()
    with pytest.raises(EditError, match="related to itself"):
        make_related(edit, pool)


def test_ranks_are_as_for_any_control(instrument: Instrument, rng: np.random.Generator) -> None:
    """The identity that `beside_related` rests on: related things as controls of the same edit."""
    pooled = np.asarray(instrument.features.pooled[:4])
    names = ["a", "b"]
    found = predict_shift(instrument.model, pooled[0], pooled[1], pooled[2:], names, direction=1, guided_by="")
    by_hand = (pooled[1:] - pooled[0]) @ instrument.model.coef / instrument.model.prediction_sd
    np.testing.assert_array_equal(found.rank, 1 + (by_hand[1:] >= by_hand[0]).sum(0))
