"""Primitives: an RGBA canvas whose fourth channel gathers the silhouette of the object that is being drawn.

Colours blend with what is behind at anti-aliased edges; the silhouette channel blends from 0 to 255 in the same call, so one
pass gives both the pixels and the object's coverage.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Colour = tuple[float, float, float]
_SHIFT = 4
_ONE = 1 << _SHIFT
_NOISE_SEED = 20


def _circle(n_points: int) -> Float[np.ndarray, "point 2"]:
    angle = np.arange(n_points) * (2 * np.pi / n_points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


_ROUND, _ROUNDISH = _circle(32), _circle(14)
_HALF_ARC = np.linspace(-np.pi / 2, np.pi / 2, 8)


def shape(*points: tuple[float, float]) -> Float[np.ndarray, "point 2"]:
    """A polygon from its corners."""
    return np.array(points, dtype=np.float64)


def smooth(*points: tuple[float, float], steps: int = 5) -> Float[np.ndarray, "point 2"]:
    """A closed Catmull-Rom curve through `points`, `steps` samples per span."""
    knots = np.array(points, dtype=np.float64)
    before, after, next_after = np.roll(knots, 1, 0), np.roll(knots, -1, 0), np.roll(knots, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (knot[:, None, :] for knot in (before, knots, after, next_after))
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (curve / 2).reshape(-1, 2)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from `first` to `second`."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float = 0.25) -> Colour:
    """`colour`, `share` of the way to black."""
    keep = 1 - share
    return colour[0] * keep, colour[1] * keep, colour[2] * keep


def lighter(colour: Colour, share: float = 0.25) -> Colour:
    """`colour`, `share` of the way to white."""
    return blend(colour, (255, 255, 255), share)


class Pen:
    """Draws in an object's own coordinates, x right and y down in [-1, 1], on a region of the canvas.

    `scale` is half the object's size in pixels; `flip` mirrors it; `angle` (radians) turns it clockwise.
    """

    __slots__ = ("_matrix", "_offset", "image", "scale", "x", "y")

    def __init__(self, image: np.ndarray, x: float, y: float, scale: float, flip: bool = False, angle: float = 0.0):
        self.image, self.x, self.y, self.scale = image, x, y, scale
        cosine, sine = np.cos(angle), np.sin(angle)
        mirror = -1.0 if flip else 1.0
        unit = scale * _ONE
        self._matrix = np.array([[cosine * mirror * unit, sine * mirror * unit], [-sine * unit, cosine * unit]])
        self._offset = np.array([(x - 0.5) * _ONE + 0.5, (y - 0.5) * _ONE + 0.5])

    def turned(self, flip: bool, angle: float) -> "Pen":
        """The same pen, mirrored or turned."""
        return Pen(self.image, self.x, self.y, self.scale, flip, angle)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        return (points @ self._matrix + self._offset).astype(np.int32)

    def poly(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a polygon of any shape."""
        cv2.fillPoly(self.image, [self._pixels(points)], (*colour, 255), cv2.LINE_AA, _SHIFT)

    def convex(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a convex polygon (faster than `poly`)."""
        cv2.fillConvexPoly(self.image, self._pixels(points), (*colour, 255), cv2.LINE_AA, _SHIFT)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0) -> None:
        """Fill an ellipse of half axes (rx, ry) about (x, y), turned by `angle`."""
        ring = _ROUND if max(rx, ry) * self.scale > 9 else _ROUNDISH
        points = ring * (rx, ry)
        if angle:
            cosine, sine = np.cos(angle), np.sin(angle)
            points = points @ np.array([[cosine, sine], [-sine, cosine]])
        self.convex(points + (x, y), colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.convex(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), colour)

    def limb(self, x0: float, y0: float, x1: float, y1: float, r0: float, r1: float, colour: Colour) -> None:
        """Fill the hull of two discs: a tapered rod with round ends."""
        arc = np.arctan2(y1 - y0, x1 - x0) + _HALF_ARC
        ends = np.empty((16, 2))
        ends[:8, 0], ends[:8, 1] = x1 + r1 * np.cos(arc), y1 + r1 * np.sin(arc)
        ends[8:, 0], ends[8:, 1] = x0 - r0 * np.cos(arc), y0 - r0 * np.sin(arc)
        self.convex(ends, colour)

    def line(self, points: Sequence[tuple[float, float]] | np.ndarray, width: float, colour: Colour) -> None:
        """Draw an open line, `width` in object units and at least one pixel."""
        pixels = self._pixels(np.asarray(points, dtype=np.float64))
        thick = max(1, round(width * self.scale))
        cv2.polylines(self.image, [pixels], False, (*colour, 255), thick, cv2.LINE_AA, _SHIFT)

    def text(self, words: str, x: float, y: float, height: float, width: float, colour: Colour) -> None:
        """Write `words` in capitals `height` tall with its lower left corner at (x, y), no wider than `width`."""
        thick = max(1, round(height * self.scale * 0.17))
        factor = height * self.scale / 21.0
        (wide, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, factor, thick)
        factor *= min(1.0, width * self.scale / wide)
        origin = (int(self.x + x * self.scale), int(self.y + y * self.scale))
        cv2.putText(self.image, words, origin, cv2.FONT_HERSHEY_SIMPLEX, factor, (*colour, 255), thick, cv2.LINE_AA)


@lru_cache(maxsize=8)
def _noise(size: int) -> UInt8[np.ndarray, "row col"]:
    """Fine and coarse grain about 128, twice the image's side, the same picture at every size; read-only."""
    rng = np.random.Generator(np.random.PCG64(_NOISE_SEED))
    side = 768
    grain = np.zeros((side, side), dtype=np.float32)
    for cells, weight in ((384, 4.0), (96, 5.0), (24, 5.0)):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32) * weight
        grain += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    tile = cv2.resize(np.clip(128 + grain, 0, 255), (2 * size, 2 * size), interpolation=cv2.INTER_AREA)
    tile = np.rint(tile).astype(np.uint8)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=1)
def _soft_spot() -> UInt8[np.ndarray, "row col"]:
    """A round shadow, 255 outside and about 110 in the middle; read-only."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    fall = np.clip(1 - (x**2 + y**2), 0, 1) ** 1.3
    spot = np.rint(255 - 145 * fall).astype(np.uint8)
    spot.setflags(write=False)
    return spot


def grain(image: np.ndarray, size: int, u: float, v: float) -> None:
    """Multiply `image` in place by grain, cut from the tile at (u, v) in [0, 1)."""
    height, width = image.shape[:2]
    row, col = int(v * (2 * size - height)), int(u * (2 * size - width))
    tile = _noise(size)[row : row + height, col : col + width]
    cv2.multiply(image, cv2.cvtColor(tile, cv2.COLOR_GRAY2RGBA), image, 1 / 128)


def drop_shadow(image: np.ndarray, x: float, y: float, half_width: float, half_height: float) -> None:
    """Darken a soft ellipse of `image` in place; pixels."""
    x0, y0 = round(x - half_width), round(y - half_height)
    wide, high = max(2, round(2 * half_width)), max(2, round(2 * half_height))
    top, left = max(0, y0), max(0, x0)
    region = image[top : max(top, y0 + high), left : max(left, x0 + wide)]
    if region.shape[0] < 1 or region.shape[1] < 1:
        return
    spot = cv2.resize(_soft_spot(), (wide, high))[top - y0 :, left - x0 :][: region.shape[0], : region.shape[1]]
    cv2.multiply(region, cv2.cvtColor(np.ascontiguousarray(spot), cv2.COLOR_GRAY2RGBA), region, 1 / 255)


def relief(region: np.ndarray, silhouette: UInt8[np.ndarray, "row col"], reach: int, light: int) -> None:
    """Light an object in place as if its silhouette were a soft relief, from above and from the side `light` says.

    factor = 1 + k (h(p + d) - h(p - d)), h the silhouette blurred over `reach` pixels, d along the light.
    """
    step = max(1, reach // 3)
    height = cv2.blur(silhouette, (reach, reach), borderType=cv2.BORDER_REPLICATE)
    height = cv2.copyMakeBorder(height, step, step, step, step, cv2.BORDER_REPLICATE)
    rows, cols = silhouette.shape
    near, far = (2 * step, 0) if light > 0 else (0, 2 * step)
    into = height[2 * step : 2 * step + rows, near : near + cols]
    out = height[:rows, far : far + cols]
    factor = cv2.addWeighted(into, 0.17, out, -0.17, 128)
    factor[silhouette == 0] = 128
    cv2.multiply(region, cv2.cvtColor(factor, cv2.COLOR_GRAY2RGBA), region, 1 / 128)
