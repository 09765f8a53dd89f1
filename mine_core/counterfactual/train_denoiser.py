"""The denoiser's stage: a fixed pool of edits as latents, drawn from at random with new noise and new words each time."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mine_core.backbones.tracing import quick_dtype
from mine_core.counterfactual.asked import answers_told
from mine_core.counterfactual.critic import Critic
from mine_core.counterfactual.phantom_editor import EditorShape, Part, build_scheduler, build_tokenizer
from mine_core.counterfactual.train_autoencoder import to_pixels
from mine_core.counterfactual.train_critic import answers_loss
from mine_core.counterfactual.train_pairs import pixels_of, prompt_of, read_items, written_items
from mine_core.counterfactual.train_run import Run, StepLosses, write_tensors
from mine_core.counterfactual.train_telling import SCALE
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

INSERTED = 0.72  # of the denoiser's pictures; the rest are removals
FACES = 0.4  # of its insertions at least: nothing else has as many attributes, nor such small ones
WORDLESS = 0.1  # of its prompts, so that it can be guided
OUTSIDE = 0.05  # weight of cells that are not to be repainted: they teach, but nobody sees them
CRITIC_WEIGHT = 0.6  # of what the critic says of the expected picture, relative to the squared error
LARGE_FROM = 0.7  # share of the stage after which windows have their final size: small ones teach what is what, cheaply
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Edits as latents (scaled to an SD of 1): what should come out, what is seen of it, which cells may change, what was asked.

    `telling` says how much each cell tells of the attributes of a face, in `SCALE`ths, with a mean of 1; 0 where there are none.
    """

    latents: Tensor
    seen: Tensor
    cells: Bool[Tensor, "edit row col"]
    telling: UInt8[Tensor, "edit row col"]
    items: tuple[scenes.SceneObject | None, ...]

    @property
    def inserted(self) -> Int[np.ndarray, " insertion"]:
        """Rows of insertions."""
        return np.flatnonzero([item is not None for item in self.items])

    @property
    def faces(self) -> Int[np.ndarray, " face"]:
        """Rows of insertions that have an expression."""
        return np.flatnonzero([item is not None and "expression" in dict(item.attributes) for item in self.items])

    @property
    def removed(self) -> Int[np.ndarray, " removal"]:
        """Rows of removals."""
        return np.flatnonzero([item is None for item in self.items])

    def joined(self, other: "Pool") -> "Pool":
        """These edits and then those of another pool."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("latents", "seen", "cells", "telling")]
        latents, seen, cells, telling = (torch.cat(pair) for pair in pairs)
        return Pool(latents, seen, cells, telling, (*self.items, *other.items))

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Replace the file in one move."""
        tensors = {"latents": self.latents, "seen": self.seen, "cells": self.cells, "telling": self.telling}
        write_tensors(path, tensors, {"items": written_items(self.items), "about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Read a pool."""
        with safe_open(path, "pt") as stream:
            items = read_items(stream.metadata()["items"])
        return cls(**load_file(path), items=items)


@torch.no_grad()
def encode_pool(autoencoder: Part, shape: EditorShape, chunks: Iterator[Any], n_edits: int) -> Pool:
    """Render edits until there are `n_edits`, and encode each picture whole and with its cells greyed."""
    latents, seen, cells, telling, items = [], [], [], [], []
    for images, inside, shown, maps in chunks:
        pixels = to_pixels(images)
        covered = pixels_of(inside[:, None], shape.cell)
        both = torch.cat([pixels, pixels * ~covered]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=quick_dtype("cpu") == torch.bfloat16):
            codes = autoencoder.encoder(both).float() * autoencoder.config.scaling_factor
        latents.append(codes[: len(pixels)].half())
        seen.append(codes[len(pixels) :].half())
        cells.append(inside)
        telling.append(functional.avg_pool2d(maps[:, None].float(), shape.cell)[:, 0].round().to(torch.uint8))
        items += shown
        if len(items) // 5000 != (len(items) - len(shown)) // 5000:
            logger.info("pool: %d of %d edits", len(items), n_edits)
        if len(items) >= n_edits:
            break
    whole = [torch.cat(parts)[:n_edits].contiguous() for parts in (latents, seen, cells, telling)]
    return Pool(whole[0], whole[1], whole[2], whole[3], tuple(items[:n_edits]))


class DenoiserBatches(StepLosses):
    """Losses of the denoiser, step by step: a function of the step's number, and of which pool the schedule has come to.

    `pools` hold small windows and then large ones, or windows of one size; `critic` looks at latents, where there is one.
    """

    def __init__(self, pools: Sequence[Pool], shape: EditorShape, run: Run, critic: Critic | None = None) -> None:
        super().__init__(run)
        self.pools, self.critic = pools, critic
        self.scheduler: Any = build_scheduler()
        self.tokenizer = build_tokenizer(shape)
        self.rows = [(pool.inserted, pool.removed, pool.faces) for pool in pools]
        if not all(len(rows) for kinds in self.rows for rows in kinds):
            raise EditError("A pool holds no insertion, no removal or no face; make a larger one.")

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's edits, times and noise."""
        recipe = self.run.recipe
        which = 0 if self.run.share_done() < LARGE_FROM else len(self.pools) - 1
        pool = self.pools[which]
        rng = np.random.default_rng([recipe.seed, step])
        chosen = torch.from_numpy(self.drawn(rng, which, recipe.batch_size))
        prompts = ["" if rng.random() < WORDLESS else prompt_of(pool.items[row], rng) for row in chosen]
        times, noise = self.noised(recipe.generator(step), pool.latents[chosen].float())
        ids = self.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
        told = answers_told([pool.items[row] for row in chosen], prompts) if self.critic is not None else {}
        answers = {name: torch.from_numpy(values) for name, values in told.items()}
        asked = partial(critic_of_expected, critic=self.critic, answers=answers) if self.critic is not None else None
        return partial(denoiser_loss, pool=pool, rows=chosen, ids=ids, times=times, noise=noise, run=self.run, asked=asked)

    def drawn(self, rng: np.random.Generator, which: int, n: int) -> Int[np.ndarray, " edit"]:
        """Rows of one step's edits in a pool."""
        kinds = np.where(rng.random(n) >= INSERTED, 1, np.where(rng.random(n) < FACES, 2, 0))
        return np.array([rng.choice(self.rows[which][kind]) for kind in kinds])

    def noised(self, generator: torch.Generator, like: Tensor) -> tuple[Int[Tensor, " edit"], Tensor]:
        """A time out of each n-th of the schedule, for less noise in the gradient, and noise shaped like the latents."""
        n = len(like)
        strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        return (strata * self.scheduler.config.num_train_timesteps).long(), torch.randn(like.shape, generator=generator)


def denoiser_loss(
    parts: nn.ModuleDict,
    pool: Pool,
    rows: Tensor,
    ids: Tensor,
    times: Tensor,
    noise: Tensor,
    run: Run,
    asked: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of the predicted velocity, cells weighted by what they tell; and what a critic says, where `asked`.

    A cell outside the mask counts little; one inside once, and once more where it tells as much of attributes as the average cell.

    v = sqrt(a_t) noise - sqrt(1 - a_t) latents;  expected latents = sqrt(a_t) noisy - sqrt(1 - a_t) v
    """
    scheduler: Any = build_scheduler()
    device = run.device
    latents, seen = pool.latents[rows].float().to(device), pool.seen[rows].float().to(device)
    cells = pool.cells[rows, None].float().to(device)
    times, noise = times.to(device), noise.to(device)
    noisy = scheduler.add_noise(latents, noise, times)
    wanted = scheduler.get_velocity(latents, noise, times)
    with run.precision():
        text = parts["text_encoder"](ids.to(device)).last_hidden_state
        stacked = torch.cat([noisy, cells, seen], dim=1).contiguous(memory_format=torch.channels_last)
        found = parts["denoiser"](stacked, times, encoder_hidden_states=text, return_dict=False)[0]
    weight = OUTSIDE + (1 - OUTSIDE) * cells * (1 + pool.telling[rows, None].float().to(device) / SCALE)
    error = (weight * (found.float() - wanted) ** 2).sum() / (weight.sum() * latents.shape[1])
    if asked is None:
        return error
    kept = scheduler.alphas_cumprod.to(device)[times]
    expected = kept.sqrt()[:, None, None, None] * noisy - (1 - kept).sqrt()[:, None, None, None] * found.float()
    with run.precision():
        return error + CRITIC_WEIGHT * asked(expected, cells, kept)


def critic_of_expected(
    expected: Float[Tensor, "edit channel row col"],
    cells: Float[Tensor, "edit 1 row col"],
    kept: Float[Tensor, " edit"],
    *,
    critic: Critic,
    answers: dict[str, Tensor],
) -> Float[Tensor, ""]:
    """Cross-entropy of what was asked in what a critic sees in expected latents, less where they are mostly noise (sqrt(a_t))."""
    known = {name: values.to(expected.device) for name, values in answers.items()}
    return answers_loss(critic(expected, cells), known, kept.sqrt())
