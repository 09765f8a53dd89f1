import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mine_core.backbones import phantom_quality as quality
from mine_core.backbones.phantom_card import card
from mine_core.backbones.phantom_model import PhantomConfig, additive_parts, build_phantom_coca, save_phantom
from mine_core.backbones.train_data import PhraseBank, SceneBatches, held_out, vocabulary
from mine_core.backbones.train_phantom import Recipe
from mine_core.errors import BackboneError

SMALL = {"width": 24, "layers": 1, "heads": 2, "text_layers": 1, "decoder_layers": 1, "stem": (4, 6, 8)}
CONFIG = PhantomConfig("phantom", vocabulary(), "masks", **SMALL, stem_blocks=1)
N = 120


@pytest.fixture(scope="module")
def shown():
    return held_out(N, 96)


@pytest.fixture(scope="module")
def truth(shown):
    """What an all-knowing backbone would hold: truth of every phrase per scene, and per patch."""
    dataset = SceneBatches(CONFIG, 1_000_000, N)
    bank = PhraseBank()
    dataset.bank.draw = lambda table, rng: np.arange(len(bank.texts))
    batch = dataset[0]
    per_patch = torch.einsum("bon,bop->bnp", batch.coverage, batch.truth.float()).numpy()
    return bank, (batch.truth.any(dim=1) | batch.place).float().numpy(), per_patch


def measured(monkeypatch, shown, bank, pooled, parts, captions):
    seen = quality.Seen(pooled, parts, captions, 1.0, 1.0)
    monkeypatch.setattr(quality, "see", lambda *_: seen)
    table = np.eye(len(bank.texts))
    monkeypatch.setattr(quality, "embed_texts", lambda model, config, texts: table[[bank.index(text) for text in texts]])
    return quality.Quality(build_phantom_coca(CONFIG), CONFIG, shown, n_bootstrap=20).all()


def test_an_all_knowing_backbone_scores_one(monkeypatch, shown, truth):
    bank, pooled, parts = truth
    captions = tuple(" and ".join(item.concept for item in scene.objects) for scene in shown.scenes)
    found = measured(monkeypatch, shown, bank, pooled, parts, captions)
    for key in ("concept_auc", "background_accuracy", "noun_recall", "noun_precision", "position_accuracy"):
        assert found[key]["value"] == 1, key
    assert found["written_text_auc"]["value"] == 1 and found["facial_attributes_mean"] == 1
    assert found["pointing_touch"]["value"] > 0.9 and found["pointing"]["value"] > 0.9
    assert found["pointing"]["low"] <= found["pointing"]["value"] <= found["pointing"]["high"]
    assert quality.brief(found)["pose"] == 1


def test_a_blind_backbone_scores_at_chance(monkeypatch, shown, truth):
    bank, pooled, parts = truth
    rng = np.random.default_rng(0)
    nothing = rng.standard_normal(pooled.shape), rng.standard_normal(parts.shape)
    found = measured(monkeypatch, shown, bank, *nothing, captions=("a dog",) * N)
    assert found["concept_auc"]["value"] == pytest.approx(0.5, abs=0.06)
    assert found["background_accuracy"]["value"] == pytest.approx(1 / 8, abs=0.1)
    assert found["position_accuracy"]["value"] == pytest.approx(0.2, abs=0.1)
    assert found["pointing"]["value"] == pytest.approx(found["pointing_chance"], abs=0.08)
    assert found["noun_recall"]["value"] < 0.1


def test_auc_equals_sklearn_with_ties():
    rng = np.random.default_rng(1)
    scores, label = rng.integers(0, 5, 80).astype(float), rng.random(80) < 0.3
    assert quality.auc(scores, label) == pytest.approx(roc_auc_score(label, scores))
    assert np.isnan(quality.auc(scores, np.ones(80, bool)))


def test_balanced_accuracy_equals_sklearn():
    rng = np.random.default_rng(2)
    label, guess = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    assert quality._balanced(label, guess) == pytest.approx(balanced_accuracy_score(label, guess))


def test_interval_of_a_mean_has_the_textbook_width():
    rng = np.random.default_rng(3)
    values = rng.standard_normal(400)
    entry = quality.with_interval(lambda rows: float(values[rows].mean()), 400, 2000, rng)
    assert entry["high"] - entry["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert "low" not in quality.with_interval(lambda rows: 0.0, 5, 0, rng)


def test_patches_of_a_mask():
    visible = np.zeros((192, 192), bool)
    visible[0:24, 24:36] = True
    centres, share = quality._by_patch(visible, 8)
    assert share[1] == 0.5 and share.sum() == 0.5
    assert centres.sum() == 0
    visible[0:24, 24:37] = True
    assert quality._by_patch(visible, 8)[0].nonzero()[0].tolist() == [1]


def test_greedy_captions_equal_a_step_by_step_forward():
    torch.manual_seed(0)
    model, tokenizer = build_phantom_coca(CONFIG).eval(), CONFIG.tokenizer()
    pixels = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        said = quality.greedy_captions(model, tokenizer, additive_parts(model, pixels)[2])
        for row in range(3):
            ids = [tokenizer.start_id]
            while len(ids) < tokenizer.context_length and ids[-1] != tokenizer.end_id:
                logits = model(pixels[row : row + 1], torch.tensor([ids]), output_labels=False)["logits"]
                ids.append(int(logits[0, -1].argmax()))
            assert said[row] == tokenizer.decode(ids)


def test_card_states_the_supervision_and_refuses_figures_of_other_weights(tmp_path, monkeypatch, shown):
    monkeypatch.setattr(quality, "held_out", lambda *_: shown)
    model = build_phantom_coca(CONFIG)
    training = {
        "recipe": asdict(Recipe("phantom", scenes=640)),
        "first_seed": 10_000_000,
        "scenes_seen": 640,
        "minutes": 1.0,
        "notes": ["Trained on a slate."],
    }
    config = save_phantom(model, CONFIG, tmp_path, training)
    found = quality.measure(model.eval(), config, N, n_bootstrap=3)
    report = {"sha256": config.sha256, "n_scenes": N} | found
    (tmp_path / "quality.json").write_text(json.dumps(report))
    text = card(tmp_path)
    assert "- Trained on a slate." in text
    assert "Localisation of this model is supervised" in text and config.sha256 in text
    assert f"| {found['pointing']['value']:.3f} |" in text
    (tmp_path / "quality.json").write_text(json.dumps(report | {"sha256": "0" * 64}))
    with pytest.raises(BackboneError, match="measured on weights 000000000000"):
        card(tmp_path)
