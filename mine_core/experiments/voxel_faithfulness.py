"""How far one voxel's heatmaps can be trusted: deletion and insertion over the images that it is predicted to answer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.base import MethodName
from mine_core.errors import EncodingError
from mine_core.experiments.attribution_curves import Curves, Pair, difference
from mine_core.experiments.attribution_maps import Maps
from mine_core.instrument import Instrument
from mine_core.instrument.explain import require_voxel
from mine_core.types import OnProgress

N_IMAGES, SEED = 8, 71


@dataclass(frozen=True)
class VoxelFaithfulness:
    """Areas of one voxel's heatmaps over some images, beside random order, with 95 % intervals that resample images.

    `insertion` is high and `deletion` low where the heatmap names what the model responds to; `insertion_gain` is insertion less
    random, `deletion_gain` random less deletion. Of the model, not of the brain.
    """

    method: MethodName
    n_images: int
    insertion: float
    deletion: float
    random: float
    insertion_gain: float
    insertion_interval: tuple[float, float]
    deletion_gain: float
    deletion_interval: tuple[float, float]

    @property
    def faithful(self) -> bool:
        """Whether both intervals lie above random order."""
        return self.insertion_interval[0] > 0 and self.deletion_interval[0] > 0


def images_to_test(instrument: Instrument, voxel: int, n: int = N_IMAGES) -> Int[np.ndarray, " image"]:
    """Held-out stimuli that the voxel is predicted to answer most."""
    held_out = np.flatnonzero(instrument.held_out)
    predicted = instrument.predicted(voxel)[held_out]
    return held_out[np.argsort(-predicted, kind="stable")[:n]]


def voxel_faithfulness(
    instrument: Instrument, store: ArtifactStore, voxel: int, method: MethodName, on_progress: OnProgress | None = None
) -> VoxelFaithfulness:
    """Test a voxel's heatmaps on the eight held-out images that it is predicted to answer most, replaced by the average image.

    Raises
    ------
    SubjectError
        If there is no such voxel.
    EncodingError
        If fewer than two of the images are predicted above the average image.
    """
    require_voxel(instrument, voxel)
    maps = Maps(instrument, store, instrument.model)
    curves, stimuli, rows = Curves(maps, np.random.default_rng(SEED)), images_to_test(instrument, voxel), []
    for number, stimulus in enumerate(stimuli):
        if on_progress is not None:
            on_progress(number, len(stimuli), "taking patches away")
        areas = curves.areas(method, Pair("", voxel, int(stimulus)), "mean")
        if areas is not None:
            rows.append(areas)
    if len(rows) < 2:
        raise EncodingError(
            f"Of {len(stimuli)} held-out images {len(rows)} are predicted above the average image for voxel {voxel}; at least 2 are "
            "needed to test its heatmaps. Choose another voxel."
        )
    deletion, insertion, random = np.array(rows, np.float64).T
    own, rng = np.arange(len(rows)), np.random.default_rng(SEED)
    gains = [difference(gain, own, rng) for gain in (insertion - random, random - deletion)]
    return VoxelFaithfulness(
        method,
        len(rows),
        float(insertion.mean()),
        float(deletion.mean()),
        float(random.mean()),
        gains[0]["mean"],
        (gains[0]["interval"][0], gains[0]["interval"][1]),
        gains[1]["mean"],
        (gains[1]["interval"][0], gains[1]["interval"][1]),
    )


def verdict(found: VoxelFaithfulness) -> str:
    """One plain sentence on what the test says."""
    base = f"over {found.n_images} held-out images"
    if found.faithful:
        return f"The patches that its heatmaps name are what the model responds to, more than patches drawn at random, {base}."
    failed = [
        what
        for what, interval in (
            ("kept alone they restore no more of the response", found.insertion_interval),
            ("taken away they lower it no more", found.deletion_interval),
        )
        if interval[0] <= 0
    ]
    return f"Do not lean on this voxel's heatmaps: {' and '.join(failed)} than random patches do, beyond doubt, {base}."
