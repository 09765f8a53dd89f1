"""Train the phantom's backbones from scratch on rendered scenes.

    python -m mine_core.backbones.train_phantom --name phantom --scenes 300000 --device cpu --threads 1

Checkpoints (safetensors, one atomic file with weights, average, optimiser and settings) go to cache/training/<name>; a run
that was cut off goes on from the last one. `--export` writes the averaged weights to assets/backbones/<name>.
"""

import argparse
import copy
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from mine_core.backbones.phantom_losses import ReadOuts, total_loss
from mine_core.backbones.phantom_model import ASSETS, PhantomConfig, build_phantom_coca, normalise_pixels, save_phantom
from mine_core.backbones.tracing import quick_dtype
from mine_core.backbones.train_data import Batch, PhraseBank, SceneBatches, batches, vocabulary
from mine_core.config import cache_directory
from mine_core.errors import BackboneError

CHECKPOINT = "checkpoint.safetensors"
# training seeds lie far from those of subjects (small) and of evaluation (1,000,000 and following), and from each other
FIRST_SEED = {"phantom": 10_000_000, "phantom-plain": 500_000_000}
# initial weights differ too: a second encoder that began as the first would share its accidents
SEED = {"phantom": 1, "phantom-plain": 2}
SUPERVISION = {"phantom": "masks", "phantom-plain": "captions"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train; `minutes` (0: no limit) ends the schedule by time where the machine is slower than hoped."""

    name: str
    scenes: int
    minutes: float = 0.0
    batch_size: int = 64
    rate: float = 1.5e-3
    warm_up: float = 0.03
    hold: float = 0.35
    weight_decay: float = 0.05
    average: float = 0.998
    seed: int = 1
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.name not in FIRST_SEED:
            raise BackboneError(f"Unknown backbone '{self.name}'; expected one of {', '.join(FIRST_SEED)}.")
        if self.scenes < self.batch_size:
            raise BackboneError(f"{self.scenes} scenes make no batch of {self.batch_size}; give at least as many.")

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.scenes // self.batch_size

    def rate_at(self, progress: float) -> float:
        """Learning rate at a share of the run: linear warm-up, hold, linear fall to 1 % of the peak."""
        if progress < self.warm_up:
            return self.rate * max(progress, 1e-3) / self.warm_up
        fall = (progress - self.hold) / (1 - self.hold)
        return self.rate * (1 - 0.99 * min(max(fall, 0.0), 1.0))


@dataclass
class Progress:
    """How far a run has come, over all of its parts."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """A model, its running average, optimiser and progress."""

    def __init__(self, recipe: Recipe, config: PhantomConfig, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.device = recipe, config, device
        self.model = build_phantom_coca(config).to(device, memory_format=torch.channels_last)
        self.read = ReadOuts(len(PhraseBank().phrases), config.width).to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.progress = Progress()

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [*self.model.parameters(), *self.read.parameters()]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        rest = [parameter for parameter in parameters if parameter.ndim < 2]
        return [{"params": matrices, "weight_decay": self.recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def share_done(self) -> float:
        """Share of the run that is done, 0 to 1: of the steps, or of the time where that is more."""
        by_time = self.progress.seconds / 60 / self.recipe.minutes if self.recipe.minutes else 0.0
        return min(1.0, max(self.progress.step / self.recipe.steps, by_time))

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the losses, or raises BackboneError if they are not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.share_done())
        batch = self._moved(batch)
        pixels = self._augmented(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            loss, losses = total_loss(self.model, self.read, self.config, pixels, batch)
        if not torch.isfinite(loss):
            raise BackboneError(f"The loss is {loss.item()} at step {self.progress.step}; resume with a lower --rate.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.read.parameters()], 1.0)
        self.optimizer.step()
        self.progress.step += 1
        self._update_average()
        return {name: value.item() for name, value in losses.items()}

    def _moved(self, batch: Batch) -> Batch:
        longest = int((batch.caption_ids != 0).sum(dim=1).max())
        batch = replace(batch, caption_ids=batch.caption_ids[:, :longest])
        moved: dict[str, Any] = {
            name: value.to(self.device, non_blocking=True) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
        }
        return replace(batch, **moved)

    def _augmented(self, batch: Batch) -> torch.Tensor:
        """Pixels with a random brightness and contrast per image, a function of the step alone."""
        pixels = normalise_pixels(batch.images, self.config)
        rng = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.progress.step)
        change = torch.rand(2, len(pixels), 1, 1, 1, generator=rng).to(self.device)
        pixels = pixels * (0.85 + 0.3 * change[0]) + 0.3 * (change[1] - 0.5)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _precision(self) -> AbstractContextManager:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, self.progress.step / (self.progress.step + 9))
        floats = [
            (kept, value)
            for kept, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
            if kept.is_floating_point()
        ]
        torch._foreach_lerp_([kept for kept, _ in floats], [value for _, value in floats], 1 - decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint holds, by name."""
        named: dict[str, torch.Tensor] = {}
        for prefix, module in (("model", self.model), ("read", self.read), ("average", self.average)):
            named |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}

    def save(self, directory: Path) -> None:
        """Replace the checkpoint in one move."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {"recipe": asdict(self.recipe), "config": self.config.to_dict(), "progress": asdict(self.progress)}
        temporary = directory / f".{CHECKPOINT}"
        save_file(self.tensors(), temporary, metadata={"state": json.dumps(state)})
        temporary.replace(directory / CHECKPOINT)

    def restore(self, directory: Path) -> None:
        """Take up the state of a checkpoint of the same model."""
        tensors = load_file(directory / CHECKPOINT)
        self.progress = Progress(**read_state(directory)["progress"])
        for prefix, module in (("model", self.model), ("read", self.read), ("average", self.average)):
            module.load_state_dict(_under(tensors, prefix))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under(tensors, "optimizer").items():
            index, key = name.split(".", 1)
            like = parameters[int(index)]
            # the fused optimiser walks memory: a moment must lie in memory as its parameter does (channels last)
            laid = torch.empty_like(like).copy_(value) if value.shape == like.shape and value.ndim else value
            states.setdefault(int(index), {})[key] = laid
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

    def seconds_left(self) -> float:
        """Expected time to the end of the schedule."""
        done = self.share_done()
        return self.progress.seconds * (1 - done) / done if done else float("nan")


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def read_state(directory: Path) -> dict[str, Any]:
    """Recipe, model settings and progress of a checkpoint; raises BackboneError if there is none to read."""
    path = directory / CHECKPOINT
    if not path.is_file():
        raise BackboneError(f"No checkpoint at {path}; train first.")
    with safe_open(path, "pt") as stream:
        return json.loads(stream.metadata()["state"])


def start_or_resume(recipe: Recipe, config: PhantomConfig, device: torch.device, directory: Path) -> Training:
    """A new training, or the one of the checkpoint in `directory`, with its own model and this recipe's schedule."""
    if not (directory / CHECKPOINT).is_file():
        return Training(recipe, config, device)
    state = read_state(directory)
    kept = ("batch_size", "seed")
    training = Training(
        replace(recipe, **{name: state["recipe"][name] for name in kept}), PhantomConfig.from_dict(state["config"]), device
    )
    training.restore(directory)
    logger.info("resumed at step %d of %d", training.progress.step, training.recipe.steps)
    return training


def train(training: Training, directory: Path, *, workers: int, save_minutes: float, evaluate_minutes: float) -> None:
    """Run the schedule to its end, with checkpoints and quality on the way."""
    recipe, progress = training.recipe, training.progress
    dataset = SceneBatches(training.config, FIRST_SEED[recipe.name], recipe.batch_size)
    saved = evaluated = told = progress.seconds
    mark = time.perf_counter()
    # on a CPU, plain matrix products take half the time of the fused attention's backward pass
    with sdpa_kernel(SDPBackend.MATH) if training.device.type == "cpu" else nullcontext():
        for batch in batches(dataset, progress.step, recipe.steps, workers):
            losses = training.step(batch)
            progress.seconds, mark = progress.seconds + time.perf_counter() - mark, time.perf_counter()
            if progress.seconds - told > 20:
                told = progress.seconds
                _tell(training, losses)
            if progress.seconds - evaluated > 60 * evaluate_minutes:
                evaluated = progress.seconds
                _evaluate(training, directory)
                mark = time.perf_counter()
            if progress.seconds - saved > 60 * save_minutes:
                saved = progress.seconds
                training.save(directory)
            if training.share_done() >= 1:
                break
    training.save(directory)


def _tell(training: Training, losses: dict[str, float]) -> None:
    progress = training.progress
    parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
    logger.info(
        "step %d (%.0f %%), %.0f scenes/s, %.0f min left: %s",
        progress.step,
        100 * training.share_done(),
        progress.step * training.recipe.batch_size / progress.seconds,
        training.seconds_left() / 60,
        parts,
    )


def _evaluate(training: Training, directory: Path) -> None:
    from mine_core.backbones.phantom_quality import brief, measure

    found = brief(measure(training.average, training.config, n_scenes=500, n_bootstrap=0))
    entry = {"scenes": training.progress.step * training.recipe.batch_size, "seconds": training.progress.seconds, **found}
    training.progress.history.append(entry)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "quality.jsonl").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    logger.info("quality: %s", json.dumps(found))


def export(directory: Path, root: Path, notes: Sequence[str] = ()) -> PhantomConfig:
    """Write the averaged weights of a checkpoint to `root`/<name>, with how they came about and notes for the model card."""
    state = read_state(directory)
    config = PhantomConfig.from_dict(state["config"])
    model: CoCa = build_phantom_coca(config)
    model.load_state_dict(_under(load_file(directory / CHECKPOINT), "average"))
    recipe, progress = Recipe(**state["recipe"]), state["progress"]
    training = {
        "recipe": asdict(recipe),
        "first_seed": FIRST_SEED[recipe.name],
        "scenes_seen": progress["step"] * recipe.batch_size,
        "minutes": round(progress["seconds"] / 60, 1),
        "notes": list(notes),
    }
    return save_phantom(model, config, root / config.name, training)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, choices=sorted(FIRST_SEED))
    parser.add_argument("--scenes", type=int, default=1_000_000, help="scenes in all, those before a resume included")
    parser.add_argument("--minutes", type=float, default=0.0, help="end the schedule after this much time in all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that render")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--grid", type=int, default=8, choices=(8, 12, 24), help="patches along each side")
    parser.add_argument("--seed", type=int, help="of the initial weights and of the order within batches (default: each name's own)")
    parser.add_argument("--save-minutes", type=float, default=4.0)
    parser.add_argument("--evaluate-minutes", type=float, default=10.0)
    parser.add_argument("--export", action="store_true", help="write the last checkpoint to assets and do not train")
    parser.add_argument("--note", action="append", default=[], help="with --export: a sentence for the model card")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line of the training."""
    asked = _arguments().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    directory = cache_directory() / "training" / asked.name
    if asked.export:
        export(directory, ASSETS, asked.note)
        return
    torch.set_num_threads(asked.threads)
    seed = SEED[asked.name] if asked.seed is None else asked.seed
    precision = "bf16" if quick_dtype(asked.device) == torch.bfloat16 else "fp32"  # emulated, it is ten times as slow
    recipe = Recipe(asked.name, asked.scenes, asked.minutes, asked.batch, asked.rate, seed=seed, precision=precision)
    config = PhantomConfig(asked.name, vocabulary(), SUPERVISION[asked.name], grid=asked.grid, heads=3)
    training = start_or_resume(recipe, config, torch.device(asked.device), directory)
    train(
        training,
        directory,
        workers=asked.workers,
        save_minutes=asked.save_minutes,
        evaluate_minutes=asked.evaluate_minutes,
    )


if __name__ == "__main__":
    main()
