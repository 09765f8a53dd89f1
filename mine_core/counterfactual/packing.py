"""Denoisers in eight bits a weight: two of them take the room of one in half precision.

A row of weights (all that make one output) is kept as whole numbers of -127 to 127 and its largest magnitude; what is lost is within
half a step, 0.4 % of that. Norms and biases are kept in half precision. Packing what was unpacked gives the same bytes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mine_core.errors import EditError

PACKED = "denoiser_int8.safetensors"
LARGEST, STEPS = ".largest", 127


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are kept.

    q = round(127 w / m),  m = max |w| of the row, in half precision;  w ~ q m / 127
    """
    kept: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim < 2:
            kept[name] = value.half().contiguous()
            continue
        rows = value.float().flatten(1)
        largest = rows.abs().amax(1).half()
        scale = STEPS / largest.float().clamp(min=torch.finfo(torch.float16).tiny)
        kept[name] = (rows * scale[:, None]).round().clamp(-STEPS, STEPS).to(torch.int8).reshape(value.shape).contiguous()
        kept[name + LARGEST] = largest
    return kept


def unpacked(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of 32 bits of what `packed` made."""
    state: dict[str, Tensor] = {}
    for name, value in kept.items():
        if value.dtype == torch.int8:
            scale = kept[name + LARGEST].float() / STEPS
            state[name] = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        elif not name.endswith(LARGEST):
            state[name] = value.float()
    return state


def save_denoiser(denoiser: Any, directory: Path) -> None:
    """Write a denoiser's configuration and its packed weights."""
    denoiser.save_config(directory)
    save_file(packed(denoiser.state_dict()), directory / PACKED)


def read_denoiser(directory: Path) -> Any:
    """A denoiser that was saved here, in evaluation mode; raises EditError if its files are missing or broken."""
    try:
        denoiser: Any = UNet2DConditionModel.from_config(json.loads((directory / "config.json").read_text()))
        denoiser.load_state_dict(unpacked(load_file(directory / PACKED)))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        raise EditError(f"The denoiser in {directory} cannot be read ({told}); restore its files.") from error
    return denoiser.eval()
