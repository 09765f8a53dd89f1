"""The instrument as a whole: built once, resumed where it stopped, and every answer equal to one computed by hand."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import AlignmentError, ArtifactError, BackboneError, Cancelled, EditError, SubjectError
from mine_core.instrument import Instrument, build_instrument, is_built, open_instrument, trials
from mine_core.instrument.build import summary
from mine_core.instrument.explain import explain_images, explain_voxel, ranked_images
from mine_core.instrument.instrument import Lazy
from mine_core.instrument.stages import stages_of
from mine_core.instrument.subjects import custom_artifact, import_into, known_subjects, subject_of
from mine_core.instrument.things import exemplars_of, insertable_words
from mine_core.instrument.trials import EditRequest, driving_region, run_trial
from mine_core.instrument.where import heat_of

STAGES = ("subject", "layout", "features", "encoding", "words", "evidence", "contrast", "captions")


@pytest.fixture
def instrument(small: Any) -> Instrument:
    return small.instrument


@pytest.fixture
def copied(small: Any, tmp_path: Path) -> Any:
    """A store of its own with what was built, to be taken from."""
    root = tmp_path / "cache"
    shutil.copytree(small.store.root, root)
    return type(small.store)(root)


def drawn(height: int, width: int, rows: slice, cols: slice) -> np.ndarray:
    region = np.zeros((height, width), bool)
    region[rows, cols] = True
    return region


def test_each_stage_is_made_once_and_in_order(small: Any) -> None:
    assert small.first_made == STAGES
    small.store.made.clear()
    again = build_instrument(small.config, small.store)
    assert open_instrument(small.config, small.store).model.provenance == again.model.provenance
    assert small.store.made == []
    assert again.model.provenance["key"] == small.instrument.model.provenance["key"]
    np.testing.assert_array_equal(again.model.coef, small.instrument.model.coef)


def test_a_build_that_is_stopped_keeps_what_was_finished_and_goes_on_there(small: Any, copied: Any) -> None:
    stages = {stage.name: stage for stage in stages_of(small.config, copied)}
    for name in ("cortex", "encoding"):
        shutil.rmtree(copied.path(stages[name].recipe))
    assert not is_built(small.config, copied)
    with pytest.raises(Cancelled, match="What was finished is kept"):
        build_instrument(small.config, copied, cancelled=lambda: copied.find(stages["cortex"].recipe) is not None)
    assert copied.made == ["layout"]
    assert copied.find(stages["encoding"].recipe) is None
    resumed = build_instrument(small.config, copied)
    assert copied.made == ["layout", "encoding"]
    assert is_built(small.config, copied)
    # made a second time from the same settings, it is the same to the last bit
    np.testing.assert_array_equal(resumed.model.coef, small.instrument.model.coef)
    np.testing.assert_array_equal(resumed.score.p, small.instrument.score.p)


def test_a_stage_that_is_stopped_half_way_leaves_nothing_of_itself(small: Any, copied: Any) -> None:
    recipe = next(stage.recipe for stage in stages_of(small.config, copied) if stage.name == "captions")
    shutil.rmtree(copied.path(recipe))
    asked: list[int] = []

    def within_the_stage() -> bool:
        asked.append(1)
        return copied.made == ["captions"]

    with pytest.raises(Cancelled, match="0 of 110 captions"):
        build_instrument(small.config, copied, cancelled=within_the_stage)
    assert asked and not list(copied.path(recipe).parent.glob(f"*{recipe.key}*"))


def test_a_changed_setting_rebuilds_only_what_depends_on_it(small: Any) -> None:
    before = {stage.name: stage.recipe.key for stage in stages_of(small.config, small.store)}
    after = {stage.name: stage.recipe.key for stage in stages_of(replace(small.config, n_permutations=99), small.store)}
    assert {name for name in before if before[name] != after[name]} == {"encoding", "words", "evidence"}


def test_progress_never_goes_back_and_ends_at_the_end(small: Any, copied: Any) -> None:
    recipe = next(stage.recipe for stage in stages_of(small.config, copied) if stage.name == "encoding")
    shutil.rmtree(copied.path(recipe))
    shares: list[float] = []
    build_instrument(small.config, copied, on_progress=lambda done, total, _: shares.append(done / total))
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert len(shares) > len(STAGES)


def test_a_cut_off_artifact_is_refused_and_not_used(small: Any, copied: Any) -> None:
    recipe = next(stage.recipe for stage in stages_of(small.config, copied) if stage.name == "encoding")
    coef = copied.path(recipe) / "coef.npy"
    coef.write_bytes(coef.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="coef.npy.*delete the folder and build again"):
        build_instrument(small.config, copied)


def test_the_summary_counts_what_is_there(small: Any, instrument: Instrument) -> None:
    found = summary(instrument)
    assert set(found) == {
        "subject",
        "backbone",
        "n_voxels",
        "n_stimuli",
        "n_test",
        "median_r",
        "n_reliable",
        "n_described",
        "encoding",
    }
    assert (found["subject"], found["backbone"]) == ("small", "phantom")
    assert (found["n_stimuli"], found["n_voxels"]) == small.signal.shape
    assert found["n_test"] == len(instrument.subject.splits.test)
    assert found["n_reliable"] == instrument.reliable.sum() and found["median_r"] == np.median(instrument.score.r)


def test_subjects_are_known_by_name_the_phantom_first(small: Any, tmp_path: Path) -> None:
    assert known_subjects(small.store) == ("phantom", "small")
    assert known_subjects(ArtifactStore(tmp_path)) == ("phantom",)
    assert subject_of(custom_artifact("small", small.store)).name == "small"


@pytest.mark.parametrize("name", ["nobody", "../names/small", ""])
def test_a_subject_that_is_not_here_is_refused_with_those_that_are(small: Any, name: str) -> None:
    with pytest.raises(SubjectError, match="is not here; there are phantom, small"):
        custom_artifact(name, small.store)
    with pytest.raises(SubjectError, match="is not here"):
        build_instrument(InstrumentConfig(name), small.store)


def test_a_backbone_that_is_not_there_is_refused(small: Any) -> None:
    with pytest.raises(BackboneError, match="no backbone 'ResNet'"):
        build_instrument(replace(small.config, backbone="ResNet"), small.store)


def test_an_import_that_is_refused_keeps_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "cache")
    with pytest.raises(SubjectError):
        import_into(store, name="x", images=b"nothing", responses=b"nothing", response_axes=("voxel", "stimulus"))
    assert known_subjects(store) == ("phantom",) and not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(("order", "sign"), [("top", 1), ("bottom", -1)])
def test_images_are_ranked_by_their_predicted_response(instrument: Instrument, order: Any, sign: int) -> None:
    for voxel in (0, 8, 31):
        predicted = instrument.model.predict(np.asarray(instrument.features.pooled, np.float64))[:, voxel]
        ranked = ranked_images(instrument, voxel, order, 12)
        np.testing.assert_array_equal(ranked, np.argsort(-sign * predicted)[:12])
        assert [item.stimulus for item in explain_voxel(instrument, voxel, order=order)] == ranked.tolist()


def test_the_middle_is_as_far_from_both_ends(instrument: Instrument) -> None:
    n_stimuli = len(instrument.subject.stimuli)
    full = ranked_images(instrument, 3, "top", n_stimuli)
    np.testing.assert_array_equal(ranked_images(instrument, 3, "middle", 10), full[n_stimuli // 2 - 5 : n_stimuli // 2 + 5])
    assert sorted(ranked_images(instrument, 3, "middle", 500)) == list(range(n_stimuli))


def test_heat_and_baseline_sum_to_the_prediction(instrument: Instrument) -> None:
    model, train = instrument.model, instrument.subject.splits.train
    for voxel in (0, 9, 20):
        coef, sd = np.asarray(model.coef[:, voxel], np.float64), instrument.sd(voxel)
        remainder = np.asarray(instrument.features.remainder, np.float64) @ coef
        raw = np.asarray(instrument.features.pooled, np.float64) @ coef
        for item in explain_voxel(instrument, voxel, n=4):
            baseline = np.asarray(instrument.mean_patches, np.float64).sum(axis=0) @ coef
            whole = item.values.sum() * sd + baseline + remainder[item.stimulus]
            assert whole == pytest.approx(raw[item.stimulus], abs=2e-2 * sd)
            assert item.predicted == pytest.approx((raw[item.stimulus] - raw[train].mean()) / sd, abs=1e-3)


def test_predictions_are_in_sd_of_the_predictions_over_training_stimuli(instrument: Instrument) -> None:
    train = instrument.subject.splits.train
    for voxel in (0, 9, 20):
        predicted = instrument.predicted(voxel)
        assert predicted[train].mean() == pytest.approx(0, abs=1e-4)
        assert predicted[train].std() == pytest.approx(1, rel=0.02)


def test_measured_responses_are_z_scored_and_of_the_right_image(small: Any, instrument: Instrument) -> None:
    for voxel in (0, 9):
        given = np.asarray(instrument.subject.responses.values[:, voxel], np.float64)
        expected = (given - given.mean()) / given.std()
        assert np.corrcoef(given, small.signal[:, voxel])[0, 1] > 0.8
        for item in explain_voxel(instrument, voxel, n=3):
            assert item.measured == pytest.approx(expected[item.stimulus])
            assert item.caption == instrument.captions[item.stimulus]


def test_held_out_is_said_of_images_the_encoder_was_not_fit_on(instrument: Instrument) -> None:
    splits = instrument.subject.splits
    np.testing.assert_array_equal(np.flatnonzero(~instrument.held_out), splits.train)
    said = {item.stimulus: item.held_out for item in explain_images(instrument, 0, np.array([0, 80, 109]))}
    assert said == {0: False, 80: True, 109: True}


def test_reliable_voxels_are_those_that_predict_beyond_chance(small: Any, instrument: Instrument) -> None:
    score = instrument.score
    expected = [v for v in range(len(score.r)) if score.r[v] >= 0.15 and score.q[v] <= 0.05]
    np.testing.assert_array_equal(np.flatnonzero(instrument.reliable), expected)
    answering = small.signal.any(axis=0)
    assert instrument.reliable[answering].mean() > 0.6 and instrument.reliable[~answering].sum() <= 1


@pytest.mark.parametrize("voxel", [-1, 32])
def test_a_voxel_that_is_not_there_is_refused(instrument: Instrument, voxel: int) -> None:
    for call in (
        lambda: explain_voxel(instrument, voxel),
        lambda: heat_of(instrument, voxel, 0),
        lambda: run_trial(instrument, EditRequest("remove", voxel, 0)),
    ):
        with pytest.raises(SubjectError, match=f"Voxel {voxel} .* 0 to 31"):
            call()


REGION = drawn(96, 96, slice(30, 54), slice(12, 40))
REMOVAL = EditRequest("remove", 9, 3, region=np.packbits(REGION).tobytes())


@pytest.fixture(scope="module", autouse=True)
def few_controls() -> Iterator[None]:
    """A few controls of each kind show what many would, in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "N_ELSEWHERE", 3)
        patch.setattr(trials, "N_CONTENT", 3)
        yield


@pytest.fixture(scope="module")
def removal(small: Any, few_controls: None) -> Any:
    return run_trial(small.instrument, REMOVAL)


def test_a_drawn_region_is_honoured_and_no_pixel_changes_outside(instrument: Instrument, removal: Any) -> None:
    edit = removal.edit
    np.testing.assert_array_equal(edit.edit_mask, REGION)
    np.testing.assert_array_equal(edit.original, instrument.subject.stimuli.images[3])
    np.testing.assert_array_equal(edit.edited[~REGION], edit.original[~REGION])
    assert edit.changed_outside_mask == 0
    assert (edit.edited[REGION] != edit.original[REGION]).any()


def test_the_shift_is_that_of_embedding_both_images_by_hand(instrument: Instrument, removal: Any) -> None:
    pooled = instrument.backbone.get().embed(np.stack([removal.edit.original, removal.edit.edited])).pooled
    by_hand = np.diff(instrument.model.predict(pooled.astype(np.float64)), axis=0)[0] / instrument.model.prediction_sd
    np.testing.assert_allclose(removal.shift.shift, by_hand, atol=2e-4)
    np.testing.assert_allclose(removal.shift.after - removal.shift.before, by_hand, atol=2e-4)
    assert np.abs(by_hand).max() > 0.1


def test_the_rank_counts_controls_that_lower_the_prediction_as_much(removal: Any) -> None:
    shift = removal.shift
    rank = 1 + (shift.controls <= shift.shift).sum(axis=0)
    np.testing.assert_array_equal(shift.rank, rank)
    np.testing.assert_allclose(shift.p, rank / (1 + len(shift.control_names)))
    assert len(shift.controls) == len(shift.control_names) == 6
    assert len(set(shift.control_names)) == 2


def test_the_same_request_twice_gives_the_same_numbers(instrument: Instrument, removal: Any) -> None:
    again = run_trial(instrument, REMOVAL)
    np.testing.assert_array_equal(again.edit.edited, removal.edit.edited)
    for name in ("before", "after", "shift", "controls", "p", "rank"):
        np.testing.assert_array_equal(getattr(again.shift, name), getattr(removal.shift, name))
    assert again.instant == removal.instant
    assert again.edit.provenance == removal.edit.provenance


def test_the_instant_estimate_is_of_the_masked_patches(instrument: Instrument, removal: Any) -> None:
    heat = heat_of(instrument, 9, 3) / instrument.sd(9)
    share = REGION.reshape(16, 6, 16, 6).mean(axis=(1, 3))
    assert removal.instant == pytest.approx(-(heat * share).sum(), abs=1e-3)


def test_removing_what_drives_a_voxel_takes_the_region_that_drives_it(instrument: Instrument) -> None:
    """House 14 of image 81: planted to be what the places voxel answers to."""
    trial, region = None, None
    for stimulus in ranked_images(instrument, 2, "top", 12):
        try:
            region = driving_region(instrument, 2, int(stimulus))
            trial = run_trial(instrument, EditRequest("remove", 2, int(stimulus)))
            break
        except EditError:
            continue
    assert trial is not None
    np.testing.assert_array_equal(trial.edit.edit_mask, region)
    assert trial.edit.changed_outside_mask == 0
    assert trial.shift.shift[2] < 0
    assert trial.edit.verified in (True, False) and "verification" in trial.edit.provenance


def test_inserting_a_word_changes_the_pixels_of_its_place_alone(instrument: Instrument) -> None:
    place = drawn(96, 96, slice(50, 90), slice(40, 80))
    word = "dog"
    trial = run_trial(instrument, EditRequest("insert", 5, 3, word=word, region=np.packbits(place).tobytes()))
    edit = trial.edit
    assert edit.changed_outside_mask == 0 and edit.provenance["word"] == word
    np.testing.assert_array_equal(edit.edited[~edit.edit_mask], edit.original[~edit.edit_mask])
    rows, cols = np.nonzero(edit.edit_mask)
    assert abs((rows.min() + rows.max() + 1) / 2 - 70) <= 2 and abs((cols.min() + cols.max() + 1) / 2 - 60) <= 2
    assert max(np.ptp(rows), np.ptp(cols)) <= 48
    np.testing.assert_array_equal(trial.shift.rank, 1 + (trial.shift.controls >= trial.shift.shift).sum(axis=0))
    sources = {item.source for item in exemplars_of(instrument, word)}
    train = {instrument.features.stimulus_ids[i] for i in instrument.subject.splits.train}
    assert sources <= train


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        (EditRequest("insert", 0, 0, word="unicorn"), EditError, "'unicorn' is not in the vocabulary"),
        (EditRequest("remove", 0, 0, word="unicorn"), EditError, "'unicorn' is not in the vocabulary"),
        (EditRequest("insert", 0, 0), EditError, "not in the vocabulary"),
        (EditRequest("remove", 0, 110), AlignmentError, "Stimulus 110 .* 0 to 109"),
        (EditRequest("remove", 0, -1), AlignmentError, "Stimulus -1 .* 0 to 109"),
        (EditRequest("remove", 0, 0, region=b"\xff"), EditError, "8 pixels, the image 9216"),
        (EditRequest("remove", 0, 0, region=bytes(1152)), EditError, "marks 0 pixels"),
        (EditRequest("remove", 0, 0, region=b"\xff" * 1152), EditError, "covers 100% .* at most 60%"),
    ],
)
def test_what_cannot_be_edited_is_refused(instrument: Instrument, request_: EditRequest, kind: type, said: str) -> None:
    with pytest.raises(kind, match=said) as refused:
        run_trial(instrument, request_)
    assert "\n" not in str(refused.value)


def test_nothing_is_removed_where_nothing_raises_the_prediction(instrument: Instrument) -> None:
    coef = np.array(instrument.model.coef)
    coef[:, 4] = 0
    still = replace(instrument, model=replace(instrument.model, coef=coef))
    with pytest.raises(EditError, match="No patch raises this voxel's prediction"):
        driving_region(still, 4, 7)
    with pytest.raises(EditError, match="No patch raises"):
        run_trial(still, EditRequest("remove", 4, 7))


def test_a_trial_that_is_stopped_says_so(instrument: Instrument) -> None:
    with pytest.raises(Cancelled):
        run_trial(instrument, REMOVAL, cancelled=lambda: True)


def test_what_a_voxel_wants_is_offered_first(instrument: Instrument) -> None:
    words = insertable_words(instrument, 5)
    wanted = [word for word in instrument.words.description(5).phrases if word in words]
    assert words[: len(wanted)] == wanted and len(set(words)) == len(words)
    assert {"dog", "tree", "car"} <= set(words) and not {"red", "small", "at the left"} & set(words)


def test_something_heavy_is_made_when_asked_for_and_once() -> None:
    made: list[int] = []
    lazy = Lazy(lambda: made.append(1) or len(made))
    assert made == []
    assert (lazy.get(), lazy.get(), made) == (1, 1, [1])
