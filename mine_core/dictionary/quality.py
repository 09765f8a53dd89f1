"""How good an autoencoder is: what it keeps of a token, by how few units, how many are of no use, and whether others find the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from mine_core.dictionary.autoencoder import Autoencoder
from mine_core.errors import AlignmentError, EncodingError

BATCH = 64
SAME = 0.7
"""Cosine of two decoder directions from which they count as the same unit."""


@dataclass(frozen=True)
class Quality:
    """An autoencoder on tokens it was not trained on.

    `explained` = 1 - sum |x - x_hat|^2 / sum |x - mean x|^2 over all dimensions; `active` units of a token (L0) on average;
    `dead` is the share of units that no token used; `null` is what is explained of tokens whose dimensions were shuffled
    among tokens, each on its own: chance for tokens without structure.
    """

    explained: float
    active: float
    dead: float
    null: float
    n_tokens: int


@dataclass(frozen=True)
class Stability:
    """Whether two autoencoders of other seeds hold the same units.

    `cosine` is the mean over units of the largest cosine with a unit of the other; `assigned` the mean under the best one-to-one
    assignment; `shared` the share of units assigned at 0.7 or more. `null` is `assigned` with decoder directions whose
    dimensions were shuffled over units: chance.
    """

    cosine: float
    assigned: float
    shared: float
    null: float


def score_autoencoder(
    autoencoder: Autoencoder,
    tokens: Float[np.ndarray, "stimulus patch width"],
    stimuli: Int[np.ndarray, " chosen"],
    rng: np.random.Generator,
) -> Quality:
    """Measure reconstruction, sparsity and dead units on some stimuli, which training must not have seen.

    Raises EncodingError if their tokens do not vary.
    """
    used = torch.zeros(autoencoder.n_units, dtype=torch.bool)
    counts = np.zeros(2)  # active units, tokens
    whole, shuffled = np.zeros((2, 2))  # squared error, squares about the mean
    mean = torch.cat([part.mean(dim=0, keepdim=True) for part in batches(autoencoder, tokens, stimuli)]).mean(dim=0)
    for part in batches(autoencoder, tokens, stimuli):
        codes = autoencoder.encode(part)
        used |= (codes > 0).any(dim=0)
        counts += (float((codes > 0).sum()), len(part))
        whole += _errors(autoencoder, part, mean)
        mixed = torch.from_numpy(rng.permuted(part.numpy(), axis=0))
        shuffled += _errors(autoencoder, mixed, mean)
    if not whole[1] > 0:
        raise EncodingError(f"Tokens of {len(stimuli)} stimuli do not vary; an autoencoder has nothing to explain.")
    return Quality(
        explained=float(1 - whole[0] / whole[1]),
        active=float(counts[0] / counts[1]),
        dead=float(1 - used.float().mean()),
        null=float(1 - shuffled[0] / shuffled[1]),
        n_tokens=int(counts[1]),
    )


def batches(
    autoencoder: Autoencoder, tokens: Float[np.ndarray, "stimulus patch width"], stimuli: Int[np.ndarray, " chosen"]
) -> Iterator[Float[torch.Tensor, "token width"]]:
    """Standardised tokens of some stimuli, few at a time; of pooled tokens many stimuli."""
    size = max(1, BATCH * 64 // tokens.shape[1])
    return (autoencoder.standard.apply(tokens[stimuli[start : start + size]]) for start in range(0, len(stimuli), size))


def _errors(autoencoder: Autoencoder, tokens: torch.Tensor, mean: torch.Tensor) -> tuple[float, float]:
    left = autoencoder.decode(autoencoder.encode(tokens)) - tokens
    return float(left.square().sum(dtype=torch.float64)), float((tokens - mean).square().sum(dtype=torch.float64))


def stability(one: Autoencoder, other: Autoencoder, rng: np.random.Generator) -> Stability:
    """Match the units of two autoencoders by the cosine of their decoder directions; raises AlignmentError if widths differ."""
    ours, theirs = (np.asarray(ae.weights["decoder"].numpy(), np.float64) for ae in (one, other))
    if ours.shape[1] != theirs.shape[1]:
        raise AlignmentError(f"Autoencoders of tokens of {ours.shape[1]} and {theirs.shape[1]} dimensions cannot be compared.")
    cosine = ours @ theirs.T
    rows, cols = linear_sum_assignment(-cosine)
    assigned = cosine[rows, cols]
    mixed = rng.permuted(theirs, axis=0)
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    chance = ours @ mixed.T
    return Stability(
        cosine=float(cosine.max(axis=1).mean()),
        assigned=float(assigned.mean()),
        shared=float((assigned >= SAME).mean()),
        null=float(chance[linear_sum_assignment(-chance)].mean()),
    )
