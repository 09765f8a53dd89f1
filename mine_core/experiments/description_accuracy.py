"""Do the words of voxels say what was planted, and do their texts predict responses to images that chose no word?"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.errors import SubjectError
from mine_core.experiments.description_texts import text_scores
from mine_core.experiments.pieces import HERE
from mine_core.experiments.planted import truth_of
from mine_core.experiments.planted_words import PlantedWords, planted_words
from mine_core.instrument import Instrument
from mine_core.instrument.build import build_instrument
from mine_core.instrument.profiling import profile_all
from mine_core.statistics import bootstrap_mean_interval
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

SEED, N_SHUFFLES = 21, 20
Row = Any
Right = Callable[[Row, PlantedWords, Mapping[str, str]], bool]


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Compare every reliable voxel's profile with what was planted, and score its text by captions of held-out images.

    Each rate has the same rate for descriptions shuffled among the voxels, and a bootstrap interval over voxels. Without
    planted answers only the texts are scored. Raises SubjectError where the backbone has no words.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    if not len(instrument.vocabulary):
        raise SubjectError(f"Backbone '{config.backbone}' has no words; there is no description to evaluate.")
    table = profile_all(config, store, where=where, on_progress=on_progress)
    found: dict[str, Any] = {"subject": instrument.subject.name, "backbone": config.backbone, "n_voxels": len(table)}
    if instrument.truth_path is not None:
        found |= against_truth(instrument, table)
    return found | {"texts": text_scores(instrument, table, on_progress)}


def against_truth(instrument: Instrument, table: pd.DataFrame) -> dict[str, Any]:
    """Rates against the planted truth, of reliable voxels with a planted concept unless the name says otherwise."""
    truth = truth_of(instrument)
    group_of = dict(zip(instrument.vocabulary.words, instrument.vocabulary.groups, strict=True))
    wanted = np.concatenate([truth.of_kind("category"), truth.of_kind("confounded")])
    chosen = np.sort(wanted[instrument.reliable[wanted]])
    planted = [planted_words(truth, int(voxel)) for voxel in chosen]
    rows = list(table.iloc[chosen].itertuples())
    rates = {name: _rate(rows, planted, right, group_of) for name, right in RIGHT.items()}
    with_attribute = [i for i, answer in enumerate(planted) if answer.attribute]
    rows_with, planted_with = ([part[i] for i in with_attribute] for part in (rows, planted))
    rates |= {name: _rate(rows_with, planted_with, right, group_of) for name, right in RIGHT_ATTRIBUTE.items()}
    named = [i for i in with_attribute if _named(rows[i])]
    rates["attribute_right_where_named"] = _rate([rows[i] for i in named], [planted[i] for i in named], _attribute_right, group_of)
    reliable_early = truth.of_kind("early")[instrument.reliable[truth.of_kind("early")]]
    without = [row for row, answer in zip(rows, planted, strict=True) if not answer.attribute]
    return {
        "n_reliable_with_concept": len(chosen),
        "n_with_attribute": len(with_attribute),
        **rates,
        "attribute_named_where_none_is_planted": float(np.mean([_named(row) for row in without])),
        "of_these_large": float(np.mean([_tried(row).get("word") == "large" for row in without if _named(row)])),
        "null_withheld_rate": _withheld(table, truth),
        "early_described_rate": float((table["text"].iloc[truth.of_kind("early")] != "").mean()),
        "withheld_for_contrast": {
            "early": _outdone(table.iloc[reliable_early]),
            "with_concept": _outdone(table.iloc[chosen]),
        },
        "confounded_flagged_rate": _flagged(rows, planted),
        "first_word_by": _decoding(instrument, chosen, planted, group_of),
        "by_region": _by_region(instrument, chosen, rows, planted, group_of),
        "by_planted_group": _by_group(rows, planted, group_of),
    }


def _outdone(table: pd.DataFrame) -> float:
    """Share of voxels whose words contrast outdoes."""
    return float((table["words_withheld"] != "").mean())


def _group(row: Row, group_of: Mapping[str, str]) -> str:
    return group_of[row.phrases[0]] if len(row.phrases) else ""


def _tried(row: Row) -> dict[str, Any]:
    """Best attribute of a voxel, place apart; empty where none was tried."""
    return next((entry for entry in json.loads(row.tried) if entry["attribute"] != "position"), {})


def _named(row: Row) -> bool:
    return bool(_tried(row).get("stands"))


def _attribute_right(row: Row, answer: PlantedWords, _: Mapping[str, str]) -> bool:
    return _tried(row).get("word") == answer.attribute


RIGHT: dict[str, Right] = {
    "group_accuracy": lambda row, answer, group_of: _group(row, group_of) == answer.group,
    "concept_top1": lambda row, answer, _: len(row.phrases) > 0 and row.phrases[0] in answer.words,
    "concept_top5": lambda row, answer, _: len(row.phrases) > 0 and bool(set(row.words[:5]) & answer.words),
}
RIGHT_ATTRIBUTE: dict[str, Right] = {
    "attribute_accuracy": _attribute_right,
    "attribute_named_and_right": lambda row, answer, group_of: _named(row) and _attribute_right(row, answer, group_of),
}


def _rate(
    rows: list[Row], planted: list[PlantedWords], right: Right, group_of: Mapping[str, str], pool: list[Row] | None = None
) -> dict[str, Any]:
    """Share of voxels for which a description is right, its interval over voxels, and the share for descriptions of others.

    The others are these voxels, shuffled, or drawn from `pool`.
    """
    if len(rows) < 2:
        return {"n": len(rows)}
    hits = np.array([right(row, answer, group_of) for row, answer in zip(rows, planted, strict=True)], np.float64)
    rng = np.random.default_rng(SEED)
    shuffled = [
        np.mean([right(other, answer, group_of) for other, answer in zip(_others(rows, pool, rng), planted, strict=True)])
        for _ in range(N_SHUFFLES)
    ]
    return {
        "rate": float(hits.mean()),
        "interval": list(bootstrap_mean_interval(hits, rng=rng)),
        "shuffled": float(np.mean(shuffled)),
        "n": len(rows),
    }


def _others(rows: list[Row], pool: list[Row] | None, rng: np.random.Generator) -> list[Row]:
    at = rng.permutation(len(rows)) if pool is None else rng.integers(0, len(pool), len(rows))
    return [(pool or rows)[i] for i in at]


def _withheld(table: pd.DataFrame, truth: PlantedTruth) -> dict[str, Any]:
    """Share of null voxels of which nothing is told; by chance, the share of all voxels."""
    silent = (table["text"] == "").to_numpy(np.float64)
    null = silent[truth.of_kind("null")]
    interval = list(bootstrap_mean_interval(null, rng=np.random.default_rng(SEED)))
    return {"rate": float(null.mean()), "interval": interval, "shuffled": float(silent.mean()), "n": len(null)}


def _flagged(rows: list[Row], planted: list[PlantedWords]) -> dict[str, Any]:
    """Of confounded voxels: is the driver told, the company not taken for a phrase, and told to come with the driver?"""
    pairs = [(row, answer) for row, answer in zip(rows, planted, strict=True) if answer.driver]

    def flags(row: Row, answer: PlantedWords) -> bool:
        return f"{answer.company} beside {answer.driver}" in list(row.company) and answer.company not in list(row.phrases)

    hits = np.array([flags(row, answer) for row, answer in pairs], np.float64)
    rng = np.random.default_rng(SEED)
    others = rng.choice(len(rows), min(len(rows), 2000), replace=False)
    return {
        "rate": float(hits.mean()),
        "interval": list(bootstrap_mean_interval(hits, rng=rng)),
        "shuffled": float(np.mean([flags(rows[i], pairs[n % len(pairs)][1]) for n, i in enumerate(others)])),
        "n": len(pairs),
        "driver_first": float(np.mean([list(row.phrases[:1]) == [answer.driver] for row, answer in pairs])),
        "company_taken_for_a_phrase": float(np.mean([answer.company in list(row.phrases) for row, answer in pairs])),
    }


def _decoding(instrument: Instrument, chosen: np.ndarray, planted: list[PlantedWords], group_of: Mapping[str, str]) -> dict[str, Any]:
    """First word of the raw weights, of the forward pattern without and with the prior removed, against the planted words.

    All of them rank the whole vocabulary on the same model: what differs is the direction that words are compared with.
    """
    words = np.array(instrument.vocabulary.words)
    texts = np.asarray(instrument.vocabulary.embedded(), np.float32)
    train = instrument.subject.splits.train
    pooled = np.asarray(instrument.features.pooled[train], np.float32)
    coef = np.asarray(instrument.model.coef[:, chosen], np.float32)
    centred = pooled - pooled.mean(axis=0)
    pattern = centred.T @ (centred @ coef) / len(centred)
    first = {
        "raw_weights": (texts @ (coef / np.linalg.norm(coef, axis=0))).argmax(axis=0),
        "pattern_with_prior": (texts @ (pattern / np.linalg.norm(pattern, axis=0))).argmax(axis=0),
        "pattern": np.asarray(instrument.words.candidates[chosen, 0]),
    }

    def entry(found: np.ndarray) -> dict[str, float]:
        right = np.mean([word in answer.words for word, answer in zip(words[found], planted, strict=True)])
        group = np.mean([group_of[word] == answer.group for word, answer in zip(words[found], planted, strict=True)])
        return {"concept_top1": float(right), "group_accuracy": float(group)}

    return {name: entry(found) for name, found in first.items()}


def _by_region(
    instrument: Instrument, chosen: np.ndarray, rows: list[Row], planted: list[PlantedWords], group_of: Mapping[str, str]
) -> dict[str, Any]:
    voxels = instrument.subject.responses.voxels
    found = {}
    for name, inside in zip(voxels.regions, np.asarray(voxels.membership), strict=True):
        found[name] = _several(rows, planted, inside[chosen], group_of)
    return found


def _by_group(rows: list[Row], planted: list[PlantedWords], group_of: Mapping[str, str]) -> dict[str, Any]:
    groups = list(dict.fromkeys(answer.group for answer in planted))
    return {name: _several(rows, planted, np.array([answer.group == name for answer in planted]), group_of) for name in groups}


def _several(
    rows: list[Row], planted: list[PlantedWords], inside: Bool[np.ndarray, " chosen"], group_of: Mapping[str, str]
) -> dict[str, Any]:
    """All rates of some of the voxels."""
    at = np.flatnonzero(inside).tolist()
    some_rows, some = [rows[i] for i in at], [planted[i] for i in at]
    found = {name: _rate(some_rows, some, right, group_of, rows) for name, right in RIGHT.items()}
    told = [i for i in range(len(at)) if some[i].attribute]
    name = "attribute_accuracy"
    return found | {name: _rate([some_rows[i] for i in told], [some[i] for i in told], RIGHT_ATTRIBUTE[name], group_of)}
