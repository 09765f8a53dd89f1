"""A photograph that is no stimulus: checked, embedded, and compared with what the encoder was fit on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.errors import BackboneError
from mine_core.features import embed_image
from mine_core.instrument.instrument import Instrument
from mine_core.subjects.custom import read_photograph, square
from mine_core.types import Features


@dataclass(frozen=True)
class Photograph:
    """An image of the user's own, cropped to the stimuli's size; `unlikeness` is a percentile among held-out stimuli (0-100)."""

    image: UInt8[np.ndarray, "size size 3"]
    features: Features
    unlikeness: float
    caption: str

    @property
    def pooled(self) -> Float[np.ndarray, " feature"]:
        """Its embedding."""
        return np.asarray(self.features.pooled[0])


def open_photograph(instrument: Instrument, content: bytes) -> Photograph:
    """Read an uploaded image by its content, embed and caption it.

    Raises SubjectError if it is not an image that may be used. A prediction for an image unlike the stimuli is an
    extrapolation; a high `unlikeness` says so, a low one does not prove the prediction right.
    """
    image = square(read_photograph(content), instrument.subject.stimuli.images.shape[1])
    backbone = instrument.backbone.get()
    features = embed_image(backbone, image)
    try:
        caption = backbone.caption(image[None])[0]
    except BackboneError:
        caption = ""
    return Photograph(image, features, float(instrument.likeness.get().percentile(features.pooled)[0]), caption)
