"""How many patches matter: the smallest set whose removal takes away a chosen share of the response above baseline."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.attribution.faithfulness import Replace, Square, highest_first, taken_away
from mine_core.attribution.occlusion import Encode
from mine_core.errors import EncodingError

MOST_STEPS = 33


@dataclass(frozen=True)
class CriticalSet:
    """Patches whose removal takes away at least `share` of the response above baseline, and the curve that says so.

    `patches` is True on the set, all False where the image's prediction is not above the empty image's, or no step of the curve
    takes that much away; `gone[step]` patches were taken away in the heatmap's order, and `predicted[step]` is what was left,
    in SD of the voxel's predictions from their mean. `random` is the mean over random orders at the same steps.
    """

    patches: Bool[np.ndarray, "row col"]
    share: float
    gone: Int[np.ndarray, " step"]
    predicted: Float[np.ndarray, " step"]
    random: Float[np.ndarray, " step"]

    @property
    def removed(self) -> float:
        """Share of the response above baseline that the set's removal takes away; NaN where there is no set."""
        drop = self.predicted[0] - self.predicted[-1]
        count = int(self.patches.sum())
        return float("nan") if not count else float((self.predicted[0] - self.predicted[self.gone == count][0]) / drop)


def steps_of(n_patches: int) -> Int[np.ndarray, " step"]:
    """Numbers of patches to take away: every one of a small grid, else 33 from none to all, denser at the start."""
    if n_patches < MOST_STEPS:
        return np.arange(n_patches + 1)
    return np.unique(np.rint(n_patches * np.linspace(0, 1, MOST_STEPS) ** 1.5).astype(np.int64))


def first_to_reach(predicted: Float[np.ndarray, " step"], share: float) -> int | None:
    """First step at which `share` of predicted[0] - predicted[-1] is gone; None where there is nothing to take away, or all must go."""
    drop = predicted[0] - predicted[-1]
    if not drop > 0:
        return None
    reached = np.flatnonzero((predicted[0] - predicted >= share * drop)[:-1])
    return int(reached[0]) if len(reached) else None


def critical_set(
    encode: Encode,
    image: Square,
    values: Float[np.ndarray, "row col"],
    weights: Float[np.ndarray, " feature"],
    offset: float,
    replace: Replace,
    *,
    share: float = 0.5,
    n_random: int = 2,
    rng: np.random.Generator,
) -> CriticalSet:
    """Take patches away in the order of a heatmap until `share` of the response above baseline is gone.

    prediction = encode(image) @ weights + offset; the baseline is the prediction of the wholly replaced image. The set is the
    smallest prefix of the heatmap's order at the steps tried (every number of patches below 33, else 33 numbers), not
    the smallest of all sets.

    Parameters
    ----------
    encode : square images to embeddings; about 33 forward passes, and as many per random order.
    values : the heatmap on the backbone's grid.
    share : above 0 and below 1.
    n_random : random orders to compare with.

    Raises
    ------
    EncodingError
        If share is not between 0 and 1, or a value is not finite.
    """
    if not 0 < share < 1:
        raise EncodingError(f"A share of {share:g} was asked for; give one above 0 and below 1.")
    grid, counts = values.shape, steps_of(values.size)
    orders = [highest_first(values), *(rng.permutation(values.size) for _ in range(n_random))]
    shown = np.concatenate([taken_away(image, order, counts, (grid[0], grid[1]), replace) for order in orders])
    curves = (encode(shown).astype(np.float64) @ weights + offset).reshape(len(orders), len(counts))
    patches = np.zeros(values.size, bool)
    step = first_to_reach(curves[0], share)
    if step is not None:
        patches[orders[0][: counts[step]]] = True
    return CriticalSet(patches.reshape(grid), share, counts, curves[0], curves[1:].mean(axis=0))
