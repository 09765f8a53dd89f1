import json
from dataclasses import replace

import pytest
import torch

from mine_core.backbones.phantom_model import (
    PhantomConfig,
    additive_parts,
    build_phantom_coca,
    load_phantom,
    normalise_pixels,
    save_phantom,
)
from mine_core.errors import BackboneError

SMALL = PhantomConfig(
    "tiny",
    ("a", "ball", "dog", "red"),
    "masks",
    image_size=48,
    grid=4,
    width=24,
    layers=2,
    heads=2,
    text_layers=1,
    decoder_layers=1,
    context_length=10,
    stem=(4, 6, 8),
    stem_blocks=1,
)


def random_model(config, seed=0):
    torch.manual_seed(seed)
    model = build_phantom_coca(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


@pytest.mark.parametrize("grid", [4, 6, 12])
def test_embedding_is_the_mean_of_its_parts(grid):
    model = random_model(replace(SMALL, grid=grid)).double()
    with torch.no_grad():
        pooled, parts, tokens = additive_parts(model, torch.randn(3, 3, 48, 48, dtype=torch.float64))
    assert parts.shape == (3, grid * grid, 24) and tokens.shape == parts.shape
    assert (parts.mean(dim=1) - pooled).abs().max() < 1e-12
    assert pooled.abs().max() > 0.1


def test_text_embedding_does_not_depend_on_padding():
    model, tokenizer = random_model(SMALL), SMALL.tokenizer()
    with torch.no_grad():
        short, long = (model.encode_text(tokenizer("a red ball", length)) for length in (5, 10))
        other = model.encode_text(tokenizer("a red dog", 5))
    assert torch.allclose(short, long, atol=1e-5)
    assert not torch.allclose(short, other, atol=1e-2)


def test_caption_logits_are_causal():
    model, tokenizer = random_model(SMALL), SMALL.tokenizer()
    pixels = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        first, second = (model(pixels, tokenizer(text), output_labels=False)["logits"] for text in ("a red ball", "a red dog"))
    assert first.shape == (1, 10, tokenizer.vocab_size)
    assert torch.allclose(first[:, :3], second[:, :3], atol=1e-4)
    assert not torch.allclose(first[:, 3], second[:, 3], atol=1e-2)


def test_saved_weights_come_back_at_half_precision(tmp_path):
    model = random_model(SMALL)
    config = save_phantom(model, SMALL, tmp_path / "tiny", {"scenes": 3})
    loaded, tokenizer, found = load_phantom("tiny", "cpu", tmp_path)
    assert found == config and found.sha256 and tokenizer.words == SMALL.vocabulary
    assert not loaded.training
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["training"] == {"scenes": 3}
    for (name, before), (_, after) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert after.dtype == before.dtype, name
        assert torch.allclose(before.float(), after.float(), rtol=1e-3, atol=1e-4), name


def test_tampered_absent_and_unknown_are_refused(tmp_path):
    save_phantom(random_model(SMALL), SMALL, tmp_path / "tiny", {})
    with pytest.raises(BackboneError, match="cannot be read"):
        load_phantom("absent", "cpu", tmp_path)
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BackboneError, match="SHA-256"):
        load_phantom("tiny", "cpu", tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    config = save_phantom(random_model(SMALL), SMALL, tmp_path / "tiny", {})
    wide = replace(config, width=32).to_dict()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps({"model": wide}))
    with pytest.raises(BackboneError, match="do not fit"):
        load_phantom("tiny", "cpu", tmp_path)


def test_config_round_trip_and_refusals():
    assert PhantomConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(BackboneError, match="colour"):
        PhantomConfig.from_dict({**SMALL.to_dict(), "colour": 1})
    with pytest.raises(BackboneError, match="incomplete"):
        PhantomConfig.from_dict({"name": "x"})
    with pytest.raises(BackboneError, match="divide"):
        replace(SMALL, grid=5)
    with pytest.raises(BackboneError, match="supervision"):
        replace(SMALL, supervision="labels")


def test_pixels_are_normalised_and_checked():
    images = torch.full((2, 48, 48, 3), 255, dtype=torch.uint8)
    assert torch.equal(normalise_pixels(images, SMALL), torch.full((2, 3, 48, 48), 2.0))
    for wrong in (images.float(), images[:, :40], images[0]):
        with pytest.raises(BackboneError, match="expected uint8"):
            normalise_pixels(wrong, SMALL)
