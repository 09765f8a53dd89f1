"""A small made-up cortex for tests of the phantom, with the regions of the real one."""

import numpy as np

from mine_core.subjects.phantom.anatomy import REGION_TUNING, PhantomCortex
from mine_core.types import VoxelIndex

REGIONS = tuple(REGION_TUNING)


def toy_cortex(n_voxels: int) -> PhantomCortex:
    """Ten round regions in an 8 cm box with unnamed voxels between; the left half of the box is the left hemisphere."""
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 80, (n_voxels, 3))
    centres = np.array([(20.0 + 40 * (i % 2), 8.0 + 16 * (i // 2), 40.0) for i in range(len(REGIONS))])
    distance = np.linalg.norm(positions[:, None] - centres, axis=2)
    membership = (distance.argmin(axis=1) == np.arange(len(REGIONS))[:, None]) & (distance.min(axis=1) < 26)
    retinotopic = np.stack([rng.uniform(-1, 1, n_voxels), rng.uniform(0, 1, n_voxels)], axis=1)
    retinotopic[~membership[:3].any(axis=0)] = np.nan
    voxels = VoxelIndex("toy", np.arange(n_voxels), (1, 100, 100), REGIONS, membership)
    return PhantomCortex(voxels, positions[:, 0] < 40, retinotopic, positions)
