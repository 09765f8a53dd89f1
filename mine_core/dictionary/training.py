"""Training of a sparse autoencoder: steps over images, revival of dead units, checkpoint and resume."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mine_core.dictionary.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    Standard,
    activate,
    count_active,
    preactivations,
)
from mine_core.errors import Cancelled, EncodingError
from mine_core.types import IsCancelled, OnProgress

CHECKPOINT = "autoencoder_training.safetensors"
FIRST_ACTIVE = 4
"""A threshold starts where this many times the wanted number of units pass it, and falls or rises from there."""
REVIVED_LENGTH = 0.2
"""Length of a revived unit's encoder column, as a share of the mean of those alive (Bricken et al. 2023)."""
LAST_REVIVAL = 0.7
"""Share of the epochs after which no unit is revived: what is revived needs time to learn."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
POOL = 8192  # tokens that dead units may take after


@dataclass
class Progress:
    """How far a run has come; `history` holds the error, active units and dead units of each epoch."""

    epoch: int = 0
    step: int = 0
    history: list[list[float]] = field(default_factory=list)


class Training:
    """Weights, Adam's moments and progress of one run; resumed, it does exactly what it would have done."""

    def __init__(
        self, tokens: Float[np.ndarray, "stimulus patch width"], train: Int[np.ndarray, " train"], config: AutoencoderConfig
    ) -> None:
        if len(train) < 2:
            raise EncodingError(f"{len(train)} training stimuli were given; an autoencoder needs at least 2.")
        self.tokens, self.train, self.config = tokens, train, config
        self.standard = Standard.of(tokens, train)
        self.weights = self._initial()
        self.moments = {name: [torch.zeros_like(value), torch.zeros_like(value)] for name, value in self.weights.items()}
        self.progress = Progress()
        self.fired = torch.zeros(self.weights["decoder"].shape[0], dtype=torch.bool)

    def _initial(self) -> dict[str, Tensor]:
        """Random directions of length 1, encoder and decoder alike, and one threshold for all."""
        width = self.tokens.shape[2]
        n_units = self.config.expansion * width
        draw = torch.Generator().manual_seed(self.config.seed)
        decoder = torch.nn.functional.normalize(torch.randn(n_units, width, generator=draw), dim=1)
        threshold = 1.0
        if self.config.kind == "jumprelu":
            rows = np.random.default_rng([self.config.seed, 2]).permutation(self.train)[: self.images_per_step]
            passing = min(0.5, FIRST_ACTIVE * self.config.active / n_units)
            threshold = max(float(np.quantile((self.batch(rows) @ decoder.T).numpy(), 1 - passing)), 1e-3)
        return {
            "encoder": decoder.T.clone().contiguous(),
            "encoder_bias": torch.zeros(n_units),
            "decoder": decoder,
            "decoder_bias": torch.zeros(width),
            "log_threshold": torch.full((n_units,), math.log(threshold)),
        }

    @property
    def images_per_step(self) -> int:
        """Images whose tokens make up one step."""
        return max(1, min(len(self.train), self.config.tokens_per_step // self.tokens.shape[1]))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the training images."""
        return max(1, len(self.train) // self.images_per_step)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch >= self.config.epochs

    def order(self) -> Int[np.ndarray, " train"]:
        """Training images in this epoch's order: a function of seed and epoch alone, so that a resumed run sees the same."""
        return np.random.default_rng([self.config.seed, self.progress.epoch]).permutation(self.train)

    def batch(self, stimuli: Int[np.ndarray, " some"]) -> Float[Tensor, "token width"]:
        """Standardised tokens of some stimuli."""
        return self.standard.apply(self.tokens[np.sort(stimuli)])

    def step(self, stimuli: Int[np.ndarray, " some"]) -> tuple[float, float]:
        """One optimiser step; returns the squared error (of a variance of 1 a dimension) and the active units of a token."""
        tokens, config = self.batch(stimuli), self.config
        weights = {name: value.requires_grad_() for name, value in self.weights.items()}
        pre = preactivations(weights, tokens)
        codes = activate(config, weights, pre)
        error = (codes @ weights["decoder"] + weights["decoder_bias"] - tokens).square().mean()
        loss = error
        if config.kind == "jumprelu":
            loss = loss + config.sparsity * (count_active(config, weights, pre) / config.active - 1).square()
        loss.backward()
        with torch.no_grad():
            used = codes > 0
            self.fired |= used.any(dim=0)
            self._update(weights)
        found = float(error.detach()), float(used.sum(dim=1, dtype=torch.float32).mean())
        if not math.isfinite(found[0]):
            raise EncodingError(f"The error is {found[0]} at step {self.progress.step}; fit again with a lower rate.")
        return found

    def _rate(self) -> float:
        share = self.progress.step / (self.steps_per_epoch * self.config.epochs)
        return self.config.rate * min(1.0, share / 0.05 + 0.01, (1 - share) / 0.33)

    def _update(self, weights: dict[str, Tensor]) -> None:
        """Adam (Kingma and Ba 2015, arXiv:1412.6980); the decoder moves along the sphere of rows of length 1."""
        self.progress.step += 1
        step, rate = self.progress.step, self._rate()
        for name, value in weights.items():
            gradient = value.grad
            value.requires_grad_(False)
            if gradient is None:
                continue
            value.grad = None
            if name == "decoder":
                gradient = gradient - (gradient * value).sum(dim=1, keepdim=True) * value
            first, second = self.moments[name]
            first.lerp_(gradient, 1 - BETAS[0])
            second.lerp_(gradient.square(), 1 - BETAS[1])
            size = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
            value.addcdiv_(first / (1 - BETAS[0] ** step), size, value=-rate)
        weights["decoder"] /= weights["decoder"].norm(dim=1, keepdim=True).clamp(min=1e-8)

    def end_epoch(self, error: float, active: float) -> None:
        """Note how the epoch went, and revive what no training token used in it."""
        dead = torch.nonzero(~self.fired)[:, 0]
        self.progress.history.append([error, active, float(len(dead))])
        self.progress.epoch += 1
        if len(dead) and self.progress.epoch < LAST_REVIVAL * self.config.epochs:
            self.revive(dead)
        self.fired.zero_()

    @torch.no_grad()
    def revive(self, dead: Int[Tensor, " dead"]) -> None:
        """Point dead units at what is left of tokens that are reconstructed worst, drawn by squared error, and forget their past.

        After Bricken et al. (2023), https://transformer-circuits.pub/2023/monosemantic-features.
        """
        config, rng = self.config, np.random.default_rng([self.config.seed, self.progress.epoch, 1])
        n_images = max(1, min(len(self.train), POOL // self.tokens.shape[1]))
        tokens = self.batch(rng.permutation(self.train)[:n_images])
        codes = activate(config, self.weights, preactivations(self.weights, tokens))
        left = tokens - codes @ self.weights["decoder"] - self.weights["decoder_bias"]
        share = left.square().sum(dim=1).double().numpy()
        rows = rng.choice(len(left), size=len(dead), p=share / share.sum()) if share.sum() > 0 else np.zeros(len(dead), int)
        direction = torch.nn.functional.normalize(left[torch.from_numpy(rows)], dim=1)
        alive = self.fired.nonzero()[:, 0]
        length = float(self.weights["encoder"][:, alive].norm(dim=0).mean()) if len(alive) else 1.0
        self.weights["decoder"][dead] = direction
        self.weights["encoder"][:, dead] = (REVIVED_LENGTH if config.kind == "topk" else 1.0) * length * direction.T
        self.weights["encoder_bias"][dead] = 0
        self.weights["log_threshold"][dead] = self.weights["log_threshold"][alive].median() if len(alive) else 0.0
        for name, (first, second) in self.moments.items():
            for moment in (first, second):
                if name == "encoder":
                    moment[:, dead] = 0
                elif name != "decoder_bias":
                    moment[dead] = 0

    def result(self) -> Autoencoder:
        """The autoencoder as it stands."""
        return Autoencoder(self.config, {name: value.detach().clone() for name, value in self.weights.items()}, self.standard)


def train_autoencoder(
    tokens: Float[np.ndarray, "stimulus patch width"],
    train: Int[np.ndarray, " train"],
    config: AutoencoderConfig,
    scratch: Path | None = None,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[Autoencoder, list[list[float]]]:
    """Train on the tokens of the training stimuli; with `scratch`, a run that is stopped goes on from its last epoch.

    Parameters
    ----------
    tokens : of all stimuli; read image by image, so that a memory-mapped store is never held whole.

    Returns
    -------
    The autoencoder, and mean squared error, active units and dead units of every epoch.

    Raises
    ------
    EncodingError
        If there are fewer than 2 training stimuli, the error is not finite, or a checkpoint is of other data or settings.
    Cancelled
        When `cancelled()` becomes True between steps; the checkpoint of the last whole epoch is kept.
    """
    run = Training(tokens, train, config)
    if scratch is not None:
        restore(run, scratch)
    while not run.finished:
        order, size = run.order(), run.images_per_step
        sums = np.zeros(2)
        for index in range(run.steps_per_epoch):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped in epoch {run.progress.epoch + 1} of {config.epochs}; the last whole epoch is kept.")
            sums += run.step(order[index * size : (index + 1) * size])
            if on_progress is not None:
                on_progress(run.progress.step, run.steps_per_epoch * config.epochs, "training a sparse autoencoder")
        run.end_epoch(*(sums / run.steps_per_epoch).tolist())
        if scratch is not None:
            save_checkpoint(run, scratch)
    return run.result(), run.progress.history


def identity_of(run: Training) -> str:
    """Hash of everything that a checkpoint must share with the run that takes it up."""
    digest = hashlib.sha256(json.dumps([asdict(run.config), list(run.tokens.shape)], sort_keys=True).encode())
    for array in (run.train, run.standard.mean, np.float64(run.standard.scale)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_checkpoint(run: Training, directory: Path) -> None:
    """Replace the checkpoint in one move: weights, moments and progress."""
    directory.mkdir(parents=True, exist_ok=True)
    named = dict(run.weights)
    for name, (first, second) in run.moments.items():
        named |= {f"first.{name}": first, f"second.{name}": second}
    state = json.dumps({"identity": identity_of(run), "progress": asdict(run.progress)})
    temporary = directory / f".{CHECKPOINT}"
    save_file({name: value.detach().contiguous() for name, value in named.items()}, temporary, metadata={"state": state})
    temporary.replace(directory / CHECKPOINT)


def restore(run: Training, directory: Path) -> bool:
    """Take up the run of a checkpoint in `directory`, if there is one; raises EncodingError if it is cut off or of another run."""
    path = directory / CHECKPOINT
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as stream:
            state = json.loads(stream.metadata()["state"])
        tensors = load_file(path)
        if state["identity"] != identity_of(run):
            raise EncodingError(f"The checkpoint in {directory.name} is of other data or settings; delete it and fit again.")
        run.weights = {name: tensors[name] for name in run.weights}
        run.moments = {name: [tensors[f"first.{name}"], tensors[f"second.{name}"]] for name in run.weights}
        run.progress = Progress(**state["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise EncodingError(f"The checkpoint in {directory.name} cannot be read ({error}); delete it and fit again.") from error
    return True
