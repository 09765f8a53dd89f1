"""Stages made by workers: what takes long is done by other processes or a cluster, and kept there stage by stage.

The stimuli are embedded in parts, by many workers at once; every other stage that is missing is one task. A worker keeps each batch
of embeddings where an unbroken build would keep it, so a build that follows finds all of them, one that was killed goes on with what
is missing, and the features are the same bytes wherever they were made.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.backbones.base import image_batches
from mine_core.batches import Task, Where, run_batch
from mine_core.config import InstrumentConfig
from mine_core.instrument.dictionary import dictionary_stages
from mine_core.instrument.encoders import encoder_stages
from mine_core.instrument.feature_makers import BATCH
from mine_core.instrument.second import second_stages
from mine_core.instrument.stages import Run, Stage, encoding_stages, given_of, stages_of
from mine_core.instrument.subjects import subject_of
from mine_core.types import OnProgress

PART = 8 * BATCH  # images a task
PLANS: Mapping[str, Callable[[InstrumentConfig, ArtifactStore], list[Stage]]] = {
    "instrument": stages_of,
    "second": second_stages,
    "dictionary": dictionary_stages,
    "query_attention": lambda config, store: encoder_stages(config, store, "query_attention"),
    "banded": lambda config, store: encoder_stages(config, store, "banded"),
}


def spread_stages(
    config: InstrumentConfig, store: ArtifactStore, where: Where, plan: str = "instrument", on_progress: OnProgress | None = None
) -> None:
    """Make what is missing of a plan's stages wherever `where` says, nothing twice; nothing where that is this process.

    Workers should be alike: what one kind of device embedded is not taken for what another would.

    Parameters
    ----------
    plan : "instrument" (what the app opens), "second" (the encoder that checks edits), "dictionary", "query_attention" or "banded".

    Raises
    ------
    SubjectError, BackboneError : if there is no such subject, or a worker has not the backbone's weights.
    EncodingError : if the subject or this machine can have no such encoder.
    BatchError : if the cluster cannot be used or is lost; what was finished is kept.
    """
    report = on_progress or (lambda *_: None)
    if where == Where():
        return
    stages = PLANS[plan](config, store)
    total, done = sum(stage.weight for stage in stages), 0
    for stage in stages:
        report(done, total, stage.title)
        done += stage.weight
        if store.find(stage.recipe) is not None:
            continue
        if stage.recipe.kind == "features":
            seen = replace(config, backbone=str(stage.recipe.config["backbone"]))
            _embed(seen, store, where, report)
        for _ in run_batch([Task(make_stage, (config, store.root, plan, stage.name))], where, store.root):
            pass
    report(total, total, "Ready")


def make_stage(config: InstrumentConfig, root: Path, plan: str, name: str) -> None:
    """Make one stage of a plan and what it needs, where they are not made; kept batches of embeddings are read."""
    store = ArtifactStore(root)
    stages = PLANS[plan](config, store)
    last = next(number for number, stage in enumerate(stages) if stage.name == name)
    Run(store, None, None).make(stages[: last + 1], given_of(config, store))


def _embed(config: InstrumentConfig, store: ArtifactStore, where: Where, report: OnProgress) -> None:
    """Embed what is not embedded yet, part by part, and keep the batches; they are put together by the stage itself."""
    total = len(subject_of(_made(config, store, _stages(config, store)[0])["subject"]).stimuli)
    parts = image_batches(total, PART)
    done = 0
    for number in run_batch([Task(embed_part, (config, store.root, rows)) for rows in parts], where, store.root):
        done += parts[number].stop - parts[number].start
        report(done, total, f"Embedding the stimuli: {done:,} of {total:,} images")


def embed_part(config: InstrumentConfig, root: Path, rows: slice) -> None:
    """Embed the stimuli of `rows`, which begin and end where batches do, and keep each batch."""
    from mine_core.backbones.kept import KeptEmbeddings
    from mine_core.backbones.presets import load_backbone

    store = ArtifactStore(root)
    before, features = _stages(config, store)
    if store.find(features.recipe) is not None:
        return
    stimuli = subject_of(_made(config, store, before)["subject"]).stimuli
    backbone = KeptEmbeddings(load_backbone(config.backbone), store.root / "unfinished" / features.recipe.key)
    for start in range(rows.start, rows.stop, BATCH):
        backbone.embed(stimuli.images[start : min(start + BATCH, rows.stop)], batch_size=BATCH)


def _stages(config: InstrumentConfig, store: ArtifactStore) -> tuple[list[Stage], Stage]:
    stages = encoding_stages(config, store)
    place = next(number for number, stage in enumerate(stages) if stage.name == "features")
    return stages[:place], stages[place]


def _made(config: InstrumentConfig, store: ArtifactStore, before: list[Stage]) -> dict[str, Artifact]:
    return Run(store, None, None).make(before, given_of(config, store))
