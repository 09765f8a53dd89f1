"""Whole bodies, hands and feet."""

from mine_core.subjects.phantom.scenes.canvas import Colour, Pen, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import CLOTH, HAIR, SKIN, near

Point = tuple[float, float]

# Joints of each pose in object coordinates: head, neck, hip, then elbows, wrists, knees, ankles (left, right).
_POSES = {
    "standing": (
        (0, -0.82),
        (0, -0.60),
        (0, 0.08),
        ((-0.26, -0.28), (0.26, -0.28)),
        ((-0.28, 0.04), (0.28, 0.04)),
        ((-0.12, 0.48), (0.12, 0.48)),
        ((-0.14, 0.92), (0.14, 0.92)),
    ),
    "running": (
        (0.16, -0.80),
        (0.10, -0.58),
        (-0.06, 0.02),
        ((-0.26, -0.40), (0.36, -0.36)),
        ((-0.46, -0.14), (0.52, -0.62)),
        ((0.28, 0.26), (-0.18, 0.44)),
        ((0.24, 0.70), (-0.56, 0.66)),
    ),
    "sitting": (
        (-0.12, -0.80),
        (-0.12, -0.56),
        (-0.20, 0.22),
        ((0.08, -0.20), (-0.30, -0.18)),
        ((0.34, 0.02), (0.20, 0.12)),
        ((0.36, 0.22), (0.30, 0.28)),
        ((0.38, 0.84), (0.26, 0.90)),
    ),
}


def draw_person(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a clothed body that stands, runs or sits."""
    shirt, trousers = near(dice.pick(CLOTH), dice), darker(near(dice.pick(CLOTH), dice), 0.3)
    skin, hair = near(dice.pick(SKIN), dice, 8), near(dice.pick(tuple(HAIR.values())), dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    head, neck, hip, elbows, wrists, knees, ankles = _POSES[attributes["pose"]]
    if attributes["pose"] == "sitting":
        pen.box(-0.44, 0.36, 0.10, 0.46, (120, 84, 52))
        pen.box(-0.40, 0.44, -0.32, 0.98, (100, 70, 44))
        pen.box(-0.02, 0.44, 0.06, 0.98, (100, 70, 44))
    for side in (0, 1):
        shade = darker(trousers, 0.2) if side == 0 else trousers
        pen.limb(*hip, *knees[side], 0.13, 0.10, shade)
        pen.limb(*knees[side], *ankles[side], 0.10, 0.07, shade)
        foot = 0.12 if attributes["pose"] != "standing" or side else -0.12
        pen.limb(*ankles[side], ankles[side][0] + foot, ankles[side][1] + 0.04, 0.07, 0.05, (46, 40, 40))
    _arm(pen, neck, elbows[0], wrists[0], darker(shirt, 0.2), skin)
    pen.convex(
        shape(
            (neck[0] - 0.22, neck[1] + 0.02),
            (neck[0] + 0.22, neck[1] + 0.02),
            (hip[0] + 0.16, hip[1] + 0.04),
            (hip[0] - 0.16, hip[1] + 0.04),
        ),
        shirt,
    )
    _arm(pen, neck, elbows[1], wrists[1], shirt, skin)
    _head(pen, head, skin, hair)


def draw_dancer(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a dancer with raised arms, a wide skirt and one leg out."""
    dress = near(dice.pick(((232, 120, 160), (240, 200, 220), (120, 60, 140), (200, 40, 70))), dice)
    skin, hair = near(dice.pick(SKIN), dice, 8), near(dice.pick(tuple(HAIR.values())), dice)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.limb(0.02, 0.12, 0.0, 0.55, 0.085, 0.06, skin)
    pen.limb(0.0, 0.55, -0.02, 0.92, 0.06, 0.04, skin)
    pen.limb(0.05, 0.12, 0.34, 0.40, 0.085, 0.06, darker(skin, 0.08))
    pen.limb(0.34, 0.40, 0.56, 0.66, 0.06, 0.03, darker(skin, 0.08))
    pen.limb(-0.13, -0.46, -0.36, -0.68, 0.055, 0.045, skin)
    pen.limb(-0.36, -0.68, -0.16, -0.95, 0.045, 0.035, skin)
    pen.limb(0.13, -0.46, 0.38, -0.66, 0.055, 0.045, skin)
    pen.limb(0.38, -0.66, 0.20, -0.95, 0.045, 0.035, skin)
    pen.poly(
        smooth((-0.10, -0.06), (-0.50, 0.10), (-0.58, 0.26), (-0.2, 0.24), (0.1, 0.30), (0.45, 0.22), (0.56, 0.12), (0.10, -0.06)),
        lighter(dress, 0.25),
    )
    pen.convex(shape((-0.16, -0.50), (0.16, -0.50), (0.10, -0.04), (-0.10, -0.04)), dress)
    _head(pen, (0.0, -0.68), skin, hair)
    pen.oval(-0.02, -0.87, 0.06, 0.06, hair)


def draw_hand(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw an open hand on a sleeve."""
    skin = near(dice.pick(SKIN), dice, 8)
    pen = pen.turned(dice.chance(0.5), dice.between(-0.22, 0.22))
    pen.box(-0.24, 0.72, 0.24, 1.0, near(dice.pick(CLOTH), dice))
    pen.limb(0, 0.40, 0, 0.80, 0.20, 0.19, skin)
    for x0, y0, x1, y1, r in (
        (-0.27, -0.02, -0.40, -0.58, 0.085),
        (-0.09, -0.08, -0.13, -0.84, 0.09),
        (0.09, -0.08, 0.13, -0.88, 0.09),
        (0.25, 0.0, 0.36, -0.70, 0.085),
    ):
        pen.limb(x0, y0, x1, y1, r, r * 0.82, skin)
        pen.oval(x1, y1, r * 0.45, r * 0.5, lighter(skin, 0.45))
    pen.limb(0.24, 0.30, 0.58, -0.10, 0.12, 0.085, skin)
    pen.poly(smooth((-0.36, 0.0), (0, -0.16), (0.34, 0.0), (0.34, 0.36), (0.16, 0.54), (-0.18, 0.54), (-0.36, 0.30)), skin)
    for line in ([(-0.24, 0.12), (0.02, 0.05), (0.24, 0.10)], [(-0.20, 0.30), (0.04, 0.20), (0.14, 0.02)]):
        pen.line(line, 0.03, darker(skin, 0.25))


def draw_foot(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a bare foot from the side with its ankle and toes."""
    skin = near(dice.pick(SKIN), dice, 8)
    pen = pen.turned(dice.chance(0.5), 0.0)
    pen.limb(-0.52, -0.60, -0.52, 0.14, 0.22, 0.24, skin)
    pen.box(-0.78, -0.72, -0.26, -0.44, near(dice.pick(CLOTH), dice))
    pen.poly(
        smooth(
            (-0.86, 0.30),
            (-0.74, -0.06),
            (-0.34, -0.06),
            (0.10, 0.14),
            (0.62, 0.26),
            (0.92, 0.44),
            (0.88, 0.64),
            (0.30, 0.62),
            (-0.10, 0.56),
            (-0.60, 0.66),
            (-0.84, 0.58),
        ),
        skin,
    )
    for i, x in enumerate((0.88, 0.76, 0.65, 0.55)):
        pen.oval(x, 0.50 - 0.05 * i, 0.10 - 0.012 * i, 0.10 - 0.01 * i, lighter(skin, 0.06))
        pen.oval(x + 0.05, 0.46 - 0.05 * i, 0.035, 0.03, lighter(skin, 0.5))
    pen.oval(-0.50, 0.12, 0.07, 0.07, lighter(skin, 0.12))
    pen.line([(-0.10, 0.52), (0.24, 0.56), (0.60, 0.60)], 0.03, darker(skin, 0.25))


def _arm(pen: Pen, neck: Point, elbow: Point, wrist: Point, sleeve: Colour, skin: Colour) -> None:
    side = -0.17 if elbow[0] < neck[0] else 0.17
    pen.limb(neck[0] + side, neck[1] + 0.07, *elbow, 0.085, 0.07, sleeve)
    pen.limb(*elbow, *wrist, 0.065, 0.05, skin)
    pen.oval(*wrist, 0.065, 0.065, skin)


def _head(pen: Pen, at: tuple[float, float], skin: tuple, hair: tuple) -> None:
    x, y = at
    pen.oval(x, y - 0.02, 0.15, 0.17, hair)
    pen.oval(x + 0.01, y + 0.03, 0.125, 0.135, skin)
