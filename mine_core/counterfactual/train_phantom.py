"""Train the phantom's editor from scratch on rendered scenes.

    python -m mine_core.counterfactual.train_phantom --autoencoder-minutes 14 --minutes 60 --threads 1

Three stages, each resumed where it was cut off: the autoencoder; a pool of edits as latents, made once; the denoiser with its
text encoder on that pool. Checkpoints (safetensors, one atomic file a stage with weights, average, optimiser and settings) go
to cache/training/phantom-editor. `--export` writes the averaged weights to assets/editors/phantom.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mine_core.artifacts import hash_file
from mine_core.config import cache_directory
from mine_core.counterfactual.phantom_editor import (
    ASSETS,
    EditorShape,
    assemble,
    build_autoencoder,
    build_denoiser,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    save_editor,
)
from mine_core.counterfactual.train_pairs import CropChunks, TileBatches, prompt_of, prompt_words
from mine_core.counterfactual.train_run import CHECKPOINT, Recipe, Run, read_state, under
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

NAME = "phantom"
POOL = "pool.safetensors"
# far from the seeds of subjects (small), of evaluation (1,000,000 and following) and of the backbones' training
FIRST_SEED = {"autoencoder": 700_000_000, "pool": 800_000_000}
INSERTED = 0.72  # of the denoiser's pictures; the rest are removals
WORDLESS = 0.1  # of its prompts, so that it can be guided
OUTSIDE = 0.05  # weight of cells that are not to be repainted: they teach, but nobody sees them
LATENT_NOISE = 0.05  # of the latents' SD, so that near latents give near pictures
OBJECT_WEIGHT = 3.0  # of an object's pixels in the autoencoder's loss, relative to those of the background
logger = logging.getLogger(__name__)


def autoencoder_loss(parts: nn.ModuleDict, tiles: Tensor, objects: Tensor, noise: Tensor, run: Run) -> Float[Tensor, ""]:
    """L1 + squared + half of the gradient's L1 error of the picture decoded from slightly noisy latents.

    Parameters
    ----------
    tiles : uint8 [tile, row, col, 3]; objects : share of each pixel that shows an object, 0 to 1.
    noise : standard normal, of the latents' shape.
    """
    autoencoder = parts["autoencoder"]
    pixels = to_pixels(tiles.to(run.device))
    with run.precision():
        latents = autoencoder.encoder(pixels).float()
        painted = autoencoder.decoder(latents + LATENT_NOISE * latents.detach().std() * noise.to(run.device))
    error = painted.float() - pixels
    weight = 1 + (OBJECT_WEIGHT - 1) * objects.to(run.device)[:, None]
    weight = weight / weight.mean()
    across = (error.diff(dim=-1).abs() * weight[..., 1:]).mean()
    down = (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    return (weight * (error.abs() + error**2)).mean() + 0.5 * (across + down) + 1e-3 * (latents**2).mean()


def to_pixels(images: Tensor) -> Float[Tensor, "image 3 row col"]:
    """uint8 images [image, row, col, 3] to the range -1 to 1, channels first."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Pool:
    """Edits as latents (scaled to an SD of 1): what should come out, what is seen of it, which cells may change, what was asked."""

    latents: Tensor
    seen: Tensor
    cells: Bool[Tensor, "edit row col"]
    items: tuple[scenes.SceneObject | None, ...]

    @property
    def inserted(self) -> Int[np.ndarray, " insertion"]:
        """Rows of insertions."""
        return np.flatnonzero([item is not None for item in self.items])

    @property
    def removed(self) -> Int[np.ndarray, " removal"]:
        """Rows of removals."""
        return np.flatnonzero([item is None for item in self.items])

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Replace the file in one move."""
        items = [None if item is None else asdict(item) for item in self.items]
        temporary = path.with_name(f".{path.name}")
        tensors = {"latents": self.latents, "seen": self.seen, "cells": self.cells}
        save_file(tensors, temporary, metadata={"items": json.dumps(items), "about": json.dumps(about)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Read a pool."""
        with safe_open(path, "pt") as stream:
            items = json.loads(stream.metadata()["items"])
        return cls(**load_file(path), items=tuple(None if item is None else _item(item) for item in items))


def _item(values: dict[str, Any]) -> scenes.SceneObject:
    return scenes.SceneObject(**{**values, "attributes": tuple((name, value) for name, value in values["attributes"])})


@torch.no_grad()
def encode_pool(autoencoder: AutoencoderTiny, shape: EditorShape, chunks: Iterator[Any], n_edits: int) -> Pool:
    """Render edits until there are `n_edits`, and encode each picture whole and with its cells greyed."""
    latents, seen, cells, items = [], [], [], []
    for images, inside, shown in chunks:
        pixels = to_pixels(images)
        covered = inside[:, None].repeat_interleave(shape.cell, -2).repeat_interleave(shape.cell, -1)
        both = torch.cat([pixels, pixels * ~covered]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            codes = autoencoder.encoder(both).float() * autoencoder.config.scaling_factor
        latents.append(codes[: len(pixels)].half())
        seen.append(codes[len(pixels) :].half())
        cells.append(inside)
        items += shown
        if len(items) // 5000 != (len(items) - len(shown)) // 5000:
            logger.info("pool: %d of %d edits", len(items), n_edits)
        if len(items) >= n_edits:
            break
    tables = (torch.cat(parts)[:n_edits].contiguous() for parts in (latents, seen, cells))
    return Pool(*tables, items=tuple(items[:n_edits]))


class DenoiserBatches:
    """Losses of the denoiser, step by step: a pure function of the step's number."""

    def __init__(self, pool: Pool, shape: EditorShape, run: Run, scheduler: DDIMScheduler) -> None:
        self.pool, self.run, self.scheduler = pool, run, scheduler
        self.tokenizer = build_tokenizer(shape)
        self.rows = (pool.inserted, pool.removed)
        if not all(len(rows) for rows in self.rows):
            raise EditError("The pool holds no insertion or no removal; make a larger one.")

    def __iter__(self) -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
        while True:
            yield self.loss_at(self.run.progress.step)

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's edits, times and noise."""
        recipe = self.run.recipe
        rng = np.random.default_rng([recipe.seed, step])
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        n = recipe.batch_size
        kinds = (rng.random(n) >= INSERTED).astype(int)
        chosen = torch.from_numpy(np.array([rng.choice(self.rows[kind]) for kind in kinds]))
        prompts = ["" if rng.random() < WORDLESS else prompt_of(self.pool.items[row], rng) for row in chosen]
        # one time out of each n-th of the range: less noise in the gradient
        strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        times = (strata * self.scheduler.config.num_train_timesteps).long()
        noise = torch.randn(n, *self.pool.latents.shape[1:], generator=generator)
        ids = self.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
        return partial(denoiser_loss, pool=self.pool, rows=chosen, ids=ids, times=times, noise=noise, run=self.run)


def denoiser_loss(
    parts: nn.ModuleDict, pool: Pool, rows: Tensor, ids: Tensor, times: Tensor, noise: Tensor, run: Run
) -> Float[Tensor, ""]:
    """Squared error of the predicted velocity, cells outside the mask counting little.

    v = sqrt(a_t) noise - sqrt(1 - a_t) latents
    """
    scheduler, device = build_scheduler(), run.device
    latents, seen = pool.latents[rows].float().to(device), pool.seen[rows].float().to(device)
    cells = pool.cells[rows, None].float().to(device)
    times, noise = times.to(device), noise.to(device)
    noisy = scheduler.add_noise(latents, noise, times)
    wanted = scheduler.get_velocity(latents, noise, times)
    with run.precision():
        text = parts["text_encoder"](ids.to(device)).last_hidden_state
        stacked = torch.cat([noisy, cells, seen], dim=1).contiguous(memory_format=torch.channels_last)
        found = parts["denoiser"](stacked, times, encoder_hidden_states=text, return_dict=False)[0]
    weight = OUTSIDE + (1 - OUTSIDE) * cells
    return (weight * (found.float() - wanted) ** 2).sum() / (weight.sum() * latents.shape[1])


def batches(dataset: Dataset, start: int, stop: int, workers: int) -> Iterator[Any]:
    """Entries `start` to `stop` of a data set that renders, by `workers` processes (0: in this one)."""
    ahead = 4 if workers else None
    return iter(DataLoader(dataset, batch_size=None, sampler=range(start, stop), num_workers=workers, prefetch_factor=ahead))


def autoencoder_run(recipe: Recipe, shape: EditorShape, device: torch.device, directory: Path) -> tuple[Run, EditorShape]:
    """A new autoencoder, or the one of the checkpoint in `directory`, with this recipe's schedule."""
    torch.manual_seed(recipe.seed)
    shape = saved_shape(directory) or shape
    return _resumed(Run(recipe, nn.ModuleDict({"autoencoder": build_autoencoder(shape)}), device), directory), shape


def denoiser_run(recipe: Recipe, shape: EditorShape, device: torch.device, directory: Path) -> Run:
    """A new denoiser with its text encoder, or those of the checkpoint in `directory`, with this recipe's schedule."""
    torch.manual_seed(recipe.seed + 1)
    parts = {"denoiser": build_denoiser(shape), "text_encoder": build_text_encoder(shape)}
    return _resumed(Run(recipe, nn.ModuleDict(parts), device), directory)


def saved_shape(directory: Path) -> EditorShape | None:
    """Shape of the networks of a checkpoint; None without one."""
    return EditorShape.from_dict(read_state(directory)["shape"]) if (directory / CHECKPOINT).is_file() else None


def _resumed(run: Run, directory: Path) -> Run:
    if (directory / CHECKPOINT).is_file():
        run.restore(directory)
        logger.info("%s: resumed at step %d", run.recipe.stage, run.progress.step)
    return run


def train_autoencoder(run: Run, shape: EditorShape, directory: Path, *, workers: int, save_minutes: float) -> None:
    """Run the first stage to its end."""
    dataset = TileBatches(FIRST_SEED["autoencoder"], run.recipe.batch_size)

    def losses() -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
        start = run.progress.step
        for number, (tiles, objects) in enumerate(batches(dataset, start, run.recipe.steps, workers), start):
            cells = (len(tiles), 4, tiles.shape[1] // shape.cell, tiles.shape[2] // shape.cell)
            noise = torch.randn(cells, generator=torch.Generator().manual_seed(run.recipe.seed * 1_000_003 + number))
            yield partial(autoencoder_loss, tiles=tiles, objects=objects, noise=noise, run=run)

    run.train(losses(), lambda done: done.save(directory, shape.to_dict()), save_minutes=save_minutes)


def trained_autoencoder(directory: Path) -> tuple[AutoencoderTiny, EditorShape]:
    """The averaged autoencoder of a checkpoint, its scaling factor measured on tiles that trained it."""
    shape = EditorShape.from_dict(read_state(directory)["shape"])
    autoencoder = build_autoencoder(shape).eval()
    autoencoder.load_state_dict(under(under(load_file(directory / CHECKPOINT), "average"), "autoencoder"))
    tiles, _ = TileBatches(FIRST_SEED["autoencoder"], 256)[0]
    with torch.no_grad():
        spread = autoencoder.encoder(to_pixels(tiles)).std().item()
    autoencoder.register_to_config(scaling_factor=round(1 / spread, 4))
    return autoencoder, shape


def made_pool(root: Path, n_edits: int, workers: int) -> Pool:
    """The pool of a trained autoencoder: read, or made and kept."""
    about = {"autoencoder": hash_file(root / "autoencoder" / CHECKPOINT), "n_edits": n_edits, "first_seed": FIRST_SEED["pool"]}
    path = root / POOL
    if path.is_file():
        with safe_open(path, "pt") as stream:
            if json.loads(stream.metadata()["about"]) == about:
                return Pool.load(path)
    autoencoder, shape = trained_autoencoder(root / "autoencoder")
    dataset = CropChunks(FIRST_SEED["pool"], shape.size, shape.cell)
    pool = encode_pool(autoencoder, shape, batches(dataset, 0, n_edits, workers), n_edits)
    pool.save(path, about)
    return pool


def export(root: Path, assets: Path, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write the averaged weights of both stages to `assets`/phantom, with how they came about."""
    autoencoder, shape = trained_autoencoder(root / "autoencoder")
    tensors = under(load_file(root / "denoiser" / CHECKPOINT), "average")
    denoiser, text_encoder = build_denoiser(shape), build_text_encoder(shape)
    denoiser.load_state_dict(under(tensors, "denoiser"))
    text_encoder.load_state_dict(under(tensors, "text_encoder"))
    training: dict[str, Any] = {"notes": list(notes), "first_seed": FIRST_SEED}
    for stage in ("autoencoder", "denoiser"):
        state = read_state(root / stage)
        minutes = round(state["progress"]["seconds"] / 60, 1)
        training[stage] = {"recipe": state["recipe"], "steps": state["progress"]["step"], "minutes": minutes}
    with safe_open(root / POOL, "pt") as stream:
        training["pool"] = json.loads(stream.metadata()["about"])
    assets.mkdir(parents=True, exist_ok=True)
    return save_editor(assemble(shape, autoencoder, denoiser, text_encoder), shape, assets / NAME, {"training": training})


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", "autoencoder", "pool", "denoiser"), default="all")
    parser.add_argument("--autoencoder-minutes", type=float, default=14.0, help="of the autoencoder, those before a resume included")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the denoiser, likewise")
    parser.add_argument("--pool", type=int, default=60_000, help="edits that the denoiser learns from")
    parser.add_argument("--steps", type=int, default=1_000_000, help="end a stage after so many steps, if its minutes last longer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak rate of the denoiser; the autoencoder's is twice that")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that render")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--export", action="store_true", help="write the last checkpoints to assets and do not train")
    parser.add_argument("--note", action="append", default=[], help="with --export: a sentence for the model card")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line of the training."""
    asked = _arguments().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    root = cache_directory() / "training" / "phantom-editor"
    if asked.export:
        export(root, ASSETS, asked.note)
        return
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    if asked.stage in ("all", "autoencoder"):
        recipe = Recipe("autoencoder", asked.steps, asked.autoencoder_minutes, asked.batch, 2 * asked.rate, seed=asked.seed)
        run, shape = autoencoder_run(recipe, EditorShape(prompt_words()), device, root / "autoencoder")
        train_autoencoder(run, shape, root / "autoencoder", workers=asked.workers, save_minutes=asked.save_minutes)
    if asked.stage in ("all", "pool", "denoiser"):
        pool = made_pool(root, asked.pool, asked.workers)
    if asked.stage in ("all", "denoiser"):
        shape = EditorShape.from_dict(read_state(root / "autoencoder")["shape"])
        recipe = Recipe("denoiser", asked.steps, asked.minutes, asked.batch, asked.rate, seed=asked.seed)
        run = denoiser_run(recipe, shape, device, root / "denoiser")
        losses = DenoiserBatches(pool, shape, run, build_scheduler())
        run.train(losses, lambda done: done.save(root / "denoiser", shape.to_dict()), save_minutes=asked.save_minutes)


if __name__ == "__main__":
    main()
