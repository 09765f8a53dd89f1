import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mine_core.backbones import phantom_losses as losses
from mine_core.backbones.phantom_losses import Encoded, ReadOuts, total_loss
from mine_core.backbones.phantom_model import PhantomConfig, load_phantom, normalise_pixels
from mine_core.backbones.train_data import Batch, SceneBatches, scenes, vocabulary
from mine_core.backbones.train_phantom import CHECKPOINT, Recipe, Training, export, read_state, start_or_resume, train
from mine_core.errors import BackboneError

RECIPE = Recipe("phantom", scenes=48, batch_size=8, precision="fp32")
CPU = torch.device("cpu")


def config(supervision="masks"):
    small = {"width": 24, "layers": 1, "heads": 2, "text_layers": 1, "decoder_layers": 1, "stem": (4, 6, 8)}
    return PhantomConfig("phantom", vocabulary(), supervision, **small, stem_blocks=1)


@pytest.fixture(scope="module")
def few():
    dataset = SceneBatches(config(), 10_000_000, 8)
    return [dataset[number] for number in range(4)]


def encoded(n=5, patches=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(n, patches, width, generator=generator)
    caption = F.normalize(torch.randn(n, width, generator=generator), dim=-1)
    return Encoded(parts.mean(dim=1), parts, caption, torch.randn(n, 3, 7, generator=generator))


def made_up(families, truth, coverage):
    n = len(families)
    images, ids = torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.long)
    return Batch(images, ids, torch.arange(n), ids.expand(n, 1), families, coverage, truth, truth, truth[:, 0])


def test_contrastive_loss_by_hand():
    given = encoded()
    scale = torch.tensor(1.2)
    similarity = scale.exp() * F.normalize(given.pooled, dim=-1) @ given.caption.T
    rows = -(similarity.diag() - similarity.logsumexp(dim=1)).mean()
    columns = -(similarity.diag() - similarity.logsumexp(dim=0)).mean()
    assert losses.contrastive_loss(given, scale) == pytest.approx(float((rows + columns) / 2), rel=1e-5)


def test_caption_loss_ignores_padding():
    given = encoded()
    ids = torch.tensor([[1, 4, 6, 0]] * 5)
    expected = -given.caption_logits.log_softmax(dim=-1)[:, [0, 1], [4, 6]].mean()
    assert losses.caption_loss(given, ids) == pytest.approx(float(expected), rel=1e-5)


def test_dense_loss_falls_when_patches_name_what_they_show(few):
    batch, read = few[0], ReadOuts(1, 2)
    n_concepts = batch.families.count("concept")
    texts = torch.eye(n_concepts)
    filled = torch.einsum("bon,boc->bnc", batch.coverage, batch.truth[..., :n_concepts].float())
    blank = Encoded(texts[:8], torch.zeros_like(filled), texts[:8], torch.zeros(8, 1, 1))
    value = {
        name: losses.dense_concept_loss(replace(blank, parts=parts), texts, batch, read).item()
        for name, parts in (("blank", blank.parts), ("right", 6 * filled), ("wrong", 6 * filled.roll(1, dims=-1)))
    }
    assert value["right"] < value["blank"] < value["wrong"]


def test_presence_counts_easy_negatives_less(few):
    batch, read = few[0], ReadOuts(1, 2)
    texts = torch.eye(len(batch.families))
    truth = (batch.truth.any(dim=1) | batch.place).float()
    hard = batch.scope.any(dim=1) & ~truth.bool()
    easy = ~batch.scope.any(dim=1) & ~truth.bool()
    composed = torch.tensor([family == "composition" for family in batch.families])
    hard, easy = hard & composed, easy & composed
    assert hard.any() and easy.any()
    base = Encoded(torch.zeros_like(truth), torch.zeros(8, 1, len(texts)), texts[:8], torch.zeros(8, 1, 1))
    value = {}
    for name, cells in (("hard", hard), ("easy", easy)):
        row, column = cells.nonzero()[0]
        pooled = base.pooled.clone()
        pooled[row, column] = 3.0
        change = losses.presence_loss(replace(base, pooled=pooled), texts, batch, read) - losses.presence_loss(base, texts, batch, read)
        value[name] = change.item()
    assert value["hard"] > 3 * value["easy"] > 0


def test_captions_only_never_looks_at_masks_or_graph(few):
    batch = few[0]
    blind = replace(batch, coverage=torch.zeros_like(batch.coverage), truth=~batch.truth, place=~batch.place)
    for supervision, same in (("captions", True), ("masks", False)):
        training = Training(RECIPE, config(supervision), CPU)
        pixels = normalise_pixels(batch.images, training.config)
        with torch.no_grad():
            seen, unseen = (
                total_loss(training.model.eval(), training.read, training.config, pixels, each)[0] for each in (batch, blind)
            )
        assert torch.equal(seen, unseen) == same


def test_a_resumed_run_equals_an_unbroken_one(few, tmp_path):
    unbroken = Training(RECIPE, config(), CPU)
    for batch in few:
        unbroken.step(batch)
    first = Training(RECIPE, config(), CPU)
    for batch in few[:2]:
        first.step(batch)
    first.save(tmp_path)
    second = start_or_resume(RECIPE, config(), CPU, tmp_path)
    assert second.progress.step == 2
    for batch in few[2:]:
        second.step(batch)
    for name, value in unbroken.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_training_lowers_the_loss_on_what_it_sees(few):
    training = Training(replace(RECIPE, scenes=8 * 25, rate=3e-3, hold=0.9), config(), CPU)
    values = [sum(training.step(few[0]).values()) for _ in range(25)]
    assert values[-1] < 0.75 * values[0]


def test_run_saves_measures_exports_and_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("mine_core.backbones.phantom_quality.held_out", _held_out_few)
    training = Training(replace(RECIPE, scenes=24), config(), CPU)
    train(training, tmp_path / "run", workers=0, save_minutes=0.0, evaluate_minutes=0.0)
    assert training.progress.step == 3 and training.share_done() == 1
    lines = (tmp_path / "run" / "quality.jsonl").read_text().splitlines()
    assert [json.loads(line)["scenes"] for line in lines] == [8, 16, 24]
    assert read_state(tmp_path / "run")["progress"]["step"] == 3
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []
    export(tmp_path / "run", tmp_path)
    model, _, found = load_phantom("phantom", "cpu", tmp_path)
    assert found.supervision == "masks"
    average = training.average.state_dict()
    assert torch.allclose(model.visual.proj, average["visual.proj"], atol=2e-3)


def _held_out_few(n_scenes, image_size, first_seed=1_000_000):
    from mine_core.backbones.train_data import held_out

    return held_out(12, image_size, first_seed)


def test_a_loss_that_is_not_finite_stops_the_run(few):
    training = Training(RECIPE, config(), CPU)
    with torch.no_grad():
        training.model.visual.proj.fill_(float("nan"))
    with pytest.raises(BackboneError, match="step 0"):
        training.step(few[0])


def test_rate_rises_holds_and_falls():
    recipe = replace(RECIPE, scenes=6400)
    rates = [recipe.rate_at(share) for share in (0.0, recipe.warm_up, recipe.hold, 0.7, 1.0)]
    assert rates[0] < rates[1] == rates[2] == recipe.rate and rates[2] > rates[3] > rates[4] > 0


def test_time_ends_the_schedule_of_a_slow_machine():
    training = Training(replace(RECIPE, minutes=2.0), config(), CPU)
    training.progress.seconds = 90.0
    assert training.share_done() == pytest.approx(0.75)
    assert training.seconds_left() == pytest.approx(30.0)


def test_refusals(tmp_path):
    with pytest.raises(BackboneError, match="Unknown backbone"):
        Recipe("other", scenes=100)
    with pytest.raises(BackboneError, match="no batch"):
        Recipe("phantom", scenes=10)
    with pytest.raises(BackboneError, match=CHECKPOINT):
        read_state(tmp_path)


def test_quadrant_loss_asks_which_group_is_where():
    """One scene with a dog (animals) in the top right patch of a 2 x 2 grid; the other patches are empty."""
    n_concepts, dog = len(losses.GROUP_OF_CONCEPT), [c.name for c in scenes.CONCEPTS].index("dog")
    truth = torch.zeros(1, 1, n_concepts, dtype=torch.bool)
    truth[0, 0, dog] = True
    given = made_up(("concept",) * n_concepts, truth, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]))
    read = ReadOuts(1, 32)
    with torch.no_grad():
        read.quadrant.weight.copy_(torch.eye(32))
    animals, top_right = scenes.GROUPS.index("animals"), 1
    value = {}
    for name, column in (
        ("right", 4 * animals + top_right),
        ("elsewhere", 4 * animals + 2),
        ("other group", top_right),
    ):
        parts = torch.full((1, 4, 32), -20.0)
        parts[0, 1, column] = 20.0
        value[name] = losses.quadrant_loss(replace(encoded(1, 4, 32), parts=parts), given, read).item()
    assert value["right"] == pytest.approx(0, abs=1e-4)
    assert min(value["elsewhere"], value["other group"]) > 5


def test_alignment_is_one_minus_cosine_over_attributes():
    texts = torch.eye(3)
    none = torch.zeros(1, 1, 3, dtype=torch.bool)
    given = made_up(("concept", "facial", "attribute"), none, torch.zeros(1, 1, 4))
    free = torch.eye(3)[[1, 1, 0]]
    assert losses.alignment_loss(texts, free, given) == pytest.approx(0.5)
