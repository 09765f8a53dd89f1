"""What makes the stages of a voxel dictionary. Imported only when one is made: it pulls in torch and scikit-learn."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import write_text
from mine_core.backbones.presets import load_backbone
from mine_core.config import InstrumentConfig
from mine_core.dictionary.activations import unit_columns
from mine_core.dictionary.autoencoder import Autoencoder, AutoencoderConfig, TokenKind, load_autoencoder
from mine_core.dictionary.hierarchy import prefer_layers, save_preference
from mine_core.dictionary.matching import Matcher, split_halves
from mine_core.dictionary.persist import UsedColumns, save_columns, save_matches
from mine_core.dictionary.quality import score_autoencoder
from mine_core.dictionary.tokens import CELLS, LayerTokens, extract_layers, load_layers
from mine_core.dictionary.training import train_autoencoder
from mine_core.encoding.ridge import fit_ridge
from mine_core.encoding.scoring import pearson_with_p
from mine_core.errors import Cancelled
from mine_core.instrument.makers import Work
from mine_core.instrument.subjects import subject_of
from mine_core.statistics import false_discovery_rate
from mine_core.types import Features, Subject

HALVES_SEED, MATCH_SEED, QUALITY_SEED, LAYER_SEED = 7311, 7312, 7313, 7314
MOST_COLUMNS = 100_000
"""Units times places of all layers up to which units are looked for at places, and not in whole images alone."""
LAYER_ALPHAS = tuple(float(alpha) for alpha in np.logspace(2, 6, 7))
"""Penalties that ridge on a layer's cells chooses from."""
Make = Callable[[Work], Any]


def layers(config: InstrumentConfig) -> Make:
    """Read the tokens of every layer."""

    def make(work: Work) -> None:
        stimuli = subject_of(work.made["subject"]).stimuli
        extract_layers(stimuli, load_backbone(config.backbone), work.directory, work.on_progress, work.cancelled)

    return make


def autoencoders(given: tuple[AutoencoderConfig, TokenKind, Path]) -> Make:
    """Train one autoencoder a layer, each with a checkpoint in a folder that outlives a kill, and score it on validation images."""
    config, kind, scratch = given

    def make(work: Work) -> dict[str, Any]:
        splits, tokens = subject_of(work.made["subject"]).splits, load_layers(work.made["layers"].path)
        found = []
        for layer in range(len(tokens)):
            source = tokens.source(layer, kind)

            def report(done: int, total: int, message: str, layer: int = layer) -> None:
                work.on_progress(layer * total + done, len(tokens) * total, f"{message}, layer {layer + 1} of {len(tokens)}")

            autoencoder, history = train_autoencoder(
                source, splits.train, config, scratch / name_of(layer), on_progress=report, cancelled=work.cancelled
            )
            folder = work.directory / name_of(layer)
            folder.mkdir()
            autoencoder.save(folder)
            quality = score_autoencoder(autoencoder, source, splits.validation, np.random.default_rng(QUALITY_SEED))
            found.append({**asdict(quality), "history": history})
        write_text(work.directory / "quality.json", json.dumps(found))
        shutil.rmtree(scratch, ignore_errors=True)
        return {"layers": len(found)}

    return make


def matches(given: tuple[TokenKind, str, int]) -> Make:
    """Match the units of all layers to every voxel."""
    kind, stage, n_permutations = given

    def make(work: Work) -> dict[str, Any]:
        subject, tokens = subject_of(work.made["subject"]), load_layers(work.made["layers"].path)
        trained = open_autoencoders(work.made[stage].path, len(tokens))
        halves = split_halves(subject.splits.train, np.random.default_rng(HALVES_SEED))
        cells = cells_for(trained, kind)
        matcher = Matcher(subject.responses.values, halves, np.random.default_rng(MATCH_SEED))
        everything = np.arange(len(tokens.stimulus_ids))
        for layer, autoencoder in enumerate(trained):
            if work.cancelled():
                raise Cancelled(f"Stopped after matching {layer} of {len(tokens)} layers; nothing of it was kept.")
            work.on_progress(layer, len(tokens) + 1, f"matching layer {layer + 1} of {len(tokens)}")
            columns = unit_columns(autoencoder, tokens.source(layer, kind), everything, tokens.backbone.grid, cells)
            matcher.add(layer, columns)
            used = np.unique(matcher.parts["place"][-1] * columns.n_units + matcher.parts["unit"][-1])
            kept = UsedColumns(used, np.ascontiguousarray(columns.values[:, used].T), columns.n_units)
            save_columns(work.directory, layer, kept, columns.values[:, : columns.n_units])
        work.on_progress(len(tokens), len(tokens) + 1, "testing the matches")
        save_matches(work.directory, matcher.finish(n_permutations), halves)
        return {"cells": cells}

    return make


def preference(config: InstrumentConfig) -> Make:
    """Fit ridge to the tokens of every layer, cell by cell, and see which layer predicts each voxel's held-out responses best.

    p of the best layer's r by permutations, times the number of layers for having been the best of them (Bonferroni); q by
    Benjamini and Yekutieli over voxels.
    """

    def make(work: Work) -> None:
        subject, tokens = subject_of(work.made["subject"]), load_layers(work.made["layers"].path)
        held_out = np.concatenate([subject.splits.validation, subject.splits.test])
        measured = np.asarray(subject.responses.values[held_out], np.float64)
        predicted = []
        for layer in range(len(tokens)):
            if work.cancelled():
                raise Cancelled(f"Stopped after fitting {layer} of {len(tokens)} layers; nothing of it was kept.")
            work.on_progress(layer, len(tokens) + 1, f"predicting from layer {layer + 1} of {len(tokens)}")
            predicted.append(predict_from_layer(subject, tokens, layer, held_out))
        work.on_progress(len(tokens), len(tokens) + 1, "comparing layers")
        rng = np.random.default_rng(LAYER_SEED)
        found = prefer_layers(predicted, measured, rng)
        save_preference(work.directory, found)
        best = np.take_along_axis(np.stack(predicted), found.best[None, None, :], axis=0)[0]
        _, p = pearson_with_p(best, measured, config.n_permutations, rng)
        p = np.minimum(1.0, p * len(tokens))
        np.save(work.directory / "p.npy", p)
        np.save(work.directory / "q.npy", false_discovery_rate(p, "by"))

    return make


def predict_from_layer(subject: Subject, tokens: LayerTokens, layer: int, stimuli: np.ndarray) -> np.ndarray:
    """Responses to some stimuli that ridge on the tokens of one layer predicts, fit on training stimuli."""
    X = tokens.cells(layer, np.arange(len(tokens.stimulus_ids)))
    features = Features(
        pooled=X,
        patches=np.empty((len(X), 0, X.shape[1]), np.float16),
        remainder=X,
        stimulus_ids=tokens.stimulus_ids,
        backbone=replace(tokens.backbone, n_features=X.shape[1]),
    )
    model = fit_ridge(features, subject.responses, subject.splits, LAYER_ALPHAS)
    return np.asarray(X[stimuli] @ model.coef + model.intercept, np.float64)


def open_autoencoders(directory: Path, n_layers: int) -> tuple[Autoencoder, ...]:
    """Autoencoders of all layers of one artifact."""
    return tuple(load_autoencoder(directory / name_of(layer)) for layer in range(n_layers))


def cells_for(trained: tuple[Autoencoder, ...], kind: TokenKind) -> int:
    """Cells a side that units are looked for in: 4, or none where that would be more columns than can be compared."""
    n_columns = sum(autoencoder.n_units for autoencoder in trained) * (1 + CELLS**2)
    return CELLS if kind == "patch" and n_columns <= MOST_COLUMNS else 0


def name_of(layer: int) -> str:
    """Folder of a layer's autoencoder."""
    return f"layer_{layer + 1:02d}"
