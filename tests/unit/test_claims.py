"""The paper's claims: descriptions without the image's pixels, identities of the measures, verdicts, and tasks that go on."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.errors import Cancelled, EditError, EncodingError
from mine_core.experiments import claims
from mine_core.experiments.claim_rows import Bench, _laid, _token_errors, faithfulness, guidance, reconstruction, tokens
from mine_core.experiments.claim_sentences import ASKED, NOT_SHOWN, SAID, TITLES
from mine_core.experiments.claim_summary import CONTRASTS, causes_entry, contrast_entry, planted_entry, ratio_entry
from mine_core.experiments.claims import Piece, Settings, find_claims, measure_claims, tasks_of
from mine_core.experiments.composing import CutOuts, Said, describe_patches, neutral_ground
from mine_core.experiments.pieces import measure_pieces, plain
from mine_core.figures import contrasts_figure
from mine_core.instrument import wanting
from mine_core.instrument.second import build_second
from mine_core.subjects.phantom.scenes import CONCEPTS


@pytest.fixture(scope="module")
def bench(small: Any) -> Bench:
    return Bench(small.instrument, build_second(small.config, small.store), CutOuts(), None)


@pytest.fixture(scope="module")
def voxel(small: Any) -> int:
    """The best predicted voxel of those that answer a group of things."""
    return int(np.argmax(small.instrument.score.r[:8]))


# --- descriptions and images made from them ---------------------------------------------------------------------------


def test_a_thing_is_named_where_its_patches_say_it(small: Any) -> None:
    instrument = small.instrument
    vocabulary, (rows, columns) = instrument.vocabulary, instrument.features.backbone.grid
    patches = np.repeat(np.asarray(instrument.mean_patches)[None], 3, axis=0)
    lower_right, upper_left = (rows - 2) * columns + columns - 2, columns + 1
    for place, word in ((lower_right, "dog"), (lower_right + 1, "dog"), (upper_left, "ball")):
        patches[1, place] += 5 * vocabulary.embedded()[vocabulary.words.index(word)]
    planted = replace(instrument, features=replace(instrument.features, patches=patches, **_three(instrument)))
    said = describe_patches(planted, 1, np.array([lower_right, lower_right + 1, upper_left]))
    assert said == (Said("dog", 2, 2), Said("ball", 0, 0))
    assert [item.text for item in said] == ["dog at the lower right", "ball at the upper left"]
    assert Said("cup", 1, 1).text == "cup in the middle"


def _three(instrument: Any) -> dict[str, Any]:
    features = instrument.features
    return {"pooled": features.pooled[:3], "remainder": features.remainder[:3], "stimulus_ids": features.stimulus_ids[:3]}


def test_no_pixel_of_the_described_image_goes_into_what_is_made_of_it(small: Any, rng: np.random.Generator) -> None:
    """With noise in place of every held-out image the same words make the same bytes."""
    instrument, said = small.instrument, (Said("dog", 2, 0), Said("ball", 0, 2))
    made, drawn = CutOuts().make(instrument, said)
    images = np.array(instrument.subject.stimuli.images)
    held_out = np.flatnonzero(instrument.held_out)
    images[held_out] = rng.integers(0, 256, images[held_out].shape, dtype=np.uint8)
    # another key, or the cut-outs found before would be given
    model = replace(instrument.model, provenance={**instrument.model.provenance, "key": "noise"})
    stimuli = replace(instrument.subject.stimuli, images=images)
    blind = replace(instrument, model=model, subject=replace(instrument.subject, stimuli=stimuli))
    again, _ = CutOuts().make(blind, said)
    np.testing.assert_array_equal(made, again)
    assert drawn == 2 and (made != neutral_ground(instrument)).any()
    np.testing.assert_array_equal(CutOuts().make(instrument, ())[0], neutral_ground(instrument))


def test_what_cannot_be_drawn_is_left_out_and_counted(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise EditError("nothing shows it")

    monkeypatch.setattr("mine_core.experiments.composing.exemplars_of", none)
    image, drawn = CutOuts().make(small.instrument, (Said("dog", 0, 0),))
    assert drawn == 0
    np.testing.assert_array_equal(image, neutral_ground(small.instrument))


# --- measures -----------------------------------------------------------------------------------------------------------


def test_errors_of_reconstruction_are_those_of_the_predictions(bench: Bench, voxel: int) -> None:
    rows = reconstruction(bench, voxel, "")
    assert {row["condition"] for row in rows} == {"critical", "random", "least"}
    instrument, row = bench.instrument, rows[0]
    assert row["image"] in instrument.subject.splits.test
    ranked = bench.ranked_patches(voxel, row["image"])
    image, _ = bench.maker.make(instrument, describe_patches(instrument, row["image"], ranked[: bench.n_critical]))
    pooled = instrument.backbone.get().embed(np.stack([bench.image(row["image"]), image])).pooled
    original, made = pooled @ instrument.model.coef[:, voxel] + instrument.model.intercept[voxel]
    responses = np.asarray(instrument.subject.responses.values[:, voxel], np.float64)
    expected = abs(responses[row["image"]] - made) / responses[instrument.subject.splits.train].std()
    assert row["error"] == pytest.approx(expected, rel=1e-4)
    assert row["distance"] == pytest.approx(abs(original - made) / instrument.sd(voxel), rel=1e-3, abs=1e-4)


def test_all_tokens_kept_err_as_the_prediction_does_and_critical_ones_hold_most(bench: Bench, voxel: int) -> None:
    instrument, stimuli = bench.instrument, bench.instrument.subject.splits.test
    features = instrument.features
    seen = (features.patches[stimuli], features.pooled[stimuli], instrument.mean_patches)
    whole = {"all": np.ones(features.patches[stimuli].shape[:2], bool)}
    measured, spread = bench.measured(voxel)
    found = _token_errors(instrument.model, seen, whole, voxel, measured[stimuli] / spread, spread)["all"]
    predicted = features.pooled[stimuli] @ instrument.model.coef[:, voxel] + instrument.model.intercept[voxel]
    np.testing.assert_allclose(found, ((measured[stimuli] - predicted) / spread) ** 2, rtol=1e-3, atol=1e-5)
    rows = tokens(bench, voxel, "")
    mean = {name: np.mean([row["error"] for row in rows if row["condition"] == name]) for name in {row["condition"] for row in rows}}
    assert len(mean) == 4 and mean["without critical"] > mean["without random"]


def test_a_piece_is_laid_in_its_place_and_size_and_nothing_else_moves(rng: np.random.Generator) -> None:
    ground, image = (rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(2))
    taken, place = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    taken[10:30, 40:60] = place[60:80, 20:40] = True
    there, elsewhere = _laid(ground, image, taken, taken), _laid(ground, image, taken, place)
    for made, mask in ((there, taken), (elsewhere, place)):
        np.testing.assert_array_equal(made[~mask], ground[~mask])
        core = np.zeros_like(mask)
        rows, columns = np.nonzero(mask)
        core[rows.min() + 5 : rows.max() - 4, columns.min() + 5 : columns.max() - 4] = True
        inner = image[15:25, 45:55].reshape(-1, 3).astype(float)
        # the light is matched a little: the pattern of the piece is there, not its very bytes
        assert np.corrcoef(made[core].reshape(-1, 3).astype(float).ravel(), inner.ravel())[0, 1] > 0.98


def test_ratios_and_guidance_are_of_the_same_pairs_of_images(bench: Bench, voxel: int) -> None:
    ratios = [row for row in faithfulness(bench, voxel, "") if row["condition"] != "refused"]
    for row in ratios:
        assert row["image"] in bench.non_preferred(voxel) and row["from"] in bench.preferred(voxel)
    assert len(ratios) % 3 == 0
    word = next(c.name for c in CONCEPTS if c.name == "dog")
    guided = [row for row in guidance(bench, voxel, word) if row["condition"] != "refused"]
    assert {row["word"] for row in guided if row["condition"] == "profile"} <= {word}
    assert all("true" not in row for row in guided)  # nothing was planted in a subject of one's own


# --- what it adds up to -------------------------------------------------------------------------------------------------


def made_rows(rng: np.random.Generator, effect: float, contrast: Any, *, second: float | None = None) -> list[dict[str, Any]]:
    rows = []
    for voxel in range(12):
        own = rng.normal()
        for image in range(3):
            for name in (contrast.treated, contrast.reference):
                moved = (name == contrast.treated) + own + 0.2 * rng.normal() - 1
                row = {"voxel": voxel, "image": 3 * voxel + image, "condition": name, "kind": contrast.kind, "verified": True}
                other = None if second is None else second * (name == contrast.treated) + own + 0.2 * rng.normal()
                rows.append(
                    row | {contrast.value: moved + (effect - 1) * (name == contrast.treated), f"{contrast.value}_second": other}
                )
    return rows


@pytest.mark.parametrize("contrast", CONTRASTS, ids=lambda contrast: f"{contrast.claim}-{contrast.name}")
def test_a_result_for_a_claim_against_it_and_none_are_said_as_plainly(contrast: Any, rng: np.random.Generator) -> None:
    found = {effect: contrast_entry(contrast, made_rows(rng, effect * contrast.expected, contrast)) for effect in (1.0, 0.0, -1.0)}
    claimed, opposite = SAID[contrast.claim, contrast.name]
    assert [found[effect]["guiding"]["verdict"] for effect in (1.0, -1.0)] == ["for", "against"]
    assert found[1.0]["sentence"].startswith(claimed)
    assert found[-1.0]["sentence"].startswith(f"Against the claim: {opposite[:1].lower()}{opposite[1:]}")
    assert abs(found[0.0]["guiding"]["estimate"]) < 0.3
    if found[0.0]["guiding"]["verdict"] == "undecided":
        assert found[0.0]["sentence"].startswith("Not shown: that ")
    assert "No second encoder" in found[1.0]["sentence"]
    low, high = found[1.0]["guiding"]["null"]
    assert low < 0 < high and abs(found[1.0]["guiding"]["estimate"]) > high
    assert {contrast.claim} <= set(TITLES) & set(ASKED) & set(NOT_SHOWN)


def test_the_figure_shows_both_encoders_apart_the_null_and_n(rng: np.random.Generator) -> None:
    chosen = [each for each in CONTRASTS if each.claim == "edits"]
    entries = [contrast_entry(each, made_rows(rng, each.expected, each, second=each.expected)) for each in chosen]
    entries.append(contrast_entry(chosen[0], []))  # nothing could be tested
    figure = contrasts_figure(entries, "SD of predictions")
    assert list(figure.layout.yaxis.ticktext) == [
        "removal less controls<br>12 voxels, 36 images",
        "insertion less controls<br>12 voxels, 36 images",
        "removal less controls<br>too few to test",
    ]
    guiding, second = figure.data
    assert guiding.marker.symbol != second.marker.symbol and not set(guiding.y) & set(second.y)
    for place, entry in enumerate(entries[:2]):
        assert guiding.x[place] == entry["guiding"]["estimate"]
        assert guiding.x[place] + guiding.error_x.array[place] == pytest.approx(entry["guiding"]["high"])
        assert second.x[place] - second.error_x.arrayminus[place] == pytest.approx(entry["second"]["low"])
        assert [figure.layout.shapes[place].x0, figure.layout.shapes[place].x1] == entry["guiding"]["null"]
    low, high = figure.layout.xaxis.range
    assert low < min(second.x) and high > max(guiding.x)


def test_the_second_encoder_may_say_the_opposite(rng: np.random.Generator) -> None:
    contrast = CONTRASTS[0]
    assert "says the opposite" in contrast_entry(contrast, made_rows(rng, 1.0, contrast, second=-1.0))["sentence"]
    assert "The second encoder agrees" in contrast_entry(contrast, made_rows(rng, 1.0, contrast, second=1.0))["sentence"]


def test_edits_that_are_not_recognised_count_for_nothing_and_too_few_say_so(rng: np.random.Generator) -> None:
    contrast = next(each for each in CONTRASTS if each.name == "removal")
    rows = made_rows(rng, -1.0, contrast)
    wild = [{**row, "verified": False, "shift": 50.0 * (row["condition"] == "edit")} for row in rows]
    assert contrast_entry(contrast, [*rows, *wild])["guiding"] == contrast_entry(contrast, rows)["guiding"]
    assert contrast_entry(contrast, rows[:4])["sentence"].startswith("Removal: too few voxels")
    refused = {"voxel": 0, "image": 0, "condition": "refused", "kind": "remove"}
    assert contrast_entry(contrast, [*rows, refused, {**refused, "kind": "insert"}])["n_refused"] == 1


def test_truth_and_causes_by_hand(rng: np.random.Generator) -> None:
    rows = [{"voxel": i // 2, "true": float(i), "predicted": 2.0 * i + 1} for i in range(8)] + [{"voxel": 9}]
    found = planted_entry(rows)
    assert (found["n"], found["n_without_a_true_shift"], found["n_voxels"]) == (8, 1, 4)
    assert found["predicted_less_true"]["mean"] == pytest.approx(4.5) and found["r"] == pytest.approx(1)
    assert found["null_r"][0] < 0 < found["null_r"][1]
    both, ball = ["ball", "person"], ["ball"]
    called = {"correlational": both, "insertion_alone": both, "measured_alone": ball}
    confounded: dict[str, Any] = {"kind": "confounded", "driver": "ball", "company": "person", **called}
    null: dict[str, Any] = {"kind": "null", "insertion_alone": [], "measured_alone": [], "causal": [], "reliable": False}
    rows = [confounded | {"causal": both if i == 0 else ball} for i in range(4)]
    rates = causes_entry([*rows, *(null | {"correlational": ball if i == 0 else []} for i in range(5))])
    assert rates["correlational"]["company of confounded voxels"]["rate"] == 1
    assert rates["causal"]["company of confounded voxels"]["rate"] == 0.25
    assert rates["causal"]["driver of confounded voxels"]["rate"] == 1
    assert rates["correlational"]["anything of null voxels"] | {"interval": None} == {"n": 5, "rate": 0.2, "interval": None}
    assert rates["causal"]["anything of null voxels"]["interval"][0] == 0
    ratios = [{"condition": "critical", "voxel": i // 3, "ratio": 1000.0 if i == 0 else 0.5} for i in range(30)]
    entry = ratio_entry(ratios, "critical")
    assert entry["median"] == entry["trimmed_mean"] == pytest.approx(0.5)  # where a mean would say 33.8


# --- tasks --------------------------------------------------------------------------------------------------------------


def test_what_was_stopped_goes_on_and_finished_tasks_are_not_redone(small: Any, apart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def cheap(_bench: Bench, voxel: int, _word: str) -> list[dict[str, Any]]:
        done.append(voxel)
        rng = np.random.default_rng(voxel)
        images = range(3)
        return [
            {"image": i, "condition": name, "error": rng.random() + (name == "random"), "error_second": None, "said": [], "n_drawn": 1}
            | {"distance": 0.5 * rng.random(), "distance_second": None}
            for i in images
            for name in ("critical", "random", "least")
        ]

    monkeypatch.setattr(claims, "MEASURES", {"reconstruction": cheap})
    monkeypatch.setattr(claims, "pieces_of", lambda _, n: [Piece("reconstruction", voxel, "dog") for voxel in range(n)])
    with pytest.raises(Cancelled, match="Stopped after 2 of 6 tasks; the same command goes on"):
        measure_claims(small.config, apart, Settings(6), cancelled=lambda: len(done) >= 2)
    assert done == [0, 1] and find_claims(small.config, apart, Settings(6)) is None
    seen: list[int] = []
    found = measure_claims(small.config, apart, Settings(6), on_progress=lambda n, *_: seen.append(n))
    assert done == [0, 1, 2, 3, 4, 5]
    assert found["contrasts"][0]["guiding"]["verdict"] == "for" and found["contrasts"][4]["guiding"] is None
    assert "planted" not in found  # nothing was planted in a subject of one's own
    assert measure_claims(small.config, apart, Settings(6)) == found == find_claims(small.config, apart, Settings(6))
    measure_claims(small.config, apart, Settings(8))  # more voxels add to those that are done
    assert done == list(range(8))


def test_processes_keep_the_same_bytes(small: Any, bench: Bench, apart: Any, voxel: int) -> None:  # noqa: ARG001
    """`bench` has the second encoder built before the store is copied."""
    pieces = [Piece("tokens", voxel, "dog")]
    for root, workers in ((small.store.root, 1), (apart.root, 2)):
        asked = [asdict(piece) for piece in pieces]
        measure_pieces(tasks_of(small.config, Settings()), asked, small.config, ArtifactStore(root), where=Where(workers))
    kept = [
        {path.relative_to(root): path.read_bytes() for path in root.glob("claim/*/rows.json")}
        for root in (small.store.root, apart.root)
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 1


def test_a_number_that_is_not_finite_is_refused() -> None:
    assert plain({"image": np.int64(3), "shift": np.float32(0.5), "said": ["dog"]}) == {"image": 3, "shift": 0.5, "said": ["dog"]}
    with pytest.raises(EncodingError, match="'shift' of image 3 is nan"):
        plain({"image": 3, "shift": np.float64("nan")})


def test_a_backbone_without_words_is_refused(small: Any, apart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanting, "wanting_of", lambda _: None)
    with pytest.raises(EditError, match="nothing can be described"):
        measure_claims(small.config, apart)
