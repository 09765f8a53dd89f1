"""Backbones are found by name, and what is missing is named with its size and how to get it."""

import json
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch

from mine_core.backbones import presets
from mine_core.backbones.decomposition import decompose
from mine_core.backbones.phantom_model import PhantomConfig, build_phantom_coca, normalise_pixels, save_phantom
from mine_core.backbones.presets import (
    backbone_available,
    find_preset,
    load_backbone,
    load_presets,
    preset_names,
    vocabulary_of,
    weights_key,
)
from mine_core.errors import BackboneError, ConfigError

WORDS = ("a", "dog", "red", "ball", "on", "the", "left")
SMALL = PhantomConfig(
    "phantom", WORDS, "masks", image_size=48, grid=4, width=32, layers=2, heads=2, context_length=10, stem=(8, 8, 8), stem_blocks=1
)
PUBLIC = [name for name, preset in load_presets().items() if preset.source == "open_clip"]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def small_phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhantomConfig:
    """A phantom backbone with random weights, norms, biases and running statistics, saved where presets look for it."""
    monkeypatch.setattr(presets, "PHANTOM_WEIGHTS", tmp_path)
    return save_phantom(random_phantom(), SMALL, tmp_path / "phantom", {})


def random_phantom() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_phantom_coca(SMALL)
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise.abs() if name.endswith(("running_var", "weight")) else 0.3 * noise)
    return model


def test_the_phantom_architecture_decomposes_exactly():
    model = random_phantom().double().eval()
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        pooled, patches, remainder = decompose(model.visual, pixels)
        truth, _ = model.visual(pixels)
    assert (patches.sum(dim=1) - truth).abs().max() < 1e-10 and patches.shape == (2, 16, 32)
    assert (pooled - truth).abs().max() < 1e-10 and remainder.abs().max() == 0


def test_the_phantom_is_loaded_as_it_was_saved(small_phantom, rng):
    backbone = load_backbone("phantom", device="cpu")
    assert (backbone.spec.name, backbone.spec.grid, backbone.spec.supervision) == ("phantom", (4, 4), "masks")
    images = rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    shrunk = np.stack([cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA) for image in images])
    expected = normalise_pixels(torch.from_numpy(shrunk), SMALL)
    torch.testing.assert_close(backbone.preprocess(images), expected)
    embedding = backbone.embed(images)
    np.testing.assert_allclose(embedding.patches.sum(1), embedding.pooled, atol=1e-5)
    with torch.no_grad():
        truth = random_phantom().eval().visual(expected)[0].numpy()
    np.testing.assert_allclose(embedding.pooled, truth, atol=0.02 * np.abs(truth).max())  # the weights are kept in fp16
    assert backbone.encode_text(["a red dog"]).shape == (1, 32)
    assert all(set(caption.split()) <= {*WORDS, "<unknown>"} for caption in backbone.caption(images))


def test_availability_and_key_of_the_phantom_follow_its_files(small_phantom, tmp_path):
    assert backbone_available("phantom").ready
    assert weights_key("phantom") == small_phantom.sha256
    (tmp_path / "phantom" / "model.safetensors").unlink()
    found = backbone_available("phantom")
    assert not found.ready and "lacks model.safetensors" in found.reason
    with pytest.raises(BackboneError, match="phantom"):
        load_backbone("phantom", device="cpu")
    (tmp_path / "phantom" / "config.json").write_text("{}")
    with pytest.raises(BackboneError, match="config.json cannot be read"):
        weights_key("phantom")


@pytest.mark.parametrize("name", ["phantom", "phantom-plain"])
def test_the_backbones_that_come_along_are_what_their_preset_says(name, rng):
    found = backbone_available(name)
    if not found.ready:
        pytest.skip(f"not in this checkout: {found.reason}")
    config = json.loads((presets.PHANTOM_WEIGHTS / name / "config.json").read_text())["model"]
    assert config["supervision"] == find_preset(name).supervision
    megabytes = (presets.PHANTOM_WEIGHTS / name / "model.safetensors").stat().st_size / 1e6
    assert find_preset(name).size_mb == pytest.approx(megabytes, rel=0.25)
    backbone = load_backbone(name, device="cpu")
    embedding = backbone.embed(rng.integers(0, 256, (2, 192, 192, 3), dtype=np.uint8))
    np.testing.assert_allclose(embedding.patches.sum(1), embedding.pooled, atol=1e-5 * np.abs(embedding.pooled).max())
    assert np.abs(embedding.remainder).max() == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_presets_are_those_that_open_clip_publishes(name):
    preset = find_preset(name)
    published = open_clip.get_pretrained_cfg(preset.architecture, preset.pretrained)
    assert preset.repository == published["hf_hub"].rstrip("/")
    assert published.get("quick_gelu", False) == preset.architecture.endswith("quickgelu")
    with torch.device("meta"):
        model = open_clip.create_model(preset.architecture, pretrained=None, device="meta")
    megabytes = 4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert preset.size_mb == pytest.approx(megabytes, rel=0.01)


@pytest.mark.parametrize("name", PUBLIC)
def test_missing_public_weights_are_named_with_size_and_remedy(name, empty_cache):
    preset = find_preset(name)
    found = backbone_available(name)
    assert not found.ready and found.size_mb == preset.size_mb
    assert f"{preset.size_mb} MB" in found.reason and f"hf download {preset.repository}" in found.reason
    with pytest.raises(BackboneError, match=f"Backbone '{name}': its weights .*{preset.repository}"):
        load_backbone(name, device="cpu")
    assert not empty_cache.exists() or not list(empty_cache.rglob("*.safetensors"))


def published_models() -> dict[str, tuple[torch.nn.Module, int]]:
    """Models as their published configurations make them, without memory, and the bytes of a published weight."""
    from transformers import Dinov2Config, Dinov2Model, LlavaConfig, LlavaForConditionalGeneration

    reader = LlavaConfig(text_config={"model_type": "llama", "vocab_size": 32064})
    with torch.device("meta"):
        seer = Dinov2Model(Dinov2Config(image_size=518, patch_size=14))
        return {"llava-1.5-7b-hf": (LlavaForConditionalGeneration(reader), 2), "dinov2-base": (seer, 4)}


def test_presets_of_transformers_have_the_size_and_the_layers_of_their_architecture():
    models = published_models()
    assert set(models) == {name for name, preset in load_presets().items() if preset.source == "transformers"}
    for name, (model, n_bytes) in models.items():
        preset = find_preset(name)
        megabytes = n_bytes * sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert preset.size_mb == pytest.approx(megabytes, rel=0.01)
    # the paper takes layer 30 of LLaVA's 32 and the last one of DINOv2
    assert models["llava-1.5-7b-hf"][0].config.text_config.num_hidden_layers == find_preset("llava-1.5-7b-hf").layer + 2
    assert models["dinov2-base"][0].config.num_hidden_layers == find_preset("dinov2-base").layer


@pytest.mark.parametrize("name", ["llava-1.5-7b-hf", "dinov2-base"])
def test_missing_weights_of_transformers_are_named_with_size_and_remedy(name, empty_cache):
    preset = find_preset(name)
    found = backbone_available(name)
    assert not found.ready and f"{preset.size_mb} MB" in found.reason
    assert f'hf download {preset.repository} --include "*.json" --include "*.safetensors"' in found.reason
    with pytest.raises(BackboneError, match=f"Backbone '{name}': its weights .*{preset.repository}") as refused:
        load_backbone(name, device="cpu")
    assert "\n" not in str(refused.value) and not empty_cache.exists()


def test_weights_that_cannot_be_read_are_refused(empty_cache, monkeypatch):
    broken = empty_cache / "open_clip_model.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not weights")
    monkeypatch.setattr(presets, "_cached_weights", lambda preset: broken)
    # only the reading: to build the tower around it takes seconds
    monkeypatch.setattr(open_clip, "create_model", lambda _, pretrained, **rest: open_clip.factory.load_state_dict(pretrained))
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_backbone("ViT-B-32", device="cpu")


def test_names_and_vocabularies_are_those_of_the_file():
    assert preset_names()[:2] == ("phantom", "phantom-plain")
    assert vocabulary_of("phantom-plain") == "phantom" and vocabulary_of("ViT-L-14-openai") == "general"
    assert len({weights_key(name) for name in PUBLIC}) == len(PUBLIC)
    for ask in (backbone_available, load_backbone, vocabulary_of, weights_key):
        with pytest.raises(BackboneError, match="no backbone 'ViT-Z'; expected one of phantom, "):
            ask("ViT-Z")


GOOD = 'source = "assets"\nsize_mb = 1\nlicence = "MIT"\nvocabulary = "v"\nsupervision = "masks"\nabout = "x"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "colour = 1", "unknown keys colour, missing keys none"),
        (GOOD.replace('licence = "MIT"\n', ""), "unknown keys none, missing keys licence"),
        (GOOD + 'repository = "x/y"', "unknown keys repository"),
        (GOOD.replace('"assets"', '"open_clip"'), "missing keys architecture, files, pretrained, repository"),
        (GOOD.replace('"assets"', '"timm"'), "source is 'timm'; expected one of assets, open_clip"),
        (GOOD.replace("= 1", '= "1"'), "size_mb is '1'; expected type int"),
        (GOOD.replace('"x"', '""'), "about is ''"),
        ("source = ", "cannot be read"),
    ],
)
def test_a_faulty_list_of_models_is_refused(text, words, tmp_path):
    path = tmp_path / "models.toml"
    path.write_text("[one]\n" + GOOD)
    assert load_presets(path)["one"].size_mb == 1
    path.write_text("[one]\n" + text)
    with pytest.raises(ConfigError, match=words):
        load_presets(path)
