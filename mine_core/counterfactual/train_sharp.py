"""The second stage of the autoencoder: what a squared error does not notice is to be kept, too.

A mouth is a cell or two of the latents: blurring it costs little, and makes another expression of it. From the first stage on,
encoder and a larger decoder are fit together, with an error that a critic of pictures measures beside that of pixels.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mine_core.counterfactual.phantom_editor import EditorShape
from mine_core.counterfactual.train_autoencoder import LATENT_NOISE, OBJECT_WEIGHT, batches, to_pixels
from mine_core.counterfactual.train_critic import Critic
from mine_core.counterfactual.train_pairs import CropChunks, read_items, written_items
from mine_core.counterfactual.train_run import Run
from mine_core.subjects.phantom import scenes

CROP_SEED = 750_000_000
SEEN_WEIGHT = 0.5  # of what the critic sees, relative to the error of pixels


@dataclass(frozen=True)
class Crops:
    """Windows of edits as pictures, the pixels that may change, and what was inserted."""

    images: UInt8[Tensor, "edit row col 3"]
    inside: Bool[Tensor, "edit row col"]
    items: tuple[scenes.SceneObject | None, ...]

    def pixels(self, rows: Tensor) -> Float[Tensor, "picture 3 row col"]:
        """Pictures of these rows, -1 to 1."""
        return to_pixels(self.images[rows])


def made_crops(path: Path, shape: EditorShape, n_crops: int, workers: int) -> Crops:
    """Rendered insertions in windows of the editor's size: read, or made and kept."""
    about = {"size": shape.size, "surroundings": shape.surroundings, "n_crops": n_crops, "first_seed": CROP_SEED}
    chunks = CropChunks(CROP_SEED, shape.size, shape.cell, surroundings=shape.surroundings)
    if path.is_file():
        with safe_open(path, "pt") as stream:
            found = stream.metadata()
        if json.loads(found["about"]) == about:
            tensors = load_file(path)
            return Crops(tensors["images"], tensors["inside"], read_items(found["items"]))
    images, inside, items = [], [], []
    for pictures, cells, shown in batches(chunks, 0, n_crops, workers):
        rows = [row for row, item in enumerate(shown) if item is not None]
        images.append(pictures[rows])
        inside.append(cells[rows].repeat_interleave(shape.cell, 1).repeat_interleave(shape.cell, 2))
        items += [shown[row] for row in rows]
        if len(items) >= n_crops:
            break
    crops = Crops(torch.cat(images)[:n_crops], torch.cat(inside)[:n_crops], tuple(items[:n_crops]))
    temporary = path.with_name(f".{path.name}")
    tensors = {"images": crops.images.contiguous(), "inside": crops.inside.contiguous()}
    save_file(tensors, temporary, metadata={"items": written_items(crops.items), "about": json.dumps(about)})
    temporary.replace(path)
    return crops


class SharpBatches:
    """Losses of the second stage, step by step, a function of the step's number: random tiles of rendered windows, half mirrored."""

    def __init__(self, crops: Crops, critic: Critic, run: Run, tile: int = 64) -> None:
        self.crops, self.critic, self.run, self.tile = crops, critic, run, tile

    def __iter__(self) -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
        while True:
            yield self.loss_at(self.run.progress.step)

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's pictures."""
        recipe = self.run.recipe
        rng = np.random.default_rng([recipe.seed, step])
        rows = torch.from_numpy(rng.integers(0, len(self.crops.items), recipe.batch_size))
        top, left = rng.integers(0, self.crops.images.shape[1] - self.tile + 1, 2)
        place = (..., slice(top, top + self.tile), slice(left, left + self.tile))
        pixels, inside = self.crops.pixels(rows)[place], self.crops.inside[rows, None][place].float()
        if rng.random() < 0.5:
            pixels, inside = pixels.flip(-1), inside.flip(-1)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return partial(sharp_loss, pixels=pixels, inside=inside, generator=generator, critic=self.critic, run=self.run)


def sharp_loss(
    parts: nn.ModuleDict, pixels: Tensor, inside: Tensor, generator: torch.Generator, critic: Critic, run: Run
) -> Float[Tensor, ""]:
    """L1 + squared + half of the gradient's L1 error, and the error of what the critic sees, each layer's relative to its SD.

    Pixels under the mask count `OBJECT_WEIGHT` times as much; latents are noised and kept small as in the first stage.
    """
    autoencoder: Any = parts["autoencoder"]
    pixels, inside = pixels.to(run.device), inside.to(run.device)
    with run.precision():
        latents = autoencoder.encoder(pixels).float()
        noise = torch.randn(latents.shape, generator=generator).to(run.device)
        painted: Any = autoencoder.decoder(latents + LATENT_NOISE * latents.detach().std() * noise)
    error = painted.float() - pixels
    weight = 1 + (OBJECT_WEIGHT - 1) * inside
    weight = weight / weight.mean()
    across, down = (error.diff(dim=-1).abs() * weight[..., 1:]).mean(), (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    plain = (weight * (error.abs() + error**2)).mean() + 0.5 * (across + down) + 1e-3 * (latents**2).mean()
    with torch.no_grad(), run.precision():
        wanted = critic.seen(pixels, inside)
    with run.precision():
        found = critic.seen(painted, inside)
    each = [(now.float() - was).abs().mean() / was.float().std() for now, was in zip(found[1:], wanted[1:], strict=True)]
    return plain + SEEN_WEIGHT * torch.stack(each).mean()
