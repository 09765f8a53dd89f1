"""Taking a unit out of an image: the patches where it is active are removed, and the edited image is read by its layer again."""

import numpy as np
from jaxtyping import Bool, UInt8

from mine_core.dictionary.activations import codes_of
from mine_core.errors import EditError
from mine_core.instrument.dictionary import Dictionary
from mine_core.instrument.dictionary_views import Unit, patches_of_unit
from mine_core.instrument.explain import require_voxel
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.trials import EditRequest

SHARE = 0.5
"""Patches count to a unit where its activation is at least this share of its largest in the image."""


def unit_region(instrument: Instrument, dictionary: Dictionary, unit: Unit, stimulus: int) -> Bool[np.ndarray, "height width"]:
    """Pixels (True) of the patches where a unit is active: at least half of its largest activation in the image.

    Raises EditError if the unit is silent in it.
    """
    values = patches_of_unit(dictionary, unit, np.array([stimulus]))[0]
    if not values.max() > 0:
        raise EditError(f"Unit {unit.unit} of layer {unit.layer + 1} is silent in image {stimulus}; choose one of its images.")
    height, width = instrument.subject.stimuli.images.shape[1:3]
    rows, cols = (np.arange(side) * n // side for side, n in zip((height, width), values.shape, strict=True))
    return (values >= SHARE * values.max())[np.ix_(rows, cols)]


def removal_of_unit(instrument: Instrument, dictionary: Dictionary, unit: Unit, voxel: int, stimulus: int) -> EditRequest:
    """Edit that removes a unit's patches from an image, for the same controls and verdict as any removal.

    Raises
    ------
    EditError
        If the unit is silent in the image.
    SubjectError
        If there is no such voxel.
    """
    require_voxel(instrument, voxel)
    region = unit_region(instrument, dictionary, unit, stimulus)
    return EditRequest("remove", voxel, stimulus, region=np.packbits(region).tobytes())


def largest_activation(instrument: Instrument, dictionary: Dictionary, unit: Unit, image: UInt8[np.ndarray, "height width 3"]) -> float:
    """Largest activation of a unit over the patches of any image, read anew: says whether an edit took the unit out.

    A late token holds content from elsewhere, so that a unit may stay where its patches are gone. Raises BackboneError if the
    backbone's layers cannot be read.
    """
    from mine_core.backbones.layers import read_layers

    tokens, _ = read_layers(instrument.backbone.get(), image[None])
    codes = codes_of(dictionary.autoencoders[unit.layer], tokens[unit.layer].astype(np.float16), np.array([0]))
    return float(codes[0, :, unit.unit].max())
