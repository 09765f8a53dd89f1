"""Pipelines of diffusers of every class that a preset names, tiny and with random weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2Transformer2DModel,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
WORDS = (*SPECIAL, "a", "photo", "of", "red", "ball", "dog", "background", "remove", "add", "the", "insert", "empty")
# as published with Stable Diffusion 1.5
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tokenizer(length: int = 16) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **names)
    made.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return made


def text_config(**more: Any) -> CLIPTextConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    ids = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return CLIPTextConfig(**sizes, **ids, **more)


def unet(in_channels: int, cross: int = 16, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        **more,
    )


def autoencoder() -> AutoencoderKL:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, latent_channels=4, **blocks)


def stable_diffusion() -> StableDiffusionInpaintPipeline:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False, **NOISE)
    parts = (autoencoder(), CLIPTextModel(text_config()), tokenizer(), unet(9), scheduler, None, None)
    return StableDiffusionInpaintPipeline(*parts, requires_safety_checker=False)


def instruct() -> StableDiffusionInstructPix2PixPipeline:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False, **NOISE)
    parts = (autoencoder(), CLIPTextModel(text_config()), tokenizer(), unet(8), scheduler, None, None)
    return StableDiffusionInstructPix2PixPipeline(*parts, requires_safety_checker=False)


def stable_diffusion_xl() -> StableDiffusionXLInpaintPipeline:
    projected = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40}
    second = CLIPTextModelWithProjection(text_config(projection_dim=16))
    return StableDiffusionXLInpaintPipeline(
        autoencoder(),
        CLIPTextModel(text_config()),
        second,
        tokenizer(),
        tokenizer(),
        unet(9, cross=32, **projected),
        EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def flux() -> Flux2KleinInpaintPipeline:
    language = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 28, "num_attention_heads": 2, "head_dim": 4}
    text = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(WORDS), num_key_value_heads=1, max_position_embeddings=512, **language))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=8,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, layers_per_block=1, **blocks)
    return Flux2KleinInpaintPipeline(FlowMatchEulerDiscreteScheduler(), vae, text, tokenizer(512), transformer, is_distilled=True)


MAKERS = {
    "StableDiffusionInpaintPipeline": stable_diffusion,
    "StableDiffusionXLInpaintPipeline": stable_diffusion_xl,
    "Flux2KleinInpaintPipeline": flux,
    "StableDiffusionInstructPix2PixPipeline": instruct,
}


def tiny_pipeline(name: str, seed: int = 0) -> Any:
    """A pipeline of that class, with random weights of this seed (norms and biases included)."""
    torch.manual_seed(seed)
    made = MAKERS[name]()
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                if parameter.ndim == 1:
                    torch.nn.init.normal_(parameter, 0.7, 0.2)
    return made
