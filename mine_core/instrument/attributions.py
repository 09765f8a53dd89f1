"""Attribution for an instrument: what methods count from, methods prepared for all stimuli, and any method on any stimulus.

Nothing here is part of the build: averages take seconds and are made when a method first needs them; parts of all stimuli, traced
or by occlusion, take minutes and make the method as instant for every voxel as the plain decomposition.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.artifacts import ArtifactStore, Recipe, code_version
from mine_core.attribution.base import Averages, Encoder, MethodName, Scene, Setting, attribute_image
from mine_core.attribution.occlusion import occlusion_change, occlusion_values
from mine_core.attribution.seeing import as_seen
from mine_core.attribution.traced import COPIES, traced_values
from mine_core.errors import BackboneError
from mine_core.instrument.instrument import Instrument, Lazy
from mine_core.instrument.stages import encoding_stages
from mine_core.types import IsCancelled, OnProgress, PatchAttribution

PreparedName = Literal["traced", "occlusion"]
PREPARED: tuple[PreparedName, ...] = get_args(PreparedName)
CODE = ("attribution/traced.py", "attribution/averages.py", "attribution/seeing.py", "backbones/tracing.py")
OCCLUSION_CODE = ("attribution/occlusion.py", "attribution/averages.py", "attribution/seeing.py")
N_AVERAGED, AVERAGES_SEED = 256, 7304
BATCH = 16


@dataclass(frozen=True)
class Prepared:
    """Parts of every stimulus's embedding by one method, float16 and memory-mapped; one product with a voxel's weights is its map.

    Traced: parts[stimulus, copy, patch, feature], see `mine_core.attribution.traced`. Occlusion: what the embedding loses with each
    patch, parts[stimulus, patch, feature], see `mine_core.attribution.occlusion.occlusion_change`.
    """

    method: PreparedName
    parts: Float[np.ndarray, "stimulus ..."]

    def values(
        self, instrument: Instrument, stimuli: Int[np.ndarray, " image"], voxel: int
    ) -> Float[np.ndarray, "image fine_row fine_col"]:
        """Values of one voxel for several stimuli by one product, in the units of the responses."""
        if self.method == "traced":
            return traced_values(instrument.model, self.parts[stimuli], voxel)
        return occlusion_values(instrument.model, self.parts[stimuli], voxel)


def build_averages(
    instrument: Instrument,
    store: ArtifactStore,
    *,
    cancelled: IsCancelled | None = None,
) -> Averages:
    """Average at most 256 training stimuli, or find it done; raises Cancelled if `cancelled()` became True."""

    def make(directory: Path) -> dict[str, Any]:
        from mine_core.attribution.averages import make_averages

        images = averaged_stimuli(instrument)
        found = make_averages(instrument.backbone.get(), images, cancelled=cancelled)
        np.save(directory / "image.npy", found.image)
        if found.tokens is not None:
            np.save(directory / "tokens.npy", found.tokens)
        return {"n_images": len(images), "tokens": found.tokens is not None}

    made = store.build(_averages_recipe(instrument, store), make, cancelled)
    return Averages(made.array("image"), made.array("tokens") if made.manifest["notes"]["tokens"] else None)


def build_prepared(
    instrument: Instrument,
    store: ArtifactStore,
    method: PreparedName,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Prepared:
    """Trace every stimulus, or occlude each of its patches, or find it done.

    Raises
    ------
    BackboneError
        If the backbone's blocks cannot be traced, or its grid does not divide the image.
    Cancelled
        If `cancelled()` became True; nothing is kept.
    """
    averages = build_averages(instrument, store, cancelled=cancelled)
    if method == "occlusion":
        make = partial(_occlude_all, instrument, averages.image, on_progress, cancelled)
    elif averages.tokens is None:
        raise BackboneError(f"Backbone '{instrument.config.backbone}' cannot be traced; the exact decomposition is shown instead.")
    else:
        make = partial(_trace_all, instrument, averages.tokens, on_progress, cancelled)
    return Prepared(method, store.build(_prepared_recipe(instrument, store, method), make, cancelled).array("parts"))


def find_prepared(instrument: Instrument, store: ArtifactStore, method: PreparedName) -> Prepared | None:
    """Prepared parts if they are in the store."""
    found = store.find(_prepared_recipe(instrument, store, method))
    return None if found is None else Prepared(method, found.array("parts"))


def averaged_stimuli(instrument: Instrument) -> UInt8[np.ndarray, "image height width 3"]:
    """The training images that are averaged: at most 256, drawn at random."""
    train = instrument.subject.splits.train
    chosen = np.sort(np.random.default_rng(AVERAGES_SEED).permutation(train)[:N_AVERAGED])
    return np.asarray(instrument.subject.stimuli.images[chosen])


def setting_of(
    instrument: Instrument, store: ArtifactStore, encoder: Encoder | None = None, averages: Callable[[], Averages] | None = None
) -> Setting:
    """What methods need to explain an encoder of this instrument, ridge if none is given; averages are made when asked for."""
    mean = averages or Lazy(partial(build_averages, instrument, store)).get
    return Setting(encoder or instrument.model, instrument.mean_patches, mean, instrument.backbone.get)


def scene_of(instrument: Instrument, stimulus: int) -> Scene:
    """One stimulus as methods take it."""
    features = instrument.features
    parts = (np.asarray(values[stimulus], np.float32) for values in (features.pooled, features.patches, features.remainder))
    return Scene(np.asarray(instrument.subject.stimuli.images[stimulus]), *parts)


def occlude_stimulus(
    instrument: Instrument, store: ArtifactStore, stimulus: int, *, cancelled: IsCancelled | None = None
) -> Float[np.ndarray, "patch feature"]:
    """What the embedding of one stimulus loses with each patch, for every voxel of a linear read-out at once."""
    averages, backbone = build_averages(instrument, store, cancelled=cancelled), instrument.backbone.get()
    seen = as_seen(np.asarray(instrument.subject.stimuli.images[stimulus]), backbone.image_size)
    return occlusion_change(backbone, seen, averages.image, cancelled=cancelled)


def attribute_stimulus(
    instrument: Instrument, store: ArtifactStore, method: MethodName, stimulus: int, voxel: int, encoder: Encoder | None = None
) -> PatchAttribution:
    """Attribute one voxel's prediction for one stimulus by any method; see `mine_core.attribution.base.attribute_image`."""
    return attribute_image(method, setting_of(instrument, store, encoder), scene_of(instrument, stimulus), np.array([voxel]))


def _averages_recipe(instrument: Instrument, store: ArtifactStore) -> Recipe:
    settings = {"n_images": N_AVERAGED, "seed": AVERAGES_SEED}
    return Recipe("averages", settings, (_features_key(instrument, store),), code_version(*CODE))


def _prepared_recipe(instrument: Instrument, store: ArtifactStore, method: PreparedName) -> Recipe:
    name, code = ("traced", CODE) if method == "traced" else ("occluded", OCCLUSION_CODE)
    return Recipe(name, {}, (_averages_recipe(instrument, store).key,), code_version(*code))


def _features_key(instrument: Instrument, store: ArtifactStore) -> str:
    return encoding_stages(instrument.config, store)[-2].recipe.key


def _trace_all(
    instrument: Instrument,
    start: Float[np.ndarray, "token width"],
    on_progress: OnProgress | None,
    cancelled: IsCancelled | None,
    directory: Path,
) -> dict[str, Any]:
    from mine_core.attribution.traced import trace_images

    backbone = instrument.backbone.get()
    shape = (COPIES, math.prod(backbone.spec.grid), backbone.spec.n_features)

    def trace(images: UInt8[np.ndarray, "image height width 3"]) -> Float[np.ndarray, "image copy patch feature"]:
        return trace_images(backbone, images, start, cancelled=cancelled)

    return _write_parts(instrument, directory, shape, trace, "tracing stimuli", on_progress)


def _occlude_all(
    instrument: Instrument,
    fill: UInt8[np.ndarray, "side side 3"],
    on_progress: OnProgress | None,
    cancelled: IsCancelled | None,
    directory: Path,
) -> dict[str, Any]:
    backbone = instrument.backbone.get()
    shape = (math.prod(backbone.spec.grid), backbone.spec.n_features)

    def occlude(images: UInt8[np.ndarray, "image height width 3"]) -> Float[np.ndarray, "image patch feature"]:
        seen = (as_seen(image, backbone.image_size) for image in images)
        return np.stack([occlusion_change(backbone, image, fill, cancelled=cancelled) for image in seen])

    return _write_parts(instrument, directory, shape, occlude, "taking patches away", on_progress)


def _write_parts(
    instrument: Instrument,
    directory: Path,
    shape: tuple[int, ...],
    parts_of: Callable[[UInt8[np.ndarray, "image height width 3"]], Float[np.ndarray, "image ..."]],
    doing: str,
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    """Write the parts of every stimulus, of `shape` each, to `parts.npy`, a batch at a time."""
    images = instrument.subject.stimuli.images
    parts = np.lib.format.open_memmap(directory / "parts.npy", mode="w+", dtype=np.float16, shape=(len(images), *shape))
    for first in range(0, len(images), BATCH):
        batch = slice(first, first + BATCH)
        parts[batch] = parts_of(np.asarray(images[batch]))
        if on_progress is not None:
            on_progress(min(batch.stop, len(images)), len(images), doing)
    parts.flush()
    return {"n_stimuli": len(images)}
