"""What a click asks for: the images that drive one voxel, where in each the drive comes from, and what that is in words.

Everything is a product of stored arrays: no backbone is run and no gradient is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mine_core.attribution.decomposition import attribute_images
from mine_core.attribution.traced import coarse_values
from mine_core.description.decoding import attributed_words
from mine_core.errors import SubjectError
from mine_core.instrument.instrument import Instrument

Order = Literal["top", "middle", "bottom"]
HeatOf = Callable[[Int[np.ndarray, " image"]], Float[np.ndarray, "image row col"]]
"""Patch values of stimuli for the voxel at hand, in the units of the responses, on the backbone's grid or one twice as fine."""


@dataclass(frozen=True)
class ImageExplanation:
    """One image and one voxel: predicted and measured response in SD from the mean, patch attribution in SD, words.

    `held_out` is True where the encoding model was not fit on the image.
    """

    stimulus: int
    predicted: float
    measured: float
    values: Float[np.ndarray, "row col"]
    words: tuple[str, ...]
    caption: str
    held_out: bool


def ranked_images(instrument: Instrument, voxel: int, order: Order, n: int) -> Int[np.ndarray, " image"]:
    """Return the `n` stimuli of highest, lowest or middle predicted response, over all splits, most extreme first."""
    require_voxel(instrument, voxel)
    predicted = instrument.features.pooled @ instrument.model.coef[:, voxel]
    ranked = np.argsort(-predicted, kind="stable")
    if order == "top":
        return ranked[:n]
    if order == "bottom":
        return ranked[::-1][:n]
    start = max(0, (len(ranked) - n) // 2)
    return ranked[start : start + n]


def explain_voxel(
    instrument: Instrument, voxel: int, *, order: Order = "top", n: int = 12, heat: HeatOf | None = None
) -> tuple[ImageExplanation, ...]:
    """Explain the `n` images at one end of a voxel's predicted response, by `heat` or else by the exact decomposition.

    Raises SubjectError if there is no such voxel. Shows what drives the *model's prediction*, which is not a measurement.
    """
    return explain_images(instrument, voxel, ranked_images(instrument, voxel, order, n), heat)


def explain_images(
    instrument: Instrument, voxel: int, stimuli: Int[np.ndarray, " image"], heat: HeatOf | None = None
) -> tuple[ImageExplanation, ...]:
    """Explain given images for one voxel; words are those of the patches that `heat` names."""
    require_voxel(instrument, voxel)
    model, sd = instrument.model, float(instrument.model.prediction_sd[voxel]) or 1.0
    if heat is None:
        values = attribute_images(model, instrument.features, stimuli, voxel, instrument.mean_patches) / sd
    else:
        values = heat(stimuli) / sd
    coarse = values if values.shape[1:] == instrument.features.backbone.grid else coarse_values(values)
    words = attributed_words(instrument.features, instrument.mean_patches, stimuli, coarse, instrument.vocabulary)
    predicted = instrument.predicted(voxel)[stimuli]
    measured = instrument.measured(voxel)[stimuli]
    return tuple(
        ImageExplanation(
            stimulus=int(stimulus),
            predicted=float(predicted[i]),
            measured=float(measured[i]),
            values=values[i],
            words=words[i],
            caption=instrument.captions[stimulus],
            held_out=bool(instrument.held_out[stimulus]),
        )
        for i, stimulus in enumerate(stimuli)
    )


def require_voxel(instrument: Instrument, voxel: int) -> None:
    """Raise SubjectError unless the subject has this voxel."""
    n_voxels = len(instrument.subject.responses.voxels)
    if not 0 <= voxel < n_voxels:
        raise SubjectError(f"Voxel {voxel} was asked for; this subject has voxels 0 to {n_voxels - 1}.")
