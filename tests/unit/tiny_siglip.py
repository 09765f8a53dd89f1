"""A tiny SigLIP of open_clip's and timm's own classes, all weights random, and its files as the hub's client lays them out."""

import json
from pathlib import Path

import open_clip
from open_clip.timm_model import TimmModel
from randomised import randomise
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from transformers import T5Tokenizer

NAME, WIDTH, SIDE, PATCH = "tiny-SigLIP", 32, 24, 6
WORDS = ("a", "dog", "cat", "red", "house")


@register_model
def vit_tiny_siglip_for_tests(pretrained: bool = False, **changes: object) -> VisionTransformer:
    settings: dict = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 4}
    ours = {name: value for name, value in changes.items() if name not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
    return VisionTransformer(**settings | {"class_token": False, "global_pool": "map"} | ours)


def tiny_tower(seed: int = 0, **changes: object) -> TimmModel:
    tower = TimmModel("vit_tiny_siglip_for_tests", WIDTH, image_size=SIDE, pool="map", proj="none")
    tower.trunk = vit_tiny_siglip_for_tests(num_classes=0, **changes)
    return randomise(tower.double(), seed)


def add_configuration(folder: Path) -> str:
    """Tell open_clip of a SigLIP of this size, its settings but for sizes as published for ViT-B-16-SigLIP."""
    config = open_clip.get_model_config("ViT-B-16-SigLIP") | {"embed_dim": WIDTH}
    config["vision_cfg"] |= {"image_size": SIDE, "timm_model_name": "vit_tiny_siglip_for_tests"}
    sizes = {"context_length": 12, "vocab_size": 64, "width": WIDTH, "heads": 2, "layers": 2}
    config["text_cfg"] |= sizes | {"hf_tokenizer_name": "tests/tiny-siglip"}
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return NAME


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of SigLIP's kind: sentence pieces, padded with its end token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0), *((f"▁{word}", -1.0) for word in WORDS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, pad_token="</s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
