"""A small random backbone, a linear read-out and a query-attention encoder of it, and images that both may explain."""

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from test_decomposition import randomise

from mine_core.attribution.averages import make_averages
from mine_core.attribution.base import Averages, Scene, Setting
from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform
from mine_core.encoding.query_attention import QueryAttentionConfig, QueryAttentionEncoder
from mine_core.types import EncodingModel, VoxelIndex

SIDE, N_FEATURES, N_VOXELS = 24, 10, 5
N_PATCHES = 16
HEADS, KEY, VALUE, HIDDEN = 2, 3, 4, 5


class Tower(torch.nn.Module):
    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual


def small_backbone(seed: int = 0, **changes: object) -> OpenClipBackbone:
    settings = {"image_size": SIDE, "patch_size": 6, "width": 16, "layers": 3, "heads": 2, "mlp_ratio": 2.0, "output_dim": N_FEATURES}
    visual = VisionTransformer(**settings | {"output_tokens": False, "pool_type": "avg"} | changes)
    transform = area_transform(SIDE, (0.5,) * 3, (0.25,) * 3)
    return OpenClipBackbone(randomise(Tower(visual), seed), lambda texts: texts, transform, name="small", supervision="none")


def some_voxels() -> VoxelIndex:
    return VoxelIndex("s", np.arange(N_VOXELS), (N_VOXELS, 1, 1), (), np.zeros((0, N_VOXELS), bool))


def read_out(rng: np.random.Generator, backbone: OpenClipBackbone) -> EncodingModel:
    coef = rng.normal(size=(N_FEATURES, N_VOXELS))
    return EncodingModel("ridge", coef, rng.normal(size=N_VOXELS), np.ones(N_VOXELS), np.ones(N_VOXELS), some_voxels(), backbone.spec)


def query_encoder(rng: np.random.Generator, backbone: OpenClipBackbone) -> QueryAttentionEncoder:
    shapes = {
        "mean_patches": (N_PATCHES, N_FEATURES),
        "mean_remainder": (N_FEATURES,),
        "basis": (N_FEATURES, VALUE),
        "key_map": (N_FEATURES, HEADS, KEY),
        "expand": (HEADS, VALUE, HIDDEN),
        "expand_query": (HEADS * KEY, HIDDEN),
        "expand_bias": (HIDDEN,),
        "contract": (HIDDEN, VALUE),
        "query": (N_VOXELS, HEADS, KEY),
        "place": (N_VOXELS, HEADS, N_PATCHES),
        "readout": (N_VOXELS, HEADS, VALUE),
        "linear": (N_FEATURES, N_VOXELS),
        "intercept": (N_VOXELS,),
    }
    arrays = {name: (0.5 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    arrays["mean_patches"] /= N_PATCHES
    return QueryAttentionEncoder(
        **arrays,
        feature_sd=np.full(N_FEATURES, 0.1, np.float32),
        prediction_sd=np.ones(N_VOXELS, np.float32),
        voxels=some_voxels(),
        backbone=backbone.spec,
        config=QueryAttentionConfig(),
    )


def some_images(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def scene_of(backbone: OpenClipBackbone, image: np.ndarray) -> Scene:
    pooled, patches, remainder = (part[0] for part in backbone.embed(image[None]))
    return Scene(image, pooled, patches, remainder)


def setting_of(encoder, backbone: OpenClipBackbone, images: np.ndarray) -> Setting:
    averages: Averages = make_averages(backbone, images)
    return Setting(encoder, backbone.embed(images).patches.mean(axis=0), lambda: averages, lambda: backbone)
