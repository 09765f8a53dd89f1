"""Sparse autoencoders: a token as a sum of few of many units.

A small module of its own: the libraries that have these either bring a stack for language models with them, or train without
checkpoints, and what is needed here is a page of code.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mine_core.errors import ArtifactError, ConfigError

Kind = Literal["topk", "jumprelu"]
TokenKind = Literal["patch", "pooled"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOKEN_KINDS: tuple[TokenKind, ...] = get_args(TokenKind)
WEIGHTS = ("encoder", "encoder_bias", "decoder", "decoder_bias", "log_threshold")
FILE = "autoencoder.safetensors"


@dataclass(frozen=True)
class AutoencoderConfig:
    """How an autoencoder is built and trained.

    Parameters
    ----------
    kind : "topk" keeps the `active` largest units of every token (Gao et al. 2024, arXiv:2406.04093); "jumprelu" keeps what
        passes a threshold of its own for every unit, trained towards `active` on average (Rajamanoharan et al. 2024,
        arXiv:2407.14435).
    expansion : units for each dimension of a token.
    active : units that make up one token.
    epochs, tokens_per_step, rate : of training with Adam; the rate rises over a twentieth and falls over the last third.
    sparsity : weight of the penalty (L0 / active - 1)^2 of "jumprelu".
    bandwidth : width of the kernel that lets a gradient through the jump of "jumprelu".
    seed : of the first weights, the order of images and what dead units become.
    """

    kind: Kind = "topk"
    expansion: int = 4
    active: int = 16
    epochs: int = 12
    tokens_per_step: int = 1024
    rate: float = 2e-3
    sparsity: float = 0.5
    bandwidth: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Unknown autoencoder '{self.kind}'; expected one of {', '.join(KINDS)}.")
        counts = ("expansion", "active", "epochs", "tokens_per_step")
        wrong = [name for name in counts if getattr(self, name) < 1] + [n for n in ("rate", "bandwidth") if not getattr(self, n) > 0]
        if wrong or self.sparsity < 0:
            raise ConfigError(f"{', '.join(wrong) or 'sparsity'} of an autoencoder must be above 0; {self} was given.")


@dataclass(frozen=True)
class Standard:
    """What a token is counted from and in: the mean training token at its place, and one scale for all."""

    mean: Float[np.ndarray, "patch width"]
    scale: float

    @classmethod
    def of(cls, tokens: Float[np.ndarray, "stimulus patch width"], chosen: Int[np.ndarray, " chosen"], batch: int = 256) -> "Standard":
        """Mean token at every place, and the root mean square of what is left of a dimension, over the chosen stimuli."""
        total, square = np.zeros(tokens.shape[1:]), np.zeros(tokens.shape[1:])
        for start in range(0, len(chosen), batch):
            part = np.asarray(tokens[chosen[start : start + batch]], np.float64)
            total += part.sum(axis=0)
            square += (part**2).sum(axis=0)
        mean = total / len(chosen)
        scale = float(np.sqrt(np.maximum(square / len(chosen) - mean**2, 0).mean()))
        return cls(mean.astype(np.float32), scale or 1.0)

    def apply(self, tokens: np.ndarray) -> Float[Tensor, "token width"]:
        """Tokens of some stimuli one below the other, from the mean at their place, in units of the scale."""
        centred = (np.asarray(tokens, np.float32) - self.mean) / np.float32(self.scale)
        return torch.from_numpy(centred.reshape(-1, centred.shape[-1]))


@dataclass(frozen=True)
class Autoencoder:
    """Weights of a trained autoencoder and what its tokens are counted from; shared by threads, never changed.

    pre = (x - decoder_bias) @ encoder + encoder_bias; code = activate(pre); x_hat = code @ decoder + decoder_bias. Rows of the
    decoder have length 1, so that a code says how much of a direction a token has, in units of the scale.
    """

    config: AutoencoderConfig
    weights: dict[str, Tensor]
    standard: Standard

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return int(self.weights["decoder"].shape[0])

    @torch.no_grad()
    def encode(self, tokens: Float[Tensor, "token width"]) -> Float[Tensor, "token unit"]:
        """Codes of standardised tokens; at least 0."""
        return activate(self.config, self.weights, preactivations(self.weights, tokens))

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "token unit"]) -> Float[Tensor, "token width"]:
        """Standardised tokens that codes stand for."""
        return codes @ self.weights["decoder"] + self.weights["decoder_bias"]

    def save(self, directory: Path) -> None:
        """Write all of it as one file of safetensors."""
        named = {name: value.detach().contiguous() for name, value in self.weights.items()}
        named["mean"] = torch.from_numpy(np.ascontiguousarray(self.standard.mean))
        record = {"config": asdict(self.config), "scale": self.standard.scale}
        save_file(named, directory / FILE, metadata={"record": json.dumps(record)})


def load_autoencoder(directory: Path) -> Autoencoder:
    """Read what `Autoencoder.save` wrote; raises ArtifactError if it cannot be read."""
    path = directory / FILE
    try:
        with safe_open(path, "pt") as stream:
            record = json.loads(stream.metadata()["record"])
        tensors = load_file(path)
        known = {entry.name for entry in fields(AutoencoderConfig)}
        config = AutoencoderConfig(**{name: value for name, value in record["config"].items() if name in known})
        weights = {name: tensors[name] for name in WEIGHTS}
        return Autoencoder(config, weights, Standard(tensors["mean"].numpy(), float(record["scale"])))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{directory.name}/{FILE} cannot be read ({error}); delete the folder and fit again.") from error


def preactivations(weights: dict[str, Tensor], tokens: Float[Tensor, "token width"]) -> Float[Tensor, "token unit"]:
    """What every unit reads of standardised tokens."""
    return (tokens - weights["decoder_bias"]) @ weights["encoder"] + weights["encoder_bias"]


def activate(config: AutoencoderConfig, weights: dict[str, Tensor], pre: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
    """Codes: the `active` largest, none below 0; or what passes its unit's threshold."""
    if config.kind == "topk":
        values, places = torch.topk(pre, min(config.active, pre.shape[1]), dim=1)
        return torch.zeros_like(pre).scatter(1, places, torch.relu(values))
    return _Jump.apply(pre, weights["log_threshold"], config.bandwidth)


def count_active(config: AutoencoderConfig, weights: dict[str, Tensor], pre: Float[Tensor, "token unit"]) -> Float[Tensor, ""]:
    """Mean number of active units of a token, with a gradient towards the thresholds of "jumprelu"."""
    return _Step.apply(pre, weights["log_threshold"], config.bandwidth).sum(dim=1).mean()


class _Jump(torch.autograd.Function):
    """z = x if x > theta else 0; the jump's gradient towards theta is -theta / bandwidth within half a bandwidth of it."""

    @staticmethod
    def forward(ctx, pre, log_threshold, bandwidth):  # noqa: ANN001, ANN205
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ANN001, ANN205
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        towards_theta = -(threshold / ctx.bandwidth) * (near * gradient).sum(dim=0)
        return gradient * (pre > threshold), towards_theta * threshold, None


class _Step(torch.autograd.Function):
    """H(x - theta); its gradient towards theta is -1 / bandwidth within half a bandwidth of it."""

    @staticmethod
    def forward(ctx, pre, log_threshold, bandwidth):  # noqa: ANN001, ANN205
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ANN001, ANN205
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -(near * gradient).sum(dim=0) / ctx.bandwidth * threshold, None
