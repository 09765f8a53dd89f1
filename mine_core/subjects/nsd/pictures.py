"""Images of the experiment, read a few at a time and kept at the size that is asked for."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.limits import MAX_SIZE, MIN_PICTURE_SIDE, reason
from mine_core.types import IsCancelled, OnProgress

IMAGES_AT_A_TIME = 64
DATASET = "imgBrick"


def write_images(
    path: Path, chosen: Int[np.ndarray, " stimulus"], size: int, target: Path, on_progress: OnProgress, cancelled: IsCancelled
) -> UInt8[np.ndarray, "stimulus size size 3"]:
    """Write chosen images (0-based, ascending) as `target`, resized by area to `size` pixels a side.

    Raises
    ------
    SubjectError
        If the file cannot be read, holds no square RGB bytes, has too few images, or the size is not 16 to 1,024.
    Cancelled
        When `cancelled()` becomes True between a few images.
    """
    import cv2
    import h5py

    if not MIN_PICTURE_SIDE <= size <= MAX_SIZE:
        raise SubjectError(f"Images of {size} pixels were asked for; expected {MIN_PICTURE_SIDE} to {MAX_SIZE}.")
    try:
        with h5py.File(path, "r") as stream:
            if not isinstance(stream.get(DATASET), h5py.Dataset):
                raise SubjectError(f"{path.name} has no dataset '{DATASET}'; copy it again from the published dataset.")
            brick = stream[DATASET]
            shape = tuple(brick.shape)
            if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or brick.dtype != np.uint8:
                raise SubjectError(f"{path.name} holds {brick.dtype} of shape {shape}; expected uint8 images x side x side x 3.")
            if chosen.max() >= len(brick):
                raise SubjectError(
                    f"{path.name} has {len(brick):,} images, the design shows image {chosen.max() + 1:,}; copy it again."
                )
            images = np.lib.format.open_memmap(target, "w+", np.uint8, (len(chosen), size, size, 3))
            for start in range(0, len(chosen), IMAGES_AT_A_TIME):
                if cancelled():
                    raise Cancelled("Stopped while images were read; nothing was kept.")
                on_progress(start, len(chosen), "reading images")
                part = brick[chosen[start : start + IMAGES_AT_A_TIME]]
                for offset, picture in enumerate(part):
                    same = picture.shape[0] == size
                    images[start + offset] = picture if same else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    except OSError as error:
        raise SubjectError(f"{path.name} cannot be read ({reason(error)}); copy it again.") from error
    return images
