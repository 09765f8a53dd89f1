"""A public backbone is found in the Hugging Face cache, offline, and loaded with its own preprocessing and tokenizer."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mine_core.backbones.presets import backbone_available, find_preset, load_backbone
from mine_core.errors import BackboneError

NAME = "ViT-B-32"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, removed at once afterwards: what is put there has 600 MB."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield tmp_path
    shutil.rmtree(tmp_path)


def put_in_cache(cache: Path, model: torch.nn.Module) -> None:
    """Lay out random weights as the hub's own client lays out what it downloads."""
    repository = cache / f"models--{find_preset(NAME).repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, snapshot / "open_clip_model.safetensors")


def test_weights_in_the_cache_are_loaded_offline(cache, rng):
    assert not backbone_available(NAME).ready
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, pretrained=None).eval()
    put_in_cache(cache, model)
    assert backbone_available(NAME).ready

    backbone = load_backbone(NAME, device="cpu")
    assert (backbone.spec.grid, backbone.spec.n_features, backbone.spec.supervision) == ((7, 7), 512, "captions")
    image = rng.integers(0, 256, (260, 300, 3), dtype=np.uint8)
    published = open_clip.get_pretrained_cfg(NAME, find_preset(NAME).pretrained)
    preprocess = open_clip.image_transform(224, is_train=False, mean=published["mean"], std=published["std"])
    pixels = preprocess(Image.fromarray(image))[None]
    torch.testing.assert_close(backbone.preprocess(image[None]), pixels)
    embedding = backbone.embed(image[None])
    with torch.no_grad():
        truth = model.encode_image(pixels).numpy()
        words = torch.nn.functional.normalize(model.encode_text(open_clip.get_tokenizer(NAME)(["a dog"])), dim=-1).numpy()
    np.testing.assert_allclose(embedding.remainder + embedding.patches.sum(1), truth, atol=1e-4 * np.abs(truth).max())
    np.testing.assert_allclose(backbone.encode_text(["a dog"]), words, atol=1e-5)
    with pytest.raises(BackboneError, match="no text decoder"):
        backbone.caption(image[None])
