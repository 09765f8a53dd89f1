"""Tools and vehicles."""

from mine_core.subjects.phantom.scenes.canvas import Colour, Pen, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import INK, named, near

_STEEL: Colour = (168, 174, 182)
_GLASS: Colour = (170, 210, 230)


def draw_hammer(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a wooden handle with a steel head and a claw."""
    pen = pen.turned(dice.chance(0.5), dice.between(-0.15, 0.15))
    wood, steel = near((196, 138, 72), dice), near(_STEEL, dice)
    pen.limb(0, -0.56, 0, 0.88, 0.09, 0.12, wood)
    pen.limb(0, 0.46, 0, 0.88, 0.125, 0.13, near((190, 50, 40), dice))
    pen.box(-0.24, -0.86, 0.28, -0.50, steel)
    pen.box(0.28, -0.92, 0.52, -0.44, darker(steel, 0.2))
    pen.poly(
        smooth((-0.22, -0.86), (-0.46, -0.84), (-0.62, -0.56), (-0.56, -0.50), (-0.38, -0.62), (-0.22, -0.58)), darker(steel, 0.1)
    )
    pen.line([(-0.20, -0.80), (0.26, -0.80)], 0.05, lighter(steel, 0.5))


def draw_scissors(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw two open blades and two ring handles."""
    pen = pen.turned(dice.chance(0.5), dice.between(-0.15, 0.15))
    steel, grip = near((190, 196, 204), dice), near(dice.pick(((220, 60, 40), (40, 110, 200), (240, 140, 30))), dice)
    for side in (-1, 1):
        pen.convex(
            shape((side * 0.02, 0.18), (side * 0.16, 0.10), (-side * 0.34, -0.98), (-side * 0.40, -0.78)),
            darker(steel, 0.12 if side > 0 else 0.0),
        )
        pen.limb(side * 0.06, 0.12, side * 0.24, 0.44, 0.08, 0.09, grip)
    for side in (-1, 1):
        ring = [
            (side * 0.30 + 0.20 * c, 0.68 + 0.24 * s)
            for c, s in ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7), (1, 0))
        ]
        pen.line(ring, 0.13, grip)
    pen.oval(0, 0.08, 0.07, 0.07, INK)


def draw_car(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a low body with a cabin, windows and two wheels."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.poly(smooth((-0.62, -0.06), (-0.40, -0.44), (0.20, -0.48), (0.52, -0.08), steps=3), paint)
    pen.convex(shape((-0.50, -0.08), (-0.34, -0.36), (-0.08, -0.38), (-0.08, -0.08)), _GLASS)
    pen.convex(shape((-0.02, -0.08), (-0.02, -0.38), (0.17, -0.38), (0.40, -0.08)), _GLASS)
    pen.poly(smooth((-0.96, -0.02), (-0.50, -0.12), (0.50, -0.12), (0.92, 0.02), (0.98, 0.26), (-0.98, 0.26), steps=3), paint)
    pen.box(-0.96, 0.18, 0.96, 0.28, darker(paint, 0.4))
    pen.oval(0.88, 0.06, 0.07, 0.05, (255, 244, 170))
    pen.oval(-0.92, 0.06, 0.05, 0.05, (150, 20, 30))
    _wheels(pen, (-0.54, 0.54), 0.28, 0.21)


def draw_bus(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a tall box with a row of windows, a door and a destination plate."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.poly(smooth((-0.96, -0.46), (-0.90, -0.58), (0.90, -0.58), (0.98, -0.44), (0.98, 0.40), (-0.98, 0.40), steps=2), paint)
    for k in range(5):
        pen.box(-0.88 + 0.30 * k, -0.42, -0.64 + 0.30 * k, -0.06, _GLASS)
    pen.box(0.66, -0.42, 0.92, 0.36, darker(_GLASS, 0.25))
    pen.line([(0.79, -0.42), (0.79, 0.36)], 0.03, INK)
    pen.box(-0.98, 0.08, 0.62, 0.18, lighter(paint, 0.65))
    pen.oval(0.94, 0.28, 0.05, 0.05, (255, 244, 170))
    _wheels(pen, (-0.56, 0.40), 0.40, 0.19)


def draw_bicycle(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw two spoked wheels joined by a coloured frame with a saddle and handlebar."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    for x in (-0.60, 0.60):
        ring = [
            (x + 0.36 * c, 0.26 + 0.36 * s)
            for c, s in (
                (1, 0),
                (0.87, 0.5),
                (0.5, 0.87),
                (0, 1),
                (-0.5, 0.87),
                (-0.87, 0.5),
                (-1, 0),
                (-0.87, -0.5),
                (-0.5, -0.87),
                (0, -1),
                (0.5, -0.87),
                (0.87, -0.5),
                (1, 0),
            )
        ]
        pen.line(ring, 0.09, (34, 34, 38))
        for c, s in ((1, 0), (0.5, 0.87), (-0.5, 0.87)):
            pen.line([(x - 0.32 * c, 0.26 - 0.32 * s), (x + 0.32 * c, 0.26 + 0.32 * s)], 0.02, (190, 194, 200))
    for a, b in (
        ((-0.60, 0.26), (-0.06, 0.26)),
        ((-0.60, 0.26), (-0.22, -0.28)),
        ((-0.06, 0.26), (-0.26, -0.40)),
        ((-0.22, -0.28), (0.44, -0.28)),
        ((-0.06, 0.26), (0.44, -0.28)),
        ((0.60, 0.26), (0.38, -0.48)),
    ):
        pen.line([a, b], 0.085, paint)
    pen.limb(-0.40, -0.44, -0.14, -0.44, 0.07, 0.05, INK)
    pen.line([(0.52, -0.56), (0.36, -0.52), (0.24, -0.60)], 0.07, INK)
    pen.oval(-0.06, 0.26, 0.09, 0.09, (80, 84, 90))


def draw_boat(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a hull of the colour asked under two white sails."""
    paint = named(attributes, dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.box(-0.06, -0.98, 0.0, 0.46, (110, 76, 46))
    pen.convex(shape((0.05, -0.92), (0.05, 0.34), (0.78, 0.34)), (250, 250, 244))
    pen.convex(shape((-0.11, -0.70), (-0.11, 0.34), (-0.62, 0.34)), (232, 232, 224))
    pen.line([(0.05, -0.20), (0.40, -0.10)], 0.05, paint)
    pen.poly(smooth((-0.88, 0.46), (0.0, 0.50), (0.90, 0.42), (0.62, 0.94), (-0.56, 0.96), steps=3), paint)
    pen.line([(-0.80, 0.58), (0.76, 0.56)], 0.05, lighter(paint, 0.7) if sum(paint) < 600 else (40, 70, 120))


def draw_skis(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw two crossed skis with curled tips and two thin poles."""
    paint = named(attributes, dice)
    for side in (-1, 1):
        pen.line([(side * 0.54, -0.86), (side * 0.44, 0.96)], 0.035, (60, 62, 70))
        pen.oval(side * 0.45, 0.80, 0.10, 0.04, (60, 62, 70))
        pen.limb(side * 0.54, -0.90, side * 0.53, -0.70, 0.045, 0.04, INK)
    for side in (-1, 1):
        pen.limb(side * 0.34, 0.92, -side * 0.20, -0.76, 0.10, 0.10, paint if side > 0 else darker(paint, 0.22))
        pen.limb(-side * 0.20, -0.76, -side * 0.32, -0.94, 0.10, 0.05, paint if side > 0 else darker(paint, 0.22))
        pen.limb(side * 0.10, 0.18, side * 0.18, 0.44, 0.11, 0.11, (40, 42, 50))


def _wheels(pen: Pen, places: tuple[float, float], y: float, radius: float) -> None:
    for x in places:
        pen.oval(x, y, radius, radius, (30, 30, 34))
        pen.oval(x, y, radius * 0.52, radius * 0.52, (196, 200, 206))
        pen.oval(x, y, radius * 0.18, radius * 0.18, (60, 62, 70))
