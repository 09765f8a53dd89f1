"""Everyday things of no group of their own."""

import numpy as np

from mine_core.subjects.phantom.scenes.canvas import Pen, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import INK, named, near


def draw_ball(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a beach ball: panels of the colour asked and of white."""
    paint = named(attributes, dice)
    other = (250, 250, 248) if attributes["colour"] != "white" else (190, 196, 206)
    start = dice.between(0, 6.3)
    pen.oval(0, 0, 1.0, 1.0, paint)
    for k in range(3):
        a = start + 2.094 * k
        span = a + np.linspace(0, 0.80, 6)
        panel = np.concatenate([[(-0.18, -0.22)], np.stack([0.99 * np.cos(span), 0.99 * np.sin(span)], axis=1)])
        pen.poly(panel, other)
    pen.oval(-0.18, -0.22, 0.16, 0.15, lighter(paint, 0.25))
    pen.oval(-0.40, -0.46, 0.16, 0.11, (255, 255, 255), -0.6)


def draw_tree(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a trunk and a round crown in three tones."""
    leaf = near(dice.pick(((54, 128, 52), (80, 146, 56), (40, 104, 60))), dice)
    pen.poly(
        smooth((-0.12, 0.20), (0.12, 0.20), (0.13, 0.70), (0.24, 0.99), (-0.24, 0.99), (-0.13, 0.70)), near((104, 72, 44), dice)
    )
    for x, y, r, tone in (
        (-0.42, -0.06, 0.37, 0.22),
        (0.42, -0.06, 0.37, 0.26),
        (0.0, 0.06, 0.42, 0.2),
        (-0.22, -0.48, 0.42, 0.05),
        (0.24, -0.46, 0.42, 0.1),
        (0.0, -0.62, 0.35, 0.0),
    ):
        pen.oval(x, y, r, r, darker(leaf, tone))
    for x, y in ((-0.30, -0.62), (0.06, -0.80), (-0.46, -0.26), (0.14, -0.38), (0.42, -0.54)):
        pen.oval(x, y, 0.11, 0.09, lighter(leaf, 0.2))


def draw_flower(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw petals of the colour asked around a disc, on a stem with two leaves."""
    paint, stem = named(attributes, dice), near((60, 140, 56), dice)
    pen.line([(0, -0.36), (0.04, 0.30), (0, 0.99)], 0.10, stem)
    for side in (-1, 1):
        pen.poly(smooth((0, 0.72), (side * 0.24, 0.36), (side * 0.60, 0.30), (side * 0.36, 0.64)), darker(stem, 0.12))
    for k in range(8):
        a = 0.785 * k
        pen.oval(0.34 * np.cos(a), -0.42 + 0.34 * np.sin(a), 0.27, 0.15, paint if k % 2 else darker(paint, 0.12), a)
    pen.oval(0, -0.42, 0.21, 0.21, (250, 190, 40) if attributes["colour"] != "yellow" else (130, 80, 34))


def draw_cup(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a mug with a handle, coffee and steam."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.line([(0.52, -0.16), (0.84, -0.12), (0.90, 0.20), (0.74, 0.46), (0.46, 0.50)], 0.16, darker(paint, 0.15))
    pen.poly(smooth((-0.66, -0.34), (0.62, -0.34), (0.56, 0.60), (0.40, 0.86), (-0.44, 0.86), (-0.60, 0.60), steps=3), paint)
    pen.oval(-0.02, -0.34, 0.66, 0.17, lighter(paint, 0.3))
    pen.oval(-0.02, -0.33, 0.57, 0.12, (84, 50, 30))
    pen.line([(-0.42, -0.06), (-0.40, 0.52)], 0.09, lighter(paint, 0.4))
    for x in (-0.26, 0.16):
        pen.line([(x, -0.50), (x + 0.10, -0.62), (x, -0.74), (x + 0.10, -0.88)], 0.06, (244, 244, 246))


def draw_chair(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a back with slats, a seat of the colour asked and four legs."""
    paint = named(attributes, dice)
    wood = near((134, 90, 52), dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    for x0, x1, y in ((-0.34, -0.34, 0.86), (0.30, 0.30, 0.84)):
        pen.limb(x0, 0.20, x1, y, 0.055, 0.045, darker(wood, 0.25))
    for x in (-0.46, 0.38):
        pen.limb(x, -0.92, x, 0.10, 0.065, 0.065, wood)
    for y in (-0.84, -0.56, -0.28):
        pen.box(-0.46, y - 0.08, 0.38, y + 0.08, paint)
    pen.convex(shape((-0.52, 0.08), (0.44, 0.08), (0.60, 0.32), (-0.46, 0.32)), paint)
    pen.convex(shape((-0.46, 0.32), (0.60, 0.32), (0.60, 0.42), (-0.46, 0.42)), darker(paint, 0.3))
    for x in (-0.40, 0.53):
        pen.limb(x, 0.40, x, 0.94, 0.065, 0.05, wood)


def draw_clock(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a round dial with hour marks and two hands."""
    rim = near(dice.pick(((60, 44, 36), (40, 60, 90), (150, 120, 60))), dice)
    pen.oval(0, 0, 1.0, 1.0, rim)
    pen.oval(0, 0, 0.84, 0.84, (252, 250, 242))
    for k in range(12):
        c, s = np.cos(0.5236 * k), np.sin(0.5236 * k)
        pen.line([(0.62 * c, 0.62 * s), (0.76 * c, 0.76 * s)], 0.09 if k % 3 == 0 else 0.05, INK)
    for length, width in ((0.42, 0.11), (0.62, 0.07)):
        a = dice.between(0, 6.283)
        pen.line([(0, 0), (length * np.cos(a), length * np.sin(a))], width, INK)
    pen.oval(0, 0, 0.08, 0.08, (190, 40, 40))


def draw_umbrella(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a canopy in panels with a hooked handle."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.1, 0.1))
    pen.line([(0, -0.90), (0, 0.76), (0.06, 0.90), (0.18, 0.92), (0.24, 0.80)], 0.08, (70, 52, 40))
    canopy = [(0.96 * np.cos(a), -0.02 - 0.84 * np.sin(a)) for a in np.linspace(0, np.pi, 14)]
    rim = [(-0.96 + 0.24 * k, -0.02 if k % 2 == 0 else -0.14) for k in range(1, 8)]
    pen.poly(np.array(canopy + rim), paint)
    pen.poly(np.array([(0, -0.86), (0.30, -0.62), (0.48, -0.04), (0.24, -0.13), (0, -0.03)]), darker(paint, 0.18))
    pen.poly(np.array([(0, -0.86), (-0.56, -0.62), (-0.96, -0.02), (-0.72, -0.14), (-0.48, -0.03)]), lighter(paint, 0.2))
    pen.line([(0, -0.98), (0, -0.84)], 0.06, (70, 52, 40))
