"""Sparse autoencoders, units matched to voxels, and layers: what is found on held-out images, against nulls and planted answers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.dictionary.autoencoder import KINDS, TOKEN_KINDS, Kind, TokenKind, load_autoencoder
from mine_core.dictionary.hierarchy import (
    depth_correlation,
    depth_difference,
    depth_interval,
    layer_matrix,
    monotony,
)
from mine_core.dictionary.quality import stability
from mine_core.errors import MineError
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.dictionary import (
    SEEDS,
    Dictionary,
    build_dictionary,
    open_dictionary,
    regions_of,
    stage_name,
    stages_of_path,
)
from mine_core.instrument.dictionary_regions import sharing_of_regions, units_of_region
from mine_core.statistics import bootstrap_mean_interval
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

SEED, N_SHUFFLES = 31, 200


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Measure all that is claimed of a dictionary; makes it first if it is not there.

    autoencoders = per kind of token, kind of autoencoder and layer: reconstruction, sparsity, dead share on validation images,
    each with what tokens of shuffled dimensions give, and the stability over two seeds beside shuffled directions;
    matches = share of voxels matched at q = 0.05, held-out r of the matched, inflation (chosen less held-out) by correlation and by
    the original's cosine, and what shuffled images give; null_voxel_match_rate = planted null voxels with q <= 0.05;
    region_consistency = chance that two voxels of a region share their first unit; layers = best layer by ridge on held-out images;
    hierarchy_correlation = Spearman's rho over voxels of planted depth (0 contrast energy, 1 concepts) and found layer.
    Intervals are of 95 % and resample or leave out images, unless they are named over_voxels. None without planted truth.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    made = build_dictionary(config, store, on_progress=on_progress)
    on_progress(0, 1, "comparing autoencoders of two seeds")
    dictionary = open_dictionary(made)
    truth = None if instrument.truth_path is None else truth_of(instrument)
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(instrument.score.r),
        "n_layers": len(dictionary.tokens),
        "autoencoders": {tokens: {kind: _autoencoders(made, tokens, kind) for kind in KINDS} for tokens in TOKEN_KINDS},
        "matches": {
            f"{tokens} {kind}": _matches(open_dictionary(made, tokens, kind), truth) for tokens in TOKEN_KINDS for kind in KINDS
        },
        "beside_encoder": _beside_encoder(instrument, dictionary, truth),
        "region_consistency": _consistency(instrument, dictionary),
        "one_to_one": _assigned(instrument, dictionary),
        "layers": _layers(instrument, dictionary),
        "planted_depth": None if truth is None else _planted_depth(dictionary, truth),
    }


def _autoencoders(made: Mapping[str, Artifact], tokens: TokenKind, kind: Kind) -> list[dict[str, Any]]:
    """One entry a layer, from the first."""
    artifacts = [made[stage_name(tokens, kind, seed)] for seed in SEEDS]
    found = []
    for layer, quality in enumerate(artifacts[0].json("quality")):
        pair = [load_autoencoder(artifact.path / f"layer_{layer + 1:02d}") for artifact in artifacts]
        history = quality.pop("history")
        across = stability(pair[0], pair[1], np.random.default_rng(SEED))
        units = {"n_units": pair[0].n_units, "dead_in_training": history[-1][2] / pair[0].n_units}
        found.append({"layer": layer + 1, **quality, **units, "stability": asdict(across)})
    return found


def _matches(dictionary: Dictionary, truth: PlantedTruth | None) -> dict[str, Any]:
    matches, matched = dictionary.matches, dictionary.matched
    chosen, held_out = matches.r_chosen[:, 0], matches.r_held_out[:, 0]
    inflation = {"r": chosen - held_out, "cosine": matches.cosine_chosen - matches.cosine_held_out}
    largest = int(matches.cosine_chosen.argmax())
    found: dict[str, Any] = {
        "matched_share": float(matched.mean()),
        "median_r_chosen": float(np.median(chosen)),
        "median_r_held_out": float(np.median(held_out)),
        "median_r_chosen_shuffled": float(np.median(matches.shuffled)),
        "median_r_held_out_of_matched": float(np.median(held_out[matched])) if matched.any() else None,
        "inflation": {name: float(np.mean(values)) for name, values in inflation.items()},
        "inflation_over_voxels": {name: _over_voxels(values) for name, values in inflation.items()},
        "largest_cosine": {"chosen": float(matches.cosine_chosen[largest]), "held_out": float(matches.cosine_held_out[largest])},
        "median_cosine": {
            "chosen": float(np.median(matches.cosine_chosen)),
            "held_out": float(np.median(matches.cosine_held_out)),
        },
        "at_places": float((np.asarray(matches.place[:, 0])[matched] > 0).mean()) if matched.any() else None,
        "null_voxel_match_rate": None,
    }
    if truth is not None:
        null = truth.of_kind("null")
        called = int(matched[null].sum())
        low, high = stats.binomtest(called, len(null)).proportion_ci(method="exact")
        found |= {"null_voxel_match_rate": called / len(null), "null_voxel_match_rate_interval": [float(low), float(high)]}
        found |= {"n_null_voxels": len(null), "null_median_r_chosen": float(np.median(chosen[null]))}
        found |= {"null_median_r_held_out": float(np.median(held_out[null]))}
        found["matched_share_of_others"] = float(np.delete(matched, null).mean())
    return found


def _beside_encoder(instrument: Instrument, dictionary: Dictionary, truth: PlantedTruth | None) -> dict[str, Any]:
    """Held-out r of matches beside that of ridge on the embedding, in the same voxels; each on images of its own."""
    matched = dictionary.matched
    kinds = {"matched": matched}
    if truth is not None:
        for name in ("early", "category", "confounded"):
            kinds[name] = _members(truth, name, len(matched))
    held_out, r = np.asarray(dictionary.matches.r_held_out[:, 0]), np.asarray(instrument.score.r)
    layer = dictionary.preference.r.max(axis=0)
    return {
        name: {
            "n": int(inside.sum()),
            "median_r_of_match": float(np.median(held_out[inside])),
            "mean_r_of_match": float(held_out[inside].mean()),
            "mean_r_of_match_over_voxels": _over_voxels(held_out[inside]),
            "median_r_of_encoder": float(np.median(r[inside])),
            "median_r_of_best_layer": float(np.median(layer[inside])),
        }
        for name, inside in kinds.items()
        if inside.sum() > 1
    }


def _consistency(instrument: Instrument, dictionary: Dictionary) -> dict[str, Any] | None:
    try:
        found = sharing_of_regions(instrument, dictionary)
    except MineError:
        return None
    maps = {name: dict(getattr(found, name)) for name in ("shared", "chance", "q")}
    return asdict(found) | maps | {"times_exchanged": found.mean / found.exchanged if found.exchanged else None}


def _assigned(instrument: Instrument, dictionary: Dictionary) -> dict[str, Any]:
    """Mean r of a region's matched voxels with their own best unit and with units given out one to one, in whole images."""
    found = {}
    for name in regions_of(instrument):
        try:
            own, alone = units_of_region(instrument, dictionary, name)
        except MineError:
            continue
        found[name] = {
            "n": len(own.voxels),
            "own_best": {"chosen": float(own.r_chosen.mean()), "held_out": float(own.r_held_out.mean()), "units": own.n_units},
            "one_to_one": {"chosen": float(alone.r_chosen.mean()), "held_out": float(alone.r_held_out.mean()), "units": alone.n_units},
        }
    return found


def _layers(instrument: Instrument, dictionary: Dictionary) -> dict[str, Any]:
    preference, regions = dictionary.preference, regions_of(instrument)
    matrix = layer_matrix(preference, regions)
    rows = {}
    for name, inside in regions.items():
        depth, low, high = depth_interval(preference, inside)
        counts = np.bincount(preference.best[inside], minlength=len(preference.r)) / inside.sum()
        rows[name] = {
            "mean_best_layer": depth + 1,
            "interval": [low + 1, high + 1],
            "share_best": [float(share) for share in counts],
            "mean_r": [float(r) for r in matrix[name]],
        }
    stage = stages_of_path(tuple(regions))
    try:
        path: dict[str, Any] | None = asdict(monotony(preference, regions, stage, np.random.default_rng(SEED)))
    except MineError:
        path = None
    sure = preference.share.max(axis=0)
    return {
        "placed_share": float(dictionary.placed.mean()),
        "n_images": preference.n_images,
        "median_share_of_resamples": float(np.median(sure[dictionary.placed])) if dictionary.placed.any() else None,
        "by_region": rows,
        "path": path,
        "agrees_with_matches": _agreement(dictionary),
    }


def _agreement(dictionary: Dictionary) -> dict[str, float]:
    """Spearman's rho over voxels of the best layer by ridge and the layer of the first unit, and the same of shuffled voxels."""
    both = dictionary.matched & dictionary.placed
    one, other = dictionary.preference.best[both], dictionary.matches.layer[both, 0]
    mixed = np.random.default_rng(SEED).permutation(other)
    return {"rho": _rho(one, other), "shuffled": _rho(one, mixed), "n": int(both.sum())}


def _planted_depth(dictionary: Dictionary, truth: PlantedTruth) -> dict[str, Any]:
    """Compare found layers with planted depth: contrast energy before concepts."""
    n_voxels = len(dictionary.matches.q)
    kinds = {name: _members(truth, name, n_voxels) for name in ("early", "category", "confounded", "null")}
    preference, rng = dictionary.preference, np.random.default_rng(SEED)
    difference, low, high = depth_difference(preference, kinds["category"], kinds["early"])
    planted = np.select([kinds["early"], kinds["category"]], [0.0, 1.0], np.nan)
    placed = np.where(dictionary.placed, planted, np.nan)
    counted = np.isfinite(placed)
    rho, rho_low, rho_high = depth_correlation(preference, placed)
    shuffled = [_rho(rng.permutation(placed[counted]), preference.best[counted]) for _ in range(N_SHUFFLES)]
    matched = np.isfinite(planted) & dictionary.matched
    return {
        "mean_best_layer": {name: [v + 1 for v in depth_interval(preference, inside)] for name, inside in kinds.items()},
        "category_less_early": difference,
        "category_less_early_interval": [low, high],
        "hierarchy_correlation": rho,
        "hierarchy_correlation_interval": [rho_low, rho_high],
        "hierarchy_correlation_shuffled_largest": float(max(shuffled)),
        "n": int(counted.sum()),
        "hierarchy_correlation_by_matches": _rho(planted[matched], dictionary.matches.layer[matched, 0]),
    }


def _members(truth: PlantedTruth, kind: str, n_voxels: int) -> Bool[np.ndarray, " voxel"]:
    inside = np.zeros(n_voxels, bool)
    inside[truth.of_kind(kind)] = True
    return inside


def _over_voxels(values: Float[np.ndarray, " voxel"]) -> list[float]:
    return list(bootstrap_mean_interval(np.asarray(values, np.float64), rng=np.random.default_rng(SEED)))


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    return float(stats.spearmanr(a, b).statistic) if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
