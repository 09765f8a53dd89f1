"""Filling a hole of an image from the rest of it: coherent patches, coarse to fine, without a network.

The hole is filled so that every small patch over it resembles some patch outside it (Wexler, Shechtman, Irani 2007,
10.1109/TPAMI.2007.60). On a small copy of the image the hole is first peeled from its rim inwards and the best matches are
then found exactly; the field of matches is enlarged step by step, each patch may take over a neighbour's match (Barnes et
al. 2009, 10.1145/1531326.1531330), and the patches over a pixel vote on its colour. No random draw: same input, same bytes.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from mine_core.counterfactual.editors import OnStep, stop_if
from mine_core.errors import EditError
from mine_core.types import IsCancelled

COARSEST = 40  # pixels; the exact search is quadratic in this, and below it objects lose their texture
REACH = 2  # patches are 5 x 5
ROUNDS = 4  # of match and vote at the coarsest scale
POSITION_WEIGHT = 0.25  # a match across the whole image costs as much as a quarter of the range in every colour

_SIDE = 2 * REACH + 1
_OFFSETS = [(dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)]
_MIDDLE = 3 * (len(_OFFSETS) // 2)

Image = UInt8[np.ndarray, "height width 3"]
Colours = Float[np.ndarray, "height width 3"]
Hole = Bool[np.ndarray, "height width"]
Places = Int[np.ndarray, "place 2"]


@dataclass(frozen=True)
class _Level:
    """One scale: its colours and hole, centres of the patches that touch the hole, and which centres have a whole patch."""

    colours: Colours
    hole: Hole
    targets: Places
    whole: Hole

    @property
    def place_weight(self) -> float:
        return POSITION_WEIGHT * 255 * len(_OFFSETS) ** 0.5 / max(self.hole.shape)


def fill_hole(image: Image, hole: Hole, *, on_step: OnStep | None = None, cancelled: IsCancelled | None = None) -> Image:
    """Replace the pixels of `hole` by what fits their surroundings; all others are returned as they are.

    Parameters
    ----------
    hole : True where a pixel is to be made up.
    on_step : called after each scale with (scale, number of scales, the image as filled so far).
    cancelled : asked before each scale.

    Raises
    ------
    EditError : if the hole leaves no whole 5 x 5 patch of the image.
    Cancelled : if `cancelled()` became true.

    Notes
    -----
    It makes up what is plausible, not what was behind; an object that occurs twice may be copied into the hole.
    """
    if not hole.any():
        return image.copy()
    coarsest, *finer = _levels(image, hole)
    colours, field = coarsest.colours, np.empty((0, 0, 2), np.int64)
    for step, level in enumerate((coarsest, *finer), 1):
        stop_if(cancelled)
        colours, field = _solve_coarsest(level) if level is coarsest else _refine(level, colours, field)
        if on_step is not None:
            on_step(step, 1 + len(finer), _at_full_size(colours, image, hole))
    return _at_full_size(colours, image, hole)


def _levels(image: Image, hole: Hole) -> list[_Level]:
    """From coarsest to finest; a small pixel belongs to the hole when any of its pixels does."""
    known = (~hole).astype(np.float32)
    exact = image.astype(np.float32)
    finest = _level(exact, hole)
    if finest is None:
        raise EditError("The region leaves no whole 5 x 5 patch of the image to fill it from; mark a smaller region.")
    levels = [finest]
    height, width = hole.shape
    while max(height, width) > 1.5 * COARSEST:
        height, width = -(-height // 2), -(-width // 2)
        weight = cv2.resize(known, (width, height), interpolation=cv2.INTER_AREA)
        total = cv2.resize(exact * known[..., None], (width, height), interpolation=cv2.INTER_AREA)
        smaller = _level(total / np.maximum(weight, 1e-6)[..., None], weight < 0.999)
        if smaller is None:
            break
        levels.append(smaller)
    return levels[::-1]


def _level(colours: Colours, hole: Hole) -> _Level | None:
    kernel = np.ones((_SIDE, _SIDE), np.uint8)
    touched = cv2.dilate(hole.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    whole = ~touched
    whole[:REACH] = whole[-REACH:] = False
    whole[:, :REACH] = whole[:, -REACH:] = False
    return _Level(colours.astype(np.float32), hole, np.argwhere(touched), whole) if whole.any() else None


def _at_full_size(colours: Float[np.ndarray, "h w 3"], image: Image, hole: Hole) -> Image:
    if colours.shape != image.shape:
        colours = cv2.resize(colours, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    filled = image.copy()
    filled[hole] = np.clip(np.rint(colours[hole]), 0, 255).astype(np.uint8)
    return filled


def _padded(colours: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "h w 3"]:
    return cv2.copyMakeBorder(colours, REACH, REACH, REACH, REACH, cv2.BORDER_REFLECT_101)


def _patches(padded: Float[np.ndarray, "h w 3"], centres: Places) -> Float[np.ndarray, "place value"]:
    """All values of the patches around `centres`, which are places of the image before padding."""
    row = padded.shape[1]
    middle = (centres[:, 0] + REACH) * row + centres[:, 1] + REACH
    steps = np.array([dy * row + dx for dy, dx in _OFFSETS])
    return padded.reshape(-1, 3)[middle[:, None] + steps].reshape(len(centres), -1)


def _solve_coarsest(level: _Level) -> tuple[Colours, Int[np.ndarray, "height width 2"]]:
    """Peel, then alternate exact nearest patches and votes."""
    sources = np.argwhere(level.whole)
    patches = _patches(_padded(level.colours), sources)
    colours = _peel(level, sources, patches)
    place = level.place_weight
    known = np.concatenate([patches, place * sources], axis=1).astype(np.float32)
    norm = (known**2).sum(1)
    for _ in range(ROUNDS):
        wanted = _patches(_padded(colours), level.targets)
        wanted = np.concatenate([wanted, place * level.targets], axis=1).astype(np.float32)
        distance = norm - 2 * (wanted @ known.T)
        best = distance.argmin(1)
        cost = distance[np.arange(len(best)), best] + (wanted**2).sum(1)
        colours = _vote(level, colours, sources[best], cost)
    return colours, _as_field(level, sources[best])


def _peel(level: _Level, sources: Places, patches: Float[np.ndarray, "source value"]) -> Colours:
    """First guess: from the rim inwards, each pixel from the patch that best fits what is known around it."""
    colours, unknown = level.colours.copy(), level.hole.copy()
    squares = patches**2
    place = level.place_weight**2
    source_place = place * (sources**2).sum(1)
    while unknown.any():
        inner = cv2.erode(unknown.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
        rim = np.argwhere(unknown & ~inner)
        trusted = np.pad(~unknown, REACH).astype(np.float32)
        seen = _patches(np.repeat(trusted[..., None], 3, axis=2), rim)
        wanted = _patches(_padded(colours), rim) * seen
        distance = (seen @ squares.T - 2 * wanted @ patches.T) / seen.mean(1, keepdims=True)
        distance += source_place - 2 * place * (rim @ sources.T)
        colours[rim[:, 0], rim[:, 1]] = patches[distance.argmin(1), _MIDDLE : _MIDDLE + 3]
        unknown = inner
    return colours


def _refine(
    level: _Level, coarse: Float[np.ndarray, "h w 3"], coarse_field: Int[np.ndarray, "h w 2"]
) -> tuple[Colours, Int[np.ndarray, "height width 2"]]:
    """Carry the matches to twice the size, let each patch take over a neighbour's where that fits better, and vote."""
    height, width = level.hole.shape
    raised = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = np.where(level.hole[..., None], raised, level.colours).astype(np.float32)
    parents = level.targets // 2
    found = 2 * coarse_field[parents[:, 0], parents[:, 1]] + level.targets % 2
    found = np.clip(found, 0, (height - 1, width - 1))
    nearest = ndimage.distance_transform_edt(~level.whole, return_distances=False, return_indices=True)
    found = nearest[:, found[:, 0], found[:, 1]].T.astype(np.int64)
    padded = _padded(colours)
    wanted = _patches(padded, level.targets)
    cost = _cost(level, padded, wanted, level.targets, found)
    for step in (2, 1):
        _take_over(level, padded, wanted, found, cost, step)
    return _vote(level, colours, found, cost), _as_field(level, found)


def _as_field(level: _Level, found: Places) -> Int[np.ndarray, "height width 2"]:
    field = np.moveaxis(np.indices(level.hole.shape), 0, -1).copy()
    field[level.targets[:, 0], level.targets[:, 1]] = found
    return field


def _cost(
    level: _Level, padded: Float[np.ndarray, "h w 3"], wanted: Float[np.ndarray, "place value"], targets: Places, found: Places
) -> Float[np.ndarray, " place"]:
    difference = _patches(padded, found)
    difference -= wanted
    apart = ((targets - found) ** 2).sum(1) * level.place_weight**2
    return np.einsum("pv,pv->p", difference, difference).astype(np.float64) + apart


def _take_over(
    level: _Level,
    padded: Float[np.ndarray, "h w 3"],
    wanted: Float[np.ndarray, "place value"],
    found: Places,
    cost: Float[np.ndarray, " place"],
    step: int,
) -> None:
    """Offer each patch the matches of the patches `step` pixels beside it, in place."""
    targets, bounds = level.targets, np.array(level.hole.shape)
    order = np.full(level.hole.shape, -1)
    order[targets[:, 0], targets[:, 1]] = np.arange(len(targets))
    for direction in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        shift = step * np.array(direction)
        beside = targets + shift
        inside = ((beside >= 0) & (beside < bounds)).all(1)
        neighbour = np.full(len(targets), -1)
        neighbour[inside] = order[beside[inside, 0], beside[inside, 1]]
        offered = found[neighbour] - shift
        fits = (neighbour >= 0) & ((offered >= 0) & (offered < bounds)).all(1) & (offered != found).any(1)
        fits[fits] = level.whole[offered[fits, 0], offered[fits, 1]]
        asked = np.flatnonzero(fits)
        offered = offered[asked]
        offered_cost = _cost(level, padded, wanted[asked], targets[asked], offered)
        better = offered_cost < cost[asked]
        found[asked[better]] = offered[better]
        cost[asked[better]] = offered_cost[better]


def _vote(level: _Level, colours: Colours, found: Places, cost: Float[np.ndarray, " place"]) -> Colours:
    """Each pixel of the hole becomes the mean of what the patches over it say, weighted by fit."""
    height, width = level.hole.shape
    scale = 2 * max(float(np.median(cost)), 1.0)
    weight = (np.exp(-np.maximum(cost, 0) / scale) + 1e-9).astype(np.float32)
    total = np.zeros((height + 2 * REACH, width + 2 * REACH, 4), np.float32)
    row = width + 2 * REACH
    at = (level.targets[:, 0] + REACH) * row + level.targets[:, 1] + REACH
    source = found[:, 0] * width + found[:, 1]
    said = np.empty((len(found), 4), np.float32)
    said[:, 3] = weight
    for dy, dx in _OFFSETS:
        said[:, :3] = colours.reshape(-1, 3)[source + dy * width + dx] * weight[:, None]
        total.reshape(-1, 4)[at + dy * row + dx] += said
    total = total[REACH:-REACH, REACH:-REACH]
    filled = colours.copy()
    filled[level.hole] = total[level.hole, :3] / total[level.hole, 3:]
    return filled
