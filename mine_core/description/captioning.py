"""One caption per stimulus, by the backbone itself."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from mine_core.errors import BackboneError, Cancelled
from mine_core.types import IsCancelled, OnProgress, StimulusSet

BATCH = 64


@runtime_checkable
class Captioner(Protocol):
    """Whatever writes a caption for an image: a backbone with a text decoder, or another model."""

    def caption(self, images: UInt8[np.ndarray, "image height width 3"]) -> Sequence[str]:
        """Write one caption per image; raises BackboneError when the model has no decoder."""


def caption_stimuli(
    stimuli: StimulusSet,
    captioner: Captioner,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[str, ...]:
    """Caption every stimulus, in order, batch by batch; plain text, to be kept as JSON by the caller.

    Raises
    ------
    BackboneError : if the model has no decoder, or returns another number of captions than images.
    Cancelled : if `cancelled()` becomes True between batches; nothing is kept.

    Notes
    -----
    A caption is what a model says of an image, learnt from its training captions. It is no measurement of a brain and
    plays no part in the words of a voxel.
    """
    captions: list[str] = []
    for start in range(0, len(stimuli), BATCH):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {start} of {len(stimuli)} captions; start again to caption them all.")
        images = np.asarray(stimuli.images[start : start + BATCH])
        written = captioner.caption(images)
        if len(written) != len(images):
            raise BackboneError(f"{len(images)} images were given and {len(written)} captions returned; use another captioner.")
        captions += written
        if on_progress is not None:
            on_progress(len(captions), len(stimuli), "writing captions")
    return tuple(captions)
