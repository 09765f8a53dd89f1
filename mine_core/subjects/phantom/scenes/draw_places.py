"""Buildings, and things that carry written words."""

from mine_core.subjects.phantom.scenes.canvas import Colour, Pen, darker, lighter, shape
from mine_core.subjects.phantom.scenes.dice import Dice
from mine_core.subjects.phantom.scenes.palette import INK, NAMED, named, near

_GLASS: Colour = (150, 196, 222)
_SYLLABLES = (
    "ST",
    "OP",
    "EX",
    "IT",
    "BAR",
    "CA",
    "FE",
    "HO",
    "TEL",
    "TA",
    "XI",
    "GO",
    "MAR",
    "KET",
    "NO",
    "PARK",
    "SA",
    "LE",
    "ZOO",
    "RUN",
)


def draw_house(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw walls, a gabled roof with chimney, a door and windows."""
    wall = near(dice.pick(((236, 222, 190), (226, 200, 176), (214, 224, 230), (238, 238, 230))), dice)
    roof = near(dice.pick(((166, 62, 44), (120, 60, 48), (92, 80, 84))), dice)
    pen.box(0.42, -0.90, 0.62, -0.36, darker(roof, 0.2))
    pen.box(-0.80, -0.18, 0.80, 0.98, wall)
    pen.convex(shape((-0.95, -0.14), (-0.02, -0.96), (0.95, -0.14)), roof)
    for k in range(3):
        y = -0.30 - 0.17 * k
        half = 0.95 * (y + 0.96) / 0.82
        pen.line([(-half, y), (half, y)], 0.02, darker(roof, 0.2))
    pen.box(-0.17, 0.34, 0.17, 0.98, darker(near(dice.pick(tuple(NAMED.values())[:4]), dice), 0.3))
    pen.oval(0.10, 0.66, 0.03, 0.03, (240, 220, 120))
    for x in (-0.52, 0.52):
        _window(pen, x, 0.30, 0.18, 0.20)


def _window(pen: Pen, x: float, y: float, half: float, high: float) -> None:
    pen.box(x - half - 0.03, y - high - 0.03, x + half + 0.03, y + high + 0.03, (250, 250, 246))
    pen.box(x - half, y - high, x + half, y + high, _GLASS)
    pen.line([(x, y - high), (x, y + high)], 0.035, (250, 250, 246))
    pen.line([(x - half, y), (x + half, y)], 0.035, (250, 250, 246))


def draw_castle(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw stone walls with battlements, two round towers with flags and a gate."""
    stone = near(dice.pick(((150, 146, 142), (168, 158, 140), (134, 138, 148))), dice)
    pen.box(-0.60, -0.10, 0.60, 0.98, stone)
    for k in range(5):
        pen.box(-0.52 + 0.24 * k, -0.26, -0.40 + 0.24 * k, -0.06, stone)
    for side in (-1, 1):
        pen.box(side * 0.74 - 0.21, -0.46, side * 0.74 + 0.21, 0.98, darker(stone, 0.12))
        for k in (-1, 0, 1):
            pen.box(side * 0.74 + 0.14 * k - 0.05, -0.60, side * 0.74 + 0.14 * k + 0.05, -0.44, darker(stone, 0.12))
        pen.box(side * 0.74 - 0.05, -0.22, side * 0.74 + 0.05, 0.08, darker(stone, 0.65))
        pen.line([(side * 0.74, -0.52), (side * 0.74, -0.98)], 0.03, INK)
        pen.convex(shape((side * 0.74, -0.98), (side * 0.74 + 0.22, -0.88), (side * 0.74, -0.78)), (196, 36, 48))
    pen.box(-0.20, 0.48, 0.20, 0.98, (66, 46, 34))
    pen.oval(0, 0.48, 0.20, 0.20, (66, 46, 34))
    for row in range(5):
        y = 0.10 + 0.18 * row
        pen.line([(-0.58, y), (-0.24, y)], 0.016, darker(stone, 0.25))
        pen.line([(0.24, y), (0.58, y)], 0.016, darker(stone, 0.25))


def draw_bridge(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a deck on two arches with water below."""
    stone = near(dice.pick(((172, 148, 118), (160, 152, 146), (178, 112, 84))), dice)
    pen.box(-1.0, -0.34, 1.0, 0.52, stone)
    for x in (-0.50, 0.50):
        pen.oval(x, 0.32, 0.36, 0.44, (84, 136, 176))
        pen.box(x - 0.36, 0.30, x + 0.36, 0.52, (70, 122, 166))
        pen.line([(x - 0.2, 0.42), (x + 0.2, 0.42)], 0.025, (190, 220, 236))
    pen.box(-1.0, -0.50, 1.0, -0.36, lighter(stone, 0.22))
    for k in range(9):
        pen.box(-0.98 + 0.24 * k, -0.50, -0.93 + 0.24 * k, -0.30, darker(stone, 0.3))
    pen.line([(-1.0, -0.24), (1.0, -0.24)], 0.03, darker(stone, 0.35))


def draw_tower(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a tall striped light tower with a lantern and a red cap."""
    stripe = near(dice.pick(((200, 44, 48), (40, 70, 130), (36, 36, 42))), dice)
    pen.convex(shape((-0.20, -0.56), (0.20, -0.56), (0.34, 0.98), (-0.34, 0.98)), (238, 236, 230))
    for k in (0, 2, 4):
        y0, y1 = -0.50 + 0.30 * k, -0.20 + 0.30 * k
        a, b = 0.20 + 0.14 * (y0 + 0.56) / 1.54, 0.20 + 0.14 * (y1 + 0.56) / 1.54
        pen.convex(shape((-a, y0), (a, y0), (b, y1), (-b, y1)), stripe)
    pen.box(-0.28, -0.62, 0.28, -0.54, INK)
    pen.box(-0.16, -0.82, 0.16, -0.62, (255, 236, 140))
    pen.line([(0, -0.82), (0, -0.62)], 0.03, INK)
    pen.convex(shape((-0.24, -0.80), (0, -0.99), (0.24, -0.80)), (190, 40, 40))
    pen.box(-0.09, 0.70, 0.09, 0.98, (70, 50, 40))


def draw_sign(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a board on a post with a line or two of capitals."""
    board = near(dice.pick(((20, 92, 60), (24, 70, 150), (250, 250, 246), (246, 206, 40), (190, 30, 40))), dice)
    ink = INK if sum(board) > 420 else (252, 252, 250)
    pen.box(-0.07, 0.10, 0.07, 0.85, (120, 122, 126))
    pen.box(-1.0, -0.86, 1.0, 0.24, ink)
    pen.box(-0.95, -0.81, 0.95, 0.19, board)
    pen.text(_word(dice, 2), -0.84, -0.36, 0.36, 1.68, ink)
    pen.text(_word(dice, 2), -0.84, 0.10, 0.30, 1.68, ink)


def draw_book(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw an open book with lines of print and a cover of the colour asked."""
    cover = named(attributes, dice)
    pen.convex(shape((-1.0, -0.56), (1.0, -0.56), (1.0, 0.70), (-1.0, 0.70)), darker(cover, 0.1))
    for side in (-1, 1):
        pen.convex(shape((side * 0.02, -0.62), (side * 0.90, -0.66), (side * 0.90, 0.54), (side * 0.02, 0.60)), (250, 246, 232))
        for k in range(6):
            y, length = -0.48 + 0.17 * k, 0.62 if k < 5 else 0.36
            x0 = 0.12 if side > 0 else -0.80
            pen.line([(x0, y), (x0 + length, y)], 0.05, (70, 70, 78))
    pen.text(_word(dice, 1), 0.14, -0.40, 0.20, 0.6, INK)
    pen.line([(0, -0.62), (0, 0.60)], 0.035, (150, 140, 120))


def draw_poster(pen: Pen, attributes: dict[str, str], dice: Dice) -> None:
    """Draw a sheet with a coloured picture field and large capitals in three lines."""
    paper = near(dice.pick(((250, 244, 226), (252, 250, 250), (250, 226, 190))), dice)
    tint = near(dice.pick(tuple(NAMED.values())[:5]), dice)
    pen.box(-0.72, -1.0, 0.72, 1.0, darker(tint, 0.3))
    pen.box(-0.66, -0.94, 0.66, 0.94, paper)
    pen.text(_word(dice, 2), -0.56, -0.60, 0.26, 1.12, INK)
    pen.box(-0.52, -0.48, 0.52, 0.22, tint)
    pen.convex(shape((-0.52, 0.22), (-0.10, -0.26), (0.14, 0.02), (0.30, -0.14), (0.52, 0.22)), lighter(tint, 0.45))
    pen.text(_word(dice, 2), -0.56, 0.56, 0.24, 1.12, darker(tint, 0.35))
    pen.text(_word(dice, 2), -0.56, 0.86, 0.18, 1.12, INK)


def _word(dice: Dice, parts: int) -> str:
    return "".join(dice.pick(_SYLLABLES) for _ in range(parts))
