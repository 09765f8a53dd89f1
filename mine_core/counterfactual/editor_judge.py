"""An independent judge of the phantom's editor: a small classifier that was shown rendered objects and never an edited picture.

It says which concept a window shows, and each attribute that is drawn. Its accuracy on rendered objects is the ceiling of what
it can find in painted ones, and is measured beside them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mine_core.counterfactual.train_autoencoder import batches, to_pixels
from mine_core.counterfactual.train_pairs import CropChunks
from mine_core.counterfactual.train_run import CHECKPOINT, Recipe, Run
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

JUDGED_SIZE = 64
FIRST_SEED = 900_000_000  # no scene of the editor's training
DRAWN_ATTRIBUTES = ("colour", "expression", "glasses", "hat", "hair", "age", "view", "pose")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "concept": tuple(concept.name for concept in scenes.CONCEPTS),
    **{name: scenes.ATTRIBUTES[name] for name in DRAWN_ATTRIBUTES},
}
logger = logging.getLogger(__name__)


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.relu(x + self.second(x))


class Judge(nn.Module):
    """A residual network of four levels with one read-out per question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 96, 128)
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(*(_Block(a, b, 2 if a != b else 1) for a, b in zip(widths[:1] + widths[:-1], widths, strict=True)))
        self.answers = nn.ModuleDict({name: nn.Linear(widths[-1], len(values)) for name, values in QUESTIONS.items()})

    def forward(self, pixels: Float[Tensor, "image 3 row col"]) -> dict[str, Tensor]:
        """Scores of each question's answers."""
        found = self.blocks(self.stem(pixels)).mean((2, 3))
        return {name: read(found) for name, read in self.answers.items()}


def answers_of(items: Sequence[scenes.SceneObject]) -> dict[str, Int[np.ndarray, " item"]]:
    """True answers per question; -1 where a question does not apply."""
    told = [{"concept": item.concept, **dict(item.attributes)} for item in items]
    return {name: np.array([values.index(each[name]) if name in each else -1 for each in told]) for name, values in QUESTIONS.items()}


def judge_loss(parts: nn.ModuleDict, images: Tensor, answers: dict[str, Tensor], run: Run) -> Float[Tensor, ""]:
    """Cross-entropy of the concept, plus that of each attribute where it applies."""
    with run.precision():
        found = parts["judge"](to_pixels(images))
    loss = F.cross_entropy(found["concept"].float(), answers["concept"])
    for name in DRAWN_ATTRIBUTES:
        if (answers[name] >= 0).any():
            loss = loss + 0.5 * F.cross_entropy(found[name].float(), answers[name], ignore_index=-1)
    return loss


def trained_judge(directory: Path, n_pictures: int = 30_000, epochs: int = 3, *, workers: int = 0) -> Judge:
    """Read the judge of a directory, or train one on `n_pictures` rendered objects in windows under masks of any aspect."""
    steps = max(1, n_pictures * epochs // 64)
    torch.manual_seed(5)
    run = Run(
        Recipe("judge", steps, batch_size=64, rate=3e-3, weight_decay=0.02, seed=5),
        nn.ModuleDict({"judge": Judge()}),
        torch.device("cpu"),
    )
    if (directory / CHECKPOINT).is_file():
        run.restore(directory)
    if run.progress.step < steps:
        images, items = rendered_objects(n_pictures, FIRST_SEED, workers)
        run.train(_losses(run, images, items), lambda done: done.save(directory, {}), save_minutes=5.0)
    # the running average holds averaged batch statistics, too
    judge = run.average["judge"]
    if not isinstance(judge, Judge):
        raise EditError(f"{directory / CHECKPOINT} holds no judge; delete it.")
    return judge.eval()


def rendered_objects(n: int, first_seed: int, workers: int = 0) -> tuple[UInt8[Tensor, "object row col 3"], list[scenes.SceneObject]]:
    """Windows of rendered insertions, and what they show."""
    images: list[Tensor] = []
    items: list[scenes.SceneObject] = []
    for pictures, _, shown in batches(CropChunks(first_seed, JUDGED_SIZE, 4), 0, n, workers):
        rows = [row for row, item in enumerate(shown) if item is not None]
        images.append(pictures[rows])
        items += [shown[row] for row in rows]
        if len(items) >= n:
            break
    return torch.cat(images)[:n], items[:n]


def _losses(run: Run, images: Tensor, items: Sequence[scenes.SceneObject]) -> Iterator[Callable[[nn.ModuleDict], Tensor]]:
    answers = {name: torch.from_numpy(values) for name, values in answers_of(items).items()}
    while True:
        rng = np.random.default_rng([run.recipe.seed, run.progress.step])
        rows = torch.from_numpy(rng.integers(0, len(items), run.recipe.batch_size))
        told = {name: values[rows] for name, values in answers.items()}
        yield partial(judge_loss, images=_varied(images[rows], rng), answers=told, run=run)


def _varied(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures a little softer, lighter or noisier, as an autoencoder leaves them; none is mirrored, for views have a side."""
    light = torch.from_numpy(rng.uniform(-18, 18, (len(images), 1, 1, 3)).astype(np.float32))
    grain = torch.from_numpy(rng.normal(0, rng.uniform(0, 8), images.shape).astype(np.float32))
    pictures = images.float()
    if rng.random() < 0.5:
        channels_first = pictures.permute(0, 3, 1, 2)
        soft = F.interpolate(F.avg_pool2d(channels_first, 2), scale_factor=2, mode="bilinear")
        pictures = torch.lerp(channels_first, soft, float(rng.uniform(0.2, 1))).permute(0, 2, 3, 1)
    return (pictures + light + grain).clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def judged(judge: Judge, images: UInt8[np.ndarray, "image row col 3"]) -> dict[str, Int[np.ndarray, " image"]]:
    """The judge's answer to every question about windows of 64 pixels."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in QUESTIONS}
    for start in range(0, len(images), 128):
        scores = judge(to_pixels(torch.from_numpy(images[start : start + 128])))
        for name, values in scores.items():
            found[name].append(values.argmax(1).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
