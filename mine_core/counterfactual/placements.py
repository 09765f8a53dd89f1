"""Other places of an image that are as large as an edit's region, hold something, and are not what drives the voxel."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.counterfactual.compositing import contrast, sums_under

SEARCH_SIDE = 64  # pixels of the longer side; places are compared at this size
STRIDE = 3  # small pixels between the places compared
DRIVER_SHARE = 0.5  # a place that holds more than this share of the edit's attribution is another driver, no control
MOST_SHARED = 0.4  # of a place's area with an earlier one
FILLABLE = 0.8  # of what the edit leaves of the image may be taken, or nothing is left to fill it from
GAP = 0.012  # of the longer side between a place and the edit's region


@dataclass(frozen=True)
class Place:
    """A region elsewhere: `shape` says whether it is the edit's region moved, or one of equal area where that does not fit.

    `attribution_share` is what it holds of that which raises the prediction, relative to the edit's region.
    """

    mask: Bool[np.ndarray, "height width"]
    shape: Literal["moved", "equal area"]
    attribution_share: float


@dataclass(frozen=True)
class _Search:
    """What places are chosen by: where none may be, how eventful each pixel is, how much of the edit's drive it holds."""

    edit_mask: Bool[np.ndarray, "height width"]
    forbidden: Bool[np.ndarray, "height width"]
    events: Float[np.ndarray, "height width"]
    drive: Float[np.ndarray, "height width"]


def places_elsewhere(
    image: UInt8[np.ndarray, "height width 3"],
    edit_mask: Bool[np.ndarray, "height width"],
    attribution: Float[np.ndarray, "row col"],
    n: int,
) -> list[Place]:
    """Up to n regions of the edit's size that share no pixel with it, the most eventful first.

    Candidates are the edit's region moved, also mirrored; where fewer than n fit, compact regions of equal area (or 80 % of
    what the edit leaves, if that is less). Those that hold more than half as much of what raises the prediction as the
    edit's region come last; among the others those with most contrast (summed gradient) come first, for an empty place
    is no match for an object. No two share more than 40 % of their area. Deterministic.

    Parameters
    ----------
    attribution : patch values of the voxel, positive where they raise the prediction.
    n : how many are wanted; fewer are returned where fewer fit.
    """
    height, width = edit_mask.shape
    gap = max(1, round(GAP * max(height, width)))
    forbidden = cv2.dilate(edit_mask.astype(np.uint8), np.ones((2 * gap + 1, 2 * gap + 1), np.uint8)) > 0
    drive = cv2.resize(np.maximum(attribution, 0).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    search = _Search(edit_mask, forbidden, contrast(image), drive / max(float(drive[edit_mask].sum()), 1e-12))
    chosen: list[Place] = []
    for candidates in (_moved(search), _compact(search)):
        for place in candidates:
            if len(chosen) == n:
                return chosen
            apart = all((place.mask & other.mask).sum() <= MOST_SHARED * place.mask.sum() for other in chosen)
            if apart and not (place.mask & forbidden).any():
                chosen.append(place)
    return chosen


def _order(drive: Float[np.ndarray, " place"], events: Float[np.ndarray, " place"]) -> Int[np.ndarray, " place"]:
    """Most eventful first among those that hold little of the drive; then the others, least drive first."""
    loud = drive > DRIVER_SHARE
    return np.lexsort((np.where(loud, drive, -events), loud))


def _moved(search: _Search) -> Iterator[Place]:
    """The region at other places, as it is and mirrored; places are compared on a small copy of the image."""
    height, width = search.edit_mask.shape
    rows, cols = np.flatnonzero(search.edit_mask.any(1)), np.flatnonzero(search.edit_mask.any(0))
    upright = search.edit_mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    tall, wide = upright.shape
    scale = min(1.0, SEARCH_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    taken, events, drive = (
        cv2.resize(field.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for field in (search.forbidden, search.events, search.drive)
    )
    found = []
    for shape in (upright, upright[:, ::-1]):
        small = (max(1, round(wide * scale)), max(1, round(tall * scale)))
        kernel = cv2.resize(shape.astype(np.float32), small, interpolation=cv2.INTER_AREA)
        free = sums_under(taken, kernel)[::STRIDE, ::STRIDE] < 0.05 * kernel.sum()
        held = (sums_under(drive, kernel) / scale**2)[::STRIDE, ::STRIDE]
        eventful = sums_under(events, kernel)[::STRIDE, ::STRIDE]
        found += [(shape, at, held[tuple(at)], eventful[tuple(at)]) for at in np.argwhere(free)]
    for index in _order(np.array([entry[2] for entry in found]), np.array([entry[3] for entry in found])):
        shape, (row, col), _, _ = found[index]
        top = min(round(STRIDE * row / scale), height - tall)
        left = min(round(STRIDE * col / scale), width - wide)
        mask = np.zeros_like(search.edit_mask)
        mask[top : top + tall, left : left + wide] = shape
        yield Place(mask, "moved", float(search.drive[mask].sum()))


def _compact(search: _Search) -> Iterator[Place]:
    """For free centres on a grid, the free pixels nearest to the centre, as many as the region has."""
    height, width = search.edit_mask.shape
    free = ~search.forbidden
    area = min(int(search.edit_mask.sum()), int(FILLABLE * free.sum()))
    if area == 0:
        return
    y, x = np.indices(search.edit_mask.shape)
    masks = []
    for centre_y in np.linspace(0.08, 0.92, 6) * height:
        for centre_x in np.linspace(0.08, 0.92, 6) * width:
            if search.forbidden[int(centre_y), int(centre_x)]:
                continue
            apart = np.where(free, (y - centre_y) ** 2 + (x - centre_x) ** 2, np.inf)
            mask = np.zeros(free.size, bool)
            mask[np.argpartition(apart, area - 1, axis=None)[:area]] = True
            masks.append(mask.reshape(free.shape))
    shares = np.array([search.drive[mask].sum() for mask in masks])
    for index in _order(shares, np.array([search.events[mask].sum() for mask in masks])):
        yield Place(masks[index], "equal area", float(shares[index]))
