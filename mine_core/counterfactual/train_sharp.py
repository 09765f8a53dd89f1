"""The last stages of the autoencoder: what a squared error does not notice is to be kept, too.

A mouth is a cell or two of the latents: blurring it costs little, and makes another expression of it. From the first stage on,
encoder and decoder are fit together, with an error that a critic of pictures measures beside that of pixels; and then the decoder
alone, so that the latents, and all that was made of them, stay what they were.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mine_core.counterfactual.asked import answers_of
from mine_core.counterfactual.critic import Critic
from mine_core.counterfactual.phantom_editor import EditorShape
from mine_core.counterfactual.train_autoencoder import LATENT_NOISE, batches, picture_error, to_pixels
from mine_core.counterfactual.train_pairs import pixels_of, read_items, written_items
from mine_core.counterfactual.train_run import Run, StepLosses, read_about, write_tensors
from mine_core.counterfactual.train_telling import SCALE, TellingChunks
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

CROP_SEED = 750_000_000
SEEN_WEIGHT = 0.5  # of what the critic sees, relative to the error of pixels


@dataclass(frozen=True)
class Crops:
    """Windows of edits as pictures, the pixels that may change, how much each tells (in `SCALE`ths), and what was inserted."""

    images: UInt8[Tensor, "edit row col 3"]
    inside: Bool[Tensor, "edit row col"]
    telling: UInt8[Tensor, "edit row col"]
    items: tuple[scenes.SceneObject | None, ...]

    def pixels(self, rows: Tensor) -> Float[Tensor, "picture 3 row col"]:
        """Pictures of these rows, -1 to 1."""
        return to_pixels(self.images[rows])


def made_crops(path: Path, shape: EditorShape, n_crops: int, workers: int) -> Crops:
    """Rendered insertions in windows of the editor's size: read, or made and kept."""
    about = {"size": shape.size, "surroundings": shape.surroundings, "n_crops": n_crops, "first_seed": CROP_SEED, "telling": True}
    chunks = TellingChunks(CROP_SEED, shape.size, shape.cell, surroundings=shape.surroundings)
    if path.is_file() and read_about(path) == about:
        with safe_open(path, "pt") as stream:
            items = read_items(stream.metadata()["items"])
        return Crops(**load_file(path), items=items)
    images, inside, telling, shown_items = [], [], [], []
    for pictures, cells, shown, maps in batches(chunks, 0, n_crops, workers):
        rows = [row for row, item in enumerate(shown) if item is not None]
        images.append(pictures[rows])
        inside.append(pixels_of(cells[rows], shape.cell))
        telling.append(maps[rows])
        shown_items += [shown[row] for row in rows]
        if len(shown_items) >= n_crops:
            break
    whole = {"images": images, "inside": inside, "telling": telling}
    tensors = {name: torch.cat(parts)[:n_crops].contiguous() for name, parts in whole.items()}
    items = tuple(shown_items[:n_crops])
    write_tensors(path, tensors, {"items": written_items(items), "about": json.dumps(about)})
    return Crops(**tensors, items=items)


class SharpBatches(StepLosses):
    """Losses of either stage, step by step, a function of the step's number: random tiles of rendered windows, half mirrored.

    Parameters
    ----------
    faces : share of faces among the pictures, whatever theirs is among the crops; None: theirs.
    """

    def __init__(self, crops: Crops, critic: Critic, run: Run, tile: int = 64, faces: float | None = None) -> None:
        super().__init__(run)
        self.crops, self.critic, self.tile = crops, critic, tile
        shown = answers_of([item for item in crops.items if item is not None])["expression"] >= 0
        if faces is not None and shown.all() == shown.any():
            raise EditError("The crops show faces only, or none; make more of them.")
        share = shown.mean() if faces is None else faces
        self.chance = np.where(shown, share, 1 - share) / np.where(shown, shown.sum(), (~shown).sum())

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's pictures."""
        recipe = self.run.recipe
        rng = np.random.default_rng([recipe.seed, step])
        rows = torch.from_numpy(rng.choice(len(self.chance), recipe.batch_size, p=self.chance))
        top, left = rng.integers(0, self.crops.images.shape[1] - self.tile + 1, 2)
        place = (..., slice(top, top + self.tile), slice(left, left + self.tile))
        pixels, inside = self.crops.pixels(rows)[place], self.crops.inside[rows, None][place].float()
        telling = self.crops.telling[rows, None][place].float() / SCALE
        if rng.random() < 0.5:
            pixels, inside, telling = pixels.flip(-1), inside.flip(-1), telling.flip(-1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        asked = partial(sharp_loss, pixels=pixels, inside=inside, telling=telling)
        return partial(asked, generator=recipe.generator(step), critic=self.critic, run=self.run)


def sharp_loss(
    parts: nn.ModuleDict, pixels: Tensor, inside: Tensor, telling: Tensor, generator: torch.Generator, critic: Critic, run: Run
) -> Float[Tensor, ""]:
    """The first stage's error, what is under the mask and what tells being its objects, and that of what the critic sees, by its SD."""
    autoencoder: Any = parts["autoencoder"]
    pixels, inside, telling = pixels.to(run.device), inside.to(run.device), telling.to(run.device)
    with run.precision():
        latents = autoencoder.encoder(pixels).float()
        noise = torch.randn(latents.shape, generator=generator).to(run.device)
        painted: Any = autoencoder.decoder(latents + LATENT_NOISE * latents.detach().std() * noise)
    with torch.no_grad(), run.precision():
        wanted = critic.seen(pixels, inside)
    with run.precision():
        found = critic.seen(painted, inside)
    each = [(now.float() - was).abs().mean() / was.float().std() for now, was in zip(found[1:], wanted[1:], strict=True)]
    return picture_error(painted, pixels, inside + telling, latents) + SEEN_WEIGHT * torch.stack(each).mean()
