"""The decomposition holds, in float64, for the whole image towers that public weights come in."""

import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from randomised import randomise

from mine_core.backbones.decomposition import decompose


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "coca_ViT-L-14"])
def test_parts_sum_to_the_embedding_of_public_architectures(name):
    vision = open_clip.get_model_config(name)["vision_cfg"]
    vision = vision | {"layers": min(vision["layers"], 12), "output_tokens": False}  # all 24 blocks of ViT-L-14 take 40 s in float64
    heads = vision["width"] // 64
    embed_dim = open_clip.get_model_config(name)["embed_dim"]
    visual = VisionTransformer(**vision, heads=heads, mlp_ratio=4.0, output_dim=embed_dim).double()
    randomise(visual, seed=3).eval()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        pooled, patches, remainder = decompose(visual, pixels)
        truth = visual(pixels)
    assert patches.abs().max() > 1e-4
    assert (remainder + patches.sum(dim=1) - truth).abs().max() < 1e-10
    assert (pooled - truth).abs().max() < 1e-10


def test_parts_sum_to_the_embedding_of_siglip():
    vision = open_clip.get_model_config("ViT-B-16-SigLIP")["vision_cfg"]
    tower = TimmModel(vision["timm_model_name"], 768, pool=vision["timm_pool"], proj=vision["timm_proj"]).double()
    randomise(tower, seed=3).eval()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        pooled, patches, remainder = decompose(tower, pixels)
        truth = tower(pixels)
    assert patches.shape == (1, 196, 768) and patches.abs().max() > 1e-4
    assert (remainder + patches.sum(dim=1) - truth).abs().max() < 1e-10
    assert (pooled - truth).abs().max() < 1e-10
