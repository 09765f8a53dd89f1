"""What a prompt asks, and the stage in which the text encoder learns to say it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_editor_training import CPU, tiny

from mine_core.counterfactual.train_denoiser import Pool
from mine_core.counterfactual.train_pairs import prompt_words
from mine_core.counterfactual.train_phantom import denoiser_run
from mine_core.counterfactual.train_run import Recipe
from mine_core.counterfactual.train_words import HELD, ILLEGIBLE, WordsBatches, read_prompts, words_loss
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.concepts import DRAWN

RECIPE = Recipe("words", steps=160, batch_size=32, rate=4e-3, precision="fp32")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    rng = np.random.default_rng(3)
    items: list[scenes.SceneObject | None] = [None]
    for number in range(60):
        concept = ("man", "woman", "ball")[number % 3]
        drawn = tuple((name, str(rng.choice(values))) for name, values in DRAWN[concept].items())
        items.append(scenes.SceneObject(concept, 0.5, 0.5, 0.5, drawn, number))
    none = torch.zeros(len(items), 4, 8, 8)
    pool = Pool(none, none, none[:, 0] > 0, none[:, 0].byte(), tuple(items))
    shape = replace(tiny(), words=prompt_words(), context=20)
    run = denoiser_run(RECIPE, shape, CPU, tmp_path_factory.mktemp("none"))
    return WordsBatches(pool, shape, run), run


def legible(parts, given) -> float:
    """Share of told views that the read-outs answer."""
    with torch.no_grad():
        _, vector = read_prompts(parts, given["ids"])
        scores = parts["readouts"]["view"](torch.nn.functional.layer_norm(vector, vector.shape[-1:]))
    told = given["told"]["view"]
    return float((scores.argmax(1) == told)[told >= 0].float().mean())


def test_what_was_illegible_becomes_legible_and_silent_prompts_stay(words) -> None:
    losses, run = words
    unseen = losses.loss_at(10_000).keywords
    assert unseen["silent"].any() and not unseen["silent"].all()
    assert torch.equal(unseen["silent"], unseen["told"][ILLEGIBLE[0]] < 0)
    before, first = legible(run.parts, unseen), read_prompts(run.parts, unseen["ids"])[1].detach()
    others = {name: value.clone() for name, value in run.parts["denoiser"].named_parameters() if not name.startswith("add_embedding")}
    for number, loss_of in enumerate(losses):
        if number == RECIPE.steps:
            break
        run.step(loss_of)
    assert before < 0.7 and legible(run.parts, unseen) > 0.95
    moved = (read_prompts(run.parts, unseen["ids"])[1].detach() - first) ** 2
    assert moved[unseen["silent"]].mean() < 0.1 * moved[~unseen["silent"]].mean()
    assert all(torch.equal(value, dict(run.parts["denoiser"].named_parameters())[name]) for name, value in others.items())


def test_the_loss_is_what_was_told_and_how_far_silent_prompts_moved(words) -> None:
    losses, run = words
    given = losses.loss_at(3).keywords
    hidden, vector = (found.detach() for found in read_prompts(run.parts, given["ids"]))
    held, held_vector = (found.detach() for found in read_prompts(losses.before, given["ids"]))
    total = 0.0
    for name, head in run.parts["readouts"].items():
        told = given["told"][name]
        normed = torch.nn.functional.layer_norm(vector, vector.shape[-1:])
        log_p = torch.log_softmax(head(normed).detach(), 1)[told >= 0, told[told >= 0]]
        total -= float(log_p.sum()) * (1.0 if name == "concept" else 0.3) / len(told)
    rows = given["silent"]
    for now, then in ((hidden, held), (vector, held_vector)):
        total += HELD * float(((now - then)[rows] ** 2).mean() / then[rows].var())
    assert words_loss(run.parts, **given).item() == pytest.approx(total, rel=1e-4)
