"""A trained query-attention encoder: plain float32 arrays, read-only in use, with the predictions that they make."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import sync, write_text
from mine_core.encoding.query_attention.config import QueryAttentionConfig
from mine_core.errors import AlignmentError, ArtifactError, EncodingError
from mine_core.types import BackboneSpec, Features, Provenance, VoxelIndex

KIND = "query_attention"
RECORD, ARRAYS = "query_attention.json", "query_attention.safetensors"
FORMAT = 1
IMAGES_PER_BLOCK = 64
NUMBERS_PER_BLOCK = 2**22
"""Attention weights that are computed at a time in predictions: image x voxel x patch."""


@dataclass(frozen=True)
class QueryAttentionEncoder:
    """An embedding per voxel that queries the image's tokens through one cross-attention layer, and a linear read-out.

    u_p = (x_p - mean_p) @ basis;  k_hp = RMSNorm((x_p - mean_p) / feature_sd) @ key_map_h;
    a_vhp = softmax_p(query_vh . k_hp + place_vhp);
    o_vh = n_patches * sum_p a_vhp u_p + (remainder - mean_remainder) @ basis;
    prediction_v = intercept_v + pooled @ linear_v + sum_h readout_vh . o_vh
                   + (sum_h readout_vh) . contract' GELU(sum_h o_vh @ expand_h + query_v @ expand_query + expand_bias).

    In the units of the responses that it was fit on. `prediction_sd` is the SD of each voxel's predictions over the training
    stimuli. All methods may be called from several threads at once: nothing is kept between calls.

    Attention shows which tokens the model reads for a voxel, not what the voxel computes.

    References
    ----------
    Grosbard, Geva, Yovel (2026), arXiv:2605.16468; Adeli, Sun, Kriegeskorte (2025), arXiv:2505.17329.
    """

    mean_patches: Float[np.ndarray, "patch feature"]
    mean_remainder: Float[np.ndarray, " feature"]
    feature_sd: Float[np.ndarray, " feature"]
    basis: Float[np.ndarray, "feature value"]
    key_map: Float[np.ndarray, "feature head key"]
    expand: Float[np.ndarray, "head value hidden"]
    expand_query: Float[np.ndarray, "head_key hidden"]
    expand_bias: Float[np.ndarray, " hidden"]
    contract: Float[np.ndarray, "hidden value"]
    query: Float[np.ndarray, "voxel head key"]
    place: Float[np.ndarray, "voxel head patch"]
    readout: Float[np.ndarray, "voxel head value"]
    linear: Float[np.ndarray, "feature voxel"]
    intercept: Float[np.ndarray, " voxel"]
    prediction_sd: Float[np.ndarray, " voxel"]
    voxels: VoxelIndex
    backbone: BackboneSpec
    config: QueryAttentionConfig
    kind: str = KIND
    provenance: Provenance = field(default_factory=dict)

    def predict(
        self, features: Features, stimuli: Int[np.ndarray, " stimulus"], voxels: Int[np.ndarray, " chosen"] | None = None
    ) -> Float[np.ndarray, "stimulus chosen"]:
        """Predicted responses to stimuli, given by position, of all voxels or of some.

        Raises
        ------
        AlignmentError
            If the features are of another backbone, or a stimulus or voxel is not there.
        """
        ours, theirs = self.backbone, features.backbone
        if ours != theirs:
            raise AlignmentError(
                f"The encoder was fit on backbone '{ours.name}' (weights {ours.weights_hash[:8]}), the features come from "
                f"'{theirs.name}' (weights {theirs.weights_hash[:8]}). Extract features with the encoder's backbone."
            )
        _check_within("stimulus", stimuli, len(features.stimulus_ids))
        chosen = self._chosen(voxels)
        answer = np.empty((len(stimuli), len(chosen)), np.float32)
        for first in range(0, len(stimuli), IMAGES_PER_BLOCK):
            rows = slice(first, first + IMAGES_PER_BLOCK)
            patches, pooled = (np.asarray(stored[stimuli[rows]], np.float32) for stored in (features.patches, features.pooled))
            answer[rows] = self.predict_tokens(patches, pooled, chosen)
        return answer

    def predict_tokens(
        self,
        patches: Float[np.ndarray, "image patch feature"],
        pooled: Float[np.ndarray, "image feature"],
        voxels: Int[np.ndarray, " chosen"] | None = None,
    ) -> Float[np.ndarray, "image chosen"]:
        """Predicted responses to images that need be no stimuli, from their parts: edited ones, say.

        Raises
        ------
        AlignmentError
            If there are other patches or features than the encoder's, or a voxel is not there.
        EncodingError
            If a value is not finite.
        """
        import torch

        self._check_tokens(patches.shape[1:])
        for name, values in (("patches", patches), ("pooled", pooled)):
            if not np.isfinite(values).all():
                raise EncodingError(f"`{name}` have {int((~np.isfinite(values)).sum())} values that are NaN or infinite.")
        chosen = self._chosen(voxels)
        whole = np.asarray(pooled, np.float32)[:, None]
        parts = np.asarray(patches, np.float32)
        remainder = np.asarray(pooled, np.float64)[:, None] - parts.sum(axis=1, keepdims=True, dtype=np.float64)
        tokens = torch.from_numpy(np.concatenate([parts, remainder.astype(np.float32)], axis=1))
        answer = np.empty((len(whole), len(chosen)), np.float32)
        per_block = max(1, NUMBERS_PER_BLOCK // (parts.shape[1] * min(len(parts), IMAGES_PER_BLOCK) or 1))
        with torch.inference_mode():
            for first in range(0, len(chosen), per_block):
                block = slice(first, first + per_block)
                for begin in range(0, len(parts), IMAGES_PER_BLOCK):
                    rows = slice(begin, begin + IMAGES_PER_BLOCK)
                    answer[rows, block] = self.forward_tokens(tokens[rows], chosen[block]).numpy()
        return answer

    def forward_tokens(self, tokens: Any, voxels: Int[np.ndarray, " chosen"]) -> Any:
        """Predictions [image, chosen] as a differentiable function of tokens [image, patch + 1, feature], torch tensors.

        The last token is the remainder, so that the tokens of an image sum to its pooled embedding; attention reads the
        patches. Gradients reach the tokens, not the encoder. Computed on the tokens' device in float32.
        """
        import torch

        from mine_core.encoding.query_attention.layer import PER_VOXEL, SHARED, Statistics, make_keys, prepare, respond

        self._check_tokens((tokens.shape[1] - 1, tokens.shape[2]))

        def tensor(array: np.ndarray) -> Any:
            return torch.tensor(array, device=tokens.device)

        statistics = Statistics(**{name: tensor(getattr(self, name)) for name in Statistics._fields})
        shared = {name: tensor(getattr(self, name)) for name in SHARED}
        read = {name: tensor(getattr(self, name)[voxels]) for name in PER_VOXEL}
        prepared = prepare(tokens[:, :-1], tokens[:, -1], statistics)
        attended = respond(make_keys(prepared, shared), prepared, shared, read)
        return attended + tokens.sum(1) @ tensor(self.linear[:, voxels])

    def save(self, directory: Path) -> None:
        """Write arrays (safetensors) and record (JSON), each in one move and the record last."""
        from safetensors.numpy import save_file

        directory.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in array_names()}
        temporary = directory / f".{ARRAYS}.{os.getpid()}"
        try:
            save_file(arrays, temporary)
            sync(temporary)
            temporary.replace(directory / ARRAYS)
        finally:
            temporary.unlink(missing_ok=True)
        record = {
            "format": FORMAT,
            "kind": self.kind,
            "voxels": voxel_hash(self.voxels),
            "backbone": asdict(self.backbone),
            "config": self.config.to_dict(),
            "provenance": dict(self.provenance),
        }
        write_text(directory / RECORD, json.dumps(record))

    @classmethod
    def load(cls, directory: Path, voxels: VoxelIndex) -> "QueryAttentionEncoder":
        """Open what `save` wrote, for the same voxels; see `load_query_attention`."""
        return load_query_attention(directory, voxels)

    def _chosen(self, voxels: Int[np.ndarray, " chosen"] | None) -> Int[np.ndarray, " chosen"]:
        if voxels is None:
            return np.arange(len(self.intercept))
        _check_within("voxel", voxels, len(self.intercept))
        return voxels

    def _check_tokens(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.mean_patches.shape:
            raise AlignmentError(
                f"Tokens of {shape[0]} patches and {shape[1]} features were given, the encoder reads "
                f"{self.mean_patches.shape[0]} and {self.mean_patches.shape[1]}; embed with backbone '{self.backbone.name}'."
            )


def load_query_attention(directory: Path, voxels: VoxelIndex) -> QueryAttentionEncoder:
    """Open an encoder written by `save`.

    Raises
    ------
    ArtifactError
        If there is no complete encoder in `directory`, or one of another format.
    AlignmentError
        If it was fit on other voxels.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        record = json.loads((directory / RECORD).read_text())
        arrays = load_file(directory / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{directory.name}: no readable encoder ({error}); fit it again.") from error
    if record.get("format") != FORMAT or set(arrays) != set(array_names()):
        raise ArtifactError(f"{directory.name}: an encoder of format {record.get('format')}, {FORMAT} expected; fit it again.")
    if record["voxels"] != voxel_hash(voxels):
        raise AlignmentError(
            f"The encoder in {directory.name} speaks of {len(arrays['intercept'])} voxels of another subject or in another order "
            f"than the {len(voxels)} of '{voxels.subject}'. Fit it on these voxels."
        )
    spec = BackboneSpec(**record["backbone"] | {"grid": tuple(record["backbone"]["grid"])})
    config = QueryAttentionConfig.from_dict(record["config"])
    return QueryAttentionEncoder(
        **arrays, voxels=voxels, backbone=spec, config=config, kind=record["kind"], provenance=record["provenance"]
    )


def array_names() -> tuple[str, ...]:
    """Names of the encoder's arrays, as they are stored."""
    others = ("voxels", "backbone", "config", "kind", "provenance")
    return tuple(entry.name for entry in fields(QueryAttentionEncoder) if entry.name not in others)


def voxel_hash(voxels: VoxelIndex) -> str:
    """Which voxels these are: subject, grid and place of each."""
    digest = hashlib.sha256(json.dumps([voxels.subject, list(voxels.grid_shape)]).encode())
    digest.update(np.ascontiguousarray(voxels.flat_index, np.int64).data)
    return digest.hexdigest()


def _check_within(name: str, positions: Int[np.ndarray, " chosen"], count: int) -> None:
    if len(positions) and not (positions.min() >= 0 and positions.max() < count):
        raise AlignmentError(f"{name.capitalize()} positions {positions.min()} ... {positions.max()} were given; there are {count}.")
