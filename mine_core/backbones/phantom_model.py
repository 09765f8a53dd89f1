"""The phantom's own vision-language model: a small CoCa of open_clip with a convolutional stem.

Its image embedding is the mean over patches of LayerNorm(x_i) @ projection, hence exactly additive over patches, with no
remainder. The stem replaces the one-layer patch embedding, which learns far more slowly from scratch.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from open_clip.coca_model import CoCa
from open_clip.pos_embed import get_2d_sincos_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mine_core.artifacts import hash_file, write_text
from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.errors import BackboneError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
POSITION_SCALE = 0.5
ASSETS = Path(__file__).resolve().parents[2] / "assets" / "backbones"


@dataclass(frozen=True)
class PhantomConfig:
    """Shape of a phantom backbone, its vocabulary, and what it may have been shown.

    Parameters
    ----------
    name : name of the preset, also of its folder in assets/backbones.
    vocabulary : words the tokenizer knows, in the order of their ids.
    supervision : `masks` if object masks and the scene graph were used beside captions, else `captions`.
    image_size : pixels of the square input; grid : patches along each side; it divides image_size.
    width : of every tower and of the joint space (CoCa's decoder reads the image tokens as they are).
    stem : channels at 1/2, 1/4 and 1/4 resolution; stem_blocks : residual blocks at 1/4 resolution.
    mean, std : of the pixel normalisation `(pixel / 255 - mean) / std`, the same for all three channels.
    sha256 : of the weights file; empty before there is one.
    """

    name: str
    vocabulary: tuple[str, ...]
    supervision: str
    image_size: int = 96
    grid: int = 8
    width: int = 192
    layers: int = 4
    heads: int = 4
    text_layers: int = 2
    decoder_layers: int = 2
    context_length: int = 36
    stem: tuple[int, int, int] = (32, 64, 96)
    stem_blocks: int = 2
    mean: float = 0.5
    std: float = 0.25
    sha256: str = ""

    def __post_init__(self) -> None:
        quarter = self.image_size / 4
        if quarter % self.grid or self.width % self.heads:
            raise BackboneError(
                f"grid {self.grid} must divide a quarter of image_size {self.image_size}, and heads {self.heads} "
                f"the width {self.width}."
            )
        if self.supervision not in ("masks", "captions"):
            raise BackboneError(f"Unknown supervision '{self.supervision}'; expected 'masks' or 'captions'.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PhantomConfig":
        """Settings from plain values; raises BackboneError naming unknown or missing keys."""
        known = {entry.name for entry in fields(cls)}
        if strange := sorted(set(values) - known):
            raise BackboneError(f"Unknown backbone settings {', '.join(strange)}; known are {', '.join(sorted(known))}.")
        listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            return cls(**listed)
        except TypeError as error:
            raise BackboneError(f"A backbone's settings are incomplete: {error}.") from error

    def tokenizer(self, *, allow_unknown: bool = False) -> WordTokenizer:
        """The tokenizer of this vocabulary."""
        return WordTokenizer(self.vocabulary, self.context_length, allow_unknown=allow_unknown)


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(n_channels, n_channels)
        norm = nn.BatchNorm2d(n_channels)
        # the block starts as the identity, which lets a young network train at a high rate
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(n_channels, n_channels, 3, 1, 1, bias=False), norm)

    def forward(self, x: Float[Tensor, "image channel row col"]) -> Float[Tensor, "image channel row col"]:
        """Add what the convolutions found to what came in."""
        return torch.relu(x + self.second(self.first(x)))


class ConvStem(nn.Sequential):
    """Pixels to one vector a patch: two halvings, residual blocks at 1/4 resolution, then one stride to the grid."""

    def __init__(self, config: PhantomConfig) -> None:
        half, quarter, deep = config.stem
        stride = config.image_size // 4 // config.grid
        # a kernel as wide as the stride (at least 3) sees every pixel of its patch
        kernel = max(3, stride)
        super().__init__(
            ConvBlock(3, half, 2),
            ConvBlock(half, quarter, 2),
            ConvBlock(quarter, deep),
            *(ResidualConv(deep) for _ in range(config.stem_blocks)),
            nn.Conv2d(deep, config.width, kernel, stride, 0 if kernel == stride else 1),
        )


def build_phantom_coca(config: PhantomConfig) -> CoCa:
    """A CoCa of open_clip (Yu et al. 2022, arXiv:2205.01917) with random weights, in training mode.

    pooled = mean_i ln_post(x_i) @ proj, so the embedding is a sum over patches without remainder; `visual.conv1` is a
    `ConvStem`. Text is causal and read out at the end token, whatever its padded length.
    """
    tower = {"width": config.width, "heads": config.heads, "context_length": config.context_length}
    vocab_size = config.tokenizer().vocab_size
    model = CoCa(
        embed_dim=config.width,
        multimodal_cfg={**tower, "layers": config.decoder_layers, "vocab_size": vocab_size},
        text_cfg={
            **tower,
            "layers": config.text_layers,
            "vocab_size": vocab_size,
            "pool_type": "argmax",
            "output_tokens": True,
        },
        vision_cfg={
            "image_size": config.image_size,
            "patch_size": config.image_size // config.grid,
            "width": config.width,
            "layers": config.layers,
            "head_width": config.width // config.heads,
            "pool_type": "avg",
            "output_tokens": True,
        },
    )
    model.visual.conv1 = ConvStem(config)
    # open_clip's own positions start far weaker than a stem's tokens, and a young network then never learns where things are
    positions = get_2d_sincos_pos_embed(config.width, config.grid, cls_token=True)
    model.visual.positional_embedding.data.copy_(POSITION_SCALE * torch.from_numpy(positions))
    # open_clip cuts its causal mask to the text's length only beside a padding mask, and no setting asks for one
    model.text.use_pad_mask = True
    # open_clip leaves these as the allocator found them; the decoder's vocabulary is what CoCa calls text_projection
    nn.init.normal_(model.text_decoder.text_projection, std=config.width**-0.5)
    return model


def additive_parts(
    model: CoCa, pixels: Float[Tensor, "image 3 rows cols"]
) -> tuple[Float[Tensor, "image feature"], Float[Tensor, "image patch feature"], Float[Tensor, "image patch width"]]:
    """Embedding (not normalised), its parts before averaging, z_i = ln_post(x_i) @ proj, and the tokens ln_post(x_i).

    pooled = mean_i z_i. The tokens are what the caption decoder reads.
    """
    pooled, tokens = model.visual(pixels)
    return pooled, tokens @ model.visual.proj, tokens


def normalise_pixels(images: torch.Tensor, config: PhantomConfig) -> Float[Tensor, "image 3 height width"]:
    """uint8 images [image, height, width, 3] of the backbone's size to its input, float32 and channels first."""
    size = (config.image_size, config.image_size, 3)
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != size:
        raise BackboneError(
            f"Images of shape {tuple(images.shape)} and type {images.dtype} were given; expected uint8 [n, {size[0]}, {size[1]}, 3]."
        )
    return ((images.float() / 255 - config.mean) / config.std).permute(0, 3, 1, 2)


def save_phantom(model: CoCa, config: PhantomConfig, directory: Path, training: Mapping[str, Any]) -> PhantomConfig:
    """Write fp16 weights and a config.json that names their SHA-256; each file is replaced whole, the config last."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu() for name, value in model.state_dict().items()
    }
    temporary = directory / f".{WEIGHTS}.{os.getpid()}"
    save_file(tensors, temporary)
    temporary.replace(directory / WEIGHTS)
    config = replace(config, sha256=hash_file(directory / WEIGHTS))
    write_text(directory / CONFIG, json.dumps({"model": config.to_dict(), "training": dict(training)}, indent=1) + "\n")
    return config


def load_phantom(name: str, device: str | torch.device = "cpu", root: Path = ASSETS) -> tuple[CoCa, WordTokenizer, PhantomConfig]:
    """Read assets/backbones/<name> and return the model (eval mode, float32), its tokenizer and its settings.

    Raises
    ------
    BackboneError
        If the folder, its config or its weights are missing, cut off, or not the weights that the config names.
    """
    directory = root / name
    try:
        config = PhantomConfig.from_dict(json.loads((directory / CONFIG).read_text())["model"])
        found = hash_file(directory / WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"Backbone '{name}' cannot be read ({error}); restore assets/backbones/{name} or train it with "
            f"python -m mine_core.backbones.train_phantom --name {name}."
        ) from error
    if found != config.sha256:
        raise BackboneError(
            f"Backbone '{name}': SHA-256 of {WEIGHTS} is {found[:12]}, {CONFIG} names {config.sha256[:12]}; "
            "restore both files from the same version."
        )
    model = build_phantom_coca(config)
    try:
        model.load_state_dict({key: _widen(value) for key, value in load_file(directory / WEIGHTS).items()})
    except (RuntimeError, SafetensorError) as error:
        raise BackboneError(f"Backbone '{name}': its weights do not fit its {CONFIG} ({str(error)[:200]}).") from error
    return model.to(device).eval(), config.tokenizer(), config


def _widen(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
