"""Which layer each voxel is like: accuracy of every layer on held-out images, the layer that predicts best, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mine_core.errors import EncodingError, MineError
from mine_core.statistics import resample_counts

VOXELS_PER_BLOCK = 512
LEVEL, N_PARTS = 0.95, 25
MOST_ORDERS = 20_000


@dataclass(frozen=True)
class LayerPreference:
    """Accuracy of every layer for every voxel, and the best layer (from 0) with its uncertainty over held-out images.

    `share[layer, voxel]` is the share of resamples of the images in which that layer is the best: 1 is sure. `depth` is its
    mean, the expected best layer. `group_depth[row, group]` is the mean best layer of each group of voxels: with all images in the
    first row, and then with one of 25 parts of the images left out.
    """

    r: Float[np.ndarray, "layer voxel"]
    best: Int[np.ndarray, " voxel"]
    share: Float[np.ndarray, "layer voxel"]
    depth: Float[np.ndarray, " voxel"]
    groups: tuple[str, ...]
    group_depth: Float[np.ndarray, "row group"]
    n_images: int


def prefer_layers(
    predicted: Sequence[Float[np.ndarray, "stimulus voxel"]],
    measured: Float[np.ndarray, "stimulus voxel"],
    groups: Mapping[str, Bool[np.ndarray, " voxel"]],
    rng: np.random.Generator,
    n_resamples: int = 500,
) -> LayerPreference:
    """Find the layer whose predictions of held-out responses are best, for every voxel, and how often it is in resamples of the images.

    best[v] = argmax_l r[l, v], r the Pearson correlation over the images. A resample draws as many images with replacement, the
    same for all layers and voxels, and looks for the best layer anew. Means over groups of voxels are computed again with each of 25
    random parts of the images left out, for a jackknife: resamples with replacement would pull the best layer of every voxel
    towards the middle, and intervals from them away from what was observed.

    Parameters
    ----------
    predicted : of each layer, for the held-out images.
    measured : responses to them.
    groups : voxels whose mean best layer is of interest; those without a voxel are left out.

    Raises
    ------
    EncodingError
        If there are fewer than two layers, or a prediction or response does not vary.

    Notes
    -----
    The best of several estimates is noisy where layers are nearly equal: a voxel without signal has a best layer too, about as
    likely any. Look at `share`. Layers of the same number of features are compared, read by the same kind of model; a better
    layer is one that this model reads better, not where a brain computes.
    """
    if len(predicted) < 2:
        raise EncodingError(f"{len(predicted)} layers were given; at least 2 are needed to prefer one.")
    kept = {name: np.asarray(inside) for name, inside in groups.items() if np.asarray(inside).any()}
    membership = np.array(list(kept.values()), np.float64).reshape(len(kept), measured.shape[1])
    counts = np.vstack([np.ones(len(measured)), resample_counts(len(measured), n_resamples, rng)])
    counts = np.vstack([counts, 1.0 - np.equal.outer(np.arange(N_PARTS), rng.permutation(len(measured)) % N_PARTS)])
    weights = counts / counts.sum(axis=1, keepdims=True)
    n_layers, n_voxels = len(predicted), measured.shape[1]
    r, share = np.empty((n_layers, n_voxels)), np.empty((n_layers, n_voxels))
    sums = np.zeros((1 + N_PARTS, len(kept)))
    for start in range(0, n_voxels, VOXELS_PER_BLOCK):
        block = slice(start, start + VOXELS_PER_BLOCK)
        scored = np.stack([_resampled_r(layer[:, block], measured[:, block], weights) for layer in predicted])
        r[:, block] = scored[:, 0]
        best = scored.argmax(axis=0)
        share[:, block] = [(best[1:-N_PARTS] == layer).mean(axis=0) for layer in range(n_layers)]
        sums += np.concatenate([best[:1], best[-N_PARTS:]]) @ membership[:, block].T
    depth = np.arange(n_layers) @ share
    group_depth = sums / membership.sum(axis=1)
    return LayerPreference(r, r.argmax(axis=0), share, depth, tuple(kept), group_depth, len(measured))


def _resampled_r(
    predicted: Float[np.ndarray, "stimulus voxel"],
    measured: Float[np.ndarray, "stimulus voxel"],
    weights: Float[np.ndarray, "row stimulus"],
) -> Float[np.ndarray, "row voxel"]:
    """Pearson r with every row of weights; the first row is of the images as they are."""
    ours, theirs = (np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64) for values in (predicted, measured))
    for name, values in (("predictions", ours), ("responses", theirs)):
        still = values.std(axis=0) == 0
        if still.any() or not np.isfinite(values).all():
            raise EncodingError(f"Held-out {name} of {int(still.sum())} voxels do not vary, or are not finite; leave them out.")
    mean, other = weights @ ours, weights @ theirs
    shared = weights @ (ours * theirs) - mean * other
    spread = (weights @ ours**2 - mean**2) * (weights @ theirs**2 - other**2)
    return shared / np.sqrt(np.maximum(spread, 1e-30))


def layer_matrix(
    preference: LayerPreference, membership: Mapping[str, Bool[np.ndarray, " voxel"]]
) -> dict[str, Float[np.ndarray, " layer"]]:
    """Mean held-out r of every layer over the voxels of each region; regions without voxels are left out."""
    return {name: preference.r[:, inside].mean(axis=1) for name, inside in membership.items() if inside.any()}


def depth_interval(preference: LayerPreference, group: str) -> tuple[float, float, float]:
    """Mean best layer of a group of voxels (from 0) and its 95 % jackknife interval over images."""
    return jackknife_interval(preference.group_depth[:, preference.groups.index(group)])


def depth_difference(preference: LayerPreference, later: str, earlier: str) -> tuple[float, float, float]:
    """Mean best layer of one group less that of another, and the 95 % jackknife interval over images."""
    columns = [preference.group_depth[:, preference.groups.index(name)] for name in (later, earlier)]
    return jackknife_interval(columns[0] - columns[1])


def jackknife_interval(values: Float[np.ndarray, " row"]) -> tuple[float, float, float]:
    """Estimate and 95 % interval from the estimate with all images (first) and with each of g parts of them left out.

    estimate +- t(g - 1) sqrt((g - 1) / g sum_j (estimate_j - mean_j estimate_j)^2) (Shao and Tu 1995, 10.1007/978-1-4612-0795-5).
    """
    left_out = values[1:]
    g = len(left_out)
    error = np.sqrt((g - 1) / g * ((left_out - left_out.mean()) ** 2).sum())
    half = float(stats.t.ppf((1 + LEVEL) / 2, g - 1) * error)
    return float(values[0]), float(values[0]) - half, float(values[0]) + half


@dataclass(frozen=True)
class Monotony:
    """Whether regions later on the path prefer later layers: Spearman's rho over regions, p over relabelled regions, an interval.

    `ordered` is the number of steps along the path that do not go down, of `n_steps`.
    """

    rho: float
    p: float
    low: float
    high: float
    ordered: int
    n_steps: int
    n_regions: int


def monotony(preference: LayerPreference, stage: Mapping[str, int], rng: np.random.Generator) -> Monotony:
    """Test whether the mean best layer of regions rises along a path.

    rho = Spearman correlation over regions of stage and mean best layer; p = share of all assignments of the stages to the
    regions (20,000 random ones where there are more) with at least this rho: regions, not voxels, are what is exchanged,
    for neighbouring voxels are alike. The interval is a jackknife over images, of these regions.

    Parameters
    ----------
    stage : how far along the path each region is; those that are no group of `preference` are left out.

    Raises
    ------
    MineError
        If fewer than three regions are left, or all are of one stage.
    """
    names = [name for name in stage if name in preference.groups]
    levels = np.array([stage[name] for name in names], np.float64)
    if len(names) < 3 or len(np.unique(levels)) < 2:
        raise MineError(f"{len(names)} regions of {len(np.unique(levels))} stages are known; a path needs 3 regions of 2 stages.")
    depth = preference.group_depth[:, [preference.groups.index(name) for name in names]]
    observed = _spearman(levels, depth[0])
    _, low, high = jackknife_interval(np.array([_spearman(levels, row) for row in depth]))
    p = _exact_p(levels, depth[0], observed, rng)
    means = [depth[0, levels == level].mean() for level in np.unique(levels)]
    steps = np.diff(means)
    return Monotony(observed, p, max(low, -1.0), min(high, 1.0), int((steps >= 0).sum()), len(steps), len(names))


def _exact_p(
    levels: Float[np.ndarray, " region"], depth: Float[np.ndarray, " region"], observed: float, rng: np.random.Generator
) -> float:
    n_orders = np.prod(np.arange(1, len(levels) + 1, dtype=np.float64))
    if n_orders <= MOST_ORDERS:
        found = [_spearman(np.array(order), depth) for order in permutations(levels)]
        return float(np.mean(np.array(found) >= observed - 1e-12))
    found = [_spearman(rng.permutation(levels), depth) for _ in range(MOST_ORDERS)]
    return float((1 + np.sum(np.array(found) >= observed - 1e-12)) / (1 + MOST_ORDERS))


def _spearman(a: Float[np.ndarray, " region"], b: Float[np.ndarray, " region"]) -> float:
    first, second = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    length = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / length) if length > 0 else 0.0
