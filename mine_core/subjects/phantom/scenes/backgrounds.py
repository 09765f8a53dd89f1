"""Surroundings, painted over the whole canvas: a gradient, a ground with depth, and things far off that are no objects."""

import numpy as np

from mine_core.subjects.phantom.scenes.canvas import Colour, Pen, darker, grain, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import near

SKY: tuple[Colour, ...] = ((112, 176, 232), (140, 190, 226), (168, 196, 214), (236, 186, 150))


def paint_background(name: str, size: int, dice: Dice) -> np.ndarray:
    """Paint a background; returns an RGBA canvas of `size` pixels whose fourth channel is zero."""
    image = np.zeros((size, size, 4), np.uint8)
    _PAINTERS[name](Pen(image, size / 2, size / 2, size / 2), dice)
    grain(image, size, dice.unit(), dice.unit())
    image[..., 3] = 0
    return image


def _fade(pen: Pen, top: Colour, bottom: Colour, y0: float, y1: float) -> None:
    size = pen.image.shape[0]
    first, last = round((y0 + 1) / 2 * size), round((y1 + 1) / 2 * size)
    share = np.linspace(0, 1, max(1, last - first), dtype=np.float32)[:, None]
    rows = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    pen.image[first:last, :, :3] = rows.astype(np.uint8)[:, None]


def _sky(pen: Pen, dice: Dice, horizon: float) -> None:
    blue = near(dice.pick(SKY), dice)
    _fade(pen, blue, lighter(blue, 0.55), -1, horizon)
    for _ in range(2 if dice.chance(0.7) else 0):
        x, y, r = dice.between(-0.9, 0.9), dice.between(-0.9, min(-0.4, horizon - 0.3)), dice.between(0.12, 0.2)
        for dx, rr in ((-1.0, 0.6), (0.0, 1.0), (1.0, 0.7)):
            pen.oval(x + dx * r, y, rr * r * 1.2, rr * r * 0.6, (248, 250, 252))


def _beach(pen: Pen, dice: Dice) -> None:
    horizon = dice.between(-0.35, -0.05)
    _sky(pen, dice, horizon)
    shore = horizon + dice.between(0.25, 0.5)
    sea = near((44, 130, 176), dice)
    _fade(pen, sea, lighter(sea, 0.35), horizon, shore)
    for _ in range(5):
        x, y = dice.between(-1, 0.8), dice.between(horizon + 0.04, shore - 0.04)
        pen.line([(x, y), (x + dice.between(0.1, 0.4), y)], 0.012, lighter(sea, 0.6))
    sand = near((236, 212, 158), dice)
    _fade(pen, sand, darker(sand, 0.14), shore, 1)
    pen.poly(
        smooth(
            (-1.2, shore - 0.05),
            (-0.4, shore + 0.04),
            (0.4, shore - 0.04),
            (1.2, shore + 0.03),
            (1.2, shore + 0.07),
            (0.4, shore + 0.02),
            (-0.4, shore + 0.10),
            (-1.2, shore + 0.02),
        ),
        (250, 250, 248),
    )


def _forest(pen: Pen, dice: Dice) -> None:
    horizon = dice.between(0.0, 0.25)
    far = near((150, 184, 140), dice)
    _fade(pen, lighter(far, 0.3), far, -1, horizon)
    for depth in (0.45, 0.25, 0.0):
        tone = lighter(near((58, 92, 56), dice), depth)
        for _ in range(6):
            x, wide = dice.between(-1.05, 1.05), dice.between(0.03, 0.07) * (1.3 - depth)
            pen.box(x - wide, -1, x + wide, horizon + 0.1, darker(tone, 0.2))
            pen.oval(x, dice.between(-1.05, -0.7), 0.34, 0.26, tone)
    ground = near((92, 120, 58), dice)
    _fade(pen, ground, darker(ground, 0.3), horizon, 1)
    for _ in range(8):
        x, y = dice.between(-1, 1), dice.between(horizon + 0.05, 1)
        pen.line([(x - 0.04, y - 0.06), (x, y), (x + 0.05, y - 0.07)], 0.02, lighter(ground, 0.25))


def _mountains(pen: Pen, dice: Dice) -> None:
    horizon = dice.between(0.05, 0.3)
    _sky(pen, dice, horizon)
    for depth, high in ((0.5, 0.95), (0.2, 0.7)):
        rock = lighter(near((104, 110, 130), dice), depth)
        x = dice.between(-1.3, -0.9)
        while x < 1.0:
            peak, half = horizon - high * dice.between(0.55, 1.0), dice.between(0.4, 0.7)
            pen.convex(shape((x, horizon + 0.02), (x + half, peak), (x + 2 * half, horizon + 0.02)), rock)
            pen.convex(
                shape((x + half, peak), (x + 2 * half, horizon + 0.02), (x + 1.15 * half, horizon + 0.02)), darker(rock, 0.16)
            )
            pen.convex(
                shape(
                    (x + half, peak),
                    (x + 0.74 * half, peak + 0.22 * (horizon - peak)),
                    (x + 1.26 * half, peak + 0.22 * (horizon - peak)),
                ),
                (246, 248, 252),
            )
            x += half * dice.between(1.0, 1.5)
    grass = near((118, 152, 78), dice)
    _fade(pen, grass, darker(grass, 0.25), horizon, 1)


def _snow(pen: Pen, dice: Dice) -> None:
    horizon = dice.between(-0.25, 0.1)
    _fade(pen, near((170, 190, 214), dice), near((222, 230, 240), dice), -1, horizon)
    white = near((240, 244, 250), dice, 5)
    for x0 in (-1.2, -0.2):
        pen.poly(
            smooth(
                (x0, horizon + 0.2),
                (x0 + 0.6, horizon - dice.between(0.1, 0.4)),
                (x0 + 1.4, horizon + 0.2),
                (x0 + 0.6, horizon + 0.4),
            ),
            darker(white, 0.07),
        )
    _fade(pen, white, (214, 226, 242), horizon + 0.12, 1)
    for _ in range(3):
        x, y, r = dice.between(-1, 1), horizon + dice.between(0.08, 0.2), dice.between(0.10, 0.2)
        for k in range(3):
            pen.convex(
                shape(
                    (x - r * (1 - 0.25 * k), y - 0.7 * r * k),
                    (x, y - r * (1.2 + 0.8 * k)),
                    (x + r * (1 - 0.25 * k), y - 0.7 * r * k),
                ),
                (70, 104, 92),
            )
    for _ in range(26):
        pen.oval(dice.between(-1, 1), dice.between(-1, 1), 0.014, 0.014, (255, 255, 255))


def _street(pen: Pen, dice: Dice) -> None:
    horizon = dice.between(0.1, 0.35)
    _sky(pen, dice, horizon)
    x = -1.0
    while x < 1.0:
        wide, high = dice.between(0.28, 0.5), dice.between(0.6, 1.2)
        wall = near(dice.pick(((178, 120, 96), (196, 182, 160), (140, 148, 160), (206, 170, 130))), dice)
        pen.box(x, horizon - high, x + wide, horizon + 0.02, wall)
        for row in range(3):
            for col in range(2):
                wx, wy = x + wide * (0.22 + 0.42 * col), horizon - high + 0.1 + 0.26 * row
                if wy + 0.14 < horizon:
                    pen.box(wx, wy, wx + wide * 0.2, wy + 0.13, darker(wall, 0.45))
        x += wide
    pen.box(-1, horizon, 1, horizon + 0.12, (190, 188, 184))
    road = near((92, 94, 98), dice)
    _fade(pen, road, darker(road, 0.25), horizon + 0.1, 1)
    for k in range(4):
        y = horizon + 0.25 + 0.06 * k + 0.05 * k * k
        pen.convex(
            shape(
                (-0.03 - 0.02 * k, y),
                (0.03 + 0.02 * k, y),
                (0.04 + 0.02 * k, y + 0.05 + 0.02 * k),
                (-0.04 - 0.02 * k, y + 0.05 + 0.02 * k),
            ),
            (240, 236, 210),
        )


def _kitchen(pen: Pen, dice: Dice) -> None:
    wall, top = near(dice.pick(((226, 236, 226), (240, 232, 212), (214, 228, 236))), dice), dice.between(0.2, 0.4)
    _fade(pen, lighter(wall, 0.2), wall, -1, top)
    for k in range(1, 9):
        pen.line([(-1 + 0.25 * k, -0.30), (-1 + 0.25 * k, top)], 0.012, darker(wall, 0.13))
    for k in range(4):
        pen.line([(-1, -0.26 + 0.2 * k), (1, -0.26 + 0.2 * k)], 0.012, darker(wall, 0.13))
    wood = near(dice.pick(((176, 126, 78), (110, 140, 150), (206, 196, 180))), dice)
    for k in range(4):
        pen.box(-0.98 + 0.5 * k, -1, -0.52 + 0.5 * k, -0.42, wood)
        pen.box(-0.60 + 0.5 * k, -0.58, -0.56 + 0.5 * k, -0.48, darker(wood, 0.5))
        pen.box(-0.98 + 0.5 * k, top + 0.14, -0.52 + 0.5 * k, 1, darker(wood, 0.08))
        pen.box(-0.80 + 0.5 * k, top + 0.22, -0.70 + 0.5 * k, top + 0.26, darker(wood, 0.5))
    pen.box(-1, top, 1, top + 0.12, near((120, 116, 114), dice))


def _room(pen: Pen, wall: Colour, floor: Colour, dice: Dice) -> float:
    corner = dice.between(0.15, 0.4)
    _fade(pen, lighter(wall, 0.12), wall, -1, corner)
    _fade(pen, floor, darker(floor, 0.22), corner, 1)
    for k in range(-6, 7):
        pen.line([(0.22 * k, corner), (0.62 * k, 1)], 0.012, darker(floor, 0.2))
    pen.box(-1, corner - 0.05, 1, corner, lighter(wall, 0.5))
    return corner


def _bedroom(pen: Pen, dice: Dice) -> None:
    wall = near(dice.pick(((206, 190, 214), (190, 206, 226), (232, 206, 196))), dice)
    corner = _room(pen, wall, near((176, 132, 92), dice), dice)
    x = dice.pick((-0.95, 0.15))
    quilt = near(dice.pick(((90, 120, 180), (186, 90, 100), (110, 160, 130))), dice)
    pen.box(x, corner - 0.50, x + 0.85, corner + 0.1, (122, 82, 54))
    pen.box(x + 0.05, corner - 0.12, x + 0.80, corner + 0.42, quilt)
    pen.oval(x + 0.24, corner - 0.14, 0.18, 0.10, (250, 250, 250))
    pen.oval(x + 0.62, corner - 0.14, 0.18, 0.10, (250, 250, 250))
    w = -0.6 if x > 0 else 0.35
    pen.box(w, -0.85, w + 0.5, -0.15, (250, 250, 246))
    pen.box(w + 0.04, -0.81, w + 0.46, -0.19, (160, 206, 236))
    pen.box(w + 0.23, -0.85, w + 0.27, -0.15, (250, 250, 246))
    for edge in (w - 0.06, w + 0.44):
        pen.box(edge, -0.92, edge + 0.12, -0.08, darker(wall, 0.25))


def _office(pen: Pen, dice: Dice) -> None:
    corner = _room(pen, near((206, 212, 214), dice), near((120, 130, 142), dice), dice)
    x = dice.pick((-0.98, 0.30))
    pen.box(x, -0.95, x + 0.68, corner, (142, 100, 66))
    for row in range(3):
        y = -0.88 + row * (corner + 0.86) / 3
        pen.box(x + 0.04, y, x + 0.64, y + (corner + 0.80) / 3 - 0.06, (92, 62, 40))
        for k in range(6):
            tone = dice.pick(((176, 60, 54), (60, 96, 150), (206, 170, 90), (80, 130, 90), (220, 216, 206)))
            base = y + (corner + 0.80) / 3 - 0.06
            pen.box(x + 0.06 + 0.095 * k, base - dice.between(0.16, 0.24), x + 0.14 + 0.095 * k, base, tone)
    d = -0.95 if x > 0 else -0.05
    pen.box(d, corner - 0.12, d + 1.0, corner - 0.02, (196, 160, 118))
    pen.box(d + 0.06, corner - 0.02, d + 0.12, corner + 0.45, (110, 112, 118))
    pen.box(d + 0.88, corner - 0.02, d + 0.94, corner + 0.45, (110, 112, 118))
    pen.box(d + 0.35, corner - 0.52, d + 0.75, corner - 0.20, (44, 46, 54))
    pen.box(d + 0.38, corner - 0.49, d + 0.72, corner - 0.23, (130, 176, 206))
    pen.box(d + 0.52, corner - 0.20, d + 0.58, corner - 0.12, (44, 46, 54))


_PAINTERS = {
    "beach": _beach,
    "forest": _forest,
    "mountains": _mountains,
    "snow": _snow,
    "street": _street,
    "kitchen": _kitchen,
    "bedroom": _bedroom,
    "office": _office,
}
