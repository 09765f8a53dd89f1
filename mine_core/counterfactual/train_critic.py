"""Critics of the phantom's editor: small networks that say what a picture, or its latents, show under the mask.

A squared error hardly notices a mouth: it covers one latent cell of a face. Critics notice. The denoiser is asked to paint what the
critic of latents takes for what was asked; the decoder, what the critic of pictures sees as it saw the rendered picture
(Johnson et al. 2016, arXiv:1603.08155). Neither is the judge of the finished editor, which is read-outs of another network.

A critic is for training alone. Leading the sampler by the gradient of one that reads noisy latents (Dhariwal and Nichol 2021,
arXiv:2105.05233) convinces the critic and hardly the judge: latents change that no picture shows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mine_core.counterfactual.asked import answers_of
from mine_core.counterfactual.train_run import Run, StepLosses
from mine_core.subjects.phantom import scenes

ATTRIBUTE_WEIGHT = 0.3  # of each attribute's question, relative to that of the concept


def answers_loss(
    scores: dict[str, Float[Tensor, "picture answer"]], answers: dict[str, Int[Tensor, " picture"]], weight: Float[Tensor, " picture"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the answers that are known (not -1), summed over questions and averaged over pictures by `weight`."""
    total = weight.new_zeros(())
    for name, found in scores.items():
        each = functional.cross_entropy(found.float(), answers[name], ignore_index=-1, reduction="none")
        total = total + (1.0 if name == "concept" else ATTRIBUTE_WEIGHT) * (each * weight).sum()
    return total / len(weight)


class CriticBatches(StepLosses):
    """Losses of a critic, step by step, a function of the step's number.

    Parameters
    ----------
    shown : [edit, channel, row, col], as `read` makes numbers of its rows; cells : what may be looked at, at the same resolution.
    roughest : largest SD of the noise on what it learns from: what it shall tell apart must not be a trick of single numbers, but
        noise as strong as a mouth hides the mouth.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Float[Tensor, "picture channel row col"]],
        cells: Bool[Tensor, "edit row col"],
        items: Sequence[scenes.SceneObject | None],
        run: Run,
        *,
        roughest: float,
    ) -> None:
        super().__init__(run)
        self.read, self.cells, self.roughest = read, cells, roughest
        self.rows = np.flatnonzero([item is not None for item in items])
        known = answers_of([item for item in items if item is not None])
        self.answers = {name: torch.from_numpy(values) for name, values in known.items()}

    def loss_at(self, step: int) -> Callable[[nn.ModuleDict], Tensor]:
        """The loss of one step's pictures, with noise of any strength up to `roughest`."""
        recipe = self.run.recipe
        chosen = np.random.default_rng([recipe.seed, step]).integers(0, len(self.rows), recipe.batch_size)
        generator = recipe.generator(step)
        rows = torch.from_numpy(self.rows[chosen])
        shown = self.read(rows)
        strength = self.roughest * torch.rand(len(rows), 1, 1, 1, generator=generator)
        rough = shown + strength * torch.randn(shown.shape, generator=generator)
        answers = {name: values[chosen] for name, values in self.answers.items()}
        return partial(critic_loss, shown=rough, inside=self.cells[rows, None].float(), answers=answers, run=self.run)


def critic_loss(parts: nn.ModuleDict, shown: Tensor, inside: Tensor, answers: dict[str, Tensor], run: Run) -> Float[Tensor, ""]:
    """Cross-entropy of what a critic says of pictures whose content is known."""
    device = run.device
    with run.precision():
        scores: dict[str, Any] = parts["critic"](shown.to(device), inside.to(device))
    known = {name: values.to(device) for name, values in answers.items()}
    return answers_loss(scores, known, torch.ones(len(shown), device=device))
