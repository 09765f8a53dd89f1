"""Tiny LLaVA and DINOv2 models of the public classes, all weights random, and their files as the hub's client lays them out."""

from pathlib import Path

import torch
from torch import nn
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from mine_core.backbones.llava_adapter import LlavaBackbone
from mine_core.backbones.vision_adapter import VisionBackbone

SIDE, PATCH, GRID, LAYERS, WIDTH = 28, 7, (4, 4), 4, 24
WORDS = ("dog", "cat", "house", "red")
IMAGE = "<image>"

# preprocessor_config.json as published for llava-1.5-7b-hf and dinov2-base, but for the side
PUBLISHED_CLIP = {
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
PUBLISHED_BIT = PUBLISHED_CLIP | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def clip_processor(side: int = SIDE) -> CLIPImageProcessor:
    return CLIPImageProcessor(**PUBLISHED_CLIP, size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def bit_processor(side: int = SIDE, edge: int = SIDE + 4) -> BitImageProcessor:
    return BitImageProcessor(**PUBLISHED_BIT, size={"shortest_edge": edge}, crop_size={"height": side, "width": side})


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter, norms and biases included, a random value of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.5 * noise + 1 if parameter.ndim < 2 else noise * parameter.shape[-1] ** -0.5
    return model.eval()


def tiny_tokenizer() -> LlamaTokenizer:
    """Words are one token after a space; anything else falls back on letters and bytes, as in LLaMA."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *sorted(set("".join(WORDS)))]
    merges = []
    for word in WORDS:
        left = "▁"
        for letter in word:
            merges.append((left, letter))
            left += letter
            pieces.append(left)
    tokenizer = LlamaTokenizer(vocab={piece: place for place, piece in enumerate(dict.fromkeys(pieces))}, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE], "pad_token": "<pad>"})
    return tokenizer


def tiny_llava_model(seed: int = 0, **changes: object) -> LlavaForConditionalGeneration:
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # published heads are filled up too
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=16, **changes)
    return randomise(LlavaForConditionalGeneration(config), seed)


def tiny_llava(seed: int = 0, layer: int = 3) -> LlavaBackbone:
    about = {"name": "tiny-llava", "supervision": "none", "weights_hash": "0" * 20}
    return LlavaBackbone(tiny_llava_model(seed), clip_processor(), tiny_tokenizer(), layer=layer, **about)


def tiny_dinov2_model(seed: int = 0) -> Dinov2Model:
    # trained at another size than it sees, as published
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, mlp_ratio=2, image_size=2 * SIDE, patch_size=PATCH
    )
    return randomise(Dinov2Model(config), seed)


def tiny_vision(seed: int = 0, layer: int = LAYERS) -> VisionBackbone:
    about = {"name": "tiny-vision", "supervision": "images", "weights_hash": "0" * 20}
    return VisionBackbone(tiny_dinov2_model(seed), bit_processor(), layer=layer, **about)


def put_in_cache(hub: Path, repository: str, *parts: object, shard_mb: float = 5000) -> Path:
    """Save a model, its processor and tokenizer into a hub cache; returns the folder of the snapshot."""
    home = hub / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    model, *others = parts
    model.save_pretrained(snapshot, max_shard_size=f"{int(1000 * shard_mb)}KB")
    for part in others:
        part.save_pretrained(snapshot)
    return snapshot
