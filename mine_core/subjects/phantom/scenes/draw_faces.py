"""Heads with shoulders: expression, glasses, hat, hair, age and view, each plain to see at thirty pixels."""

from mine_core.subjects.phantom.scenes.canvas import Colour, Pen, blend, darker, lighter, shape, smooth
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import CLOTH, HAIR, INK, NAMED, SKIN, near

_TURN = 0.17


def draw_man(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a square jaw, short hair and often a beard."""
    skin, hair, turn = _skin(attributes, dice), near(HAIR[attributes["hair"]], dice), _turn(attributes)
    pen = pen.turned(attributes["view"] == "left", 0.0)
    _shoulders(pen, near(dice.pick(CLOTH), dice), skin, 0.80, 0.17)
    _ears(pen, skin, turn, 0.50)
    head = smooth((-0.47, -0.45), (0, -0.72), (0.47, -0.45), (0.49, 0.0), (0.36, 0.40), (0, 0.54), (-0.36, 0.40), (-0.49, 0.0))
    pen.poly(head, skin)
    if dice.chance(0.45):
        beard = smooth(
            (-0.48, 0.0),
            (-0.38, 0.10),
            (-0.20, 0.16),
            (0, 0.13),
            (0.20, 0.16),
            (0.38, 0.10),
            (0.48, 0.0),
            (0.40, 0.42),
            (0, 0.60),
            (-0.40, 0.42),
        )
        pen.poly(beard, darker(hair, 0.08))
    _features(pen, attributes, skin, hair, turn, 0.30, brow=0.085)
    top = shape(
        (-0.51, -0.12),
        (-0.52, -0.50),
        (-0.36, -0.80),
        (0.0, -0.88),
        (0.36, -0.80),
        (0.52, -0.50),
        (0.51, -0.12),
        (0.42, -0.42),
        (0.1, -0.52),
        (-0.3, -0.46),
        (-0.43, -0.38),
    )
    pen.poly(top, hair)
    _hat(pen, attributes, dice)


def draw_woman(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw an oval face in long hair, with red lips and lashes."""
    skin, hair, turn = _skin(attributes, dice), near(HAIR[attributes["hair"]], dice), _turn(attributes)
    pen = pen.turned(attributes["view"] == "left", 0.0)
    back = smooth(
        (-0.60, -0.40),
        (0, -0.90),
        (0.60, -0.40),
        (0.68, 0.20),
        (0.60, 0.72),
        (0.30, 0.60),
        (-0.30, 0.60),
        (-0.60, 0.72),
        (-0.68, 0.20),
    )
    pen.poly(back, darker(hair, 0.15))
    _shoulders(pen, near(dice.pick(CLOTH), dice), skin, 0.66, 0.13)
    pen.poly(
        smooth((-0.43, -0.42), (0, -0.70), (0.43, -0.42), (0.43, 0.0), (0.26, 0.38), (0, 0.52), (-0.26, 0.38), (-0.43, 0.0)), skin
    )
    _features(pen, attributes, skin, hair, turn, 0.24, brow=0.045, lips=(190, 42, 60))
    fringe = smooth(
        (-0.56, 0.05),
        (-0.60, -0.45),
        (-0.30, -0.86),
        (0.2, -0.90),
        (0.58, -0.50),
        (0.56, 0.05),
        (0.46, -0.22),
        (0.22, -0.50),
        (-0.10, -0.44),
        (-0.42, -0.18),
    )
    pen.poly(fringe, hair)
    pen.line([(-0.12, -0.82), (-0.34, -0.60), (-0.46, -0.30)], 0.03, lighter(hair, 0.2))
    _hat(pen, attributes, dice)


def draw_child(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a round face with large low eyes, full cheeks and a tuft."""
    skin, hair, turn = lighter(_skin(attributes, dice), 0.12), near(HAIR[attributes["hair"]], dice), _turn(attributes)
    pen = pen.turned(attributes["view"] == "left", 0.0)
    _shoulders(pen, near(dice.pick(((240, 170, 60), (90, 180, 220), (236, 120, 150), (130, 200, 110))), dice), skin, 0.52, 0.09)
    _ears(pen, skin, turn, 0.56)
    pen.oval(0, -0.10, 0.58, 0.62, hair)
    pen.oval(0, 0.02, 0.56, 0.54, skin)
    for side in (-1, 1):
        pen.oval(side * 0.34 + turn, 0.22, 0.13, 0.10, blend(skin, (240, 110, 110), 0.4))
    _features(pen, attributes, skin, hair, turn, 0.22, brow=0.03, eye=1.45, drop=0.10)
    pen.poly(
        smooth((-0.56, -0.10), (-0.50, -0.52), (0, -0.76), (0.50, -0.52), (0.56, -0.10), (0.30, -0.34), (0, -0.40), (-0.30, -0.34)),
        hair,
    )
    pen.poly(smooth((-0.08, -0.68), (0.02, -0.94), (0.20, -0.90), (0.08, -0.66)), hair)
    _hat(pen, attributes, dice)


def draw_clown(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a white face, a red nose, a wide painted mouth and tufts of bright hair."""
    tuft, turn = near(dice.pick((NAMED["red"], (240, 120, 30), (60, 170, 70))), dice), _turn(attributes)
    pen = pen.turned(attributes["view"] == "left", 0.0)
    _shoulders(pen, near(NAMED["yellow"], dice), (240, 236, 230), 0.74, 0.14)
    for x in (-0.36, -0.12, 0.12, 0.36):
        pen.oval(x, 0.74, 0.09, 0.09, dice.pick(((206, 38, 42), (36, 88, 198), (44, 150, 62))))
    for side in (-1, 1):
        for x, y, r in ((0.62, -0.22, 0.22), (0.68, 0.02, 0.18), (0.56, -0.46, 0.17)):
            pen.oval(side * x, y, r, r, tuft)
    pen.oval(0, -0.06, 0.50, 0.60, (246, 244, 240))
    for side in (-1, 1):
        pen.oval(side * 0.20 + turn, -0.16, 0.12, 0.20, (70, 140, 220))
    pen.oval(turn, 0.24, 0.30, 0.16, (214, 40, 50))
    _features(pen, attributes, (246, 244, 240), INK, turn, 0.24, brow=0.05, lips=INK)
    pen.oval(1.5 * turn, 0.05, 0.13, 0.13, (226, 28, 40))
    pen.oval(1.5 * turn - 0.04, 0.0, 0.04, 0.04, (255, 170, 170))
    _hat(pen, attributes, dice)


def _skin(attributes: dict[str, str], dice: Dice) -> Colour:
    """Draw a tone of skin that the hair's colour stands out from."""
    tones = SKIN[:3] if attributes["hair"] in ("brown", "red") else SKIN
    return near(dice.pick(tones), dice, 8)


def _turn(attributes: dict[str, str]) -> float:
    return 0.0 if attributes["view"] == "front" else _TURN


def _shoulders(pen: Pen, cloth: Colour, skin: Colour, half: float, neck: float) -> None:
    pen.poly(
        smooth((-half, 1.0), (-half * 0.95, 0.78), (-0.28, 0.60), (0.28, 0.60), (half * 0.95, 0.78), (half, 1.0), steps=4), cloth
    )
    pen.convex(shape((-neck, 0.35), (neck, 0.35), (neck + 0.05, 0.66), (0, 0.80), (-neck - 0.05, 0.66)), darker(skin, 0.14))


def _ears(pen: Pen, skin: Colour, turn: float, out: float) -> None:
    for side in (-1, 1):
        if side < 0 or turn == 0:
            pen.oval(side * out, 0.0, 0.09, 0.15, darker(skin, 0.1))


def _features(
    pen: Pen,
    attributes: dict[str, str],
    skin: Colour,
    hair: Colour,
    turn: float,
    mouth: float,
    *,
    brow: float,
    lips: Colour = (160, 66, 62),
    eye: float = 1.0,
    drop: float = 0.0,
) -> None:
    old = attributes.get("age") == "old"
    tight = 0.82 if turn else 1.0
    for side in (-1, 1):
        x = side * 0.20 * tight + turn
        pen.oval(x, -0.10 + drop, 0.095 * eye, 0.060 * eye, (250, 250, 250))
        pen.oval(x + turn * 0.22, -0.10 + drop, 0.046 * eye, 0.052 * eye, (44, 40, 52))
        tilt = {"sad": -0.07, "serious": 0.055, "smiling": 0.0}[attributes["expression"]]
        pen.line(
            [(x - side * 0.12, -0.23 + drop + tilt), (x + side * 0.12, -0.23 + drop - tilt)], max(brow, 0.04), darker(hair, 0.25)
        )
        if old:
            crease = darker(skin, 0.42)
            pen.line([(side * 0.17 + turn, 0.14), (side * 0.30 + turn, 0.36)], 0.035, crease)
            pen.line([(x - 0.09, 0.02 + drop), (x + 0.09, 0.02 + drop)], 0.03, crease)
    if old:
        for y in (-0.34, -0.42):
            pen.line([(-0.24 + turn, y), (0.24 + turn, y)], 0.03, darker(skin, 0.36))
    nose = darker(skin, 0.24)
    pen.line(
        [(0.02 + turn * 1.2, -0.08 + drop), (0.07 + turn * 1.8, 0.09 + drop / 2), (-0.03 + turn * 1.4, 0.11 + drop / 2)],
        0.045,
        nose,
    )
    _mouth(pen, attributes["expression"], turn, 0.27 + drop / 3, mouth, lips)
    if attributes["glasses"] == "yes":
        _glasses(pen, turn, drop, tight)


def _mouth(pen: Pen, expression: str, turn: float, y: float, half: float, lips: Colour) -> None:
    if expression == "smiling":
        pen.poly(
            smooth(
                (turn - half, y - 0.05),
                (turn, y + 0.02),
                (turn + half, y - 0.05),
                (turn + half * 0.6, y + 0.12),
                (turn, y + 0.17),
                (turn - half * 0.6, y + 0.12),
            ),
            lips,
        )
        pen.poly(
            shape(
                (turn - half * 0.8, y - 0.005),
                (turn, y + 0.035),
                (turn + half * 0.8, y - 0.005),
                (turn + half * 0.55, y + 0.07),
                (turn - half * 0.55, y + 0.07),
            ),
            (252, 252, 250),
        )
    elif expression == "serious":
        pen.line([(turn - half * 0.72, y + 0.03), (turn + half * 0.72, y + 0.03)], 0.065, lips)
    else:
        pen.line(
            [
                (turn - half * 0.8, y + 0.11),
                (turn - half * 0.4, y + 0.02),
                (turn, y),
                (turn + half * 0.4, y + 0.02),
                (turn + half * 0.8, y + 0.11),
            ],
            0.065,
            lips,
        )


def _glasses(pen: Pen, turn: float, drop: float, tight: float) -> None:
    y = -0.10 + drop
    for side in (-1, 1):
        x = side * 0.215 * tight + turn
        ring = [
            (x + 0.185 * c, y + 0.165 * s)
            for c, s in ((1, 0), (0.7, 0.75), (0, 1), (-0.7, 0.75), (-1, 0), (-0.7, -0.75), (0, -1), (0.7, -0.75), (1, 0))
        ]
        pen.line(ring, 0.048, (18, 18, 24))
        pen.line([(side * 0.38 * tight + turn, y - 0.03), (side * 0.52, y - 0.06)], 0.055, (18, 18, 24))
    pen.line([(turn - 0.06, y - 0.02), (turn + 0.06, y - 0.02)], 0.055, (18, 18, 24))


def _hat(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    if attributes["hat"] == "no":
        return
    colour = near(dice.pick(((150, 30, 40), (30, 60, 120), (40, 90, 60), (206, 150, 70), (60, 60, 66))), dice)
    pen.poly(smooth((-0.48, -0.46), (-0.44, -0.84), (-0.22, -0.99), (0.22, -0.99), (0.44, -0.84), (0.48, -0.46)), colour)
    pen.limb(-0.72, -0.47, 0.72, -0.47, 0.075, 0.075, darker(colour, 0.18))
    pen.box(-0.47, -0.64, 0.47, -0.53, lighter(colour, 0.55))
