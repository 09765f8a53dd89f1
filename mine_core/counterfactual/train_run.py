"""One stage of a training: weights, their running average, optimiser and progress, and a checkpoint that holds all of them."""

import copy
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mine_core.errors import EditError

CHECKPOINT = "checkpoint.safetensors"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained; it ends after `steps`, or after `minutes` in all where that comes first (0: no limit)."""

    stage: str
    steps: int
    minutes: float = 0.0
    batch_size: int = 32
    rate: float = 1e-3
    warm_up: float = 0.01
    hold: float = 0.4
    weight_decay: float = 0.01
    average: float = 0.998
    seed: int = 1
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.minutes < 0:
            raise EditError(f"{self.steps} steps of {self.batch_size} in {self.minutes:g} minutes make no training.")
        if self.precision not in ("bf16", "fp32"):
            raise EditError(f"Unknown precision '{self.precision}'; expected 'bf16' or 'fp32'.")

    def rate_at(self, progress: float) -> float:
        """Learning rate at a share of the stage: linear warm-up, hold, linear fall to 1 % of the peak."""
        if progress < self.warm_up:
            return self.rate * max(progress, 0.02 * self.warm_up) / self.warm_up
        fall = (progress - self.hold) / (1 - self.hold)
        return self.rate * (1 - 0.99 * min(max(fall, 0.0), 1.0))

    def generator(self, step: int) -> torch.Generator:
        """Randomness of one step, a function of the seed and of the step's number."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)


@dataclass
class Progress:
    """How far a stage has come, over all of its parts."""

    step: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """A stage of a training in memory; `parts` are trained together and averaged together."""

    recipe: Recipe
    parts: nn.ModuleDict
    device: torch.device
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.parts = self.parts.to(device=self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.parts).eval().requires_grad_(False)
        self.parameters = list(self.parts.parameters())
        decayed = [parameter for parameter in self.parameters if parameter.ndim >= 2]
        rest = [parameter for parameter in self.parameters if parameter.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.recipe.rate, betas=(0.9, 0.99), eps=1e-6, fused=True)

    def share_done(self) -> float:
        """Share of the stage that is done, 0 to 1: of the steps, or of the time where that is more."""
        by_time = self.progress.seconds / 60 / self.recipe.minutes if self.recipe.minutes else 0.0
        return min(1.0, max(self.progress.step / self.recipe.steps, by_time))

    def seconds_left(self) -> float:
        """Expected time to the end of the stage."""
        done = self.share_done()
        return self.progress.seconds * (1 - done) / done if done else float("nan")

    def precision(self) -> AbstractContextManager:
        """Autocast to bfloat16, or nothing."""
        return nullcontext() if self.recipe.precision == "fp32" else torch.autocast(self.device.type, dtype=torch.bfloat16)

    def step(self, loss_of: Callable[[nn.ModuleDict], Tensor]) -> float:
        """One optimiser step on `loss_of(parts)`; returns the loss, or raises EditError if it is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.share_done())
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(self.parts)
        if not torch.isfinite(loss):
            raise EditError(f"The loss is {loss.item()} at step {self.progress.step} of stage {self.recipe.stage}; lower the rate.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.progress.step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, self.progress.step / (self.progress.step + 9))
        pairs = zip(self.average.state_dict().values(), self.parts.state_dict().values(), strict=True)
        floats = [(kept, value) for kept, value in pairs if kept.is_floating_point()]
        torch._foreach_lerp_([kept for kept, _ in floats], [value for _, value in floats], 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds, by name."""
        named: dict[str, Tensor] = {}
        for prefix, module in (("parts", self.parts), ("average", self.average)):
            named |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}

    def save(self, directory: Path, shape: dict[str, Any]) -> None:
        """Replace the checkpoint in one move; `shape` says which networks its weights are of."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {"recipe": asdict(self.recipe), "shape": shape, "progress": asdict(self.progress)}
        write_tensors(directory / CHECKPOINT, self.tensors(), {"state": json.dumps(state)})

    def restore(self, directory: Path) -> None:
        """Take up the state of a checkpoint of the same networks."""
        tensors = load_file(directory / CHECKPOINT)
        self.progress = Progress(**read_state(directory)["progress"])
        self.parts.load_state_dict(under(tensors, "parts"))
        self.average.load_state_dict(under(tensors, "average"))
        ordered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in under(tensors, "optimizer").items():
            index, key = name.split(".", 1)
            like = ordered[int(index)]
            # the fused optimiser walks memory: a moment must lie in memory as its parameter does (channels last)
            laid = torch.empty_like(like).copy_(value) if value.shape == like.shape and value.ndim else value
            states.setdefault(int(index), {})[key] = laid
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

    def train(self, losses: Iterable[Callable[[nn.ModuleDict], Tensor]], save: Callable[["Run"], None], *, save_minutes: float) -> None:
        """Take steps until the stage is done, with a checkpoint now and then and at the end."""
        progress = self.progress
        saved = told = progress.seconds
        mark = time.perf_counter()
        # on a CPU, plain matrix products take half the time of the fused attention's backward pass
        with sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext():
            smooth = float("nan")
            for loss_of in losses:
                if self.share_done() >= 1:
                    break
                loss = self.step(loss_of)
                smooth = loss if smooth != smooth else 0.98 * smooth + 0.02 * loss
                progress.seconds, mark = progress.seconds + time.perf_counter() - mark, time.perf_counter()
                if progress.seconds - told > 20:
                    told = progress.seconds
                    self._tell(smooth)
                if progress.seconds - saved > 60 * save_minutes:
                    saved = progress.seconds
                    save(self)
        save(self)

    def _tell(self, loss: float) -> None:
        logger.info(
            "%s: step %d (%.0f %%), %.0f pictures/s, %.0f min left, loss %.4f",
            self.recipe.stage,
            self.progress.step,
            100 * self.share_done(),
            self.progress.step * self.recipe.batch_size / self.progress.seconds,
            self.seconds_left() / 60,
            loss,
        )


class StepLosses(ABC):
    """Losses of a stage, one after the other from the step that it has come to, each a function of its step's number."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __iter__(self) -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
        while True:
            yield self.loss_at(self.run.progress.step)

    @abstractmethod
    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step, as a function of the stage's networks."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace a file of tensors in one move."""
    temporary = path.with_name(f".{path.name}")
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def read_about(path: Path) -> dict[str, Any]:
    """What a file of tensors says that it was made from."""
    with safe_open(path, "pt") as stream:
        return json.loads(stream.metadata()["about"])


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def read_state(directory: Path) -> dict[str, Any]:
    """Recipe, shape and progress of a checkpoint; raises EditError if there is none to read."""
    path = directory / CHECKPOINT
    if not path.is_file():
        raise EditError(f"No checkpoint at {path}; train this stage first.")
    with safe_open(path, "pt") as stream:
        return json.loads(stream.metadata()["state"])
