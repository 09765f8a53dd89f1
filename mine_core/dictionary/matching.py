"""Units matched to voxels: chosen on one half of the training images, measured on the other.

The original takes the largest of millions of similarities on the images that it was chosen on. Here both figures are given: what
choosing makes of it, and what is left on images that chose nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from mine_core.description.scoring import standardised
from mine_core.dictionary.activations import Columns
from mine_core.encoding.scoring import pearson_with_p
from mine_core.errors import EncodingError
from mine_core.statistics import basic_interval, false_discovery_rate, resample_counts

VOXELS_PER_BLOCK = 512
PER_LAYER = 2
LEAST_IMAGES = 10
"""A unit that is active in fewer images of the choosing half is not offered: its similarity rests on a handful."""
N_SHUFFLES, N_SHUFFLED_VOXELS = 5, 512
N_RESAMPLES, LEVEL, FINER = 1000, 0.95, 20


@dataclass(frozen=True)
class Halves:
    """Positions of the images that choose and of those that measure."""

    choose: Int[np.ndarray, " choose"]
    measure: Int[np.ndarray, " measure"]


@dataclass(frozen=True)
class Matches:
    """Units of every voxel, the most similar on the choosing half first.

    `layer`, `unit` and `place` name them (place 0 is the whole image); `r_chosen` is the correlation on the half that chose,
    `r_held_out` on the other. `p` (permutations of the measuring images), `q` (Benjamini-Yekutieli over voxels) and the 95 %
    interval are of the first unit's held-out correlation. `cosine_chosen` and `cosine_held_out` are of the unit of largest cosine
    in whole images, as the original chooses. `shuffled` holds the largest correlation with any unit in choosing halves whose images
    were shuffled.
    """

    layer: Int[np.ndarray, "voxel rank"]
    unit: Int[np.ndarray, "voxel rank"]
    place: Int[np.ndarray, "voxel rank"]
    r_chosen: Float[np.ndarray, "voxel rank"]
    r_held_out: Float[np.ndarray, "voxel rank"]
    p: Float[np.ndarray, " voxel"]
    q: Float[np.ndarray, " voxel"]
    low: Float[np.ndarray, " voxel"]
    high: Float[np.ndarray, " voxel"]
    cosine_chosen: Float[np.ndarray, " voxel"]
    cosine_held_out: Float[np.ndarray, " voxel"]
    shuffled: Float[np.ndarray, "shuffle voxel"]


def split_halves(train: Int[np.ndarray, " train"], rng: np.random.Generator) -> Halves:
    """Deal the training images into two halves at random; raises EncodingError if there are fewer than 40."""
    if len(train) < 40:
        raise EncodingError(f"There are {len(train)} training images; matching needs at least 40, 20 to choose and 20 to measure.")
    order = rng.permutation(train)
    return Halves(np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :]))


class Matcher:
    """Matching in progress: layers are given one after another, so that no two are held at once."""

    def __init__(self, responses: Float[np.ndarray, "stimulus voxel"], halves: Halves, rng: np.random.Generator) -> None:
        self.halves, self.rng = halves, rng
        answers = [np.asarray(responses[half], np.float32) for half in (halves.choose, halves.measure)]
        self.chosen_by, self.measured_by = (standardised(half) for half in answers)
        # the original's cosine does not centre: lengths of the responses as they are
        self.raw_length = [np.linalg.norm(half, axis=0) for half in answers]
        self.raw = answers
        n_voxels = responses.shape[1]
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in ("layer", "unit", "place", "r_chosen", "r_held_out")}
        self.best = np.full(n_voxels, -np.inf, np.float32)
        self.pair = np.zeros((len(halves.measure), n_voxels), np.float32)
        self.cosine = np.full((2, n_voxels), -np.inf, np.float32)
        sample = rng.permutation(n_voxels)[:N_SHUFFLED_VOXELS]
        self.sample = np.sort(sample)
        self.orders = [rng.permutation(len(halves.choose)) for _ in range(N_SHUFFLES)]
        self.shuffled = np.full((N_SHUFFLES, len(sample)), -np.inf, np.float32)

    def add(self, layer: int, columns: Columns) -> None:
        """Look through the units of a layer; rows of `columns` are all stimuli."""
        raw = [columns.values[half] for half in (self.halves.choose, self.halves.measure)]
        enough = (raw[0] > 0).sum(axis=0) >= min(LEAST_IMAGES, len(raw[0]) // 4)
        choose, measure = standardised(raw[0]), standardised(raw[1])
        choose[:, ~enough] = 0
        self._shuffle(choose)
        whole = [half[:, : columns.n_units] for half in raw]
        lengths = [np.maximum(np.linalg.norm(half, axis=0), 1e-12) for half in whole]
        lengths[0][~enough[: columns.n_units]] = np.inf
        names = ("unit", "place", "r_chosen", "r_held_out")
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for block in _blocks(len(self.best)):
            similarity = choose.T @ self.chosen_by[:, block]
            column, r = _best_units(similarity, columns.n_units)
            paired = measure[:, column]  # image, voxel, rank
            held_out = np.einsum("ivk,iv->vk", paired, self.measured_by[:, block])
            for name, value in zip(names, (column % columns.n_units, column // columns.n_units, r, held_out), strict=True):
                found[name].append(value)
            better = r[:, 0] > self.best[block]
            self.best[block] = np.where(better, r[:, 0], self.best[block])
            self.pair[:, block] = np.where(better, raw[1][:, column[:, 0]], self.pair[:, block])
            self._cosines(block, whole, lengths)
        for name in names:
            self.parts[name].append(np.concatenate(found[name]))
        self.parts["layer"].append(np.full_like(self.parts["unit"][-1], layer))

    def _cosines(self, block: slice, whole: list[np.ndarray], lengths: list[np.ndarray]) -> None:
        """Unit of largest cosine on the choosing half, in whole images and nothing centred, and its cosine on the other half."""
        cosine = (whole[0].T @ self.raw[0][:, block]) / lengths[0][:, None] / np.maximum(self.raw_length[0][block], 1e-12)
        column = cosine.argmax(axis=0)
        largest = np.take_along_axis(cosine, column[None], axis=0)[0]
        held_out = np.einsum("iv,iv->v", whole[1][:, column], self.raw[1][:, block])
        held_out = held_out / (lengths[1][column] * np.maximum(self.raw_length[1][block], 1e-12))
        better = largest > self.cosine[0, block]
        self.cosine[0, block] = np.where(better, largest, self.cosine[0, block])
        self.cosine[1, block] = np.where(better, held_out, self.cosine[1, block])

    def _shuffle(self, choose: Float[np.ndarray, "choose column"]) -> None:
        answers = self.chosen_by[:, self.sample]
        for row, order in enumerate(self.orders):
            self.shuffled[row] = np.maximum(self.shuffled[row], (choose.T @ answers[order]).max(axis=0))

    def finish(self, n_permutations: int) -> Matches:
        """Put the units of all layers in order, and test the first of every voxel on the half that did not choose it."""
        joined = {name: np.concatenate(values, axis=1) for name, values in self.parts.items()}
        order = np.argsort(-joined["r_chosen"], axis=1, kind="stable")
        joined = {name: np.take_along_axis(values, order, axis=1) for name, values in joined.items()}
        p = np.ones(len(self.best))
        low, high = np.zeros((2, len(self.best)))
        varies = (np.ptp(self.pair, axis=0) > 0) & (np.abs(self.measured_by).max(axis=0) > 0)
        if varies.any():
            measured = self.measured_by[:, varies]
            p[varies] = self._p(self.pair[:, varies], measured, n_permutations)
            low[varies], high[varies] = r_intervals(self.pair[:, varies], measured, self.rng)
        return Matches(
            **joined,
            p=p,
            q=false_discovery_rate(p, "by"),
            low=low,
            high=high,
            cosine_chosen=self.cosine[0],
            cosine_held_out=self.cosine[1],
            shuffled=self.shuffled,
        )

    def _p(
        self, pair: Float[np.ndarray, "measure voxel"], measured: Float[np.ndarray, "measure voxel"], n: int
    ) -> Float[np.ndarray, " voxel"]:
        """Permutation p; where n are too few for any voxel to be called, the clearest are permuted 20 times as often."""
        _, p = pearson_with_p(pair, measured, n, self.rng)
        clearest = p <= 1 / (1 + n)
        if clearest.any() and false_discovery_rate(p, "by").min() > 1 - LEVEL:
            more = (FINER - 1) * n
            _, finer = pearson_with_p(pair[:, clearest], measured[:, clearest], more, self.rng)
            p[clearest] = np.rint(finer * (1 + more)) / (1 + FINER * n)
        return p


def _best_units(
    similarity: Float[np.ndarray, "column voxel"], n_units: int
) -> tuple[Int[np.ndarray, "voxel rank"], Float[np.ndarray, "voxel rank"]]:
    """Columns of the most similar units of every voxel, each unit at the place where it is most similar."""
    by_place = similarity.reshape(-1, n_units, similarity.shape[1])
    place = by_place.argmax(axis=0)
    value = np.take_along_axis(by_place, place[None], axis=0)[0]  # unit, voxel
    n_ranks = min(PER_LAYER, n_units)
    unit = np.argpartition(-value, n_ranks - 1, axis=0)[:n_ranks]
    order = np.argsort(-np.take_along_axis(value, unit, axis=0), axis=0, kind="stable")
    unit = np.take_along_axis(unit, order, axis=0)
    column = np.take_along_axis(place, unit, axis=0) * n_units + unit
    return column.T, np.take_along_axis(value, unit, axis=0).T


def r_intervals(
    a: Float[np.ndarray, "stimulus column"], b: Float[np.ndarray, "stimulus column"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """95 % basic bootstrap interval of the correlation of each column of `a` with the same column of `b`, over stimuli."""
    counts = np.vstack([np.ones(len(a)), resample_counts(len(a), N_RESAMPLES, rng)])
    weights = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    low, high = np.empty((2, a.shape[1]))
    for block in _blocks(a.shape[1]):
        ours, theirs = (np.asarray(values[:, block], np.float32) for values in (a, b))
        ours, theirs = ((v - v.mean(axis=0)) / np.maximum(v.std(axis=0), 1e-12) for v in (ours, theirs))
        mean, other = weights @ ours, weights @ theirs
        shared = weights @ (ours * theirs) - mean * other
        spread = (weights @ ours**2 - mean**2) * (weights @ theirs**2 - other**2)
        r = np.where(spread > 1e-12, shared / np.sqrt(np.maximum(spread, 1e-12)), np.nan).astype(np.float64)
        low[block], high[block] = basic_interval(r[0], r[1:], LEVEL)
    return low, high


def assign_one_to_one(
    chosen: Float[np.ndarray, "unit voxel"], held_out: Float[np.ndarray, "unit voxel"]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"], Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """Give every voxel of a region a unit of its own, so that the sum of similarities on the choosing half is largest.

    Parameters
    ----------
    chosen, held_out : similarity of every unit and voxel on the half that chooses and on the other.

    Returns
    -------
    Unit and voxel of each pair (as many as there are of the fewer), and their similarity on both halves.

    References
    ----------
    Crouse (2016), 10.1109/TAES.2016.140952: the algorithm of `scipy.optimize.linear_sum_assignment`.
    """
    units, voxels = linear_sum_assignment(-chosen)
    return units, voxels, chosen[units, voxels], held_out[units, voxels]


def _blocks(n_voxels: int) -> Iterator[slice]:
    return (slice(start, start + VOXELS_PER_BLOCK) for start in range(0, n_voxels, VOXELS_PER_BLOCK))
