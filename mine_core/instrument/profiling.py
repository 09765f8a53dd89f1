"""Profiles of all voxels: a batch that shows how far it is, goes on where it was stopped, and writes parquet and CSV."""

import json
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version
from mine_core.batches import Task, Where, run_batch
from mine_core.config import InstrumentConfig
from mine_core.errors import Cancelled
from mine_core.instrument.build import build_instrument
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.own_words import own_recipe, with_own_words
from mine_core.instrument.stages import stages_of
from mine_core.instrument.wanting import full_profile, wanting_of, wants_of
from mine_core.types import IsCancelled, OnProgress, VoxelProfile

CODE = (
    "profiles.py",
    "description/attributes.py",
    "description/contrast.py",
    "description/scoring.py",
    "description/wants.py",
    "description/writing.py",
    "instrument/profiling.py",
    "instrument/wanting.py",
)
CHUNK = 250
HERE = Where()
TABLE = "profiles.parquet"
TITLE = "Writing profiles"


def profiles_recipe(config: InstrumentConfig, store: ArtifactStore, own: tuple[str, ...] = ()) -> Recipe:
    """Name the profiles of an instrument in the store, with a user's own words or without."""
    keys = tuple(stage.recipe.key for stage in stages_of(config, store) if stage.name in ("words", "evidence", "contrast"))
    return Recipe("profiles", {}, (*keys, *([own_recipe(config, store, own).key] if own else [])), code_version(*CODE))


def profile_all(
    config: InstrumentConfig,
    store: ArtifactStore,
    *,
    own: tuple[str, ...] = (),
    where: Where = HERE,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> pd.DataFrame:
    """Profile every voxel, or find it done; one row a voxel, in order.

    Voxels are done in blocks of 250, each kept when it is finished: a batch that is stopped or killed goes on from there.
    A voxel that does not earn a profile has a row that says why, and no words.

    Parameters
    ----------
    own : a user's own words, to be told beside those of the vocabulary.
    where : processes or a cluster; each opens the stored arrays, which are shared. The profiles are the same wherever they were made.

    Raises
    ------
    BatchError
        If a cluster cannot be used, or is lost; finished blocks are kept.
    Cancelled
        If `cancelled()` became True; finished blocks are kept.
    """
    instrument = build_instrument(config, store, on_progress=on_progress, cancelled=cancelled)
    instrument = with_own_words(instrument, store, own, on_progress=on_progress, cancelled=cancelled)
    recipe = profiles_recipe(config, store, own)

    def make(directory: Path) -> dict[str, Any]:
        scratch = store.root / "unfinished" / recipe.key
        scratch.mkdir(parents=True, exist_ok=True)
        report, stopped = on_progress or (lambda *_: None), cancelled or (lambda: False)
        table = profile_blocks(instrument, store, scratch, where, report, stopped)
        table.to_parquet(directory / TABLE)
        shutil.rmtree(scratch, ignore_errors=True)
        return {"n_voxels": len(table), "n_described": int((table["text"] != "").sum())}

    return read_profiles(store.build(recipe, make))


def find_profiles(config: InstrumentConfig, store: ArtifactStore, own: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """Profiles that are in the store, or None."""
    found = store.find(profiles_recipe(config, store, own))
    return None if found is None else read_profiles(found)


def read_profiles(artifact: Artifact) -> pd.DataFrame:
    """Table of profiles of a finished batch."""
    return pd.read_parquet(artifact.path / TABLE)


def summary_of(table: pd.DataFrame) -> dict[str, Any]:
    """How many voxels were described, and how many were not and why."""
    described = table["text"] != ""
    return {
        "n_voxels": len(table),
        "n_described": int(described.sum()),
        "n_withheld": int((table["withheld"] != "").sum()),
        "n_reliable_without_words": int(((table["withheld"] == "") & ~described).sum()),
        "n_words_withheld": int((table["words_withheld"] != "").sum()),
        "n_with_attribute": int((table["attributes"].map(len) > 0).sum()),
        "median_words_r": float(table.loc[described, "words_r"].median()) if described.any() else None,
        "examples": [f"{row.voxel}: {row.text}" for row in table[described].nlargest(5, "r").itertuples()],
    }


def profile_blocks(
    instrument: Instrument,
    store: ArtifactStore,
    scratch: Path,
    where: Where,
    on_progress: OnProgress,
    cancelled: IsCancelled = lambda: False,
) -> pd.DataFrame:
    """Profile all voxels block by block, each kept in `scratch` when it is done and not made again.

    Raises Cancelled if `cancelled()` became True; finished blocks are kept.
    """
    n_voxels = len(instrument.score.r)
    starts = range(0, n_voxels, CHUNK)
    missing = [start for start in starts if not _block_path(scratch, start).is_file()]
    done = len(starts) - len(missing)
    on_progress(done, len(starts), TITLE)
    given = (instrument.config, instrument.own_words, store.root, scratch)
    tasks = [Task(_do_block, (*given, start, min(start + CHUNK, n_voxels))) for start in missing]
    _OPENED[given[:3]] = instrument  # for tasks of this process
    try:
        for _ in run_batch(tasks, where, store.root, cancelled):
            done += 1
            on_progress(done, len(starts), TITLE)
            if cancelled():
                raise Cancelled(
                    f"Stopped after {min(done * CHUNK, n_voxels)} of {n_voxels} voxels; the same command goes on from there."
                )
    finally:
        _OPENED.pop(given[:3], None)
    return pd.concat([pd.read_parquet(_block_path(scratch, start)) for start in starts], ignore_index=True)


_OPENED: dict[tuple[InstrumentConfig, tuple[str, ...], Path], Instrument] = {}


def _do_block(config: InstrumentConfig, own: tuple[str, ...], root: Path, scratch: Path, start: int, stop: int) -> None:
    """Do one block; a process keeps its instrument for the next."""
    path = _block_path(scratch, start)
    if path.is_file():
        return
    if (config, own, root) not in _OPENED:
        store = ArtifactStore(root)
        _OPENED[config, own, root] = with_own_words(build_instrument(config, store), store, own)
    instrument = _OPENED[config, own, root]
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    table_of(instrument, np.arange(start, stop)).to_parquet(temporary)
    temporary.replace(path)


def _block_path(scratch: Path, start: int) -> Path:
    return scratch / f"block-{start:07d}.parquet"


def table_of(instrument: Instrument, voxels: Int[np.ndarray, " chosen"]) -> pd.DataFrame:
    """Profiles of some voxels, a row each."""
    wanting = wanting_of(instrument)
    reliable = voxels[instrument.reliable[voxels]]
    wants = dict(zip(reliable.tolist(), wants_of(instrument, wanting, reliable), strict=True)) if wanting and len(reliable) else {}
    ids = instrument.subject.stimuli.ids
    own = set(instrument.own_words)
    rows = [_row(full_profile(instrument, voxel, wants.get(voxel)), ids, own) for voxel in voxels.tolist()]
    return pd.DataFrame(rows)


def _row(profile: VoxelProfile, ids: tuple[str, ...], own: set[str]) -> dict[str, Any]:
    description = profile.description
    by_word = dict(zip(description.words, description.scores, strict=True)) if description else {}
    return {
        "voxel": profile.voxel,
        "regions": list(profile.regions),
        "r": profile.r,
        "noise_ceiling": profile.noise_ceiling,
        "q": profile.q,
        "reliability": profile.reliability,
        "withheld": profile.withheld,
        "words_withheld": profile.words_withheld,
        "text": profile.text,
        "phrases": list(description.phrases) if description else [],
        "words": list(description.words) if description else [],
        "own_words": [word for word in description.words if word in own] if description else [],
        "scores": json.dumps({word: round(float(by_word[word]), 4) for word in description.phrases} if description else {}),
        "words_r": profile.words_r,
        "features": list(profile.features),
        "attributes": [f"{entry.attribute}: {entry.word}" for entry in profile.attributes if entry.stands],
        "tried": json.dumps([asdict(entry) for entry in profile.attributes]),
        "company": [f"{entry.word} beside {entry.phrase}" for entry in profile.company],
        "exemplars": [ids[i] for i in profile.exemplars],
        "counter_exemplars": [ids[i] for i in profile.counter_exemplars],
        "caveats": list(profile.caveats),
    }
