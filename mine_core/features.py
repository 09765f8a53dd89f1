"""Image embeddings and their parts: extracted once, memory-mapped for ever."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.artifacts import canonical_json, write_text
from mine_core.backbones.base import Backbone, Embedding, image_batches
from mine_core.errors import AlignmentError, ArtifactError, BackboneError, Cancelled
from mine_core.types import BackboneSpec, Features, IsCancelled, OnProgress, StimulusSet

RECORD = "features.json"
FORMAT = 1
# parts are many and each is small beside the whole; the whole and the remainder are few
STORED: dict[str, type[np.floating]] = {"pooled": np.float32, "patches": np.float16, "remainder": np.float32}
STORED_PRECISION = 2.0**-11
"""Largest relative rounding error of a stored part: |stored - exact| <= 2^-11 |exact| + 2^-25."""


def extract_features(
    stimuli: StimulusSet,
    backbone: Backbone,
    directory: Path,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    *,
    batch_size: int = 32,
) -> Features:
    """Embed all stimuli and keep the embeddings with their parts in `directory`.

    Writes `pooled.npy` and `remainder.npy` (float32), `patches.npy` (float16) and `features.json`, each under a temporary
    name first and the record last, so that a cut-off run leaves nothing that `load_features` would open. A stored part is
    within 2^-11 of its size of the exact one; the stored remainder takes up what that loses in sum, so that
    pooled = remainder + sum_i patches_i holds to float32.

    Raises
    ------
    Cancelled
        When `cancelled()` becomes True between batches; nothing is kept.
    BackboneError
        If there is no stimulus, or an embedding is not finite or leaves the range of float16 (+-65504).
    """
    if not len(stimuli):
        raise BackboneError("There are 0 stimuli to embed; give at least one.")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RECORD).unlink(missing_ok=True)
    n_patches, n_features = backbone.spec.grid[0] * backbone.spec.grid[1], backbone.spec.n_features
    shapes = {"pooled": (n_features,), "patches": (n_patches, n_features), "remainder": (n_features,)}
    with _arrays_in_the_making(directory, {name: (len(stimuli), *shape) for name, shape in shapes.items()}) as arrays:
        for rows in image_batches(len(stimuli), batch_size):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped after {rows.start} of {len(stimuli)} stimuli; nothing was kept.")
            _store(arrays, rows, backbone.embed(stimuli.images[rows], batch_size=batch_size))
            if on_progress is not None:
                on_progress(rows.stop, len(stimuli), "embedding stimuli")
    record = {"format": FORMAT, "stimulus_ids": list(stimuli.ids), "backbone": asdict(backbone.spec)}
    write_text(directory / RECORD, canonical_json(record))
    return load_features(directory)


def load_features(directory: Path) -> Features:
    """Open features written by `extract_features`, memory-mapped and read-only.

    Raises
    ------
    ArtifactError
        If the directory holds no complete features, or arrays that do not fit their record.
    """
    try:
        record = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{directory.name}: no readable {RECORD} ({error}); extract the features again.") from error
    if record.get("format") != FORMAT:
        raise ArtifactError(f"{directory.name}: features of format {record.get('format')}, {FORMAT} expected; extract again.")
    entry = record["backbone"]
    spec = BackboneSpec(**entry | {"grid": tuple(entry["grid"])})
    ids = tuple(record["stimulus_ids"])
    shapes: dict[str, tuple[int, ...]] = {"pooled": (len(ids), spec.n_features), "remainder": (len(ids), spec.n_features)}
    shapes["patches"] = (len(ids), spec.grid[0] * spec.grid[1], spec.n_features)
    return Features(
        **{name: _open_array(directory / f"{name}.npy", shapes[name]) for name in STORED},
        stimulus_ids=ids,
        backbone=spec,
    )


def embed_image(backbone: Backbone, image: UInt8[np.ndarray, "height width 3"]) -> Features:
    """Features of one image that need be no stimulus, in float32; its id is the SHA-256 of its pixels."""
    embedding = backbone.embed(image[None])
    identity = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()[:20]
    return Features(*embedding, stimulus_ids=(identity,), backbone=backbone.spec)


def mean_patch(features: Features, train: Int[np.ndarray, " train"]) -> Float[np.ndarray, "patch feature"]:
    """Average part at each place of the grid over training stimuli, float32: the baseline of an attribution.

    Raises
    ------
    AlignmentError
        If there is no training stimulus, or a position outside the stimuli.
    """
    n_stimuli = len(features.stimulus_ids)
    if not len(train) or train.min() < 0 or train.max() >= n_stimuli:
        found = f"{train.min()} ... {train.max()}" if len(train) else "none"
        raise AlignmentError(f"Training positions {found} were given; at least one within 0 ... {n_stimuli - 1} is needed.")
    total = np.zeros(features.patches.shape[1:], np.float64)
    for rows in image_batches(len(train), 64):
        total += np.asarray(features.patches[train[rows]], np.float64).sum(axis=0)
    return (total / len(train)).astype(np.float32)


@dataclass(frozen=True)
class Likeness:
    """How unlike an image is from the training stimuli, against held-out stimuli of the same kind.

    distance(x)^2 = (x - mean)' C^-1 (x - mean), C the covariance of `pooled` over training stimuli shrunk towards a
    multiple of the identity (Ledoit and Wolf 2004, 10.1016/S0047-259X(03)00096-4); `whitener` = C^(-1/2) in the axes of
    C's principal components. `calibration` are the sorted distances of validation stimuli.

    Being typical by this measure does not show that a prediction is right, only that the encoder is not asked to
    extrapolate in the embedding.
    """

    mean: Float[np.ndarray, " feature"]
    whitener: Float[np.ndarray, "feature component"]
    calibration: Float[np.ndarray, " validation"]

    @classmethod
    def fit(
        cls, pooled_train: Float[np.ndarray, "train feature"], pooled_validation: Float[np.ndarray, "validation feature"]
    ) -> "Likeness":
        """Learn what is usual from training stimuli and calibrate it on validation stimuli.

        Raises
        ------
        BackboneError
            If there are fewer than 2 training or 20 validation stimuli, or the training embeddings are all the same.
        """
        from sklearn.covariance import ledoit_wolf

        if len(pooled_train) < 2 or len(pooled_validation) < 20:
            raise BackboneError(
                f"{len(pooled_train)} training and {len(pooled_validation)} validation stimuli were given; "
                "at least 2 and 20 are needed to say how unusual an image is."
            )
        train = np.asarray(pooled_train, np.float64)
        mean = train.mean(axis=0)
        covariance, _ = ledoit_wolf(train - mean, assume_centered=True)
        variances, axes = np.linalg.eigh(covariance)
        if variances[-1] <= 0:
            raise BackboneError(f"The embeddings of all {len(train)} training stimuli are the same; give other images.")
        whitener = axes / np.sqrt(np.maximum(variances, variances[-1] * np.finfo(np.float64).eps))
        uncalibrated = cls(mean, whitener, np.empty(0))
        return cls(mean, whitener, np.sort(uncalibrated.distance(pooled_validation)))

    def distance(self, pooled: Float[np.ndarray, "image feature"]) -> Float[np.ndarray, " image"]:
        """Mahalanobis distance from the mean training stimulus, in SD."""
        return np.linalg.norm((np.asarray(pooled, np.float64) - self.mean) @ self.whitener, axis=1)

    def percentile(self, pooled: Float[np.ndarray, "image feature"]) -> Float[np.ndarray, " image"]:
        """Share of validation stimuli that are nearer to the training stimuli than this image, in percent (0 to 100)."""
        nearer = np.searchsorted(self.calibration, self.distance(pooled), side="left")
        return 100.0 * nearer / len(self.calibration)


@contextmanager
def _arrays_in_the_making(directory: Path, shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, np.memmap]]:
    """Arrays on disk under temporary names, which become `name`.npy only if nothing goes wrong."""
    temporary = {name: directory / f".{name}.npy.part" for name in shapes}
    try:
        arrays = {
            name: np.lib.format.open_memmap(temporary[name], mode="w+", dtype=STORED[name], shape=shape)
            for name, shape in shapes.items()
        }
        yield arrays
        for name, array in arrays.items():
            array.flush()
            temporary[name].replace(directory / f"{name}.npy")
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _store(arrays: dict[str, np.memmap], rows: slice, embedding: Embedding) -> None:
    for name, part in embedding._asdict().items():
        largest = np.abs(part).max()
        if not largest <= np.finfo(STORED[name]).max:
            raise BackboneError(
                f"`{name}` of stimuli {rows.start} to {rows.stop - 1} reaches {largest}, beyond what "
                f"{np.dtype(STORED[name])} holds; the backbone's weights are broken or its embedding is badly scaled."
            )
        arrays[name][rows] = part
    # the remainder takes up what float16 lost of the parts, so that the stored parts sum to the whole
    parts = np.asarray(arrays["patches"][rows], np.float64).sum(axis=1)
    arrays["remainder"][rows] = np.asarray(embedding.pooled, np.float64) - parts


def _open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path.name} cannot be read ({error}); extract the features again.") from error
    if array.shape != shape or array.dtype != STORED[path.stem]:
        raise ArtifactError(
            f"{path.name} has {array.dtype} {array.shape}, {np.dtype(STORED[path.stem])} {shape} expected; extract again."
        )
    return array
