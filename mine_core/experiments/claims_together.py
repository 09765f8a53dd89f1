"""The paper's claims on several subjects: each by itself, and all of their voxels and images in one mixed model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError
from mine_core.experiments.claim_rows import Row
from mine_core.experiments.claim_summary import summarise
from mine_core.experiments.claims import DEFAULT, Measured, Piece, Settings, measure_claims, measured_rows
from mine_core.experiments.composing import maker_of
from mine_core.experiments.pieces import HERE
from mine_core.types import IsCancelled, OnProgress


def measure_together(
    configs: Sequence[InstrumentConfig],
    store: ArtifactStore,
    settings: Settings = DEFAULT,
    *,
    where: Where = HERE,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> dict[str, Any]:
    """Test the claims of the paper on each of several subjects (`measure_claims`), and on all of their voxels together.

    Every voxel and every image counts as its subject's own, as random effects: the intervals speak of voxels and images drawn from
    these subjects as these were, not of other brains, for which three or eight are too few to say. `each` sets what the subjects show
    by themselves beside it; where they disagree, the joint estimate is of none of them.

    Raises
    ------
    ConfigError : if a subject is given twice.
    EditError, BatchError, Cancelled : as `measure_claims`.
    """
    if len(set(configs)) < len(configs):
        raise ConfigError("A subject was given twice; its voxels would count twice. Name each once.")
    given: dict[str, Any] = {"where": where, "on_progress": on_progress, "cancelled": cancelled}
    alone = [measure_claims(config, store, settings, **given) for config in configs]
    measured = [measured_rows(config, store, settings, **given) for config in configs]
    planted = all(each.instrument.truth_path is not None for each in measured)
    return {
        "subjects": [each["subject"] for each in alone],
        "backbone": configs[0].backbone,
        "settings": asdict(settings),
        "maker": maker_of(settings.editor).name,
        **summarise(joined(measured), planted=planted),
        "each": {each["subject"]: [_estimate(entry) for entry in each["contrasts"]] for each in alone},
    }


def joined(measured: Sequence[Measured]) -> dict[Piece, list[Row]]:
    """Rows of all subjects' tasks, their voxels and images numbered on from one subject to the next."""
    rows: dict[Piece, list[Row]] = {}
    first_voxel = first_image = 0
    for each in measured:
        for piece, found in each.rows.items():
            moved = [{**row, "image": row["image"] + first_image} if "image" in row else row for row in found]
            rows[replace(piece, voxel=piece.voxel + first_voxel)] = moved
        first_voxel += each.instrument.subject.responses.values.shape[1]
        first_image += len(each.instrument.subject.stimuli.ids)
    return rows


def _estimate(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A subject's own effect in one comparison, by each encoder; None where there was too little to fit."""
    kept = ("estimate", "low", "high", "n_voxels", "n_images", "verdict")
    effects = {name: entry[name] and {key: entry[name][key] for key in kept} for name in ("guiding", "second")}
    return {"claim": entry["claim"], "name": entry["name"], **effects, "sentence": entry["sentence"]}
