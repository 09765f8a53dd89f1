"""The editor's judge sees the mask alone and answers as its references do; removals are measured against the true background."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.proportion import proportion_confint

from mine_core.backbones.base import Embedding
from mine_core.counterfactual import phantom_editor_quality as quality
from mine_core.counterfactual.editor_judge import (
    QUESTIONS,
    Judge,
    Views,
    answers_of,
    close_ups,
    features_of,
    fit_judge,
    joined,
    rendered_views,
    view_of,
    with_softened,
)
from mine_core.counterfactual.editors import finish_edit
from mine_core.counterfactual.phantom_editor_card import card
from mine_core.counterfactual.train_pairs import pairs_of
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes


class Colours:
    """A backbone whose patches are their mean colours, and the spread of these."""

    spec = SimpleNamespace(grid=(8, 8), weights_hash="c" * 20)
    device, image_size = "cpu", 96

    def unused(self, *asked):
        raise AssertionError("the judge embeds images and nothing else")

    tokenizer = preprocess = pooled = encode_text = caption = unused

    def embed(self, images, batch_size=32, on_progress=None, cancelled=None):
        cells = images.astype(np.float32).reshape(len(images), 8, 12, 8, 12, 3)
        found = np.concatenate([cells.mean((2, 4)), cells.std((2, 4))], axis=-1).reshape(len(images), 64, 6) / 64
        return Embedding(found.sum(1), found, np.zeros((len(images), 6), np.float32))


@pytest.fixture(scope="module")
def rendered():
    return rendered_views(420, 900_000_000)


def test_judge_answers_as_its_regressions_do(rendered) -> None:
    views, items = rendered
    judge = fit_judge(Colours(), views, items)
    found, truth = judge(views), answers_of(items)
    X = features_of(Colours(), views)
    X = (X - X.mean(0)) / np.maximum(X.std(0), 1e-6)
    for name in ("concept", "glasses", "hair"):
        asked = truth[name] >= 0
        reference = LogisticRegression(C=0.01, max_iter=300).fit(X[asked], truth[name][asked]).predict(X)
        assert (found[name] == reference).mean() > 0.995, name
    assert (found["concept"] == truth["concept"]).mean() > 5 / len(QUESTIONS["concept"])


def test_judge_sees_nothing_outside_the_mask(rendered, rng) -> None:
    views, _ = rendered
    few = Views(views.images[:6], views.cells[:6])
    inside = np.kron(few.cells, np.ones((1, 4, 4), bool))[..., None]
    noise = rng.integers(0, 256, few.images.shape, dtype=np.uint8)
    outside_changed = Views(np.where(inside, few.images, noise), few.cells)
    inside_changed = Views(np.where(inside, noise, few.images), few.cells)
    assert np.array_equal(features_of(Colours(), few), features_of(Colours(), outside_changed))
    assert not np.allclose(features_of(Colours(), few), features_of(Colours(), inside_changed))


def test_judge_looks_at_the_zones_of_a_close_up(rendered) -> None:
    views, _ = rendered
    few = Views(views.images[:4], views.cells[:4])
    near = Colours().embed(close_ups(few, 96))
    laid = 64 * near.patches.reshape(4, 8, 8, 6)
    bounds = ((0, 3), (3, 6), (6, 8))
    zones = [laid[:, top:bottom, left:right].mean((1, 2)) for top, bottom in bounds for left, right in bounds]
    assert np.allclose(features_of(Colours(), few)[:, -60:], np.concatenate([near.pooled, *zones], axis=1), atol=1e-5)


def test_judge_is_fit_on_views_as_they_are_and_softened(rendered) -> None:
    views, items = rendered
    both, shown = with_softened(views, items)
    n = len(items)
    assert shown == [*items, *items] and np.array_equal(both.images[:n], views.images) and np.array_equal(both.cells[n:], views.cells)
    rough = [np.abs(np.diff(images.astype(float), axis=2)).mean((1, 2, 3)) for images in (both.images[:n], both.images[n:])]
    assert (rough[1] <= rough[0] + 1e-9).all() and rough[1].mean() < 0.9 * rough[0].mean()
    assert np.array_equal(with_softened(views, items)[0].images, both.images)


def test_requests_go_through_all_concepts_under_masks_of_any_aspect() -> None:
    asked = quality.insertions(80)
    assert [request.item.concept for request in asked[:40]] == list(QUESTIONS["concept"])
    sides = [[np.flatnonzero(request.edit_mask.any(axis)).size for axis in (1, 0)] for request in asked]
    aspects = np.array([tall / wide for tall, wide in sides])
    assert aspects.min() < 0.6 and aspects.max() > 1.6
    longer = np.array(sides).max(1) / 192
    assert longer.min() > 0.3 and longer.max() < 0.62
    view = view_of(asked[0].image, asked[0].edit_mask)
    assert view.images.shape == (1, 96, 96, 3) and joined([view, view]).cells.shape == (2, 24, 24)


def test_interval_of_a_share_is_wilsons() -> None:
    for right, n in ((37, 40), (0, 12), (5, 5)):
        found = quality._share(np.arange(n) < right)
        assert (found["low"], found["high"]) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-6)


class Oracle:
    """Takes every object out exactly, or leaves everything where it is."""

    def __init__(self, name: str, knows: bool) -> None:
        self.name, self.knows = name, knows

    def edit(self, image, edit_mask, instruction, *, seed, on_step=None, cancelled=None):
        edited = image.copy()
        if self.knows:
            scene = scenes.sample_scene(quality.EVALUATION_SEED + 500_000 + seed)
            full = scenes.render(scene, 192)
            index = int(np.argmax(full.visible))
            rest = tuple(item for place, item in enumerate(scene.objects) if place != index)
            truth = scenes.render(scenes.Scene(scene.seed, scene.background, rest, scene.light), 192).image
            edited[edit_mask] = truth[edit_mask]
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance={})


class Careful:
    """An editor whose autoencoder loses nothing, or everything under the mask."""

    def __init__(self, loses: bool) -> None:
        self.loses = loses

    def round_trip(self, image, edit_mask):
        return np.where(edit_mask[..., None], 128, image).astype(np.uint8) if self.loses else image


def test_round_trip_without_loss_is_judged_as_what_was_rendered(rendered) -> None:
    judge = fit_judge(Colours(), *rendered)
    kept, lost = (quality._as_asked(judge, *quality.passed_views(Careful(loses), 60, 900_000_000)) for loses in (False, True))
    pairs = [pair for seed in range(900_000_000, 900_000_040) for pair in pairs_of(seed) if pair.item is not None][:60]
    answers = judge(joined([view_of(pair.after, pair.edit_mask) for pair in pairs]))["concept"]
    assert kept["recognised"]["value"] == (answers == answers_of([pair.item for pair in pairs])["concept"]).mean() > 0.1
    assert lost["recognised"]["value"] < 0.5 * kept["recognised"]["value"] and kept["recognised"]["n"] == 60


class Answers(Judge):
    """A judge that sees what it is told to see."""

    def __init__(self, items) -> None:
        object.__setattr__(self, "answers", answers_of(items))

    def __call__(self, _views):
        return self.answers


def test_attributes_count_where_the_prompt_tells_them_and_a_group_is_answered_by_any_of_it() -> None:
    face = {"expression": "sad", "age": "old", "hair": "grey", "glasses": "no", "hat": "yes", "view": "left"}

    def shown(concept: str, **attributes: str) -> scenes.SceneObject:
        return scenes.SceneObject(concept, 0.5, 0.5, 0.5, tuple((face | attributes).items()) if concept == "man" else (), 0)

    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    wanted = [shown("man"), shown("man"), shown("dog"), shown("dog"), shown("dog")]
    prompts = ["a sad man with a hat looking left", "a man", "an animal", "an animal", "a dog"]
    smiling = shown("man", expression="smiling")
    painted = [shown("man", expression="smiling", view="right"), smiling, shown("cat"), shown("cup"), shown("cat")]
    asked = [quality.Insertion(image, mask, item, prompt) for item, prompt in zip(wanted, prompts, strict=True)]
    report, _ = quality.measure_insertions(Oracle("nothing", False), Answers(painted), asked)
    assert report["recognised"]["value"] == pytest.approx(3 / 5)
    assert report["recognised_each"] == {"man": 1.0, "dog": pytest.approx(1 / 3)}
    known = {name: (report[name]["value"], report[name]["n"]) for name in ("expression", "view", "hat")}
    assert known == {"expression": (0.0, 1), "view": (0.0, 1), "hat": (1.0, 1)}
    assert not {"age", "hair", "glasses"} & set(report)


def test_removals_are_measured_from_the_true_background() -> None:
    found = quality.measure_removals([Oracle("true", True), Oracle("nothing", False)], 8)
    assert found["true"]["mean"] == 0
    assert found["nothing"]["mean"] > found["ring median"]["mean"] > 3
    assert found["true"]["n"] == found["ring median"]["n"] >= 5
    ring = found["ring median"]  # the first editor errs by 0
    assert ring["more"] == ring["mean"] and (ring["more_low"], ring["more_high"]) == (ring["low"], ring["high"])
    assert 0 < ring["low"] < ring["mean"] < ring["high"]
    turned = quality.measure_removals([Oracle("nothing", False), Oracle("true", True)], 8)
    assert turned["true"]["more"] == -found["nothing"]["more"] and turned["true"]["more_low"] == -found["nothing"]["more_high"]


def a_report(folder, sha="abc") -> None:
    share = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50}
    made = {"recognised": share, "recognised_each": {"dog": 0.5, "cat": 1.0}, "colour": share | {"chance": 1 / 6}}
    away = {"mean": 4.0, "low": 3.0, "high": 5.0, "median": 3.5, "more": 1.25, "more_low": 0.5, "more_high": 2.0, "n": 9}
    removals = {name: away for name in ("phantom", "ring median")}
    seconds = {"insert": 0.31, "remove": 0.2, "threads": 1}
    report = {
        "sha256": sha,
        "judge": "The judge is X.",
        "insertions": made,
        "rendered": made,
        "rendered_soft": {"0.7": made},
        "removals": removals,
        "seconds": seconds,
    }
    report["round_trip"] = {name: share | {"value": 0.88} for name in ("recognised", "colour")}
    judged = {
        name: {"expression": share | {"value": 0.7}} for name in ("painted", "re-encoded", "rendered", "rendered, softened by 0.7")
    }
    report["faces"] = {"first_seed": 5, "n": 60, "judges": {"first": judged, "second": judged | {"painted": {"expression": share}}}}
    (folder / "quality.json").write_text(json.dumps(report))
    recipe = {"batch_size": 32, "rate": 1e-3, "precision": "bf16", "average": 0.998, "steps": 9, "minutes": 5.0, "seed": 1}
    stage = {"recipe": recipe, "steps": 8, "minutes": 4.0}
    seeds = {"autoencoder": 700_000_000, "pool": 800_000_000}
    taught = {name: stage for name in ("critic-latents", "critic-pictures", "sharp", "decoder")}
    training = {"autoencoder": stage, "denoiser": stage, **taught, "pool": {"64": 100}, "first_seed": seeds, "notes": ["A note."]}
    shape = {
        "size": 64,
        "encoder_blocks": [0, 2, 2],
        "width": 32,
        "channels": [64],
        "text_layers": 2,
        "text_width": 128,
        "words": ["a"],
    }
    (folder / "editor.json").write_text(json.dumps({"sha256": "abc", "shape": shape, "training": training}))


def test_card_tells_what_was_measured_and_refuses_other_weights(tmp_path) -> None:
    a_report(tmp_path)
    text = card(tmp_path)
    for told in (
        "| Colour | 0.900 | 0.800 to 0.950 | 50 | 0.880 | 0.900 | 0.167 |",
        "--stage sharp --steps 9 --sharp-minutes 5 --seed 1 --rate 0.001 --batch 32 --size 64 --surroundings 0.22",
        "--stage decoder --steps 9 --decoder-minutes 5 --seed 1 --rate 0.001 --batch 32 --size 64 --surroundings 0.22",
        "--stage critic-latents --steps 9 --critic-minutes 5 --seed 1 --rate 0.0005 --batch 32 --size 64 --surroundings 0.22",
        "--first-size 64 --large-pool 100 --size 64 --surroundings 0.22",
        "with 22 % of its longer side",
        "with what that critic sees: 8 steps",
        "it recognises 0.900 (SD 0.7 of 96 pixels).",
        "dog 0.50",
        "0.31 to insert",
        "A note.",
        "64 x 64",
        "| Expression, first judge | 0.700 | 0.800 to 0.950 | 50 | 0.700 | 0.700 | 0.700 |",
        "| Expression, second judge | 0.900 | 0.800 to 0.950 | 50 | 0.700 | 0.700 | 0.700 |",
        "| | painted | 95 % interval | n | re-encoded | rendered | rendered, softened by 0.7 |",
        "| phantom | 4.0 (3.0 to 5.0) | 3.5 | 1.2 (0.5 to 2.0) | 9 |",
    ):
        assert told in text, told
    a_report(tmp_path, sha="other")
    with pytest.raises(EditError, match="measured on weights other"):
        card(tmp_path)
    (tmp_path / "quality.json").unlink()
    with pytest.raises(EditError, match="train, export and measure"):
        card(tmp_path)
