"""Small recordings whose voxels have a known rule over the tokens of an image, and encoders of random weights."""

from dataclasses import dataclass

import numpy as np

from mine_core.encoding.query_attention import QueryAttentionConfig, QueryAttentionEncoder
from mine_core.types import BackboneSpec, Features, Responses, Splits, VoxelIndex

GRID, N_FEATURES = (3, 4), 6
N_PATCHES = GRID[0] * GRID[1]
SPEC = BackboneSpec("b", GRID, N_FEATURES, "hash", "none")


@dataclass(frozen=True)
class Recording:
    features: Features
    responses: Responses
    splits: Splits

    @property
    def all_of_it(self) -> tuple[Features, Responses, Splits]:
        return self.features, self.responses, self.splits


def voxel_index(n: int, subject: str = "s") -> VoxelIndex:
    return VoxelIndex(subject, np.arange(n), (n,), (), np.zeros((0, n), bool))


def features_of(patches: np.ndarray, remainder: np.ndarray) -> Features:
    ids = tuple(f"i{index}" for index in range(len(patches)))
    pooled = remainder + patches.sum(axis=1)
    return Features(*(part.astype(np.float32) for part in (pooled, patches, remainder)), ids, SPEC)


def some_features(rng: np.random.Generator, n: int) -> Features:
    """Tokens whose means differ by place and whose scales differ by feature."""
    patches = rng.normal(size=(n, N_PATCHES, N_FEATURES)) * np.logspace(-1, 0.5, N_FEATURES)
    return features_of(patches + rng.normal(size=(N_PATCHES, N_FEATURES)) * 2, rng.normal(size=(n, N_FEATURES)) + 1)


def recording(features: Features, signal: np.ndarray, rng: np.random.Generator, noise: float = 0.3) -> Recording:
    """Responses of the signal, in voxels of very different scale and mean, with noise relative to the signal."""
    n, v = signal.shape
    values = signal / signal.std(axis=0) + noise * rng.normal(size=(n, v))
    values = values * np.logspace(-1, 1, v) + 3 * rng.normal(size=v)
    order = rng.permutation(n)
    splits = Splits(order[: n * 7 // 10], order[n * 7 // 10 : n * 8 // 10], order[n * 8 // 10 :])
    responses = Responses(values.astype(np.float32), None, features.stimulus_ids, voxel_index(v), "z")
    return Recording(features, responses, splits)


def a_recording(rng: np.random.Generator, n: int = 120, v: int = 7) -> Recording:
    """Voxels that are linear in the pooled embedding."""
    features = some_features(rng, n)
    return recording(features, features.pooled @ rng.normal(size=(N_FEATURES, v)), rng)


def random_encoder(rng: np.random.Generator, v: int = 5, heads: int = 2, key: int = 3, value: int = 4, hidden: int = 5):
    """An encoder whose every array is random, biases and norms too."""
    shapes = {
        "mean_patches": (N_PATCHES, N_FEATURES),
        "mean_remainder": (N_FEATURES,),
        "basis": (N_FEATURES, value),
        "key_map": (N_FEATURES, heads, key),
        "expand": (heads, value, hidden),
        "expand_query": (heads * key, hidden),
        "expand_bias": (hidden,),
        "contract": (hidden, value),
        "query": (v, heads, key),
        "place": (v, heads, N_PATCHES),
        "readout": (v, heads, value),
        "linear": (N_FEATURES, v),
        "intercept": (v,),
    }
    arrays = {name: (0.7 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    positive = {"feature_sd": (N_FEATURES,), "prediction_sd": (v,)}
    arrays |= {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in positive.items()}
    config = QueryAttentionConfig(heads=heads, key_width=key, value_width=value, feed_forward=hidden)
    return QueryAttentionEncoder(**arrays, voxels=voxel_index(v), backbone=SPEC, config=config, provenance={"made": "here"})
