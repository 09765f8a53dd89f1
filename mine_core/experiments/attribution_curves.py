"""Insertion and deletion curves, necessity and sufficiency, and agreement, over a fixed sample of voxels and images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mine_core.attribution.base import MethodName, Scene, Setting, attribute_image
from mine_core.attribution.faithfulness import (
    Areas,
    ReplacementName,
    TokenTest,
    counts_of,
    curve_areas,
    highest_first,
    rank_agreement,
    replacements,
    taken_away,
    token_test,
)
from mine_core.attribution.traced import coarse_values
from mine_core.errors import EncodingError
from mine_core.experiments.attribution_maps import Maps
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import scene_of
from mine_core.statistics import resample_counts

LEAST_DROP = 1.0  # SD of predictions: an image that is predicted no higher than the average one has nothing to take away
N_ORDERS, N_RESAMPLES, LEVEL = 2, 2000, 0.05
TOKEN_SHARE = 50 / 576  # of the tokens, as in the paper
N_FORGETFUL_IMAGES = 16


class Pair(NamedTuple):
    """A voxel of a region and a stimulus that it is predicted to answer."""

    region: str
    voxel: int
    stimulus: int


def sample_pairs(
    maps: Maps, pool: Int[np.ndarray, " image"], members: Mapping[str, Int[np.ndarray, " member"]], n: int, rng: np.random.Generator
) -> list[Pair]:
    """Draw at most `n` pairs a region: reliable voxels, each with a stimulus of the pool predicted 1 SD above the average image."""
    features, pairs = maps.instrument.features, []
    empty = maps.embed(np.asarray(maps.setting.averages().image)[None])
    for region, voxels in members.items():
        chosen = rng.permutation(voxels)[: 4 * n]
        above = _predict_pool(maps, features, pool, chosen) - maps.predict(empty, chosen)
        found = [(int(voxel), pool[above[:, i] >= LEAST_DROP]) for i, voxel in enumerate(chosen)]
        pairs += [Pair(region, voxel, int(rng.choice(able))) for voxel, able in found if len(able)][:n]
    return pairs


def _predict_pool(maps: Maps, features: Any, pool: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    parts = (np.asarray(values[pool], np.float32) for values in (features.pooled, features.patches, features.remainder))
    return maps.predict(type(maps.embed(maps.seen(int(pool[0]))[None]))(*parts), voxels)


class Curves:
    """Curves of one encoder; random orders are encoded once per image and replacement."""

    def __init__(self, maps: Maps, rng: np.random.Generator) -> None:
        self.maps, self.rng = maps, rng
        self.replace = replacements(np.asarray(maps.setting.averages().image))
        self.counts = counts_of(maps.setting.grid[0] * maps.setting.grid[1])
        self._random: dict[tuple[int, ReplacementName], Any] = {}

    def areas(self, method: MethodName, pair: Pair, name: ReplacementName) -> Areas | None:
        """Areas of one pair: highest first, lowest first, and two random orders; None where this replacement raises the prediction."""
        order = highest_first(self.maps.coarse(method, pair.stimulus, pair.voxel))
        image, voxels = self.maps.seen(pair.stimulus), np.array([pair.voxel])
        shown = [self._shown(image, each, name) for each in (order, order[::-1])]
        found = self.maps.predict(self.maps.embed(np.concatenate(shown)), voxels)[:, 0]
        if (pair.stimulus, name) not in self._random:
            drawn = [self._shown(image, self.rng.permutation(len(order)), name) for _ in range(N_ORDERS)]
            self._random[pair.stimulus, name] = self.maps.embed(np.concatenate(drawn))
        random = self.maps.predict(self._random[pair.stimulus, name], voxels)[:, 0].reshape(N_ORDERS, -1)
        highest, lowest = found.reshape(2, -1)
        try:
            return curve_areas(highest, lowest, random)
        except EncodingError:
            return None

    def _shown(self, image: np.ndarray, order: np.ndarray, name: ReplacementName) -> np.ndarray:
        return taken_away(image, order, self.counts, self.maps.setting.grid, self.replace[name])


def area_entry(areas: Sequence[Areas], stimuli: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
    """Mean areas and differences to random order, with intervals that resample images."""
    deletion, insertion, random = np.array(areas, np.float64).T
    groups = np.asarray(stimuli)
    return {
        "n_curves": len(areas),
        "insertion_auc": float(insertion.mean()),
        "deletion_auc": float(deletion.mean()),
        "random_insertion_auc": float(random.mean()),
        "random_deletion_auc": float(random.mean()),
        "reverse_insertion_auc": float(deletion.mean()),
        "reverse_deletion_auc": float(insertion.mean()),
        "insertion_above_random": difference(insertion - random, groups, rng),
        "deletion_below_random": difference(random - deletion, groups, rng),
    }


def difference(values: Float[np.ndarray, " pair"], groups: Int[np.ndarray, " pair"], rng: np.random.Generator) -> dict[str, Any]:
    """Mean over pairs, and a percentile interval that resamples groups (images) with all their pairs; None for fewer than two."""
    names, place = np.unique(groups, return_inverse=True)
    entry: dict[str, Any] = {"mean": float(values.mean()), "interval": None}
    if len(names) > 1:
        total, count = (np.bincount(place, weights=weights) for weights in (values, np.ones(len(values))))
        drawn = resample_counts(len(names), N_RESAMPLES, rng)
        entry["interval"] = [float(end) for end in np.quantile(drawn @ total / (drawn @ count), [LEVEL / 2, 1 - LEVEL / 2])]
    return entry


def token_entry(maps: Maps, method: MethodName, voxels: np.ndarray, stimuli: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Necessity and sufficiency of the paper's share of tokens, R² over these stimuli, mean over voxels."""
    features, responses = maps.instrument.features, maps.instrument.subject.responses.values
    patches, pooled = (np.asarray(values[stimuli], np.float32) for values in (features.patches, features.pooled))
    k = max(1, round(TOKEN_SHARE * patches.shape[1]))
    found = [
        token_test(
            maps.encoder,
            patches,
            pooled,
            np.asarray(maps.instrument.mean_patches, np.float32),
            np.stack([maps.coarse(method, int(stimulus), int(voxel)).ravel() for stimulus in stimuli]),
            np.asarray(responses[stimuli, voxel], np.float64),
            int(voxel),
            k,
            rng=rng,
        )
        for voxel in voxels
    ]
    means = TokenTest(*np.array(found, np.float64).mean(axis=0))
    gain = np.array([test.highest_alone - test.random_alone for test in found])
    return {
        "n_voxels": len(voxels),
        "n_images": len(stimuli),
        "tokens": k,
        "r2": float(means.whole),
        "necessity": float(1 - means.without_highest / means.whole) if means.whole > 0 else None,
        "sufficiency": float(means.highest_alone),
        "random_sufficiency": float(means.random_alone),
        "lowest_sufficiency": float(means.lowest_alone),
        "sufficiency_above_random": difference(gain, np.arange(len(gain)), rng),
    }


def agreement(maps: Maps, method: MethodName, pairs: Sequence[Pair]) -> float:
    """Mean Spearman correlation with occlusion over patches."""
    found = [
        rank_agreement(maps.coarse(method, pair.stimulus, pair.voxel), maps.coarse("occlusion", pair.stimulus, pair.voxel))
        for pair in pairs
    ]
    return float(np.mean(found))


def forgetful(maps: Maps, instrument: Instrument) -> Setting:
    """The same encoder on a backbone of shuffled weights, and the averages that such a backbone sees."""
    import torch

    from mine_core.attribution.averages import make_averages
    from mine_core.backbones.randomising import shuffled_backbone

    backbone = shuffled_backbone(maps.setting.backbone(), torch.Generator().manual_seed(31))
    images = np.asarray(instrument.subject.stimuli.images[instrument.subject.splits.train[:N_FORGETFUL_IMAGES]])
    averages = make_averages(backbone, images)
    return Setting(maps.encoder, backbone.embed(images).patches.mean(axis=0), lambda: averages, lambda: backbone)


def similarity(maps: Maps, setting: Setting, method: MethodName, pairs: Sequence[Pair]) -> float:
    """Mean Spearman correlation of heatmaps with those of shuffled weights: near 0 where the heatmap depends on what was learnt."""
    found = []
    for pair in pairs:
        image = scene_of(maps.instrument, pair.stimulus).image
        pooled, patches, remainder = (part[0] for part in setting.backbone().embed(image[None]))
        scene = Scene(image, pooled, patches, remainder)
        other = attribute_image(method, setting, scene, np.array([pair.voxel])).values[0]
        other = other if other.shape == setting.grid else coarse_values(other)
        found.append(rank_agreement(maps.coarse(method, pair.stimulus, pair.voxel), other))
    return float(np.mean(found))
