"""Which layer each voxel is like: accuracy of every layer on held-out images, the layer that predicts best, and how sure that is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mine_core.artifacts import write_text
from mine_core.errors import EncodingError, MineError
from mine_core.statistics import resample_counts

VOXELS_PER_BLOCK = 512
LEVEL, N_HALVES = 0.95, 60
MOST_ORDERS = 20_000
ARRAYS = ("r", "best", "share", "depth", "halved")


@dataclass(frozen=True)
class LayerPreference:
    """Accuracy of every layer for every voxel, and the best layer (from 0) with its uncertainty over held-out images.

    `share[layer, voxel]` is the share of resamples of the images in which that layer is the best: 1 is sure. `depth` is its
    mean, the expected best layer. `halved[half, voxel]` is the best layer on each of 60 random
    halves of the images.
    """

    r: Float[np.ndarray, "layer voxel"]
    best: Int[np.ndarray, " voxel"]
    share: Float[np.ndarray, "layer voxel"]
    depth: Float[np.ndarray, " voxel"]
    halved: Int[np.ndarray, "half voxel"]
    n_images: int


def prefer_layers(
    predicted: Sequence[Float[np.ndarray, "stimulus voxel"]],
    measured: Float[np.ndarray, "stimulus voxel"],
    rng: np.random.Generator,
    n_resamples: int = 500,
) -> LayerPreference:
    """Find the layer whose predictions of held-out responses are best, for every voxel, and how often it is in resamples of the images.

    best[v] = argmax_l r[l, v], r the Pearson correlation over the images. A resample draws as many images with replacement, the
    same for all layers and voxels, and looks for the best layer anew. It is looked for again on each of 60 random halves of the
    images, for a jackknife of means over voxels: resamples with replacement would pull the best layer of every voxel towards the
    middle, and intervals from them away from what was observed.

    Parameters
    ----------
    predicted : of each layer, for the held-out images.
    measured : responses to them.

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
    counts = np.vstack([np.ones(len(measured)), resample_counts(len(measured), n_resamples, rng)])
    counts = np.vstack([counts, rng.permuted(np.tile(np.arange(len(measured)) % 2, (N_HALVES, 1)), axis=1)])
    weights = counts / counts.sum(axis=1, keepdims=True)
    n_layers, n_voxels = len(predicted), measured.shape[1]
    r, share = np.empty((n_layers, n_voxels)), np.empty((n_layers, n_voxels))
    halved = np.empty((N_HALVES, n_voxels), np.int8)
    for start in range(0, n_voxels, VOXELS_PER_BLOCK):
        block = slice(start, start + VOXELS_PER_BLOCK)
        scored = np.stack([_resampled_r(layer[:, block], measured[:, block], weights) for layer in predicted])
        r[:, block] = scored[:, 0]
        best = scored.argmax(axis=0)
        share[:, block] = [(best[1:-N_HALVES] == layer).mean(axis=0) for layer in range(n_layers)]
        halved[:, block] = best[-N_HALVES:]
    depth = np.arange(n_layers) @ share
    return LayerPreference(r, r.argmax(axis=0), share, depth, halved, len(measured))


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


def depth_interval(preference: LayerPreference, inside: Bool[np.ndarray, " voxel"]) -> tuple[float, float, float]:
    """Mean best layer of some voxels (from 0) and its 95 % jackknife interval over images."""
    return jackknife_interval(_depths(preference, inside))


def depth_difference(
    preference: LayerPreference, later: Bool[np.ndarray, " voxel"], earlier: Bool[np.ndarray, " voxel"]
) -> tuple[float, float, float]:
    """Mean best layer of some voxels less that of others, and its 95 % jackknife interval over images."""
    return jackknife_interval(_depths(preference, later) - _depths(preference, earlier))


def depth_correlation(preference: LayerPreference, depth: Float[np.ndarray, " voxel"]) -> tuple[float, float, float]:
    """Spearman's rho over voxels of a depth and the best layer, and its 95 % jackknife interval; voxels of depth NaN do not count."""
    known = np.isfinite(depth)
    if known.sum() < 3 or np.ptp(depth[known]) == 0:
        raise EncodingError(f"{int(known.sum())} voxels of {len(np.unique(depth[known]))} depths were given; 3 of 2 are needed.")
    rows = np.vstack([preference.best, preference.halved])[:, known]
    estimate, low, high = jackknife_interval(np.array([_spearman(depth[known], row.astype(np.float64)) for row in rows]))
    return estimate, max(low, -1.0), min(high, 1.0)


def _depths(preference: LayerPreference, inside: Bool[np.ndarray, " voxel"]) -> Float[np.ndarray, " row"]:
    """Mean best layer of some voxels, with all images and on each half of them."""
    if not inside.any():
        raise EncodingError("No voxel was given; a mean layer needs one.")
    return np.vstack([preference.best, preference.halved])[:, inside].mean(axis=1)


def jackknife_interval(values: Float[np.ndarray, " row"]) -> tuple[float, float, float]:
    """Estimate and 95 % interval from the estimate with all images (first) and on random halves of them.

    estimate +- t sqrt(mean_s (estimate_s - mean_s estimate_s)^2): the jackknife that leaves out half, which holds for statistics
    that jump, as the best of several does; leaving out a few makes them twice too wide (Shao and Wu 1989, 10.1214/aos/1176347263).
    """
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 2) * values[1:].std(ddof=1))
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


def monotony(
    preference: LayerPreference,
    regions: Mapping[str, Bool[np.ndarray, " voxel"]],
    stage: Mapping[str, int],
    rng: np.random.Generator,
) -> Monotony:
    """Test whether the mean best layer of regions rises along a path.

    rho = Spearman correlation over regions of stage and mean best layer; p = share of all assignments of the stages to the
    regions (20,000 random ones where there are more) with at least this rho: regions, not voxels, are what is exchanged,
    for neighbouring voxels are alike. The interval is a jackknife over images, of these regions.

    Parameters
    ----------
    regions : members of each, at least one.
    stage : how far along the path each region is; those without members are left out.

    Raises
    ------
    MineError
        If fewer than three regions are left, or all are of one stage.
    """
    names = [name for name in stage if name in regions and regions[name].any()]
    levels = np.array([stage[name] for name in names], np.float64)
    if len(names) < 3 or len(np.unique(levels)) < 2:
        raise MineError(f"{len(names)} regions of {len(np.unique(levels))} stages are known; a path needs 3 regions of 2 stages.")
    depth = np.stack([_depths(preference, regions[name]) for name in names], axis=1)
    observed = _spearman(levels, depth[0])
    _, low, high = jackknife_interval(np.array([_spearman(levels, row) for row in depth]))
    p = _exact_p(levels, depth[0], observed, rng)
    means = [depth[0, levels == level].mean() for level in np.unique(levels)]
    steps = np.diff(means)
    return Monotony(observed, p, max(low, -1.0), min(high, 1.0), int((steps >= 0).sum()), len(steps), len(names))


def _exact_p(levels: Float[np.ndarray, " item"], depth: Float[np.ndarray, " item"], observed: float, rng: np.random.Generator) -> float:
    n_orders = np.prod(np.arange(1, len(levels) + 1, dtype=np.float64))
    if n_orders <= MOST_ORDERS:
        found = [_spearman(np.array(order), depth) for order in permutations(levels)]
        return float(np.mean(np.array(found) >= observed - 1e-12))
    found = [_spearman(rng.permutation(levels), depth) for _ in range(MOST_ORDERS)]
    return float((1 + np.sum(np.array(found) >= observed - 1e-12)) / (1 + MOST_ORDERS))


def _spearman(a: Float[np.ndarray, " item"], b: Float[np.ndarray, " item"]) -> float:
    first, second = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    length = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / length) if length > 0 else 0.0


def save_preference(directory: Path, preference: LayerPreference) -> None:
    """Write a layer preference."""
    for name in ARRAYS:
        np.save(directory / f"{name}.npy", getattr(preference, name))
    write_text(directory / "preference.json", json.dumps({"n_images": preference.n_images}))


def load_preference(directory: Path) -> LayerPreference:
    """Read what `save_preference` wrote; arrays are memory-mapped and read-only."""
    record = json.loads((directory / "preference.json").read_text())
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    return LayerPreference(n_images=record["n_images"], **arrays)
