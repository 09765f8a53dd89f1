"""Embedding a subject's stimuli on many workers: the longest work of a `fit`, in parts that are kept as they are done.

A worker keeps each batch of embeddings where an unbroken build would keep it, so a build that follows finds all of them, one that was
killed goes on with what is missing, and the features are the same bytes wherever they were made.
"""

from pathlib import Path

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.backbones.base import image_batches
from mine_core.batches import Task, Where, run_batch
from mine_core.config import InstrumentConfig
from mine_core.instrument.feature_makers import BATCH
from mine_core.instrument.stages import Run, Stage, encoding_stages, given_of
from mine_core.instrument.subjects import subject_of
from mine_core.types import OnProgress

PART = 8 * BATCH  # images a task


def spread_features(config: InstrumentConfig, store: ArtifactStore, where: Where, on_progress: OnProgress | None = None) -> None:
    """Embed what is not embedded yet, part by part wherever `where` says, and put the parts together there; nothing twice.

    Workers should be alike: what one kind of device embedded is not taken for what another would.

    Raises
    ------
    SubjectError, BackboneError : if there is no such subject, or a worker has not the backbone's weights.
    BatchError : if the cluster cannot be used or is lost; what was finished is kept.
    """
    before, features = _stages(config, store)
    if store.find(features.recipe) is not None:
        return
    made = Run(store, on_progress, None).make(before, given_of(config, store))
    total = len(subject_of(made["subject"]).stimuli)
    parts = image_batches(total, PART)
    done = 0
    for number in run_batch([Task(embed_part, (config, store.root, rows)) for rows in parts], where, store.root):
        done += parts[number].stop - parts[number].start
        if on_progress is not None:
            on_progress(done, total, f"Embedding the stimuli: {done:,} of {total:,} images")
    for _ in run_batch([Task(join_parts, (config, store.root))], where, store.root):
        pass


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


def join_parts(config: InstrumentConfig, root: Path) -> None:
    """Make the artifact of features; batches that are kept are read."""
    store = ArtifactStore(root)
    before, features = _stages(config, store)
    Run(store, None, None).make([features], _made(config, store, before))


def _stages(config: InstrumentConfig, store: ArtifactStore) -> tuple[list[Stage], Stage]:
    stages = encoding_stages(config, store)
    place = next(number for number, stage in enumerate(stages) if stage.name == "features")
    return stages[:place], stages[place]


def _made(config: InstrumentConfig, store: ArtifactStore, before: list[Stage]) -> dict[str, Artifact]:
    return Run(store, None, None).make(before, given_of(config, store))
