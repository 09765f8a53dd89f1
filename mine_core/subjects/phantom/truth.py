"""The planted truth of a phantom, kept apart from the subject: what each voxel was made to respond to.

Sealed: only this package, the experiments and the tests may import it.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int

from mine_core.artifacts import canonical_json, write_text
from mine_core.errors import SubjectError
from mine_core.subjects.phantom.contrast import quadrature_filters
from mine_core.subjects.phantom.responses import contributions, gather_evidence, raw_drive, select, signal_scale
from mine_core.subjects.phantom.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    CONCEPTS,
    GROUPS,
    RenderedScene,
    Scene,
    masks,
    render,
    sample_scene,
)
from mine_core.subjects.phantom.tuning import KINDS, Tuning

RECORD = "truth.json"
PREFIX = "scene-"
NAMES = {
    "kinds": list(KINDS),
    "groups": list(GROUPS),
    "concepts": [concept.name for concept in CONCEPTS],
    "backgrounds": [background.name for background in BACKGROUNDS],
    "attributes": [[name, list(values)] for name, values in ATTRIBUTES.items()],
}


@dataclass(frozen=True)
class PlantedTruth(Tuning):
    """The tuning, and the mean and SD over training stimuli that scale a voxel's drive to its signal (NaN in null voxels)."""

    signal_mean: Float32[np.ndarray, " voxel"]
    signal_sd: Float32[np.ndarray, " voxel"]
    seed: int
    image_size: int


def save_truth(directory: Path, truth: PlantedTruth) -> None:
    """Write a truth into a directory that exists: one npy per array and `truth.json`."""
    for field in fields(PlantedTruth):
        value = getattr(truth, field.name)
        if isinstance(value, np.ndarray):
            np.save(directory / f"{field.name}.npy", value, allow_pickle=False)
    record = {"seed": truth.seed, "image_size": truth.image_size, "names": NAMES}
    write_text(directory / RECORD, canonical_json(record))


def load_truth(directory: Path) -> PlantedTruth:
    """Read a truth written by `save_truth`, its arrays read-only.

    Raises SubjectError if there is none, or if it speaks of other concepts than this version draws.
    """
    try:
        record = json.loads((directory / RECORD).read_text())
        arrays = {
            field.name: np.load(directory / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
            for field in fields(PlantedTruth)
            if field.name not in ("seed", "image_size")
        }
    except (OSError, ValueError) as error:
        raise SubjectError(f"No readable planted truth in {directory} ({error}); build the phantom again.") from error
    changed = [name for name, values in NAMES.items() if record["names"].get(name) != values]
    if changed:
        raise SubjectError(
            f"The planted truth in {directory} has other {' and '.join(changed)} than this version; build the phantom again."
        )
    return PlantedTruth(**arrays, seed=record["seed"], image_size=record["image_size"])


def stimulus_id(scene_seed: int) -> str:
    """Name of the stimulus that shows the scene of this seed."""
    return f"{PREFIX}{scene_seed:08d}"


def scene_of(stimulus: str) -> Scene:
    """The scene graph behind a stimulus of a phantom; raises SubjectError for any other name."""
    digits = stimulus.removeprefix(PREFIX)
    if digits == stimulus or not digits.isdecimal():
        raise SubjectError(f"Stimulus '{stimulus}' is no scene of a phantom; their names are like '{stimulus_id(12345)}'.")
    return sample_scene(int(digits))


def object_masks(stimulus: str, size: int) -> Bool[np.ndarray, "object size size"]:
    """Visible pixels of each object of a stimulus, in the order of `scene_of(stimulus).objects`, drawn again from its seed."""
    return masks(render(scene_of(stimulus), size))


def drive(
    scene: Scene,
    truth: PlantedTruth,
    voxels: Int[np.ndarray, " chosen"] | None = None,
    *,
    rendered: RenderedScene | None = None,
) -> Float32[np.ndarray, " chosen"]:
    """Noiseless response of voxels to any scene, in the units of the subject's responses; 0 in null voxels.

    Take an object out of the scene (`dataclasses.replace(scene, objects=...)`) to ask what the brain would really do without it.

    Parameters
    ----------
    scene : the scene graph.
    truth : of the phantom.
    voxels : which voxels (0-based); all by default.
    rendered : the scene's picture if it is at hand or was altered, at any size; by default drawn at the subject's size.
    """
    chosen, positions = _chosen(truth, voxels)
    picture = rendered or render(scene, truth.image_size)
    raw = raw_drive(chosen, gather_evidence([scene], [picture], quadrature_filters()))[0]
    return standardise(raw, truth.signal_mean[positions], truth.signal_sd[positions], chosen.ncsnr)


def causes(
    scene: Scene, truth: PlantedTruth, voxels: Int[np.ndarray, " chosen"] | None = None
) -> Float32[np.ndarray, "cause chosen"]:
    """What each object, and in the last row the background, adds to the voxels' drive before it saturates; 0 in early voxels."""
    chosen, _ = _chosen(truth, voxels)
    picture = render(scene, truth.image_size)
    return contributions(chosen, gather_evidence([scene], [picture], quadrature_filters()))


def standardise(
    raw: Float32[np.ndarray, "*stimulus voxel"],
    mean: Float32[np.ndarray, " voxel"],
    sd: Float32[np.ndarray, " voxel"],
    ncsnr: Float32[np.ndarray, " voxel"],
) -> Float32[np.ndarray, "*stimulus voxel"]:
    """Signal in the units of the responses, `(raw - mean) / sd * ncsnr / sqrt(ncsnr² + 1/3)`; 0 where there is no signal."""
    scale = np.where(ncsnr > 0, signal_scale(ncsnr) / np.where(ncsnr > 0, sd, 1), 0).astype(np.float32)
    return (raw - np.where(ncsnr > 0, mean, 0).astype(np.float32)) * scale


def _chosen(truth: PlantedTruth, voxels: Int[np.ndarray, " chosen"] | None) -> tuple[Tuning, Int[np.ndarray, " chosen"]]:
    positions = np.arange(len(truth)) if voxels is None else voxels
    return select(truth, positions), positions
