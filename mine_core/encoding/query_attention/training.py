"""Training of a query-attention encoder: steps over images, voxels in blocks, early stopping, checkpoint and resume."""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mine_core.encoding.query_attention.config import QueryAttentionConfig
from mine_core.encoding.query_attention.encoder import voxel_hash
from mine_core.encoding.query_attention.layer import SHARED, Prepared, Statistics, make_keys, place_basis, respond
from mine_core.encoding.query_attention.start import Start
from mine_core.encoding.query_attention.tokens import TokenSource, open_tokens
from mine_core.errors import EncodingError
from mine_core.types import Features, Responses, Splits

CHECKPOINT = "query_attention_training.safetensors"
LOWEST_RATE = 1e-3
"""Share of the largest rate that the schedule starts from and ends at."""


def one_cycle(share: float, warm_up: float) -> float:
    """Rate at a share of the run, as a share of the largest: half a cosine up, half a cosine down (Smith 2018, arXiv:1803.09820)."""
    if share < warm_up:
        progress, low, high = share / warm_up, 0.04, 1.0
    else:
        progress, low, high = (share - warm_up) / (1 - warm_up), 1.0, LOWEST_RATE
    return high + (low - high) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class Progress:
    """How far a run has come; `history` is the validation error after each epoch, in units of the responses' variance."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    history: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Smallest validation error so far."""
        return min(self.history, default=float("inf"))


class Training:
    """Weights, their running average, the best of them by validation images, optimiser and progress."""

    def __init__(self, start: Start, features: Features, responses: Responses, splits: Splits, config: QueryAttentionConfig) -> None:
        self.start, self.config, self.responses, self.splits = start, config, responses, splits
        self.device = torch.device(config.device)
        self.features = features
        self.statistics = Statistics(**{name: self._tensor(getattr(start, name)) for name in Statistics._fields})
        self.linear, self.penalty = self._tensor(start.linear), self._tensor(start.penalty)
        self.pooled_mean = np.asarray(features.pooled[splits.train], np.float64).mean(axis=0)
        self.cosines = place_basis(features.backbone.grid, config.frequencies).to(self.device)
        self.weights = self._initial()
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        self.best = {name: value.clone() for name, value in self.average.items()}
        self.optimizer = self._optimizer()
        self.progress = Progress()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    def _initial(self) -> dict[str, torch.nn.Parameter]:
        """Uniform attention and the read-outs of ridge; a random key map; a feed-forward that adds nothing yet."""
        config, (n_voxels, n_values) = self.config, self.start.readout.shape
        n_features, heads, width, hidden = len(self.start.feature_sd), config.heads, config.key_width, config.feed_forward
        draw = torch.Generator().manual_seed(config.seed)
        weights = {
            "key_map": torch.randn(n_features, heads, width, generator=draw) / n_features**0.5,
            "expand": torch.randn(heads, n_values, hidden, generator=draw) / (heads * n_values) ** 0.5,
            "expand_query": torch.zeros(heads * width, hidden),
            "expand_bias": torch.zeros(hidden),
            "contract": torch.zeros(hidden, n_values),
            "query": torch.zeros(n_voxels, heads, width),
            "cosines": torch.zeros(n_voxels, heads, len(self.cosines)),
            "readout": torch.tensor(self.start.readout, dtype=torch.float32)[:, None].repeat(1, heads, 1) / heads,
            "intercept": torch.zeros(n_voxels),
        }
        return {name: torch.nn.Parameter(value.to(self.device)) for name, value in weights.items()}

    def _optimizer(self) -> torch.optim.AdamW:
        config = self.config
        rates = {"query": config.rate_query, "cosines": config.rate_place}
        rates |= dict.fromkeys(("readout", "intercept"), config.rate_readout) | dict.fromkeys(SHARED, config.rate_shared)
        groups = [
            {
                "params": [value],
                "lr": rates[name],
                "largest": rates[name],
                "weight_decay": 0.0 if name in ("readout", "intercept") else config.weight_decay,
            }
            for name, value in self.weights.items()
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.99))

    @property
    def blocks(self) -> list[slice]:
        """Voxels in parts that are computed at a time."""
        n_voxels, size = len(self.start.readout), self.config.voxels_per_block
        return [slice(first, min(first + size, n_voxels)) for first in range(0, n_voxels, size)]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the training images; what does not fill a step waits for another epoch."""
        return max(1, len(self.splits.train) // self.config.images_per_step)

    def _precision(self) -> AbstractContextManager:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _targets(self, positions: Int[np.ndarray, " image"]) -> Float[Tensor, "image voxel"]:
        """Standardised responses."""
        values = (np.asarray(self.responses.values[positions], np.float64) - self.start.response_mean) / self.start.response_sd
        return self._tensor(values)

    def _pooled(self, positions: Int[np.ndarray, " image"]) -> Float[Tensor, "image feature"]:
        """Pooled embeddings from their training mean, which the part that stays linear reads."""
        return self._tensor(np.asarray(self.features.pooled[positions], np.float64) - self.pooled_mean)

    def _voxels(self, weights: dict[str, Any], block: slice) -> dict[str, Tensor]:
        read = {name: weights[name][block] for name in ("query", "readout", "intercept")}
        return read | {"place": weights["cosines"][block] @ self.cosines}

    def step(self, source: TokenSource, positions: Int[np.ndarray, " image"]) -> float:
        """One optimiser step on these images and all voxels; returns the error, in units of the responses' variance.

        loss = sum_v (mean_i (y_iv - prediction_iv)² + heads * sum_hj penalty_vj readout_vhj²): voxels share the key map and
        the feed-forward alone, so that blocks of voxels give the gradients of the whole.
        """
        prepared, targets, pooled = source.take(positions), self._targets(positions), self._pooled(positions)
        share = self.progress.step / (self.steps_per_epoch * self.config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["largest"] * one_cycle(share, self.config.warm_up)
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            keys = make_keys(prepared, self.weights)
        # in float32, so that the gradients of many blocks add up without loss
        leaf_keys = keys.detach().float().requires_grad_()
        summed = torch.zeros((), device=self.device)
        for block in self.blocks:
            left = targets[:, block] - pooled @ self.linear[:, block]
            summed += self._backward(block, leaf_keys, prepared, left)
        if leaf_keys.grad is not None:
            keys.backward(leaf_keys.grad.to(keys.dtype))
        error = float(summed) / len(self.start.readout)
        if not math.isfinite(error):
            raise EncodingError(f"The error is {error} at step {self.progress.step}; fit again with lower rates.")
        self.optimizer.step()
        self.progress.step += 1
        self._update_average()
        return error

    def _backward(self, block: slice, keys: Tensor, prepared: Prepared, targets: Float[Tensor, "image voxel"]) -> Tensor:
        """Add the gradients of one block of voxels; returns its summed error."""
        tables = ("query", "cosines", "readout", "intercept")
        leaves = {name: self.weights[name].detach()[block].requires_grad_() for name in tables}
        everything = slice(None)
        with self._precision():
            predicted = respond(keys, prepared, self.weights, self._voxels(leaves, everything))
        errors = (targets - predicted.float()).square().mean(0).sum()
        held = (self.penalty[block].unsqueeze(1) * leaves["readout"].square()).sum()
        (errors + self.config.heads * held).backward()
        for name, leaf in leaves.items():
            table = self.weights[name]
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            if leaf.grad is not None:
                table.grad[block] = leaf.grad
        return errors.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        # early steps count less: the start is no better than any other weights
        decay = min(self.config.average, self.progress.step / (self.progress.step + 9))
        torch._foreach_lerp_(list(self.average.values()), [value.detach() for value in self.weights.values()], 1 - decay)

    @torch.no_grad()
    def predicted(
        self, weights: dict[str, Tensor], source: TokenSource, positions: Int[np.ndarray, " image"]
    ) -> Float[Tensor, "image voxel"]:
        """Predictions in SD of the responses, from their mean, for a few images."""
        prepared, pooled = source.take(positions), self._pooled(positions)
        with self._precision():
            keys = make_keys(prepared, weights)
            read = [respond(keys, prepared, weights, self._voxels(weights, block)).float() for block in self.blocks]
        return torch.cat(read, dim=1) + pooled @ self.linear

    def validate(self, source: TokenSource) -> float:
        """Mean squared error of the averaged weights on validation images, in units of the training responses' variance."""
        total, size = 0.0, self.config.images_per_step
        for first in range(0, len(self.splits.validation), size):
            positions = self.splits.validation[first : first + size]
            wrong = self._targets(positions) - self.predicted(self.average, source, positions)
            total += float(wrong.square().sum(dtype=torch.float64))
        return total / (len(self.splits.validation) * len(self.start.readout))

    def end_epoch(self, source: TokenSource) -> None:
        """Score the epoch and keep its averaged weights if they are the best so far."""
        error = self.validate(source)
        if error < self.progress.best:
            self.progress.best_epoch = self.progress.epoch
            self.best = {name: value.clone() for name, value in self.average.items()}
        self.progress.history.append(error)
        self.progress.epoch += 1

    @property
    def finished(self) -> bool:
        """Whether the schedule is over, or validation has not improved for `patience` epochs."""
        progress = self.progress
        return progress.epoch >= self.config.epochs or progress.epoch - progress.best_epoch > self.config.patience

    def order(self) -> Int[np.ndarray, " train"]:
        """Training images in this epoch's order, a function of seed and epoch alone, so that a resumed run sees the same."""
        rng = np.random.default_rng([self.config.seed, self.progress.epoch])
        return rng.permutation(self.splits.train)

    def open_tokens(self) -> TokenSource:
        """Tokens of training and validation images, held where they fit the budget."""
        positions = np.concatenate([self.splits.train, self.splits.validation])
        return open_tokens(self.features, positions, self.statistics, self.config.token_budget)


def run_epochs(training: Training, on_epoch: Callable[[], None], on_step: Callable[[float], None]) -> None:
    """Train to the end of the schedule, calling `on_step(error)` and `on_epoch()`; either may raise to stop."""
    source, size = training.open_tokens(), training.config.images_per_step
    while not training.finished:
        order = training.order()
        for index in range(training.steps_per_epoch):
            on_step(training.step(source, order[index * size : (index + 1) * size]))
        training.end_epoch(source)
        on_epoch()


def identity_of(training: Training) -> str:
    """Hash of everything that a checkpoint must share with the run that takes it up."""
    start, splits, features = training.start, training.splits, training.features
    named = [training.config.to_dict(), asdict(features.backbone), list(features.stimulus_ids), voxel_hash(training.responses.voxels)]
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for array in (splits.train, splits.validation, start.readout, start.penalty, start.response_mean, start.mean_patches):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_checkpoint(training: Training, directory: Path) -> None:
    """Replace the checkpoint in one move: weights, averages, optimiser and progress."""
    directory.mkdir(parents=True, exist_ok=True)
    named: dict[str, Tensor] = {}
    for prefix, weights in (("weights", training.weights), ("average", training.average), ("best", training.best)):
        named |= {f"{prefix}.{name}": value for name, value in weights.items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        named |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    state = {"identity": identity_of(training), "progress": asdict(training.progress)}
    temporary = directory / f".{CHECKPOINT}"
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in named.items()}, temporary, metadata={"state": json.dumps(state)}
    )
    temporary.replace(directory / CHECKPOINT)


def restore_checkpoint(training: Training, directory: Path) -> bool:
    """Take up the run of a checkpoint in `directory`, if there is one.

    Raises
    ------
    EncodingError
        If the checkpoint is cut off, or of other data or settings.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as stream:
            state = json.loads(stream.metadata()["state"])
        tensors = load_file(path)
    except (SafetensorError, TypeError, KeyError, ValueError, OSError) as error:
        raise EncodingError(f"The checkpoint {path.name} cannot be read ({error}); delete it and fit again.") from error
    if state["identity"] != identity_of(training):
        raise EncodingError(f"The checkpoint {path.name} was made with other data or settings; delete it or give an empty directory.")
    training.progress = Progress(**state["progress"])
    with torch.no_grad():
        for prefix, weights in (("weights", training.weights), ("average", training.average), ("best", training.best)):
            for name, value in weights.items():
                value.copy_(tensors[f"{prefix}.{name}"])
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": states})
    return True
