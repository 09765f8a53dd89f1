"""What every method of attribution takes and says of itself.

A method is told of one image by its `Scene` and of the encoder by its `Setting`, and answers with a `PatchAttribution`.
Backbones are loaded when a method has to look at the image again, and not before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.backbones.base import Backbone
from mine_core.encoding.query_attention import QueryAttentionEncoder
from mine_core.errors import AlignmentError, BackboneError, EncodingError
from mine_core.types import EncodingModel, PatchAttribution

MethodName = Literal["traced", "decomposition", "integrated_gradients", "occlusion", "gradient_attention", "rollout"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
DEFAULT: MethodName = "traced"
STAND_IN: MethodName = "decomposition"  # until traced parts are prepared, and where a backbone cannot be traced
# for query attention: tokens that integrated gradients, the paper's method, rank first predict no better there than random ones
OF_QUERY_ATTENTION: MethodName = "occlusion"
Encoder = EncodingModel | QueryAttentionEncoder


@dataclass(frozen=True)
class Scene:
    """One image as the methods need it: its pixels, and its embedding with the additive parts, in float32."""

    image: UInt8[np.ndarray, "height width 3"]
    pooled: Float[np.ndarray, " feature"]
    patches: Float[np.ndarray, "patch feature"]
    remainder: Float[np.ndarray, " feature"]


@dataclass(frozen=True)
class Averages:
    """What training images are on average, which methods count from.

    `image` is the average image, at the size the backbone sees; `tokens[token, width]` the average input token at each place, None
    where the backbone's blocks cannot be traced.
    """

    image: UInt8[np.ndarray, "side side 3"]
    tokens: Float[np.ndarray, "token width"] | None


@dataclass(frozen=True)
class Setting:
    """An encoder, what images are on average, and how to get at the backbone; `averages` and `backbone` are loaded when called.

    `mean_patches` is the average part at each place over training stimuli.
    """

    encoder: Encoder
    mean_patches: Float[np.ndarray, "patch feature"]
    averages: Callable[[], Averages]
    backbone: Callable[[], Backbone]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the backbone's patches."""
        return self.encoder.backbone.grid

    def sd(self, voxels: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, " chosen"]:
        """SD of the voxels' predictions over training stimuli, 1 where a voxel's prediction does not vary."""
        found = np.asarray(self.encoder.prediction_sd[voxels], np.float64)
        return np.where(found > 0, found, 1.0)


@dataclass(frozen=True)
class Method:
    """A way to say which patches a prediction comes from.

    `assumes` is what one has to believe to read it as such; `sums` whether its parts add up to the prediction;
    `reads_voxel` is False for a baseline that is the same for every voxel; `encoders` those it holds for.
    """

    name: MethodName
    title: str
    assumes: str
    sums: bool
    reads_voxel: bool
    encoders: tuple[str, ...]


RIDGE, BOTH = ("ridge",), ("ridge", "query_attention")
METHODS: Mapping[MethodName, Method] = {
    "traced": Method(
        "traced",
        "Traced decomposition",
        "Attention, normalisation and the gates of the MLPs stay as they are in this image; with them held, all that the backbone "
        "adds up is credited to the patch it was read from. Two grids half a patch apart are averaged.",
        sums=True,
        reads_voxel=True,
        encoders=RIDGE,
    ),
    "decomposition": Method(
        "decomposition",
        "Exact decomposition",
        "A final token stands for the patch at its place, although it has mixed in what other patches hold.",
        sums=True,
        reads_voxel=True,
        encoders=RIDGE,
    ),
    "integrated_gradients": Method(
        "integrated_gradients",
        "Integrated gradients",
        "The way from the average token to this one, along a straight line, says what the token adds; points between are no images.",
        sums=True,
        reads_voxel=True,
        encoders=BOTH,
    ),
    "occlusion": Method(
        "occlusion",
        "Occlusion",
        "A patch matters as much as the prediction falls when it alone is replaced by the average image; what two patches both "
        "show falls with neither.",
        sums=False,
        reads_voxel=True,
        encoders=BOTH,
    ),
    "gradient_attention": Method(
        "gradient_attention",
        "Gradient-weighted attention",
        "Attention carries what matters, where more of it would raise the prediction; values and MLPs are left out.",
        sums=False,
        reads_voxel=True,
        encoders=RIDGE,
    ),
    "rollout": Method(
        "rollout",
        "Attention rollout (ignores the voxel)",
        "Attention alone says where content goes, half of each block passing it by. The same for every voxel: a baseline.",
        sums=False,
        reads_voxel=False,
        encoders=BOTH,
    ),
}


def attribute_image(name: MethodName, setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Attribute the predicted responses of voxels to one image by a method, in the units of the responses.

    Raises
    ------
    EncodingError
        If there is no such method, or it does not hold for the encoder.
    AlignmentError
        If a voxel is not there, or the image's parts are not those of the encoder's backbone.
    BackboneError
        If the method does not hold for the backbone.
    """
    method = require_method(name, setting.encoder.kind)
    outside = voxels[(voxels < 0) | (voxels >= len(setting.encoder.intercept))]
    if outside.size:
        raise AlignmentError(f"Voxel {outside[0]} was asked for; this encoder has 0 to {len(setting.encoder.intercept) - 1}.")
    if scene.patches.shape != setting.mean_patches.shape:
        raise AlignmentError(
            f"The image has parts of shape {scene.patches.shape}, the average image {setting.mean_patches.shape}; "
            "embed it with the encoder's backbone."
        )
    found: PatchAttribution = import_module(f"mine_core.attribution.{method.name}").attribute_scene(setting, scene, voxels)
    return found


def require_method(name: str, encoder: str) -> Method:
    """Find a method by name; raises EncodingError if there is none, or it does not hold for that kind of encoder."""
    if name not in METHODS:
        raise EncodingError(f"There is no attribution method '{name}'; expected one of {', '.join(METHODS)}.")
    method = METHODS[cast(MethodName, name)]
    if encoder not in method.encoders:
        able = [other.name for other in METHODS.values() if encoder in other.encoders]
        raise EncodingError(f"'{name}' does not hold for encoder '{encoder}'; use one of {', '.join(able)}.")
    return method


def require_linear(setting: Setting) -> EncodingModel:
    """Return the encoder if it is a linear read-out of the pooled embedding; raises EncodingError otherwise."""
    if not isinstance(setting.encoder, EncodingModel):
        raise EncodingError(f"Encoder '{setting.encoder.kind}' is no linear read-out of the pooled embedding; use ridge.")
    return setting.encoder


def checked_backbone(setting: Setting) -> Backbone:
    """Load the backbone; raises BackboneError if it is not the one that the encoder reads."""
    backbone, wanted = setting.backbone(), setting.encoder.backbone
    if (backbone.spec.name, backbone.spec.weights_hash) != (wanted.name, wanted.weights_hash):
        raise BackboneError(
            f"Backbone '{backbone.spec.name}' (weights {backbone.spec.weights_hash[:8]}) was given, the encoder reads '{wanted.name}' "
            f"(weights {wanted.weights_hash[:8]}); load that one."
        )
    return backbone


def predict_parts(
    encoder: Encoder,
    patches: Float[np.ndarray, "image patch feature"],
    pooled: Float[np.ndarray, "image feature"],
    voxels: Int[np.ndarray, " chosen"],
) -> Float[np.ndarray, "image chosen"]:
    """Predicted responses to images by their parts, in the units of the responses, whatever the encoder."""
    if isinstance(encoder, EncodingModel):
        return np.asarray(pooled, np.float64) @ encoder.coef[:, voxels] + encoder.intercept[voxels]
    return np.asarray(encoder.predict_tokens(patches, pooled, voxels), np.float64)
