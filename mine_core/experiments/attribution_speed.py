"""How long a heatmap of each method takes, beside captum's own integrated gradients and occlusion in the same run."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.averages import average_image
from mine_core.attribution.base import METHODS, Averages, MethodName, Scene, Setting, attribute_image
from mine_core.attribution.traced import trace_images, traced_values
from mine_core.backbones.base import Backbone
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError
from mine_core.types import EncodingModel, OnProgress, VoxelIndex

N_STORED, REPEATS, N_STEPS, N_WINDOWS = 50, 200, 16, 16


def measure(
    config: InstrumentConfig, _store: ArtifactStore, on_progress: OnProgress, *, architecture: str = "ViT-B-16"
) -> dict[str, Any]:
    """Time one heatmap of one voxel and image by each method, for an open_clip model of random weights.

    `stored` are the methods whose parts are kept with the features: seconds per heatmap once they are there, and seconds per image
    to make them. Occlusion costs one forward pass per patch; captum's and ours are timed on 16 patches and multiplied, which
    is named so. Ratios are of figures of this run on this machine; weights do not change the time.
    """
    import torch

    rng = np.random.default_rng(config.seed)
    backbone = random_backbone(architecture, config.seed)
    side, n_features = backbone.image_size, backbone.spec.n_features
    images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    model = _random_read_out(backbone, rng)
    scene = Scene(images[0], *(part[0] for part in backbone.embed(images[:1])))
    setting = _setting(backbone, model, images)
    start = np.asarray(setting.averages().tokens)
    started = time.perf_counter()
    traced = trace_images(backbone, images[:1], start)
    making = time.perf_counter() - started
    seconds: dict[str, float] = {}
    slow: tuple[MethodName, ...] = ("traced", "integrated_gradients", "gradient_attention", "rollout")
    for number, name in enumerate(slow):
        on_progress(number, len(slow) + 2, METHODS[name].title)
        seconds[name] = _timed(partial(attribute_image, name, setting, scene, np.array([0])))[1]
    on_progress(len(slow), len(slow) + 2, "captum")
    n_patches = backbone.spec.grid[0] * backbone.spec.grid[1]
    stored = np.repeat(traced, N_STORED, axis=0).astype(np.float16)
    parts = np.repeat(scene.patches[None], N_STORED, axis=0).astype(np.float16)
    product = _per_heatmap(lambda i: traced_values(model, stored[i : i + 1], 0))
    plain = _per_heatmap(lambda i: np.asarray(parts[i], np.float32) @ np.asarray(model.coef[:, 0], np.float32))
    pixels = backbone.preprocess(images[:1])
    weights = torch.tensor(np.array(model.coef[:, 0]), dtype=torch.float32)
    captum = _captum(backbone, pixels, weights, n_patches)
    ours = _windows(backbone, images, n_patches)
    return {
        "architecture": architecture,
        "weights": "random",
        "patches": n_patches,
        "features": n_features,
        "stored": {"traced": product, "decomposition": plain, "occlusion": plain},
        "making_of_stored_per_image": {"traced": making, "occlusion_scaled_from_16_patches": ours},
        "computed": seconds,
        "captum": captum,
        "captum_integrated_gradients_over_traced": captum["integrated_gradients_16_steps"] / product,
        "captum_occlusion_over_ours": captum["occlusion_scaled_from_16_patches"] / ours,
    }


def random_backbone(architecture: str, seed: int) -> Backbone:
    """An open_clip model of random weights as a backbone; raises ConfigError for an architecture that open_clip does not know."""
    import open_clip
    import torch

    from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform

    if architecture not in open_clip.list_models():
        raise ConfigError(f"open_clip has no architecture '{architecture}'; give one such as ViT-B-32, ViT-B-16 or ViT-L-14.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(architecture, pretrained=None)
    transform = area_transform(model.visual.image_size[0], (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    return OpenClipBackbone(model, open_clip.get_tokenizer(architecture), transform, name=architecture, supervision="none")


def _random_read_out(backbone: Backbone, rng: np.random.Generator) -> EncodingModel:
    n = backbone.spec.n_features
    voxels = VoxelIndex("random", np.zeros(1, np.int64), (1, 1, 1), (), np.zeros((0, 1), bool))
    return EncodingModel(
        "ridge", rng.normal(size=(n, 1)).astype(np.float32), np.zeros(1), np.ones(1), np.ones(1), voxels, backbone.spec
    )


def _setting(backbone: Backbone, model: EncodingModel, images: np.ndarray) -> Setting:
    from mine_core.backbones.tracing import image_tower, mean_input_tokens

    tokens = mean_input_tokens(image_tower(backbone), [backbone.preprocess(images[1:])]).numpy()
    averages = Averages(average_image(images, backbone.image_size), tokens)
    mean = np.zeros((backbone.spec.grid[0] * backbone.spec.grid[1], backbone.spec.n_features), np.float32)
    return Setting(model, mean, lambda: averages, lambda: backbone)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run once to warm up, and once on the clock."""
    work()
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _per_heatmap(work: Callable[[int], Any]) -> float:
    """Median seconds of one product."""
    seconds = []
    for i in range(REPEATS):
        started = time.perf_counter()
        work(i % N_STORED)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _windows(backbone: Backbone, images: np.ndarray, n_patches: int) -> float:
    """Our occlusion of 16 patches, as seconds for all of them."""
    from mine_core.attribution.occlusion import pooled_of, without_each_patch

    altered = without_each_patch(images[0], images[1], backbone.spec.grid)[:N_WINDOWS]
    return _timed(lambda: pooled_of(backbone)(altered))[1] * n_patches / N_WINDOWS


def _captum(backbone: Backbone, pixels: Any, weights: Any, n_patches: int) -> dict[str, float]:
    """Captum's own methods on pixels, once each."""
    import torch
    from captum.attr import IntegratedGradients, Occlusion

    def predict(images: Any) -> Any:
        return backbone.pooled(images) @ weights

    start = torch.zeros_like(pixels)
    started = time.perf_counter()
    IntegratedGradients(predict).attribute(pixels.clone().requires_grad_(), start, n_steps=N_STEPS, internal_batch_size=N_STEPS)
    gradients = time.perf_counter() - started
    side, across = backbone.image_size, int(N_WINDOWS**0.5)
    window = side // across
    started = time.perf_counter()
    with torch.inference_mode():
        # as many windows as are timed: a window's size does not change what a forward pass costs
        Occlusion(predict).attribute(pixels, (3, window, window), strides=(3, window, window), baselines=start)
    occlusion = (time.perf_counter() - started) * n_patches / N_WINDOWS
    return {"integrated_gradients_16_steps": gradients, "occlusion_scaled_from_16_patches": occlusion}
