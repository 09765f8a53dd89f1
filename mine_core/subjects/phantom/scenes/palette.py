"""Colours of things: what each is typically like, with a little chance."""

from mine_core.subjects.phantom.scenes.canvas import Colour
from mine_core.subjects.phantom.scenes.dice import Dice

NAMED: dict[str, Colour] = {
    "red": (206, 38, 42),
    "yellow": (242, 196, 28),
    "green": (44, 150, 62),
    "blue": (36, 88, 198),
    "purple": (134, 52, 168),
    "white": (240, 240, 238),
}
SKIN: tuple[Colour, ...] = ((244, 208, 180), (232, 184, 148), (206, 152, 112), (168, 114, 78), (116, 76, 52))
HAIR: dict[str, Colour] = {
    "black": (34, 30, 32),
    "brown": (104, 66, 38),
    "blond": (232, 198, 110),
    "red": (190, 84, 34),
    "grey": (176, 178, 182),
}
CLOTH: tuple[Colour, ...] = (
    (52, 78, 130),
    (150, 52, 58),
    (64, 110, 84),
    (92, 92, 104),
    (180, 128, 60),
    (104, 66, 120),
    (40, 44, 56),
)
INK: Colour = (32, 32, 40)


def near(colour: Colour, dice: Dice, spread: float = 12.0) -> Colour:
    """Draw a colour within `spread` of one, channel by channel."""
    red, green, blue = (min(255.0, max(0.0, channel + dice.between(-spread, spread))) for channel in colour)
    return red, green, blue


def named(attributes: dict[str, str], dice: Dice) -> Colour:
    """Draw the colour that an object's attribute names."""
    return near(NAMED[attributes["colour"]], dice, 10)
