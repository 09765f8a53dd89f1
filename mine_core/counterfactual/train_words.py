"""The text encoder alone: what a prompt tells must be legible in the one vector that the denoiser's blocks read of it.

A denoiser makes do with the words that explain most of its error. One that it overlooked early, such as where a face looks, the last
of many words, leaves no trace in that vector; then no gradient returns to it, however many faces follow. Linear read-outs of the
vector answer what the prompt told, here, and prompts that tell nothing of what was illegible keep the vector that they had.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mine_core.counterfactual.asked import QUESTIONS, answers_told
from mine_core.counterfactual.phantom_editor import EditorShape, build_tokenizer
from mine_core.counterfactual.train_critic import answers_loss
from mine_core.counterfactual.train_denoiser import Pool
from mine_core.counterfactual.train_pairs import prompt_of
from mine_core.counterfactual.train_run import Run, StepLosses

ILLEGIBLE = ("view",)  # what the shipped denoiser had overlooked after 30,000 steps
TOLD = 0.5  # of its attributes, by each prompt: as many leave a thing out as tell it
HELD = 10.0  # weight of what must stay


def build_readouts(denoiser: Any) -> nn.ModuleDict:
    """Linear read-outs, one per question, of the vector in which a denoiser's blocks read a prompt."""
    width = denoiser.add_embedding.proj.out_features
    return nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in QUESTIONS.items()})


def read_prompts(parts: nn.ModuleDict, ids: Int[Tensor, "prompt token"]) -> tuple[Tensor, Float[Tensor, "prompt number"]]:
    """Hidden states of prompts, and the vector that the blocks of the denoiser read."""
    hidden = parts["text_encoder"](ids).last_hidden_state
    denoiser: Any = parts["denoiser"]
    return hidden, denoiser.add_embedding(hidden)


class WordsBatches(StepLosses):
    """Losses of the text encoder, step by step, on prompts for what a pool inserts; those that tell nothing `ILLEGIBLE` stay."""

    def __init__(self, pool: Pool, shape: EditorShape, run: Run) -> None:
        super().__init__(run)
        self.items = [pool.items[row] for row in pool.inserted]
        self.tokenizer = build_tokenizer(shape)
        self.before = copy.deepcopy(run.parts).eval().requires_grad_(False)

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's prompts."""
        recipe = self.run.recipe
        rng = np.random.default_rng([recipe.seed, step])
        items = [self.items[row] for row in rng.integers(0, len(self.items), recipe.batch_size)]
        prompts = [prompt_of(item, rng, told=TOLD) for item in items]
        told = {name: torch.from_numpy(values) for name, values in answers_told(items, prompts).items()}
        silent = torch.stack([told[name] < 0 for name in ILLEGIBLE]).all(0)
        ids = self.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
        return partial(words_loss, ids=ids, told=told, silent=silent, before=self.before, device=self.run.device)


def words_loss(
    parts: nn.ModuleDict,
    ids: Int[Tensor, "prompt token"],
    told: dict[str, Int[Tensor, " prompt"]],
    silent: Tensor,
    before: nn.ModuleDict,
    device: torch.device,
) -> Float[Tensor, ""]:
    """Cross-entropy of what prompts tell, and how far those that are `silent` moved, relative to the spread of such vectors."""
    ids, silent = ids.to(device), silent.to(device)
    hidden, vector = read_prompts(parts, ids)
    readouts: Any = parts["readouts"]
    normed = functional.layer_norm(vector, vector.shape[-1:])
    scores = {name: head(normed) for name, head in readouts.items()}
    loss = answers_loss(scores, {name: values.to(device) for name, values in told.items()}, torch.ones(len(ids), device=device))
    if silent.any():
        for now, then in zip((hidden, vector), read_prompts(before, ids), strict=True):
            loss = loss + HELD * ((now - then)[silent] ** 2).mean() / then[silent].var()
    return loss
