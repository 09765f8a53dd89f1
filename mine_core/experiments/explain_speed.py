"""How fast a click is answered, beside integrated gradients for the same images in the same run."""

import time
from functools import partial
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.integrated_gradients import integrated_gradients
from mine_core.config import InstrumentConfig
from mine_core.errors import BackboneError
from mine_core.experiments.synthetic_subject import Size, synthetic_subject
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.attributions import Prepared, build_prepared
from mine_core.instrument.explain import explain_voxel
from mine_core.types import OnProgress

N_VOXELS, N_IMAGES, N_STEPS, N_GRADIENT_VOXELS = 200, 12, 16, 3


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Time one voxel's top 12 images, heatmaps and words over 200 random voxels, and captum's integrated gradients.

    Heatmaps are those that the app shows: traced, where the backbone can be traced. The first answer is not counted: it pages the
    stored arrays in. A subject of fewer voxels is timed on all of them. The ratio is of medians measured in this run, on
    this machine.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    traced = _traced(instrument, store, on_progress)
    timed = _clicks(instrument, traced)
    gradient = np.array([_gradients(instrument, int(voxel)) for voxel in timed["voxels"][:N_GRADIENT_VOXELS]])
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(timed["voxels"]),
        "n_images": N_IMAGES,
        "heatmaps": "decomposition" if traced is None else "traced",
        "p50_seconds": timed["p50"],
        "p95_seconds": timed["p95"],
        "integrated_gradients_steps": N_STEPS,
        "integrated_gradients_seconds": float(np.median(gradient)),
        "ratio": float(np.median(gradient) / timed["p50"]),
    }


def measure_synthetic(store: ArtifactStore, on_progress: OnProgress, size: Size | None = None, seed: int = 0) -> dict[str, Any]:
    """Time the same for a made-up subject, 20,000 voxels and 10,000 images of 196 x 512 unless told otherwise."""
    size = size or Size()
    on_progress(0, 2, "making up a subject")
    store.root.mkdir(parents=True, exist_ok=True)
    with synthetic_subject(size, store.root, np.random.default_rng(seed)) as (instrument, traced):
        on_progress(1, 2, "clicking")
        timed = _clicks(instrument, traced)
    return {
        "subject": "synthetic",
        "voxels": size.voxels,
        "images": size.images,
        "patches": size.grid[0] * size.grid[1],
        "features": size.features,
        "heatmaps": "traced",
        "n_voxels": len(timed["voxels"]),
        "p50_seconds": timed["p50"],
        "p95_seconds": timed["p95"],
    }


def _traced(instrument: Instrument, store: ArtifactStore, on_progress: OnProgress) -> Prepared | None:
    try:
        return build_prepared(instrument, store, "traced", on_progress=on_progress)
    except BackboneError:
        return None


def _clicks(instrument: Instrument, traced: Prepared | None) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    n_voxels = len(instrument.subject.responses.voxels)
    voxels = rng.choice(n_voxels, min(N_VOXELS, n_voxels), replace=False)
    _explain(instrument, traced, int(voxels[-1]))
    p50, p95 = np.percentile([_explain(instrument, traced, int(voxel)) for voxel in voxels], [50, 95])
    return {"voxels": voxels, "p50": float(p50), "p95": float(p95)}


def _explain(instrument: Instrument, traced: Prepared | None, voxel: int) -> float:
    started = time.perf_counter()
    heat = None if traced is None else partial(_values, traced, instrument, voxel)
    explain_voxel(instrument, voxel, n=N_IMAGES, heat=heat)
    return time.perf_counter() - started


def _values(traced: Prepared, instrument: Instrument, voxel: int, stimuli: np.ndarray) -> np.ndarray:
    return traced.values(instrument, stimuli, voxel)


def _gradients(instrument: Instrument, voxel: int) -> float:
    backbone = instrument.backbone.get()
    stimuli = [item.stimulus for item in explain_voxel(instrument, voxel, n=N_IMAGES)]
    images = np.asarray(instrument.subject.stimuli.images[stimuli])
    started = time.perf_counter()
    for pixels in backbone.preprocess(images):
        integrated_gradients(backbone.pooled, pixels, instrument.model, voxel, backbone.spec.grid, n_steps=N_STEPS)
    return time.perf_counter() - started
