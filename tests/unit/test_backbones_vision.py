"""DINOv2 as a backbone: its patch tokens are the parts, and it has no words; and files of transformers as they are found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_transformers import (
    GRID,
    LAYERS,
    WIDTH,
    bit_processor,
    clip_processor,
    put_in_cache,
    randomise,
    tiny_dinov2_model,
    tiny_llava_model,
    tiny_tokenizer,
    tiny_vision,
)
from transformers import BitImageProcessorPil, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from mine_core.backbones import presets
from mine_core.backbones.base import Backbone
from mine_core.backbones.presets import adapter_code, backbone_available, load_backbone, weights_key
from mine_core.backbones.vision_adapter import VisionBackbone
from mine_core.errors import BackboneError, ConfigError
from mine_core.features import extract_features, load_features
from mine_core.types import BackboneSpec, StimulusSet

ABOUT = {"name": "tiny", "supervision": "images", "weights_hash": "0" * 20}


@pytest.fixture(scope="module")
def backbone() -> VisionBackbone:
    return tiny_vision()


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def test_parts_are_the_models_own_patch_tokens(backbone, images):
    with torch.no_grad():
        output = tiny_dinov2_model()(backbone.preprocess(images)).last_hidden_state[:, 1:].numpy()
    embedding = backbone.embed(images, batch_size=2)
    np.testing.assert_allclose(16 * embedding.patches, output, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(embedding.pooled, output.mean(axis=1), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(embedding.patches.sum(axis=1), embedding.pooled, rtol=0, atol=1e-5)
    assert not embedding.remainder.any() and np.abs(output).max() > 1


@torch.no_grad()
@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_an_earlier_layer_goes_through_the_final_norm(layer, images):
    """As a model of so many layers would give it."""
    backbone, shorter = tiny_vision(layer=layer), tiny_dinov2_model()
    del shorter.encoder.layer[layer:]
    expected = shorter(backbone.preprocess(images)).last_hidden_state[:, 1:]
    torch.testing.assert_close(backbone.tokens(backbone.preprocess(images)), expected, rtol=1e-4, atol=2e-5)


def test_registers_are_no_patches(images):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    model = randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=4)), 1)
    backbone = VisionBackbone(model, bit_processor(), layer=2, **ABOUT)
    with torch.no_grad():
        output = model(backbone.preprocess(images)).last_hidden_state[:, -16:].mean(dim=1)
    np.testing.assert_allclose(backbone.embed(images).pooled, output, rtol=1e-4, atol=2e-5)


def test_the_gradient_reaches_the_pixels(backbone, images):
    pixels = backbone.preprocess(images[:1]).requires_grad_()
    pooled = backbone.pooled(pixels)
    np.testing.assert_allclose(pooled.detach().numpy(), backbone.embed(images[:1]).pooled, rtol=1e-4, atol=2e-5)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(pooled[:, 3].sum(), pixels)
    with torch.no_grad():
        step = (backbone.pooled(pixels + 3e-3 * direction) - backbone.pooled(pixels - 3e-3 * direction))[:, 3].sum()
    assert (gradient * direction).sum().item() == pytest.approx(step.item() / 6e-3, rel=0.05)


def test_it_has_no_words_and_says_so(backbone, images):
    assert isinstance(backbone, Backbone) and not backbone.spec.has_words
    assert (backbone.spec.grid, backbone.spec.n_features) == (GRID, WIDTH)
    for ask in (lambda: backbone.encode_text(["dog"]), lambda: backbone.tokenizer(["dog"]), lambda: backbone.caption(images)):
        with pytest.raises(BackboneError, match="'tiny-vision' has no words") as refused:
            ask()
        assert "\n" not in str(refused.value)


def test_preprocessing_is_that_of_the_published_image_processor(backbone, rng):
    photographs = rng.integers(64, 192, (3, 96, 80, 3), dtype=np.uint8)
    seen = backbone.preprocess(photographs)
    torch.testing.assert_close(seen, bit_processor()(list(photographs), return_tensors="pt")["pixel_values"], rtol=0, atol=0)
    by_pil = BitImageProcessorPil(**bit_processor().to_dict() | {"image_processor_type": None})
    other = torch.from_numpy(np.stack(by_pil(list(photographs))["pixel_values"]))
    assert (seen - other).abs().max() < 1.5 / 255 / 0.22


def test_models_and_layers_of_other_kinds_are_refused():
    with pytest.raises(BackboneError, match="A CLIPVisionModel was given; expected Dinov2Model"):
        VisionBackbone(tiny_llava_model().model.vision_tower, bit_processor(), layer=1, **ABOUT)
    for layer in (0, LAYERS + 1):
        with pytest.raises(BackboneError, match=f"after layer {layer} were asked for; there are layers 1 to {LAYERS}"):
            tiny_vision(layer=layer)
    with pytest.raises(BackboneError, match="Patches of 7 pixels do not fill a square of 30"):
        VisionBackbone(tiny_dinov2_model(), bit_processor(30), layer=1, **ABOUT)


def test_features_written_before_words_were_asked_about_have_words(backbone, images, tmp_path):
    stimuli = StimulusSet(("a", "b", "c"), images, ((),) * 3, "none")
    assert not extract_features(stimuli, backbone, tmp_path).backbone.has_words
    record = json.loads((tmp_path / "features.json").read_text())
    del record["backbone"]["has_words"]
    (tmp_path / "features.json").write_text(json.dumps(record))
    assert load_features(tmp_path).backbone.has_words
    assert BackboneSpec("x", (1, 1), 1, "", "").has_words


TABLE = (
    '[{name}]\nsource = "transformers"\narchitecture = "{kind}"\nrepository = "made/{name}"\nlayer = 2\nsize_mb = 1\n'
    'licence = "none"\nvocabulary = "none"\nsupervision = "images"\nabout = "x"\n'
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and a list of two models, whose weights are not there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    table = TABLE.format(name="seer", kind="dinov2") + TABLE.format(name="reader", kind="llava")
    (tmp_path / "models.toml").write_text(table)
    monkeypatch.setattr(presets, "MODELS", tmp_path / "models.toml")
    return tmp_path / "hub"


def test_a_vision_model_is_loaded_from_the_cache_offline(hub, images):
    assert not backbone_available("seer").ready
    put_in_cache(hub, "made/seer", tiny_dinov2_model(), bit_processor())
    assert backbone_available("seer").ready
    found = load_backbone("seer", device="cpu")
    expected = tiny_vision(layer=2).embed(images)
    np.testing.assert_allclose(found.embed(images).patches, expected.patches, rtol=1e-4, atol=1e-5)
    assert (found.spec.name, found.spec.supervision, len(found.spec.weights_hash)) == ("seer", "images", 20)


def test_a_llava_in_shards_is_loaded_from_the_cache_offline(hub, images):
    snapshot = put_in_cache(hub, "made/reader", tiny_llava_model(), clip_processor(), tiny_tokenizer(), shard_mb=0.05)
    assert len(list(snapshot.glob("*.safetensors"))) > 1 and backbone_available("reader").ready
    found, model = load_backbone("reader", device="cpu"), tiny_llava_model()
    ids = [tiny_tokenizer().bos_token_id, *[model.config.image_token_id] * 16]
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([ids] * 3), pixel_values=found.preprocess(images), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(16 * found.embed(images).patches, whole[2][:, 1:], rtol=1e-4, atol=2e-5)
    assert found.encode_text(["dog"]).shape == (1, WIDTH) and len(found.caption(images[:1])) == 1
    # one of the shards has not come yet
    max(snapshot.glob("*.safetensors")).unlink()
    assert not backbone_available("reader").ready
    (snapshot / "model.safetensors.index.json").write_text("{")
    assert not backbone_available("reader").ready


def test_published_code_is_never_run(hub, images, tmp_path):
    snapshot = put_in_cache(hub, "made/seer", tiny_dinov2_model(), bit_processor())
    config = json.loads((snapshot / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "theirs.Model", "AutoConfig": "theirs.Config"}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "theirs.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nModel = Config = None\n")
    expected = tiny_vision(layer=2).embed(images).pooled
    np.testing.assert_allclose(load_backbone("seer", device="cpu").embed(images).pooled, expected, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(hub):
    snapshot = put_in_cache(hub, "made/seer", tiny_dinov2_model(), bit_processor())
    torch.save(tiny_dinov2_model().state_dict(), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    assert not backbone_available("seer").ready
    with pytest.raises(BackboneError, match="are not in the Hugging Face cache"):
        load_backbone("seer", device="cpu")


def test_weights_that_lack_an_array_or_are_broken_are_refused(hub):
    from safetensors.torch import load_file, save_file

    snapshot = put_in_cache(hub, "made/seer", tiny_dinov2_model(), bit_processor())
    weights = load_file(snapshot / "model.safetensors")
    unused = {name: value for name, value in weights.items() if name != "embeddings.mask_token"}
    save_file(unused, snapshot / "model.safetensors", {"format": "pt"})
    assert load_backbone("seer", device="cpu")  # no image is embedded with it
    del unused["layernorm.bias"]
    save_file(unused, snapshot / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=r"'seer': its weights lack 1 of the model's arrays \(first: layernorm.bias\)") as refused:
        load_backbone("seer", device="cpu")
    assert "\n" not in str(refused.value)
    (snapshot / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match="'seer': its weights cannot be loaded .* delete made/seer") as refused:
        load_backbone("seer", device="cpu")
    assert "\n" not in str(refused.value)


def test_other_weights_or_another_layer_are_told_apart(hub, tmp_path):
    snapshot = put_in_cache(hub, "made/seer", tiny_dinov2_model(), bit_processor())
    first, key = load_backbone("seer", device="cpu").spec.weights_hash, weights_key("seer")
    assert load_backbone("seer", device="cpu").spec.weights_hash == first
    table = (tmp_path / "models.toml").read_text()
    (tmp_path / "models.toml").write_text(table.replace("layer = 2", "layer = 3"))
    assert load_backbone("seer", device="cpu").spec.weights_hash != first and weights_key("seer") != key
    (tmp_path / "models.toml").write_text(table)
    tiny_dinov2_model(1).save_pretrained(snapshot)
    assert load_backbone("seer", device="cpu").spec.weights_hash != first


def test_a_model_that_does_not_fit_into_memory_is_refused(hub, monkeypatch, tmp_path):
    put_in_cache(hub, "made/reader", tiny_llava_model(), clip_processor(), tiny_tokenizer())
    table = (tmp_path / "models.toml").read_text()
    (tmp_path / "models.toml").write_text(table.replace("size_mb = 1\n", "size_mb = 14127\n"))
    monkeypatch.setattr(presets, "machine_memory_gb", lambda: 16.0)
    with pytest.raises(BackboneError, match="'reader' needs 28 GB of memory .* it has 16 GB .* a GPU with 16 GB"):
        load_backbone("reader", device="cpu")


def test_the_code_that_embeds_is_named():
    assert adapter_code("dinov2-base") == ("backbones/token_adapters.py", "backbones/vision_adapter.py")
    assert adapter_code("llava-1.5-7b-hf") == ("backbones/token_adapters.py", "backbones/llava_adapter.py")
    own = ("backbones/decomposition.py", "backbones/held.py", "backbones/open_clip_adapter.py")
    assert adapter_code("phantom") == own and adapter_code("ViT-B-16") == ("backbones/attention_pooling.py", *own)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("layer = 2\n", "missing keys layer"),
        ('architecture = "dinov2"\n', "missing keys architecture"),
        ("size_mb = 1\n", "missing keys size_mb"),
    ],
)
def test_every_key_of_a_transformers_model_is_needed(line, said, tmp_path):
    table = TABLE.format(name="seer", kind="dinov2")
    (tmp_path / "models.toml").write_text(table.replace(line, ""))
    with pytest.raises(ConfigError, match=said):
        presets.load_presets(tmp_path / "models.toml")


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "models.toml").write_text(TABLE.format(name="seer", kind="siglip"))
    with pytest.raises(ConfigError, match="architecture is 'siglip'; expected llava or dinov2"):
        presets.load_presets(tmp_path / "models.toml")
