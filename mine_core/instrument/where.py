"""Where in any stimulus a voxel's prediction or a word comes from, traced on demand: what edits are guided by."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from mine_core.attribution.traced import coarse_values, trace_read_outs
from mine_core.backbones.base import Backbone
from mine_core.errors import AlignmentError, BackboneError
from mine_core.instrument.attributions import averaged_stimuli
from mine_core.instrument.explain import require_voxel
from mine_core.instrument.instrument import Instrument, Keyed


@lru_cache(maxsize=512)
def _voxel_heat(keyed: Keyed, voxel: int, stimulus: int) -> Float[np.ndarray, "row col"]:
    instrument = keyed.instrument
    weights = np.asarray(instrument.model.coef[:, voxel], np.float32)
    heat = heat_of_read_out(instrument, np.array([stimulus]), weights)[0]
    heat.flags.writeable = False
    return heat


def heat_of(instrument: Instrument, voxel: int, stimulus: int) -> Float[np.ndarray, "row col"]:
    """Attribution of one voxel in one stimulus, in the units of the responses; see `heat_of_read_out`. Read-only.

    Raises SubjectError if there is no such voxel.
    """
    require_voxel(instrument, voxel)
    return _voxel_heat(Keyed.of(instrument), voxel, stimulus)


def heat_of_read_out(
    instrument: Instrument, stimuli: Int[np.ndarray, " image"], weights: Float[np.ndarray, " feature"]
) -> Float[np.ndarray, "image row col"]:
    """Traced values of a linear read-out of the embedding, a voxel's or a text, on a grid of half patches.

    One forward and one backward pass an image. Where the backbone's blocks cannot be traced: the exact decomposition of stored
    parts, on the grid of patches. Raises AlignmentError if there is no such stimulus.
    """
    outside = stimuli[(stimuli < 0) | (stimuli >= len(instrument.subject.stimuli))]
    if outside.size:
        raise AlignmentError(f"Stimulus {outside[0]} was asked for; this subject has 0 to {len(instrument.subject.stimuli) - 1}.")
    start = _start(Keyed.of(instrument))
    if start is None:
        beyond = np.asarray(instrument.features.patches[stimuli], np.float32) - instrument.mean_patches
        return (beyond @ weights).reshape(len(stimuli), *instrument.features.backbone.grid)
    images = np.asarray(instrument.subject.stimuli.images[stimuli])
    return trace_read_outs(instrument.backbone.get(), images, start, np.asarray(weights, np.float32)[:, None])[:, 0]


@lru_cache(maxsize=3)
def _start(keyed: Keyed) -> Float[np.ndarray, "token width"] | None:
    """Average input tokens of training stimuli, None where the backbone cannot be traced."""
    from mine_core.attribution.averages import mean_tokens

    backbone: Backbone = keyed.instrument.backbone.get()
    try:
        return mean_tokens(backbone, averaged_stimuli(keyed.instrument))
    except BackboneError:
        return None


def on_patches(instrument: Instrument, heat: Float[np.ndarray, "row col"]) -> Float[np.ndarray, "patch_row patch_col"]:
    """A heatmap on the backbone's patches: a traced one, on half patches, is summed up."""
    return heat if heat.shape == instrument.features.backbone.grid else coarse_values(heat)
