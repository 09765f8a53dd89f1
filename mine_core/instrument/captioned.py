"""Captions of an image and of the part of it that drives a voxel: the dataset's own, the backbone's, or another model's."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.artifacts import write_text
from mine_core.attribution.decomposition import strongest_patches
from mine_core.description.captioning import Captioner, caption_stimuli
from mine_core.errors import BackboneError, ConfigError, DescriptionError
from mine_core.instrument.instrument import Instrument
from mine_core.types import IsCancelled, OnProgress

# A part is at least this share of the image's side: a smaller one shows a captioner nothing that it learnt to name.
LEAST_SIDE = 1 / 3
N_BEAMS = 4
CAPTIONERS = ("greedy", "beam", "florence2", "qwen-vl")


@dataclass(frozen=True)
class Part:
    """A square part of an image: pixel (row, col) of its upper left corner, its side, and its pixels."""

    row: int
    col: int
    side: int
    image: UInt8[np.ndarray, "side side 3"]


def driving_part(image: UInt8[np.ndarray, "height width 3"], values: Float[np.ndarray, "row col"]) -> Part:
    """Cut out the smallest square that holds the patches which carry half of the positive attribution.

    It is at least a third of the image's shorter side, centred on those patches as far as the image allows.

    Raises DescriptionError if nothing raises the prediction.
    """
    kept = strongest_patches(values)
    if not kept.any():
        raise DescriptionError("Nothing in this image raises the prediction: there is no part to caption.")
    height, width = image.shape[:2]
    ends = [(np.flatnonzero(kept.any(axis=axis)), n) for axis, n in ((1, height), (0, width))]
    starts = [at[0] * n / kept.shape[i] for i, (at, n) in enumerate(ends)]
    stops = [(at[-1] + 1) * n / kept.shape[i] for i, (at, n) in enumerate(ends)]
    shorter = min(height, width)
    side = min(shorter, round(max(LEAST_SIDE * shorter, *(stop - start for start, stop in zip(starts, stops, strict=True)))))
    corner = [
        int(np.clip(round((start + stop - side) / 2), 0, n - side))
        for start, stop, n in zip(starts, stops, (height, width), strict=True)
    ]
    row, col = corner
    return Part(row, col, side, np.ascontiguousarray(image[row : row + side, col : col + side]))


def dataset_captions(instrument: Instrument, stimulus: int) -> tuple[str, ...]:
    """Captions that came with a stimulus; none where the dataset has none."""
    own = instrument.subject.stimuli.captions
    return own[stimulus] if own else ()


def captioner_of(instrument: Instrument, name: str, weights: str = "") -> Captioner:
    """Find a captioner: the backbone itself by `greedy` or `beam` search, or `florence2` or `qwen-vl` with their weights.

    Raises ConfigError for another name, or without the weights that it needs; BackboneError if they are not here.
    """
    if name not in CAPTIONERS:
        raise ConfigError(f"There is no captioner '{name}'; there are {', '.join(CAPTIONERS)}.")
    if name in ("florence2", "qwen-vl"):
        if not weights:
            raise ConfigError(
                f"Captioner '{name}' needs weights: give a folder, or a name of the hub such as florence-community/Florence-2-base."
            )
        from mine_core.backbones.captioners import load_captioner

        return load_captioner(name, weights)
    backbone = instrument.backbone.get()
    if name == "greedy":
        return backbone
    from mine_core.backbones.beam_captioning import BeamCaptioner

    return BeamCaptioner(backbone, N_BEAMS)


def caption_part(instrument: Instrument, image: UInt8[np.ndarray, "height width 3"]) -> dict[str, str]:
    """Caption an image, or a part of one, by the backbone's greedy and beam search; empty where it writes none.

    What a model says of pixels, learnt from captions of whole images: of a part it knows less, and no measurement of a brain.
    """
    found = {}
    for name in ("greedy", "beam"):
        try:
            found[name] = captioner_of(instrument, name).caption(image[None])[0]
        except BackboneError:
            return {}
    return found


def write_captions(
    instrument: Instrument,
    captioner: Captioner,
    path: Path,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Sequence[str]:
    """Caption every stimulus and write CSV stimulus,caption, which `import --captions` reads, without empty ones; returns them all.

    Raises ConfigError for a name that does not end in .csv or a folder that is not there, BackboneError, Cancelled.
    """
    if path.suffix != ".csv" or not path.parent.is_dir():
        raise ConfigError(f"Captions cannot be written to {path}; give a name that ends in .csv in a folder that exists.")
    stimuli = instrument.subject.stimuli
    captions = caption_stimuli(stimuli, captioner, on_progress, cancelled)
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(
        [("stimulus", "caption"), *((name, caption) for name, caption in zip(stimuli.ids, captions, strict=True) if caption)]
    )
    write_text(path, lines.getvalue())
    return captions
