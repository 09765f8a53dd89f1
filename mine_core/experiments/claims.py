"""The paper's claims, tested on any subject: small tasks of a voxel and a claim, kept when done, and what they add up to."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mine_core.artifacts import ArtifactStore, Recipe, canonical_json, code_version
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.errors import EditError, EncodingError
from mine_core.experiments.claim_causes import CAUSES, causes, voxels_of
from mine_core.experiments.claim_rows import MEASURES, Bench, Row
from mine_core.experiments.claim_summary import summarise
from mine_core.experiments.composing import maker_of
from mine_core.experiments.pieces import HERE, Pieces, keys_of, measure_pieces
from mine_core.experiments.planted import truth_of
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.second import SecondEncoder, build_second, second_backbone
from mine_core.instrument.things import things_of
from mine_core.instrument.wanting import first_words
from mine_core.types import IsCancelled, OnProgress

N_VOXELS, DRAWN, SEED = 16, 160, 89
TITLE = "testing claims"
CODE = (
    "attribution/faithfulness.py",
    "attribution/traced.py",
    "counterfactual/alterations.py",
    "counterfactual/compositing.py",
    "counterfactual/controls.py",
    "counterfactual/exemplars.py",
    "counterfactual/filling.py",
    "counterfactual/insertion.py",
    "counterfactual/placements.py",
    "counterfactual/removal.py",
    "counterfactual/verification.py",
    "description/decoding.py",
    "description/wants.py",
    "experiments/causal_calls.py",
    "experiments/claim_causes.py",
    "experiments/claim_rows.py",
    "experiments/composing.py",
    "experiments/planted_edits.py",
    "instrument/things.py",
    "instrument/trials.py",
    "instrument/where.py",
)
SUMMARY_CODE = (
    *CODE,
    "experiments/claim_summary.py",
    "experiments/claim_sentences.py",
    "experiments/claims.py",
    "experiments/mixed_effects.py",
)


@dataclass(frozen=True)
class Settings:
    """How the claims are tested: number of voxels, and the generative editor that makes images ("" for cut-outs)."""

    n_voxels: int = N_VOXELS
    editor: str = ""


DEFAULT = Settings()


@dataclass(frozen=True)
class Piece:
    """One task: a claim, a voxel, and the first thing that the voxel's description names."""

    claim: str
    voxel: int
    word: str


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Test every claim with the default settings; see `measure_claims`."""
    return measure_claims(config, store, where=where, on_progress=on_progress)


def measure_claims(
    config: InstrumentConfig,
    store: ArtifactStore,
    settings: Settings = DEFAULT,
    *,
    where: Where = HERE,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> dict[str, Any]:
    """Test the claims of the paper on random reliable voxels whose description names a thing, or find them tested.

    Each voxel and claim is a task, kept when it is done: what was stopped or killed goes on from there, and more voxels later add to
    those that are done. See `claim_rows` for what is measured, and `condition_effect` for the intervals.

    Raises
    ------
    EditError
        If the backbone has no words, too few images are held out to score one, or fewer than 4 voxels have a description that
        names a thing.
    BatchError
        If a cluster cannot be used, or is lost; finished tasks are kept.
    Cancelled
        If `cancelled()` became True; finished tasks are kept.
    """
    report = on_progress or (lambda *_: None)
    found = store.find(_summary_recipe(config, store, settings))
    if found is not None:
        return found.json("claims")
    measured = measured_rows(config, store, settings, where=where, on_progress=on_progress, cancelled=cancelled)

    def make(directory: Path) -> dict[str, Any]:
        report(len(measured.rows), len(measured.rows), "fitting mixed models")
        instrument, second = measured.instrument, measured.second
        about: dict[str, Any] = {"subject": instrument.subject.name, "backbone": config.backbone, "settings": asdict(settings)}
        about |= {"maker": maker_of(settings.editor).name, "second_encoder": None if second is None else second.independence}
        summary = about | summarise(measured.rows, planted=instrument.truth_path is not None)
        (directory / "claims.json").write_text(canonical_json(summary))
        return {"n_tasks": len(measured.rows)}

    return store.build(_summary_recipe(config, store, settings), make).json("claims")


class Measured(NamedTuple):
    """What all tasks on a subject found, and the two encoders that they asked."""

    instrument: Instrument
    second: SecondEncoder | None
    rows: dict[Piece, list[Row]]


def measured_rows(
    config: InstrumentConfig,
    store: ArtifactStore,
    settings: Settings,
    *,
    where: Where = HERE,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Measured:
    """Do what is not done of a subject's tasks, and read what all of them found; refuses as `measure_claims`."""
    report = on_progress or (lambda *_: None)
    instrument = build_instrument(config, store, on_progress=report, cancelled=cancelled or (lambda: False))
    second = _second(config, store, report)
    pieces = pieces_of(instrument, settings.n_voxels)
    found = measure_pieces(
        tasks_of(config, settings),
        [asdict(piece) for piece in pieces],
        config,
        store,
        opened=_bench(instrument, second, settings),
        where=where,
        title=TITLE,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    return Measured(instrument, second, dict(zip(pieces, found, strict=True)))


def find_claims(config: InstrumentConfig, store: ArtifactStore, settings: Settings = DEFAULT) -> dict[str, Any] | None:
    """What was found when the claims were tested; None where they were not, with this version of the program."""
    found = store.find(_summary_recipe(config, store, settings))
    return None if found is None else found.json("claims")


def pieces_of(instrument: Instrument, n_voxels: int) -> list[Piece]:
    """Tasks of every claim, claim by claim; the voxels are the first `n_voxels` able ones of a random order, the same every time.

    Raises EditError as `measure_claims`.
    """
    words = _described(instrument)
    if len(words) < 4:
        raise EditError(
            f"{len(words)} of {DRAWN} reliable voxels drawn at random have a description that names a thing; at least 4 are needed to "
            "test claims on. See the accuracies and the words on Validation."
        )
    chosen = list(words.items())[:n_voxels]
    pieces = [Piece(claim, voxel, word) for claim in MEASURES for voxel, word in chosen]
    return pieces + [Piece(CAUSES, voxel, "") for voxel in voxels_of(instrument)]


def _described(instrument: Instrument) -> dict[int, str]:
    """Random reliable voxels, and the first thing that the description of each names."""
    drawn: Int[np.ndarray, " voxel"] = np.random.default_rng(SEED).permutation(np.flatnonzero(instrument.reliable))[:DRAWN]
    return first_words(instrument, drawn, {word for words in things_of(instrument.vocabulary).values() for word in words})


def _second(config: InstrumentConfig, store: ArtifactStore, report: OnProgress) -> SecondEncoder | None:
    try:
        return build_second(config, store, on_progress=report)
    except EncodingError:
        return None


def _bench(instrument: Instrument, second: SecondEncoder | None, settings: Settings) -> Bench:
    truth = None if instrument.truth_path is None else truth_of(instrument)
    return Bench(instrument, second, maker_of(settings.editor), truth)


def _opened(config: InstrumentConfig, store: ArtifactStore, settings: Settings) -> Bench:
    return _bench(build_instrument(config, store), _second(config, store, lambda *_: None), settings)


def _measured(bench: Bench, claim: str, voxel: int, word: str) -> list[Row]:
    """Rows of one task."""
    run = causes if claim == CAUSES else MEASURES[claim]
    return run(bench, voxel, word)


def tasks_of(config: InstrumentConfig, settings: Settings) -> Pieces:
    """What the tasks have in common: a task is kept for any number of voxels."""
    about = {"editor": settings.editor, "second": second_backbone(config) or ""}
    return Pieces("claim", _opened, _measured, (replace(settings, n_voxels=0),), about, CODE)


def _summary_recipe(config: InstrumentConfig, store: ArtifactStore, settings: Settings) -> Recipe:
    asked = {**asdict(settings), "second": second_backbone(config) or ""}
    return Recipe("claims", asked, keys_of(config, store), code_version(*SUMMARY_CODE))
