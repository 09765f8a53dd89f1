"""The autoencoder's stage: tiles of scenes to few numbers and back."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mine_core.counterfactual.phantom_editor import LATENT_CHANNELS, EditorShape, Part, build_autoencoder
from mine_core.counterfactual.train_pairs import TileBatches
from mine_core.counterfactual.train_run import CHECKPOINT, Run, read_state, under

# far from the seeds of subjects (small), of evaluation (1,000,000 and following) and of the backbones' training
FIRST_SEED = 700_000_000
LATENT_NOISE = 0.05  # of the latents' SD, so that near latents give near pictures
OBJECT_WEIGHT = 3.0  # of an object's pixels in the loss, relative to those of the background


def autoencoder_loss(parts: nn.ModuleDict, tiles: Tensor, objects: Tensor, noise: Tensor, run: Run) -> Float[Tensor, ""]:
    """L1 + squared + half of the gradient's L1 error of the picture decoded from slightly noisy latents.

    Parameters
    ----------
    tiles : uint8 [tile, row, col, 3]; objects : share of each pixel that shows an object, 0 to 1.
    noise : standard normal, of the latents' shape.
    """
    autoencoder: Any = parts["autoencoder"]
    pixels, objects = to_pixels(tiles.to(run.device)), objects.to(run.device)[:, None]
    with run.precision():
        latents = autoencoder.encoder(pixels).float()
        painted = autoencoder.decoder(latents + LATENT_NOISE * latents.detach().std() * noise.to(run.device))
    return picture_error(painted, pixels, objects, latents)


def picture_error(
    painted: Tensor, pixels: Float[Tensor, "tile 3 row col"], objects: Float[Tensor, "tile 1 row col"], latents: Tensor
) -> Float[Tensor, ""]:
    """L1 + squared + half of the gradient's L1 error, objects counting `OBJECT_WEIGHT` times; and a thousandth of squared latents."""
    error = painted.float() - pixels
    weight = 1 + (OBJECT_WEIGHT - 1) * objects
    weight = weight / weight.mean()
    across = (error.diff(dim=-1).abs() * weight[..., 1:]).mean()
    down = (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    return (weight * (error.abs() + error**2)).mean() + 0.5 * (across + down) + 1e-3 * (latents**2).mean()


def to_pixels(images: Tensor) -> Float[Tensor, "image 3 row col"]:
    """uint8 images [image, row, col, 3] to the range -1 to 1, channels first."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def batches(dataset: Dataset, start: int, stop: int, workers: int) -> Iterator[Any]:
    """Entries `start` to `stop` of a data set that renders, by `workers` processes (0: in this one)."""
    ahead = 4 if workers else None
    return iter(DataLoader(dataset, batch_size=None, sampler=range(start, stop), num_workers=workers, prefetch_factor=ahead))


def train_autoencoder(run: Run, shape: EditorShape, directory: Path, *, workers: int, save_minutes: float) -> None:
    """Run the first stage to its end."""
    dataset = TileBatches(FIRST_SEED, run.recipe.batch_size)

    def losses() -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
        start = run.progress.step
        for number, (tiles, objects) in enumerate(batches(dataset, start, run.recipe.steps, workers), start):
            cells = (len(tiles), LATENT_CHANNELS, tiles.shape[1] // shape.cell, tiles.shape[2] // shape.cell)
            noise = torch.randn(cells, generator=run.recipe.generator(number))
            yield partial(autoencoder_loss, tiles=tiles, objects=objects, noise=noise, run=run)

    run.train(losses(), lambda done: done.save(directory, shape.to_dict()), save_minutes=save_minutes)


def trained_autoencoder(directory: Path) -> tuple[Part, EditorShape]:
    """The averaged autoencoder of a checkpoint, its scaling factor measured on tiles that trained it."""
    shape = EditorShape.from_dict(read_state(directory)["shape"])
    autoencoder = build_autoencoder(shape).eval()
    autoencoder.load_state_dict(under(under(load_file(directory / CHECKPOINT), "average"), "autoencoder"))
    tiles, _ = TileBatches(FIRST_SEED, 256)[0]
    with torch.no_grad():
        spread = autoencoder.encoder(to_pixels(tiles)).std().item()
    autoencoder.register_to_config(scaling_factor=round(1 / spread, 4))
    return autoencoder, shape
