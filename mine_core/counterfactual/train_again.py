"""Going on from the shipped weights where the checkpoints that made them are gone: they become checkpoints again.

What a checkpoint has and shipped weights lack, the optimiser's moments and digits beyond half precision, begins anew.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mine_core.artifacts import write_text
from mine_core.counterfactual.packing import read_denoiser
from mine_core.counterfactual.phantom_editor import SPECIALIST, EditorShape, build_autoencoder, build_text_encoder, read_description
from mine_core.counterfactual.train_run import CHECKPOINT, Progress, Recipe, Run
from mine_core.errors import EditError

HISTORY = "shipped.json"


def take_up(shipped: Path, root: Path) -> None:
    """Write a shipped editor's autoencoder and denoisers as checkpoints of their stages, and how it was trained so far beside them.

    Raises EditError if `root` holds checkpoints, or the editor cannot be read.
    """
    there = sorted(path.parent.name for path in root.glob(f"*/{CHECKPOINT}"))
    if there:
        raise EditError(
            f"{root} holds checkpoints of {', '.join(there)}; go on with these, or move them away to begin from what is shipped."
        )
    record = read_description(shipped)
    shape, history = EditorShape.from_dict(record["shape"]), record["training"]
    for stage, parts in _stages(shipped, shape):
        run = Run(Recipe(**history[stage]["recipe"]), parts, torch.device("cpu"))
        run.progress = Progress(history[stage]["steps"], 60 * history[stage]["minutes"])
        run.save(root / stage, shape.to_dict())
    write_text(root / HISTORY, json.dumps(history, indent=1) + "\n")


def trained_before(root: Path) -> dict[str, Any]:
    """How the weights that were taken up had been trained; empty where a training began from scratch."""
    return json.loads((root / HISTORY).read_text()) if (root / HISTORY).is_file() else {}


def _stages(shipped: Path, shape: EditorShape) -> Iterator[tuple[str, nn.ModuleDict]]:
    autoencoder = build_autoencoder(shape)
    autoencoder.load_state_dict(_read(shipped / "vae" / "diffusion_pytorch_model.safetensors"))
    yield "autoencoder", nn.ModuleDict({"autoencoder": autoencoder})
    for stage, folder in (("denoiser", shipped), ("families", shipped / SPECIALIST)):
        if folder.is_dir():
            text_encoder = build_text_encoder(shape)
            text_encoder.load_state_dict(_read(folder / "text_encoder" / "model.safetensors"))
            yield stage, nn.ModuleDict({"denoiser": read_denoiser(folder / "unet").train(), "text_encoder": text_encoder})


def _read(path: Path) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(path).items()}
