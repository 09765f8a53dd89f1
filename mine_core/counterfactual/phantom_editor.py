"""The phantom's own editor: a small latent inpainting pipeline of diffusers that draws the things of its scenes.

All parts are those of `StableDiffusionInpaintPipeline` (Rombach et al. 2022, arXiv:2112.10752), so it is loaded and run by the
same code as the public ones: an autoencoder of 4x4 pixels a cell, a nine-channel UNet, a text encoder over whole words,
and a DDIM scheduler with v-prediction and zero terminal SNR (Lin et al. 2024, arXiv:2305.08891).
"""

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from mine_core.artifacts import hash_file, hash_text, write_text
from mine_core.config import PROJECT
from mine_core.counterfactual.packing import save_denoiser
from mine_core.counterfactual.windows import SURROUNDINGS
from mine_core.errors import EditError

ASSETS = PROJECT / "assets" / "editors"
DESCRIBED = "editor.json"
SPECIALIST = "faces"  # folder of what paints these better
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
LATENT_CHANNELS = 4  # the pipeline takes no other number
# networks and pipelines of diffusers, whose classes hide from a type checker what they inherit
Part = Any
Pipeline = Any


@dataclass(frozen=True)
class EditorShape:
    """Shape of the editor's networks, and its words.

    Parameters
    ----------
    words : what a prompt may be made of, in the order of their ids.
    size : pixels of the square window it works on; first_size : of the windows that its training begins with.
    width : channels of the autoencoder; encoder_blocks, decoder_blocks : residual blocks per level, finest first and last.
    channels : of the UNet, finest level first; attention : which levels read the prompt by attention.
    context : longest prompt in tokens, start and end included.
    surroundings : of the mask in the window, as a share of the mask's longer side.
    """

    words: tuple[str, ...]
    size: int = 96
    first_size: int = 64
    width: int = 32
    encoder_blocks: tuple[int, ...] = (0, 2, 2)
    decoder_blocks: tuple[int, ...] = (3, 2, 0)
    channels: tuple[int, ...] = (64, 128, 192)
    attention: tuple[bool, ...] = (False, False, True)
    heads: int = 4
    groups: int = 16
    text_width: int = 128
    text_layers: int = 2
    context: int = 20
    surroundings: float = SURROUNDINGS

    def __post_init__(self) -> None:
        step = self.cell * 2 ** (len(self.channels) - 1)
        if self.size % step or self.first_size % step:
            raise EditError(f"Windows of {self.first_size} and {self.size} pixels were given; give multiples of {step}.")
        if len(self.encoder_blocks) != len(self.decoder_blocks) or len(self.channels) != len(self.attention):
            raise EditError("encoder_blocks and decoder_blocks, channels and attention must be of equal lengths.")

    @property
    def cell(self) -> int:
        """Pixels along each side of a latent cell."""
        return 2 ** (len(self.encoder_blocks) - 1)

    @property
    def grid(self) -> int:
        """Latent cells along each side of the window."""
        return self.size // self.cell

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EditorShape":
        """Shape from plain values; raises EditError for unknown or missing keys."""
        if strange := sorted(set(values) - {entry.name for entry in fields(cls)}):
            raise EditError(f"Unknown editor settings {', '.join(strange)}.")
        listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            return cls(**listed)
        except TypeError as error:
            raise EditError(f"An editor's settings are incomplete: {error}.") from error


def build_autoencoder(shape: EditorShape) -> Part:
    """An autoencoder of residual convolutions with random weights; its scaling factor is set after training."""
    levels = len(shape.encoder_blocks)
    return AutoencoderTiny(
        encoder_block_out_channels=(shape.width,) * levels,
        decoder_block_out_channels=(shape.width,) * levels,
        num_encoder_blocks=shape.encoder_blocks,
        num_decoder_blocks=shape.decoder_blocks,
        latent_channels=LATENT_CHANNELS,
    )


def build_denoiser(shape: EditorShape) -> Part:
    """A nine-channel UNet with random weights: noisy latents, mask, latents of the masked picture.

    The prompt enters every residual block through the time embedding (pooled, scale and shift) and the deep ones by attention
    as well: a small network learns what is asked far faster so than by attention alone.
    """
    down = tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in shape.attention)
    up = tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(shape.attention))
    return UNet2DConditionModel(
        sample_size=shape.grid,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=shape.channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=1,
        norm_num_groups=shape.groups,
        cross_attention_dim=shape.text_width,
        attention_head_dim=shape.heads,  # the number of heads, whatever the name says
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=shape.heads,
    )


def build_text_encoder(shape: EditorShape) -> CLIPTextModel:
    """A causal transformer over whole words with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=shape.text_width,
            intermediate_size=2 * shape.text_width,
            num_attention_heads=4,
            num_hidden_layers=shape.text_layers,
            vocab_size=len(shape.words) + 4,
            max_position_embeddings=shape.context,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def build_tokenizer(shape: EditorShape) -> PreTrainedTokenizerFast:
    """Whole words to ids: 0 pad, 1 start, 2 end, 3 unknown, then the words in their order."""
    special = (PAD, START, END, UNKNOWN)
    words = Tokenizer(WordLevel({word: index for index, word in enumerate((*special, *shape.words))}, unk_token=UNKNOWN))
    words.normalizer = Lowercase()
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 2)])
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=shape.context, padding_side="right", **names)


def build_scheduler() -> DDIMScheduler:
    """Noise schedule of training and of sampling."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def assemble(shape: EditorShape, autoencoder: Part, denoiser: Part, text_encoder: nn.Module) -> Pipeline:
    """The parts as one pipeline, in evaluation mode."""
    parts = [part.eval() for part in (autoencoder, text_encoder, denoiser)]
    pipeline: Pipeline = StableDiffusionInpaintPipeline(
        parts[0], parts[1], build_tokenizer(shape), parts[2], build_scheduler(), None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_editor(
    pipeline: Pipeline,
    shape: EditorShape,
    directory: Path,
    described: Mapping[str, Any],
    specialist: tuple[Part, CLIPTextModel] | None = None,
) -> dict[str, Any]:
    """Write a pipeline, its denoiser in eight bits and all else in half precision, and its description; replaced as a whole.

    The description names the SHA-256 of all weights, and is returned. `specialist` is a denoiser and its text encoder for some prompts.
    """
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    save_denoiser(pipeline.unet, temporary / "unet")
    dtype = pipeline.unet.dtype
    pipeline.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipeline.save_pretrained(temporary)
    pipeline.to(dtype=dtype)
    (temporary / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    if specialist is not None:
        save_denoiser(specialist[0], temporary / SPECIALIST / "unet")
        copy.deepcopy(specialist[1]).half().save_pretrained(temporary / SPECIALIST / "text_encoder")
    record = {"shape": shape.to_dict(), "sha256": weights_hash(temporary), **described}
    write_text(temporary / DESCRIBED, json.dumps(record, indent=1) + "\n")
    if directory.exists():
        shutil.rmtree(directory)
    temporary.replace(directory)
    return record


def weights_hash(directory: Path) -> str:
    """One hash of all weight files of a pipeline's folder, by their names and bytes."""
    files = sorted(directory.rglob("*.safetensors"))
    return hash_text(*(part for file in files for part in (file.relative_to(directory).as_posix(), hash_file(file))))


def read_description(directory: Path) -> dict[str, Any]:
    """editor.json of a folder; raises EditError if it is missing, cut off, or of other weights."""
    try:
        record = json.loads((directory / DESCRIBED).read_text())
        named = record["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise EditError(
            f"Editor '{directory.name}' cannot be read ({error}); restore assets/editors/{directory.name} or train it with "
            "python -m mine_core.counterfactual.train_phantom."
        ) from error
    found = weights_hash(directory)
    if found != named:
        raise EditError(
            f"Editor '{directory.name}': its weights have the hash {found}, {DESCRIBED} names {named}; restore both from one version."
        )
    return record
