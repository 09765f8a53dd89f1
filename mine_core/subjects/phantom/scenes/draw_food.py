"""Food, each with its own texture."""

import numpy as np

from mine_core.subjects.phantom.scenes.canvas import Pen, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import named, near


def draw_pizza(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw crust, cheese, salami and leaves."""
    pen.oval(0, 0, 1.0, 0.98, near((190, 128, 62), dice))
    pen.oval(0, 0, 0.86, 0.84, near((214, 74, 40), dice))
    pen.oval(0, 0, 0.82, 0.80, near((246, 206, 98), dice))
    start = dice.between(0, 6.3)
    for k in range(7):
        angle, reach = start + 0.9 * k, 0.56 if k < 6 else 0.0
        x, y = reach * np.cos(angle), reach * np.sin(angle)
        pen.oval(x, y, 0.17, 0.17, (186, 46, 42))
        pen.oval(x - 0.03, y - 0.03, 0.09, 0.09, (206, 80, 66))
    for k in range(5):
        angle = start + 0.45 + 1.26 * k
        pen.oval(0.38 * np.cos(angle), 0.38 * np.sin(angle), 0.10, 0.05, (58, 130, 50), angle)


def draw_apple(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a round fruit with a dip, a stalk and a leaf."""
    skin = named(attributes, dice)
    pen.poly(
        smooth(
            (0, -0.56),
            (-0.34, -0.72),
            (-0.78, -0.50),
            (-0.86, 0.06),
            (-0.58, 0.72),
            (-0.22, 0.96),
            (0, 0.88),
            (0.22, 0.96),
            (0.58, 0.72),
            (0.86, 0.06),
            (0.78, -0.50),
            (0.34, -0.72),
        ),
        skin,
    )
    pen.oval(-0.40, -0.22, 0.17, 0.26, lighter(skin, 0.5), 0.4)
    pen.oval(0, -0.56, 0.20, 0.08, darker(skin, 0.4))
    pen.limb(0, -0.54, 0.08, -0.92, 0.04, 0.035, (90, 62, 36))
    pen.poly(smooth((0.08, -0.78), (0.36, -0.98), (0.62, -0.82), (0.34, -0.68)), (70, 150, 52))


def draw_banana(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a yellow crescent with dark ends."""
    skin = near((248, 212, 52), dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.2, 0.2))
    pen.poly(
        smooth(
            (-0.92, -0.46),
            (-0.66, 0.02),
            (-0.20, 0.24),
            (0.32, 0.16),
            (0.82, -0.28),
            (0.94, -0.06),
            (0.56, 0.46),
            (0.0, 0.64),
            (-0.56, 0.42),
            (-0.90, -0.04),
            (-1.0, -0.44),
        ),
        skin,
    )
    pen.line([(-0.86, -0.22), (-0.50, 0.26), (0.02, 0.44), (0.52, 0.28), (0.84, -0.10)], 0.04, darker(skin, 0.22))
    pen.limb(-0.96, -0.46, -0.92, -0.60, 0.06, 0.05, (104, 74, 30))
    pen.oval(0.88, -0.17, 0.08, 0.11, (86, 60, 30), 0.6)


def draw_cake(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw two layers with icing, candles and a plate."""
    sponge = near(dice.pick(((222, 166, 104), (116, 70, 46))), dice)
    icing = near(dice.pick(((252, 200, 214), (255, 246, 236), (190, 226, 240))), dice)
    pen.oval(0, 0.84, 0.90, 0.15, (232, 234, 238))
    pen.box(-0.72, -0.10, 0.72, 0.82, sponge)
    pen.box(-0.72, 0.32, 0.72, 0.46, icing)
    pen.box(-0.72, -0.28, 0.72, 0.02, icing)
    for k in range(6):
        pen.limb(-0.62 + 0.25 * k, 0.0, -0.62 + 0.25 * k, 0.10 + 0.10 * (k % 2), 0.10, 0.09, icing)
    pen.oval(0, -0.28, 0.72, 0.12, lighter(icing, 0.3))
    for k, x in enumerate((-0.40, 0.0, 0.40)):
        pen.box(x - 0.05, -0.74, x + 0.05, -0.28, ((80, 150, 220), (240, 90, 110), (110, 190, 90))[k])
        pen.oval(x, -0.85, 0.065, 0.13, (255, 190, 50))
        pen.oval(x, -0.82, 0.03, 0.06, (255, 244, 190))


def draw_bread(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a long loaf with slashes across its crust."""
    crust = near((196, 124, 58), dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.12, 0.12))
    pen.poly(
        smooth(
            (-0.98, 0.12),
            (-0.86, -0.26),
            (-0.40, -0.48),
            (0.40, -0.48),
            (0.86, -0.26),
            (0.98, 0.12),
            (0.80, 0.44),
            (0, 0.52),
            (-0.80, 0.44),
        ),
        crust,
    )
    pen.poly(smooth((-0.90, 0.20), (0, 0.34), (0.90, 0.20), (0.78, 0.44), (0, 0.52), (-0.78, 0.44)), darker(crust, 0.22))
    for x in (-0.54, -0.18, 0.18, 0.54):
        pen.poly(smooth((x - 0.16, 0.10), (x - 0.02, -0.16), (x + 0.16, -0.34), (x + 0.04, -0.06)), (246, 220, 166))


def draw_carrot(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw an orange root with rings and a green top."""
    skin = near((240, 122, 26), dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.12, 0.12))
    for x1, y1 in ((-0.30, -0.86), (-0.10, -0.98), (0.12, -0.96), (0.32, -0.82)):
        pen.limb(0, -0.44, x1, y1, 0.05, 0.09, near((56, 146, 50), dice))
    pen.poly(
        smooth((-0.32, -0.44), (0, -0.54), (0.32, -0.44), (0.28, 0.06), (0.13, 0.62), (0, 0.99), (-0.13, 0.62), (-0.28, 0.06)), skin
    )
    for x0, x1, y in ((-0.28, -0.02, -0.24), (0.06, 0.27, -0.02), (-0.22, 0.0, 0.18), (0.02, 0.16, 0.42), (-0.10, 0.03, 0.62)):
        pen.line([(x0, y), (x1, y + 0.03)], 0.035, darker(skin, 0.26))
    pen.convex(shape((-0.20, -0.36), (-0.12, -0.38), (-0.04, 0.50), (-0.08, 0.50)), lighter(skin, 0.35))
