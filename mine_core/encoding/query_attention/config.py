"""Every choice of the query-attention encoder: frozen, hashable, refused when out of range."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from mine_core.errors import ConfigError

Precision = Literal["fp32", "bf16"]
GIGABYTE = 2**30


@dataclass(frozen=True)
class QueryAttentionConfig:
    """How to build and train a query-attention encoder.

    Parameters
    ----------
    heads : attention maps per voxel, each with a read-out of its own.
    key_width : width of a query and a key per head; 0 makes attention blind to what a token shows.
    frequencies : cosines along each side of the grid that a voxel's map of places is made of; 0 makes attention blind to
        where a token lies.
    value_width : dimensions of the pooled embedding that attention redistributes, those that ridge predicts most with; the
        others stay linear.
    feed_forward : hidden width of the feed-forward on each image and voxel; 0 leaves it out.
    ridge_start : whether read-outs start at ridge; otherwise at 0.
    penalty : the ridge penalty of each voxel is carried over times this.
    epochs : passes over the training images at most.
    patience : passes without a better validation error before it stops.
    images_per_step : images of one optimiser step.
    voxels_per_block : voxels that are computed at a time; changes memory and speed, not the result (but for rounding).
    rate_query, rate_place, rate_readout, rate_shared : largest learning rates of the one-cycle schedule.
    weight_decay : of AdamW, on all weights but the read-outs, which the ridge penalty holds.
    warm_up : share of the schedule until the largest rate.
    average : decay per step of the running average of the weights, which is what predicts.
    seed : of the key map's start and of the order of images.
    device, precision : `cpu` or a CUDA device; `bf16` computes products in bfloat16 (autocast), weights stay in float32.
    token_budget : bytes of prepared tokens to hold in the device's memory; beyond it they are read from disk at each step.
    """

    heads: int = 1
    key_width: int = 32
    frequencies: int = 8
    value_width: int = 192
    feed_forward: int = 64
    ridge_start: bool = True
    penalty: float = 50.0
    epochs: int = 6
    patience: int = 3
    images_per_step: int = 32
    voxels_per_block: int = 256
    rate_query: float = 2e-2
    rate_place: float = 4e-2
    rate_readout: float = 8e-3
    rate_shared: float = 6e-3
    weight_decay: float = 0.0
    warm_up: float = 0.2
    average: float = 0.98
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    token_budget: int = 2 * GIGABYTE

    def __post_init__(self) -> None:
        counts = ("heads", "value_width", "epochs", "patience", "images_per_step", "voxels_per_block")
        self._check(counts, lambda value: value >= 1, "at least 1")
        self._check(("key_width", "frequencies", "feed_forward", "token_budget", "seed"), lambda value: value >= 0, "0 or more")
        rates = ("rate_query", "rate_place", "rate_readout", "rate_shared", "weight_decay")
        self._check(rates, lambda value: 0 <= value < 1, "from 0 to below 1")
        self._check(("warm_up", "average"), lambda value: 0 <= value < 1, "from 0 to below 1")
        self._check(("penalty",), lambda value: 0 < value < float("inf"), "above 0 and finite")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"Unknown precision '{self.precision}'; expected one of {', '.join(get_args(Precision))}.")
        if not (self.key_width or self.frequencies):
            raise ConfigError("Attention blind to content (key_width 0) and to place (frequencies 0) is ridge; give one of them.")

    def _check(self, names: tuple[str, ...], holds: Any, expected: str) -> None:
        for name in names:
            if not holds(getattr(self, name)):
                raise ConfigError(f"Setting `{name}` is {getattr(self, name)}; it must be {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for keys and provenance."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QueryAttentionConfig":
        """Settings from plain values; raises ConfigError naming unknown keys."""
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"Unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        return cls(**values)
