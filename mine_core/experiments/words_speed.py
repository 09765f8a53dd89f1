"""How fast words are: a text search over many voxels, and the profiles of all voxels of a subject, made anew."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.description.scoring import standardised
from mine_core.description.search import parse_query, search, text_score
from mine_core.instrument.build import build_instrument
from mine_core.instrument.profiling import profile_blocks
from mine_core.types import OnProgress

SEED, N_VOXELS, N_STIMULI, N_FEATURES, N_SEARCHES = 23, 20_000, 1000, 512, 20


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, workers: int = 2) -> dict[str, Any]:
    """Time text searches over 20,000 made-up voxels, and all profiles of a subject with `workers` processes.

    A search is timed from the embedded text to every voxel's r, p, q and shuffled counts, on 1,000 held-out images of 512 features.
    Profiles are made into a folder that is thrown away: none that are stored are read. Seconds are of this machine, and of
    whatever else it does.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    searches = _searches(np.random.default_rng(SEED))
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root) as scratch:
        began = time.perf_counter()
        table = profile_blocks(instrument, store, Path(scratch), Where(workers), on_progress)
        seconds = time.perf_counter() - began
    return {
        "search_voxels": N_VOXELS,
        "search_stimuli": N_STIMULI,
        "search_p50_seconds": float(np.median(searches)),
        "search_p95_seconds": float(np.quantile(searches, 0.95)),
        "subject": instrument.subject.name,
        "profile_voxels": len(table),
        "profile_workers": workers,
        "profile_seconds": seconds,
        "n_described": int((table["text"] != "").sum()),
    }


def _searches(rng: np.random.Generator) -> np.ndarray:
    """Seconds of each of 20 searches; one before them pages everything in."""
    pooled = rng.normal(size=(N_STIMULI, N_FEATURES)).astype(np.float32)
    answers = standardised(rng.normal(size=(N_STIMULI, N_VOXELS)).astype(np.float32))
    query, texts = parse_query("one, two", "three"), rng.normal(size=(N_SEARCHES + 1, 3, N_FEATURES)).astype(np.float32)
    seconds = []
    for wanted in texts:
        began = time.perf_counter()
        search(query, text_score(pooled, wanted[:2], wanted[2:]), answers, rng)
        seconds.append(time.perf_counter() - began)
    return np.array(seconds[1:])
