"""A second judge of painted faces: a small network fit on rendered ones, sharp and softened.

What is painted is softer than what is rendered, and a mouth is smaller than the patches that the first judge (`editor_judge`) reads:
of faces that a Gaussian of 0.7 pixels has softened, at which nobody would err, it takes one in four for another expression. What it
says of painted faces is partly how sharp they are. This one has learnt what a face tells at any softness. It shares no weights,
scenes or features with the editor or with the first judge, and never saw an edited picture. Its accuracy on rendered faces, sharp and
softened, is measured beside.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from mine_core.artifacts import hash_text
from mine_core.counterfactual.asked import QUESTIONS, answers_of
from mine_core.counterfactual.editor_judge import FIRST_SEED, SOFTEST, Views, close_up, close_ups, rendered_views, softened
from mine_core.counterfactual.train_autoencoder import to_pixels
from mine_core.counterfactual.train_critic import answers_loss
from mine_core.counterfactual.train_run import Recipe, Run, StepLosses, write_tensors
from mine_core.subjects.phantom import scenes

FACE_QUESTIONS = ("expression", "glasses", "hat", "hair", "age", "view")
CLOSE_SIZE = 64
WIDTHS = (24, 48, 48, 96, 96, 128, 128, 128)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
RECIPE = Recipe("face-judge", 2400, batch_size=32, rate=1e-3, weight_decay=0.02, precision="fp32")


class FaceReader(nn.Module):
    """Convolutions over a close-up, and one linear read-out of all their places per question."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((3, *WIDTHS[:-1]), WIDTHS, STRIDES, strict=True)
        self.body = nn.Sequential(*(_block(before, after, stride) for before, after, stride in pairs))
        self.drop = nn.Dropout(0.3)
        places = (CLOSE_SIZE // int(np.prod(STRIDES))) ** 2
        self.answers = nn.ModuleDict({name: nn.Linear(WIDTHS[-1] * places, len(QUESTIONS[name])) for name in FACE_QUESTIONS})

    def forward(self, shown: Float[Tensor, "face 3 row col"]) -> dict[str, Float[Tensor, "face answer"]]:
        """Scores of the answers to each question, from pixels of -1 to 1."""
        x = self.drop(self.body(shown).flatten(1))
        return {name: head(x) for name, head in self.answers.items()}


def _block(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.SiLU())


@dataclass(frozen=True, eq=False)
class FaceJudge:
    """A reader that has learnt."""

    reader: FaceReader

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Int[np.ndarray, " view"]]:
        """Answer every question about faces for every view, as positions in `QUESTIONS`."""
        close = close_ups(views, CLOSE_SIZE)
        scores = [self.reader(to_pixels(torch.from_numpy(part))) for part in np.array_split(close, max(1, len(close) // 64))]
        return {name: torch.cat([part[name] for part in scores]).argmax(1).numpy() for name in FACE_QUESTIONS}


def faces_among(views: Views, items: Sequence[scenes.SceneObject]) -> tuple[Views, list[scenes.SceneObject]]:
    """The views that show a face, and what each shows."""
    rows = [row for row, item in enumerate(items) if "expression" in dict(item.attributes)]
    return Views(views.images[rows], views.cells[rows]), [items[row] for row in rows]


class FaceBatches(StepLosses):
    """Losses of the reader, step by step, a function of the step's number: close-ups softened, moved, mirrored, shaded, with grain."""

    def __init__(self, views: Views, items: Sequence[scenes.SceneObject], run: Run) -> None:
        super().__init__(run)
        known = answers_of(items)
        self.views, self.answers = views, {name: known[name] for name in FACE_QUESTIONS}

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's faces."""
        recipe = self.run.recipe
        rng = np.random.default_rng([recipe.seed, step])
        rows, mirrored = rng.integers(0, len(self.views.images), recipe.batch_size), rng.random(recipe.batch_size) < 0.5
        blurred = softened(Views(self.views.images[rows], self.views.cells[rows]), rng.uniform(0.05, SOFTEST, len(rows)))
        close = np.stack([close_up(image, cells, CLOSE_SIZE, rng) for image, cells in zip(blurred.images, blurred.cells, strict=True)])
        close[mirrored] = close[mirrored, :, ::-1]
        shade = torch.from_numpy(rng.uniform([[0.8], [-0.1]], [[1.15], [0.1]], (2, len(rows)))).float()[..., None, None, None]
        grain = 0.04 * torch.randn((len(rows), 3, CLOSE_SIZE, CLOSE_SIZE), generator=recipe.generator(step))
        shown = to_pixels(torch.from_numpy(close)) * shade[0] + shade[1] + grain
        answers = {name: torch.from_numpy(values[rows]) for name, values in self.answers.items()}
        answers["view"] = torch.where(torch.from_numpy(mirrored), _mirrored_view()[answers["view"]], answers["view"])
        return partial(_loss, shown=shown, answers=answers)


def _loss(parts: nn.ModuleDict, shown: Tensor, answers: dict[str, Tensor]) -> Float[Tensor, ""]:
    return answers_loss(parts["reader"](shown), answers, torch.ones(len(shown)))


def _mirrored_view() -> Int[Tensor, " view"]:
    """Where somebody looks in a mirror, as positions in the answers."""
    names = QUESTIONS["view"]
    return torch.tensor([names.index({"left": "right", "right": "left"}.get(name, name)) for name in names])


def fit_face_judge(views: Views, items: Sequence[scenes.SceneObject], recipe: Recipe = RECIPE) -> FaceJudge:
    """Fit the reader on views of rendered faces; the same recipe gives the same reader on the same machine."""
    torch.manual_seed(recipe.seed)
    run = Run(recipe, nn.ModuleDict({"reader": FaceReader()}), torch.device("cpu"))
    run.train(FaceBatches(views, items, run), lambda _: None, save_minutes=60)
    reader: Any = run.average["reader"]
    return FaceJudge(reader)


def trained_face_judge(folder: Path, n_pictures: int = 24_000, recipe: Recipe = RECIPE, *, workers: int = 0) -> FaceJudge:
    """Read the judge kept in `folder`, or fit one on the faces among `n_pictures` rendered objects and keep it there."""
    first_seed = FIRST_SEED + 10_000_000
    made_of = json.dumps({"n_pictures": n_pictures, "first_seed": first_seed, "softest": SOFTEST, "recipe": asdict(recipe)})
    kept = folder / f"face-judge-{hash_text(made_of)[:12]}.safetensors"
    if kept.is_file():
        reader = FaceReader().eval().requires_grad_(False)
        reader.load_state_dict(load_file(kept))
        return FaceJudge(reader)
    judge = fit_face_judge(*faces_among(*rendered_views(n_pictures, first_seed, workers)), recipe)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(kept, {name: value.contiguous() for name, value in judge.reader.state_dict().items()}, {"about": made_of})
    return judge
