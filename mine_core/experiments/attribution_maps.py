"""Heatmaps of any method and encoder for many voxels and stimuli, with what they share computed once."""

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.base import Encoder, MethodName, Setting, attribute_image, predict_parts
from mine_core.attribution.decomposition import attribute_images
from mine_core.attribution.occlusion import BATCH, without_each_patch
from mine_core.attribution.seeing import as_seen
from mine_core.attribution.traced import coarse_values, trace_images, traced_values
from mine_core.backbones.base import Embedding
from mine_core.errors import BackboneError
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import find_prepared, scene_of, setting_of
from mine_core.types import EncodingModel


class Maps:
    """Heatmaps of one encoder of an instrument; embeddings of occluded images and maps without a voxel are kept.

    What `like` has traced, of another encoder on the same backbone, is not traced again.
    """

    def __init__(self, instrument: Instrument, store: ArtifactStore, encoder: Encoder, like: "Maps | None" = None) -> None:
        self.instrument, self.encoder = instrument, encoder
        self.setting: Setting = setting_of(instrument, store, encoder)
        self._stored = find_prepared(instrument, store, "traced")
        self._traced: dict[int, Float[np.ndarray, "copy patch feature"]] = {} if like is None else like._traced
        self._occluded: dict[int, Embedding] = {}
        self._rollout: dict[int, Float[np.ndarray, "row col"]] = {}

    def trace(self, stimuli: Int[np.ndarray, " image"]) -> None:
        """Trace stimuli at once, where nothing is stored; raises BackboneError if the backbone cannot be traced."""
        stimuli = np.setdiff1d(stimuli, list(self._traced))
        if self._stored is None and len(stimuli):
            start = self.setting.averages().tokens
            if start is None:
                raise BackboneError(f"Backbone '{self.setting.encoder.backbone.name}' cannot be traced; use the decomposition.")
            images = np.asarray(self.instrument.subject.stimuli.images[stimuli])
            self._traced |= dict(zip(stimuli.tolist(), trace_images(self.setting.backbone(), images, start), strict=True))

    def seen(self, stimulus: int) -> np.ndarray:
        """The stimulus as the backbone sees it."""
        return as_seen(np.asarray(self.instrument.subject.stimuli.images[stimulus]), self.setting.backbone().image_size)

    def embed(self, images: np.ndarray) -> Embedding:
        """Embeddings of altered images, with the parts that query attention reads."""
        return self.setting.backbone().embed(images, batch_size=BATCH)

    def predict(self, found: Embedding, voxels: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "image chosen"]:
        """Predictions of the encoder, in SD of each voxel's predictions."""
        return predict_parts(self.encoder, found.patches, found.pooled, voxels) / self.setting.sd(voxels)

    def of(self, method: MethodName, stimulus: int, voxel: int) -> Float[np.ndarray, "row col"]:
        """One heatmap, on the grid that the method answers on."""
        if method == "traced" and isinstance(self.encoder, EncodingModel):
            parts = self._stored.parts[stimulus] if self._stored is not None else self._traced.get(stimulus)
            if parts is not None:
                return traced_values(self.encoder, parts[None], voxel)[0]
        if method == "decomposition" and isinstance(self.encoder, EncodingModel):
            mean = self.instrument.mean_patches
            return attribute_images(self.encoder, self.instrument.features, np.array([stimulus]), voxel, mean)[0]
        if method == "occlusion":
            return self._occlusion(stimulus, voxel)
        if method == "rollout":
            if stimulus not in self._rollout:
                self._rollout[stimulus] = self._attribute(method, stimulus, voxel)
            return self._rollout[stimulus]
        return self._attribute(method, stimulus, voxel)

    def coarse(self, method: MethodName, stimulus: int, voxel: int) -> Float[np.ndarray, "row col"]:
        """One heatmap on the backbone's own grid."""
        found = self.of(method, stimulus, voxel)
        return found if found.shape == self.setting.grid else coarse_values(found)

    def _attribute(self, method: MethodName, stimulus: int, voxel: int) -> Float[np.ndarray, "row col"]:
        return attribute_image(method, self.setting, scene_of(self.instrument, stimulus), np.array([voxel])).values[0]

    def _occlusion(self, stimulus: int, voxel: int) -> Float[np.ndarray, "row col"]:
        if stimulus not in self._occluded:
            image, fill = self.seen(stimulus), self.setting.averages().image
            shown = np.concatenate([image[None], without_each_patch(image, np.asarray(fill), self.setting.grid)])
            self._occluded[stimulus] = self.embed(shown)
        whole, *without = self.predict(self._occluded[stimulus], np.array([voxel]))[:, 0]
        return (whole - np.array(without)).reshape(self.setting.grid)
