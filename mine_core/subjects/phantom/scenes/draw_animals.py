"""Animals, told by outline, colour and coat."""

from mine_core.subjects.phantom.scenes.canvas import Pen, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import INK, near


def draw_dog(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a standing dog with hanging ears, a snout, patches and a raised tail."""
    coat = near(dice.pick(((178, 126, 74), (206, 170, 120), (120, 80, 50))), dice)
    dark = darker(coat, 0.4)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.limb(-0.72, -0.14, -0.95, -0.62, 0.08, 0.05, coat)
    for x in (-0.62, 0.28):
        pen.limb(x, 0.20, x - 0.02, 0.76, 0.11, 0.08, darker(coat, 0.2))
    for x in (-0.46, 0.46):
        pen.limb(x, 0.20, x, 0.78, 0.13, 0.09, coat)
    pen.limb(-0.52, 0.04, 0.36, 0.0, 0.30, 0.30, coat)
    pen.oval(-0.26, -0.02, 0.24, 0.20, dark)
    pen.limb(0.36, -0.06, 0.56, -0.44, 0.22, 0.22, coat)
    pen.oval(0.58, -0.50, 0.27, 0.25, coat)
    pen.limb(0.66, -0.40, 0.92, -0.32, 0.14, 0.10, lighter(coat, 0.3))
    pen.oval(0.98, -0.36, 0.065, 0.055, INK)
    pen.oval(0.66, -0.56, 0.045, 0.05, INK)
    pen.poly(smooth((0.34, -0.70), (0.50, -0.72), (0.48, -0.40), (0.36, -0.12), (0.24, -0.30)), dark)
    pen.line([(0.38, -0.24), (0.60, -0.16)], 0.08, (200, 40, 48))


def draw_cat(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a sitting striped cat from the front with pointed ears, whiskers and a long tail."""
    coat = near(dice.pick(((232, 146, 66), (150, 150, 156), (226, 200, 160))), dice)
    stripe = darker(coat, 0.36)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.line([(0.30, 0.84), (0.68, 0.72), (0.70, 0.36), (0.56, 0.14)], 0.15, coat)
    pen.poly(smooth((-0.30, -0.10), (0.30, -0.10), (0.50, 0.50), (0.46, 0.94), (-0.46, 0.94), (-0.50, 0.50)), coat)
    pen.oval(0, 0.46, 0.22, 0.34, lighter(coat, 0.5))
    for side in (-1, 1):
        for y in (0.20, 0.38, 0.56):
            pen.line([(side * 0.44, y), (side * 0.27, y + 0.06)], 0.06, stripe)
        pen.limb(side * 0.18, 0.50, side * 0.18, 0.88, 0.11, 0.10, coat)
        pen.convex(shape((side * 0.46, -0.98), (side * 0.06, -0.72), (side * 0.44, -0.42)), coat)
        pen.convex(shape((side * 0.40, -0.84), (side * 0.18, -0.68), (side * 0.38, -0.54)), (240, 170, 170))
    pen.oval(0, -0.42, 0.47, 0.37, coat)
    for x in (-0.12, 0.0, 0.12):
        pen.line([(x, -0.76), (x * 0.8, -0.58)], 0.05, stripe)
    for side in (-1, 1):
        pen.oval(side * 0.19, -0.46, 0.095, 0.10, (176, 208, 70))
        pen.oval(side * 0.19, -0.46, 0.035, 0.09, INK)
        for y in (-0.30, -0.22):
            pen.line([(side * 0.14, -0.26), (side * 0.60, y - 0.03)], 0.02, (250, 250, 250))
    pen.convex(shape((-0.07, -0.33), (0.07, -0.33), (0, -0.25)), (220, 110, 120))


def draw_bird(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a bird with a raised wing, an orange beak and a fanned tail."""
    plume = near(dice.pick(((60, 130, 210), (40, 100, 190), (70, 160, 200))), dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.15, 0.15))
    pen.poly(shape((-0.46, 0.08), (-1.0, -0.12), (-0.96, 0.10), (-1.0, 0.32), (-0.46, 0.26)), darker(plume, 0.3))
    pen.poly(smooth((-0.60, 0.14), (-0.10, -0.22), (0.44, -0.22), (0.60, 0.10), (0.20, 0.46), (-0.30, 0.40)), plume)
    pen.poly(smooth((-0.16, 0.16), (0.20, 0.12), (0.54, 0.04), (0.34, 0.38), (0.02, 0.44)), (248, 196, 120))
    pen.oval(0.54, -0.24, 0.27, 0.26, plume)
    pen.convex(shape((0.76, -0.32), (1.0, -0.18), (0.76, -0.12)), (246, 150, 30))
    pen.oval(0.62, -0.30, 0.07, 0.07, (252, 252, 250))
    pen.oval(0.64, -0.30, 0.04, 0.04, INK)
    pen.poly(smooth((0.24, 0.02), (-0.06, -0.16), (-0.50, -0.78), (-0.24, -0.72), (0.10, -0.50), (0.34, -0.10)), darker(plume, 0.2))
    for k in range(3):
        pen.line([(-0.38 + 0.14 * k, -0.66 + 0.06 * k), (0.04 + 0.07 * k, -0.14)], 0.03, lighter(plume, 0.4))
    for x in (0.0, 0.16):
        pen.line([(x, 0.42), (x + 0.02, 0.72), (x + 0.12, 0.74)], 0.045, (230, 140, 30))


def draw_fish(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a striped fish with fins and a forked tail."""
    scale = near(dice.pick(((250, 146, 36), (250, 176, 60), (240, 110, 50))), dice)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.12, 0.12))
    pen.poly(smooth((-0.46, 0), (-1.0, -0.50), (-0.84, 0.0), (-1.0, 0.50)), darker(scale, 0.2))
    pen.poly(smooth((-0.30, -0.30), (0.0, -0.60), (0.36, -0.34)), darker(scale, 0.2))
    pen.poly(smooth((-0.14, 0.32), (0.06, 0.58), (0.28, 0.32)), darker(scale, 0.2))
    pen.poly(
        smooth((-0.62, 0), (-0.30, -0.34), (0.30, -0.44), (0.80, -0.22), (0.98, 0.02), (0.80, 0.24), (0.30, 0.42), (-0.30, 0.32)),
        scale,
    )
    for x, half in ((-0.28, 0.30), (0.10, 0.40), (0.46, 0.34)):
        pen.poly(
            smooth((x - 0.06, -half), (x + 0.08, -half), (x + 0.12, 0), (x + 0.08, half), (x - 0.06, half), (x - 0.02, 0)),
            (252, 250, 246),
        )
    pen.oval(0.72, -0.08, 0.09, 0.09, (252, 252, 250))
    pen.oval(0.74, -0.08, 0.05, 0.05, INK)
    pen.poly(smooth((0.24, 0.04), (-0.06, 0.16), (0.20, 0.24)), lighter(scale, 0.3))


def draw_horse(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a horse with a long neck, mane and tail."""
    coat = near(dice.pick(((124, 70, 40), (90, 52, 34), (158, 98, 56))), dice)
    mane = darker(coat, 0.65)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.line([(-0.66, -0.10), (-0.88, 0.12), (-0.90, 0.56)], 0.15, mane)
    for x0, x1 in ((-0.52, -0.60), (0.30, 0.36)):
        pen.limb(x0, 0.20, x1, 0.92, 0.11, 0.055, darker(coat, 0.25))
    for x0, x1 in ((-0.40, -0.40), (0.42, 0.50)):
        pen.limb(x0, 0.16, x1, 0.92, 0.12, 0.06, coat)
        pen.oval(x1, 0.94, 0.08, 0.05, INK)
    pen.limb(-0.44, 0.04, 0.36, 0.02, 0.28, 0.26, coat)
    pen.poly(smooth((0.22, -0.16), (0.40, -0.62), (0.56, -0.78), (0.72, -0.62), (0.62, -0.16), (0.48, 0.16)), coat)
    pen.limb(0.60, -0.70, 0.90, -0.42, 0.16, 0.10, coat)
    pen.oval(0.92, -0.41, 0.10, 0.09, darker(coat, 0.3))
    pen.convex(shape((0.50, -0.80), (0.54, -0.99), (0.64, -0.80)), coat)
    pen.oval(0.66, -0.68, 0.04, 0.04, INK)
    pen.poly(smooth((0.56, -0.92), (0.36, -0.76), (0.18, -0.36), (0.14, -0.12), (0.30, -0.20), (0.42, -0.52)), mane)
    pen.poly(smooth((0.70, -0.74), (0.76, -0.64), (0.82, -0.52), (0.76, -0.56)), (248, 246, 240))
