"""Does the heatmap point at what really drives the voxel, and does the model agree when patches are taken away?"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.base import DEFAULT, METHODS, OF_QUERY_ATTENTION, STAND_IN, MethodName
from mine_core.attribution.decomposition import attribute
from mine_core.attribution.faithfulness import ReplacementName
from mine_core.config import InstrumentConfig
from mine_core.errors import BackboneError
from mine_core.experiments.attribution_curves import (
    Curves,
    Pair,
    agreement,
    area_entry,
    difference,
    forgetful,
    sample_pairs,
    similarity,
    token_entry,
)
from mine_core.experiments.attribution_maps import Maps
from mine_core.experiments.attribution_pointing import (
    N_FIELD_IMAGES,
    Planted,
    breakdown,
    planted_pairs,
    pointing_entry,
    pool_of,
    receptive_field_error,
    score_pairs,
)
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.encoders import open_encoders
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

REPLACEMENTS: tuple[ReplacementName, ...] = ("mean", "blur", "inpainting")
STORED: tuple[MethodName, ...] = ("traced", "decomposition")
SLOW: tuple[MethodName, ...] = ("integrated_gradients", "gradient_attention")
N_POOL, N_REGION, N_SLOW, N_TOKEN, N_SHUFFLED, N_COMPLETENESS = 32, 6, 200, 40, 12, 20
N_WIDE_POOL, N_REGION_DEFAULT, N_TOKEN_SLOW, N_TOKEN_IMAGES = 96, 30, 3, 24


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Measure every method for every fitted encoder on a fixed sample; the figures at the top are those of ridge's default method.

    Pointing game: pairs of a category voxel (noise ceiling at least 0.1) and a held-out image in which an object that drives it
    is visible; a hit is a heatmap whose highest pixel, after cubic interpolation to the image, lies on such an object (Zhang et
    al. 2018, 10.1007/s11263-017-1059-x). Chance is the mean share of the image that those objects cover. The methods that
    need the backbone are scored on the pairs of 32 images, and the default beside them on the same pairs.

    Curves: at most 6 reliable voxels a region, each with one of the 32 images that it is predicted to answer by at least 1 SD
    more than the average image; by region, for the default alone, at most 30 voxels with one of 96 images. All intervals
    resample images (those of sufficiency resample voxels). Of a subject without planted answers, curves, tokens and agreement alone.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    truth = None if instrument.truth_path is None else truth_of(instrument)
    rng, test = np.random.default_rng(5), instrument.subject.splits.test.tolist()
    pairs = [] if truth is None else planted_pairs(instrument, truth, rng)
    spoken_of = [pair.stimulus for pair in pairs] or test
    pool = pool_of(spoken_of, N_POOL, rng)
    maps, results = Maps(instrument, store, instrument.model), dict[str, Any]()
    for kind, encoder in open_encoders(instrument, store).items():
        results[kind] = _encoder(Maps(instrument, store, encoder, like=maps), pairs, spoken_of, pool, on_progress)
    found: dict[str, Any] = {"subject": instrument.subject.name, "backbone": config.backbone}
    found |= {"method": _default(maps), "encoders": results}
    if truth is not None:
        found |= _beside_truth(maps, truth, pairs, rng)
    return found | {"completeness_error_max": _completeness(instrument, rng)}


def _beside_truth(maps: Maps, truth: PlantedTruth, pairs: Sequence[Planted], rng: np.random.Generator) -> dict[str, Any]:
    """The default's heatmaps beside what was planted, over all pairs."""
    instrument, default = maps.instrument, _default(maps)
    train = np.sort(rng.permutation(instrument.subject.splits.train)[:N_FIELD_IMAGES])
    if default == DEFAULT:
        maps.trace(np.concatenate([instrument.subject.splits.test, train]))
    scored = score_pairs(pairs, partial(maps.of, default))
    by_pair = {(pair.stimulus, pair.voxel): pair.stranger for pair in pairs}
    alien = score_pairs(pairs, lambda stimulus, voxel: maps.of(default, stimulus, by_pair[stimulus, voxel]))
    return {
        "localisation": instrument.features.backbone.supervision,
        "n_voxels": len({pair.voxel for pair in pairs}),
        **pointing_entry(pairs, scored, instrument.reliable, rng),
        "pointing_game_of_another_voxel": float(alien.hit.mean()),
        **breakdown(instrument, truth, pairs, scored),
        "receptive_field_error": receptive_field_error(instrument, truth, partial(maps.of, default), train, rng),
    }


def _default(maps: Maps) -> MethodName:
    return DEFAULT if maps.setting.averages().tokens is not None else STAND_IN


def _encoder(
    maps: Maps, pairs: Sequence[Planted], spoken_of: Sequence[int], pool: np.ndarray, on_progress: OnProgress
) -> dict[str, Any]:
    """All methods of one encoder on the same sample."""
    rng, instrument, encoder = np.random.default_rng(6), maps.instrument, maps.encoder
    able = [name for name in METHODS if encoder.kind in METHODS[name].encoders and not _refuses(maps, name, pool)]
    best: MethodName = _default(maps) if "traced" in able else OF_QUERY_ATTENTION
    if "traced" in able:
        maps.trace(instrument.subject.splits.test)
    regions = instrument.subject.responses.voxels
    members = {
        name: np.flatnonzero(inside & instrument.reliable) for name, inside in zip(regions.regions, regions.membership, strict=True)
    }
    sample = sample_pairs(maps, pool, members, N_REGION, rng)
    wide = sample_pairs(maps, pool_of(spoken_of, N_WIDE_POOL, rng), members, N_REGION_DEFAULT, rng)
    near = [pair for pair in pairs if pair.stimulus in set(pool.tolist()) and instrument.reliable[pair.voxel]]
    curves = Curves(maps, rng)
    shuffled = forgetful(maps, instrument) if maps.setting.averages().tokens is not None else None
    entries: dict[str, Any] = {}
    for number, name in enumerate(able):
        on_progress(number, len(able), f"{encoder.kind}: {METHODS[name].title.lower()}")
        entry = _areas(curves, name, sample, REPLACEMENTS if name == best else ("mean",), rng)
        if name == best:
            entry["by_region"] = _by_region(curves, name, wide, rng)
        entry |= _pointing(maps, name, best, near[:: max(1, len(near) // N_SLOW)] if name in SLOW else near, rng)
        voxels, stimuli = _token_sample(instrument, name, pool)
        entry |= {"tokens": token_entry(maps, name, voxels, stimuli, rng)}
        entry["necessity"], entry["sufficiency"] = entry["tokens"]["necessity"], entry["tokens"]["sufficiency"]
        entry["occlusion_agreement"] = agreement(maps, name, sample)
        few = sample[:: max(1, len(sample) // N_SHUFFLED)]
        entry["randomised_weights_similarity"] = None if shuffled is None else similarity(maps, shuffled, name, few)
        entries[name] = entry
    return {"default": best, "n_images": len(pool), "methods": entries}


def _refuses(maps: Maps, name: MethodName, pool: np.ndarray) -> bool:
    """Whether a method does not hold for this backbone."""
    try:
        maps.of(name, int(pool[0]), 0)
    except BackboneError:
        return True
    return False


def _areas(
    curves: Curves, name: MethodName, sample: Sequence[Pair], replacements: Sequence[ReplacementName], rng: np.random.Generator
) -> dict[str, Any]:
    """Areas with the average image as replacement, and under `by_replacement` with the others."""
    entry: dict[str, Any] = {}
    for replacement in replacements:
        kept = [(pair, areas) for pair in sample if (areas := curves.areas(name, pair, replacement)) is not None]
        found = area_entry([areas for _, areas in kept], [pair.stimulus for pair, _ in kept], rng)
        if replacement == "mean":
            entry = found | {"replacement": "mean", "by_replacement": {}}
        else:
            entry["by_replacement"][replacement] = found
    return entry


def _by_region(curves: Curves, name: MethodName, pairs: Sequence[Pair], rng: np.random.Generator) -> dict[str, Any]:
    """Areas of each region's pairs with the average image as replacement."""
    kept = [(pair, areas) for pair in pairs if (areas := curves.areas(name, pair, "mean")) is not None]
    regions = {region: [item for item in kept if item[0].region == region] for region in dict.fromkeys(pair.region for pair, _ in kept)}
    return {
        region: area_entry([areas for _, areas in chosen], [pair.stimulus for pair, _ in chosen], rng)
        for region, chosen in regions.items()
    }


def _pointing(maps: Maps, name: MethodName, best: MethodName, pairs: Sequence[Planted], rng: np.random.Generator) -> dict[str, Any]:
    """Pointing game of a method, and how much the default does better on the same pairs with small objects."""
    scored, default = (score_pairs(pairs, partial(maps.of, method)) for method in (name, best))
    entry = pointing_entry(pairs, scored, maps.instrument.reliable, rng)
    small = scored.area < 0.2
    stimuli = np.array([pair.stimulus for pair in pairs])
    if small.any() and name != best:
        entry["default_above_this"] = difference((default.hit - scored.hit)[small], stimuli[small], rng)
    return entry


def _token_sample(instrument: Instrument, name: MethodName, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and stimuli of the token test: all test stimuli for what is stored, fewer the slower a method is."""
    voxels = np.random.default_rng(8).permutation(np.flatnonzero(instrument.reliable))
    if name in SLOW:
        return voxels[:N_TOKEN_SLOW], pool[:N_TOKEN_IMAGES]
    return voxels[:N_TOKEN], instrument.subject.splits.test if name in STORED else pool


def _completeness(instrument: Instrument, rng: np.random.Generator) -> float:
    """Largest deviation of the stored parts from the prediction over all voxels and some images, in SD of predictions."""
    stimuli = rng.choice(len(instrument.subject.stimuli), N_COMPLETENESS, replace=False)
    found = [attribute(instrument.model, instrument.features, int(s), instrument.mean_patches).completeness_error for s in stimuli]
    return max(error for error in found if error is not None)
