"""How far the heatmaps of a voxel, a region or a subject can be trusted: deletion and insertion over images that are answered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.base import MethodName
from mine_core.attribution.faithfulness import Areas
from mine_core.errors import EncodingError
from mine_core.experiments.attribution_curves import Curves, Pair, difference, sample_pairs
from mine_core.experiments.attribution_maps import Maps
from mine_core.instrument import Instrument
from mine_core.instrument.explain import require_voxel
from mine_core.types import OnProgress

N_IMAGES, SEED = 8, 71
N_REGION, N_POOL = 24, 64
WHOLE = "whole subject"


@dataclass(frozen=True)
class Faithfulness:
    """Mean areas of the heatmaps of some voxels over some images, beside random order, with 95 % intervals that resample images.

    `insertion` is high and `deletion` low where the heatmap names what the model responds to; `insertion_gain` is insertion less
    random, `deletion_gain` random less deletion. Of the model, not of the brain.
    """

    method: MethodName
    n_voxels: int
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
) -> Faithfulness:
    """Test a voxel's heatmaps on the eight held-out images that it is predicted to answer most, replaced by the average image.

    Raises
    ------
    SubjectError
        If there is no such voxel.
    EncodingError
        If fewer than two of the images are predicted above the average image.
    """
    require_voxel(instrument, voxel)
    maps, stimuli = Maps(instrument, store, instrument.model), images_to_test(instrument, voxel)
    pairs = [Pair("", voxel, int(stimulus)) for stimulus in stimuli]
    found = _tested(Curves(maps, np.random.default_rng(SEED)), method, pairs, on_progress)
    if len(found) < 2:
        raise EncodingError(
            f"Of {len(stimuli)} held-out images {len(found)} are predicted above the average image for voxel {voxel}; at least 2 are "
            "needed to test its heatmaps. Choose another voxel."
        )
    return _summary(method, found)


def region_faithfulness(
    instrument: Instrument, store: ArtifactStore, method: MethodName, on_progress: OnProgress | None = None
) -> dict[str, Faithfulness]:
    """Test the heatmaps of every region and of the whole subject: up to 24 reliable voxels each, on up to 64 held-out images.

    Each voxel is paired with one of the images that it is predicted to answer by 1 SD more than the average image, at random. A
    region with fewer than two such pairs is left out; WHOLE holds all reliable voxels alike.

    Raises
    ------
    EncodingError
        If no region has two pairs.
    """
    rng = np.random.default_rng(SEED)
    maps = Maps(instrument, store, instrument.model)
    pool = np.sort(rng.permutation(np.flatnonzero(instrument.held_out))[:N_POOL])
    regions = instrument.subject.responses.voxels
    inside = zip(regions.regions, np.asarray(regions.membership), strict=True)
    members = {WHOLE: np.flatnonzero(instrument.reliable)} | {name: np.flatnonzero(each & instrument.reliable) for name, each in inside}
    pairs = sample_pairs(maps, pool, members, N_REGION, rng)
    if method == "traced":
        maps.trace(np.unique([pair.stimulus for pair in pairs]).astype(int))
    tested = _tested(Curves(maps, rng), method, pairs, on_progress)
    by_region = {name: [item for item in tested if item[0].region == name] for name in members}
    found = {name: _summary(method, items) for name, items in by_region.items() if len({pair.stimulus for pair, _ in items}) > 1}
    if not found:
        raise EncodingError(
            f"No two reliable voxels are predicted to answer two of {len(pool)} held-out images; heatmaps cannot be tested. See the "
            "accuracies on Validation."
        )
    return found


Tested = list[tuple[Pair, Areas]]


def _tested(curves: Curves, method: MethodName, pairs: Sequence[Pair], on_progress: OnProgress | None) -> Tested:
    """Areas of the pairs that have something to take away."""
    found: Tested = []
    for number, pair in enumerate(pairs):
        if on_progress is not None:
            on_progress(number, len(pairs), "taking patches away")
        areas = curves.areas(method, pair, "mean")
        if areas is not None:
            found.append((pair, areas))
    return found


def _summary(method: MethodName, found: Tested) -> Faithfulness:
    deletion, insertion, random = np.array([areas for _, areas in found], np.float64).T
    stimuli, rng = np.array([pair.stimulus for pair, _ in found]), np.random.default_rng(SEED)
    gains = [difference(gain, stimuli, rng) for gain in (insertion - random, random - deletion)]
    return Faithfulness(
        method,
        len({pair.voxel for pair, _ in found}),
        len(set(stimuli.tolist())),
        float(insertion.mean()),
        float(deletion.mean()),
        float(random.mean()),
        gains[0]["mean"],
        (gains[0]["interval"][0], gains[0]["interval"][1]),
        gains[1]["mean"],
        (gains[1]["interval"][0], gains[1]["interval"][1]),
    )


def verdict(found: Faithfulness) -> str:
    """One plain sentence on what the test says."""
    one = found.n_voxels == 1
    base = f"over {found.n_images} held-out images" if one else f"over {found.n_voxels} voxels and {found.n_images} held-out images"
    if found.faithful:
        whose = "its heatmaps name" if one else "heatmaps name"
        return f"The patches that {whose} are what the model responds to, more than patches drawn at random, {base}."
    failed = [
        what
        for what, interval in (
            ("kept alone they restore no more of the response", found.insertion_interval),
            ("taken away they lower it no more", found.deletion_interval),
        )
        if interval[0] <= 0
    ]
    whose = "this voxel's heatmaps" if one else "the heatmaps of this subject"
    return f"Do not lean on {whose}: {' and '.join(failed)} than random patches do, beyond doubt, {base}."
