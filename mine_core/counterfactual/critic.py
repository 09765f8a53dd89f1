"""A critic of what is painted: a small network that says what a picture, or its latents, show under the mask.

It teaches in training what a squared error overlooks (`train_critic`), and no more. It does not choose among tries: what was painted
to convince it convinces it, whether or not anything else sees it there.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mine_core.counterfactual.asked import QUESTIONS
from mine_core.counterfactual.phantom_editor import LATENT_CHANNELS

WIDTH = 64
OF_LATENTS = (LATENT_CHANNELS, 2)  # channels and halvings


class Critic(nn.Module):
    """Convolutions over a picture (or latents) and its mask; mean and maximum over places; one linear read-out per question.

    Parameters
    ----------
    channels : of what it looks at; halvings : strided layers, two for latents of 16 cells a side, four for 64 pixels.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        widths = [WIDTH * 2 ** max(0, level + 3 - halvings) // 2 for level in range(halvings + 1)]
        layers: list[nn.Module] = [_block(channels + 1, widths[0]), _block(widths[0], widths[0])]
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [_block(before, after, stride=2), _block(after, after)]
        self.layers = nn.ModuleList(layers)
        self.answers = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(values)) for name, values in QUESTIONS.items()})

    def seen(self, shown: Float[Tensor, "picture channel row col"], inside: Float[Tensor, "picture 1 row col"]) -> list[Tensor]:
        """What each layer makes of what is under the mask."""
        x = torch.cat([shown * inside, inside], dim=1).contiguous(memory_format=torch.channels_last)
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found

    def forward(self, shown: Tensor, inside: Tensor) -> dict[str, Float[Tensor, "picture answer"]]:
        """Scores of the answers to each question."""
        x = self.seen(shown, inside)[-1]
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.answers.items()}


def _block(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU())
