"""What each choice of the query-attention encoder is worth: the encoder without it, on the same voxels and test stimuli.

python -m mine_core.experiments.encoder_ablation --seed 0 --voxels 512 --json ablation.json
"""

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.artifacts import ArtifactStore, write_text
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.encoding.query_attention import QueryAttentionConfig
from mine_core.encoding.scoring import normalised_accuracy, r2_columns
from mine_core.encoding.uncertainty import paired_difference
from mine_core.experiments.encoder_comparison import groups_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.types import EncodingModel, Responses, Splits, VoxelIndex

CEILING_FLOOR, N_RESAMPLES, SEED = 0.1, 1000, 23
GROUPS = ("all voxels", "small receptive fields", "large receptive fields")
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "no feed-forward": {"feed_forward": 0},
    "blind to places": {"frequencies": 0},
    "blind to contents": {"key_width": 0},
    "read-outs start at 0": {"ridge_start": False},
    "the ridge penalty as ridge has it": {"penalty": 1.0},
    "last weights, not averaged": {"average": 0.0},
    "values of 64 dimensions": {"value_width": 64},
    "two heads of half the width": {"heads": 2, "key_width": 16},
    "eight heads of 4 dimensions": {"heads": 8, "key_width": 4},
}
SHUFFLED = "as it is, on responses of other images"
logger = logging.getLogger(__name__)


def measure(instrument: Instrument, n_voxels: int, variants: Sequence[str] = tuple(VARIANTS)) -> dict[str, Any]:
    """Fit each variant on the same randomly drawn voxels and score it on the test stimuli, beside the encoder as it is.

    normalised_accuracy = mean of R² / ceiling over voxels with a ceiling of at least 0.1; `difference` is that of a variant
    less that of the encoder as it is (ridge: likewise), with an interval over resampled test stimuli. A choice is worth
    having where leaving it out gives a negative difference. The last row, fit on shuffled responses, is chance. It holds for
    this brain, these voxels and this number of images.
    """
    drawn = np.random.default_rng(SEED).permutation(len(instrument.subject.responses.voxels))[:n_voxels]
    voxels = np.sort(drawn)
    test = instrument.subject.splits.test
    measured = np.asarray(instrument.subject.responses.values[:, voxels][test], np.float64)
    ceiling = np.asarray(instrument.score.noise_ceiling, np.float64)[voxels]
    groups = {name: inside[voxels] for name, inside in groups_of(instrument).items() if name in GROUPS}
    ridge = _some(instrument, voxels)
    predictions = {"ridge": (ridge.predict(np.asarray(instrument.features.pooled[test])), {"seconds": 0.0})}
    names = ["as it is", *(name for name in variants if name != "as it is")]
    responses = _responses(instrument, voxels, ridge.voxels)
    for name in names:
        logger.info("fitting: %s", name)
        predictions[name] = _fit(instrument, responses, ridge, replace(QueryAttentionConfig(), **VARIANTS[name]))
    logger.info("fitting: %s", SHUFFLED)
    predictions[SHUFFLED] = _fit(instrument, _shuffled(responses, instrument.subject.splits), None, QueryAttentionConfig())
    whole = np.asarray(predictions["as it is"][0], np.float64)
    return {
        "subject": instrument.subject.name,
        "seed": instrument.config.seed,
        "n_voxels": len(voxels),
        "variants": {
            name: made | _scores(np.asarray(predicted, np.float64), whole, measured, ceiling, groups)
            for name, (predicted, made) in predictions.items()
        },
    }


def _some(instrument: Instrument, voxels: Int[np.ndarray, " chosen"]) -> EncodingModel:
    """The ridge encoder of some voxels alone."""
    model, index = instrument.model, instrument.subject.responses.voxels
    chosen = VoxelIndex(index.subject, index.flat_index[voxels], index.grid_shape, index.regions, index.membership[:, voxels])
    arrays: dict[str, Any] = {
        name: np.asarray(getattr(model, name)[..., voxels]) for name in ("coef", "intercept", "alpha", "prediction_sd")
    }
    return replace(model, voxels=chosen, **arrays)


def _responses(instrument: Instrument, voxels: Int[np.ndarray, " chosen"], index: VoxelIndex) -> Responses:
    whole = instrument.subject.responses
    return Responses(np.asarray(whole.values[:, voxels]), None, whole.stimulus_ids, index, whole.units)


def _shuffled(responses: Responses, splits: Splits) -> Responses:
    """Training and validation responses, each dealt out to other stimuli of their split: nothing is left to be learnt."""
    rng, values = np.random.default_rng(SEED), np.array(responses.values)
    for positions in (splits.train, splits.validation):
        values[positions] = values[rng.permutation(positions)]
    return replace(responses, values=values)


def _fit(
    instrument: Instrument, responses: Responses, ridge: EncodingModel | None, config: QueryAttentionConfig
) -> tuple[Float[np.ndarray, "test chosen"], dict[str, Any]]:
    from mine_core.encoding.query_attention.fit import fit_query_attention

    splits = instrument.subject.splits
    begun = time.process_time()
    encoder = fit_query_attention(instrument.features, responses, splits, config, ridge=ridge)
    made = {"seconds": time.process_time() - begun, "epochs": encoder.provenance["best_epoch"]}
    return encoder.predict(instrument.features, splits.test), made


def _scores(
    predicted: Float[np.ndarray, "test chosen"],
    whole: Float[np.ndarray, "test chosen"],
    measured: Float[np.ndarray, "test chosen"],
    ceiling: Float[np.ndarray, " chosen"],
    groups: Mapping[str, Bool[np.ndarray, " chosen"]],
) -> dict[str, Any]:
    """Accuracy of each group of voxels, and how much less it is than that of the encoder as it is."""
    r2 = r2_columns(measured, predicted)
    rng = np.random.default_rng(SEED)
    membership = np.stack(list(groups.values()))
    found = paired_difference(
        predicted, whole, measured, membership, rng, noise_ceiling=ceiling, floor=CEILING_FLOOR, n_resamples=N_RESAMPLES
    ).regions
    return {
        name: {
            "normalised_accuracy": normalised_accuracy(r2[inside], ceiling[inside], CEILING_FLOOR),
            "difference": float(found.estimate[row]),
            "interval": [float(found.low[row]), float(found.high[row])],
        }
        for row, (name, inside) in enumerate(groups.items())
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line of the ablation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the phantom")
    parser.add_argument("--voxels", type=int, default=512, help="how many, drawn at random")
    parser.add_argument("--only", action="append", choices=sorted(VARIANTS), help="variants to fit (default: all)")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    instrument = build_instrument(InstrumentConfig(seed=asked.seed), ArtifactStore(cache_directory()))
    found = measure(instrument, asked.voxels, asked.only or tuple(VARIANTS))
    write_text(asked.json, json.dumps(found, indent=1))
    for name, entry in found["variants"].items():
        logger.info("%s: %s", name, json.dumps(entry["all voxels"]))


if __name__ == "__main__":
    main()
