"""How fast a click is answered, beside integrated gradients for the same images in the same run."""

import time
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.integrated_gradients import integrated_gradients
from mine_core.config import InstrumentConfig
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import explain_voxel
from mine_core.types import OnProgress

N_VOXELS, N_IMAGES, N_STEPS, N_GRADIENT_VOXELS = 200, 12, 16, 3


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Time one voxel's top 12 images, heatmaps and words over 200 random voxels, and captum's integrated gradients.

    The first answer is not counted: it pages the stored arrays in. A subject of fewer voxels is timed on all of them. The
    ratio is of medians measured in this run, on this machine.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    rng = np.random.default_rng(3)
    n_voxels = len(instrument.score.r)
    voxels = rng.choice(n_voxels, min(N_VOXELS, n_voxels), replace=False)
    _explain(instrument, int(voxels[-1]))
    seconds = np.array([_explain(instrument, int(voxel)) for voxel in voxels])
    gradient = np.array([_gradients(instrument, int(voxel)) for voxel in voxels[:N_GRADIENT_VOXELS]])
    p50, p95 = np.percentile(seconds, [50, 95])
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(voxels),
        "n_images": N_IMAGES,
        "p50_seconds": float(p50),
        "p95_seconds": float(p95),
        "integrated_gradients_steps": N_STEPS,
        "integrated_gradients_seconds": float(np.median(gradient)),
        "ratio": float(np.median(gradient) / p50),
    }


def _explain(instrument: Instrument, voxel: int) -> float:
    started = time.perf_counter()
    explain_voxel(instrument, voxel, n=N_IMAGES)
    return time.perf_counter() - started


def _gradients(instrument: Instrument, voxel: int) -> float:
    backbone = instrument.backbone.get()
    stimuli = [item.stimulus for item in explain_voxel(instrument, voxel, n=N_IMAGES)]
    images = np.asarray(instrument.subject.stimuli.images[stimuli])
    started = time.perf_counter()
    for pixels in backbone.preprocess(images):
        integrated_gradients(backbone.pooled, pixels, instrument.model, voxel, backbone.spec.grid, n_steps=N_STEPS)
    return time.perf_counter() - started
