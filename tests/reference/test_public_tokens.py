"""A backbone of transformers of its published size is found in the Hugging Face cache, offline, and loaded as it is published."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from mine_core.backbones.presets import backbone_available, find_preset, load_backbone

NAME = "dinov2-base"
PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 256},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
} | {f"do_{step}": True for step in ("center_crop", "convert_rgb", "normalize", "rescale", "resize")}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, removed at once afterwards: what is put there has 350 MB."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield tmp_path
    shutil.rmtree(tmp_path)


def put_in_cache(cache: Path, model: Dinov2Model) -> Path:
    repository = cache / f"models--{find_preset(NAME).repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model.save_pretrained(snapshot)
    (snapshot / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return snapshot


@torch.no_grad()
def test_weights_in_the_cache_are_loaded_offline(cache, rng):
    assert not backbone_available(NAME).ready
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    snapshot = put_in_cache(cache, model)
    assert backbone_available(NAME).ready
    megabytes = (snapshot / "model.safetensors").stat().st_size / 1e6
    assert find_preset(NAME).size_mb == pytest.approx(megabytes, rel=0.01)

    backbone = load_backbone(NAME, device="cpu")
    assert (backbone.spec.grid, backbone.spec.n_features, backbone.spec.has_words) == ((16, 16), 768, False)
    image = rng.integers(0, 256, (300, 340, 3), dtype=np.uint8)
    pixels = BitImageProcessor(**PREPROCESSING)(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(backbone.preprocess(image[None]), pixels, rtol=0, atol=0)
    tokens = model(pixel_values=pixels).last_hidden_state[:, 1:].numpy()
    embedding = backbone.embed(image[None])
    np.testing.assert_allclose(256 * embedding.patches, tokens, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled, tokens.mean(axis=1), rtol=1e-3, atol=1e-5)
