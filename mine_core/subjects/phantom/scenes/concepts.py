"""What can be in a scene, as data: concepts, attributes, backgrounds, and which of them are planted to go together."""

from dataclasses import dataclass
from typing import Literal

GROUPS = ("faces", "bodies", "places", "food", "words", "animals", "tools and vehicles", "other")


@dataclass(frozen=True)
class Concept:
    """A kind of object, named as captions name it, and the group it belongs to."""

    name: str
    group: str


@dataclass(frozen=True)
class Layout:
    """Where a concept may stand: half extents of its drawing (units of half its size), range of sizes, weight of its draw.

    `outdoor` concepts never stand in a room; `ground` ones do not hang in the air.
    """

    half_width: float
    half_height: float
    smallest: float
    largest: float
    weight: float = 1.0
    outdoor: bool = False
    ground: bool = True


@dataclass(frozen=True)
class Background:
    """A surrounding, with the two scene attributes that follow from it."""

    name: str
    indoor: bool
    built: bool


@dataclass(frozen=True)
class CoOccurrence:
    """A planted dependence: `probability` is p(partner in the scene | cue in the scene)."""

    cue: str
    kind: Literal["concept", "background"]
    partner: str
    probability: float


_TABLE: dict[str, dict[str, Layout]] = {
    "faces": {
        "man": Layout(0.80, 1.0, 0.42, 0.75),
        "woman": Layout(0.80, 1.0, 0.42, 0.75),
        "child": Layout(0.74, 1.0, 0.42, 0.70, weight=0.6),
        "clown": Layout(0.86, 1.0, 0.42, 0.75),
    },
    "bodies": {
        "person": Layout(0.62, 1.0, 0.38, 0.80, weight=0.35),
        "hand": Layout(0.72, 1.0, 0.26, 0.50, weight=0.7, ground=False),
        "foot": Layout(1.0, 0.72, 0.26, 0.50, ground=False),
        "dancer": Layout(0.62, 1.0, 0.38, 0.80),
    },
    "places": {
        "house": Layout(0.95, 1.0, 0.32, 0.66, weight=1.25, outdoor=True),
        "castle": Layout(0.95, 1.0, 0.36, 0.70, weight=1.25, outdoor=True),
        "bridge": Layout(1.0, 0.52, 0.48, 0.84, weight=1.25, outdoor=True),
        "tower": Layout(0.36, 1.0, 0.42, 0.80, weight=1.25, outdoor=True),
    },
    "food": {
        "pizza": Layout(1.0, 0.98, 0.24, 0.52, ground=False),
        "apple": Layout(0.88, 1.0, 0.20, 0.42, ground=False),
        "banana": Layout(1.0, 0.66, 0.24, 0.46, ground=False),
        "cake": Layout(0.90, 1.0, 0.24, 0.50, ground=False),
        "bread": Layout(1.0, 0.58, 0.26, 0.48, ground=False),
        "carrot": Layout(0.45, 1.0, 0.28, 0.52, ground=False),
    },
    "words": {
        "sign": Layout(1.0, 0.86, 0.34, 0.64),
        "book": Layout(1.0, 0.70, 0.32, 0.60, ground=False),
        "poster": Layout(0.72, 1.0, 0.34, 0.64, ground=False),
    },
    "animals": {
        "dog": Layout(1.0, 0.86, 0.30, 0.58),
        "cat": Layout(0.78, 1.0, 0.30, 0.56),
        "bird": Layout(1.0, 0.78, 0.24, 0.48, ground=False),
        "fish": Layout(1.0, 0.60, 0.26, 0.52, ground=False),
        "horse": Layout(1.0, 0.98, 0.36, 0.68, weight=1.25, outdoor=True),
    },
    "tools and vehicles": {
        "hammer": Layout(0.62, 1.0, 0.28, 0.52, ground=False),
        "scissors": Layout(0.58, 1.0, 0.28, 0.52, ground=False),
        "car": Layout(1.0, 0.50, 0.34, 0.66, weight=1.35, outdoor=True),
        "bus": Layout(1.0, 0.60, 0.38, 0.70, weight=1.25, outdoor=True),
        "bicycle": Layout(1.0, 0.66, 0.34, 0.62, weight=1.25, outdoor=True),
        "boat": Layout(0.90, 1.0, 0.34, 0.64, weight=1.35, outdoor=True),
        "skis": Layout(0.60, 1.0, 0.34, 0.60, weight=1.35, outdoor=True),
    },
    "other": {
        "ball": Layout(1.0, 1.0, 0.20, 0.42),
        "tree": Layout(0.80, 1.0, 0.38, 0.76, weight=1.25, outdoor=True),
        "flower": Layout(0.62, 1.0, 0.30, 0.58),
        "cup": Layout(1.0, 0.90, 0.22, 0.42, ground=False),
        "chair": Layout(0.62, 1.0, 0.32, 0.58),
        "clock": Layout(1.0, 1.0, 0.24, 0.46, ground=False),
        "umbrella": Layout(0.96, 1.0, 0.34, 0.62, ground=False),
    },
}

CONCEPTS: tuple[Concept, ...] = tuple(Concept(name, group) for group in GROUPS for name in _TABLE[group])
LAYOUT: dict[str, Layout] = {name: layout for members in _TABLE.values() for name, layout in members.items()}
CONCEPT_INDEX: dict[str, int] = {concept.name: index for index, concept in enumerate(CONCEPTS)}
FACES = tuple(_TABLE["faces"])

BACKGROUNDS: tuple[Background, ...] = (
    Background("beach", indoor=False, built=False),
    Background("forest", indoor=False, built=False),
    Background("mountains", indoor=False, built=False),
    Background("snow", indoor=False, built=False),
    Background("street", indoor=False, built=True),
    Background("kitchen", indoor=True, built=True),
    Background("bedroom", indoor=True, built=True),
    Background("office", indoor=True, built=True),
)
BACKGROUND_INDEX: dict[str, int] = {background.name: index for index, background in enumerate(BACKGROUNDS)}

# Each probability is exact in the sampler: a scene holds at most one cue of each kind, and its partner is decided by one coin.
CO_OCCURRENCE: tuple[CoOccurrence, ...] = (
    CoOccurrence("ball", "concept", "person", 0.75),
    CoOccurrence("hammer", "concept", "hand", 0.50),
    CoOccurrence("cake", "concept", "child", 0.50),
    CoOccurrence("skis", "background", "snow", 0.75),
    CoOccurrence("boat", "background", "beach", 0.70),
    CoOccurrence("cup", "background", "kitchen", 0.65),
    CoOccurrence("book", "background", "office", 0.65),
    CoOccurrence("car", "background", "street", 0.60),
    CoOccurrence("chair", "background", "bedroom", 0.50),
    CoOccurrence("castle", "background", "mountains", 0.55),
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "expression": ("smiling", "serious", "sad"),
    "glasses": ("yes", "no"),
    "hat": ("yes", "no"),
    "hair": ("black", "brown", "blond", "red", "grey"),
    "age": ("young", "old"),
    "view": ("front", "left", "right"),
    "pose": ("standing", "running", "sitting"),
    "colour": ("red", "yellow", "green", "blue", "purple", "white"),
    "size": ("small", "large"),
    "position": ("left", "right", "top", "bottom", "centre"),
    "indoor": ("indoor", "outdoor"),
    "natural": ("natural", "built"),
}

_FACE = {name: ATTRIBUTES[name] for name in ("expression", "glasses", "hat", "view")}
_COLOURED = ("ball", "car", "bus", "bicycle", "boat", "skis", "cup", "umbrella", "flower", "chair", "book")
# Which attributes a concept is drawn with, and the values it may take; size, position and the scene's follow for all.
DRAWN: dict[str, dict[str, tuple[str, ...]]] = {
    "man": _FACE | {"hair": ATTRIBUTES["hair"], "age": ATTRIBUTES["age"]},
    "woman": _FACE | {"hair": ATTRIBUTES["hair"], "age": ATTRIBUTES["age"]},
    "child": _FACE | {"hair": ("black", "brown", "blond", "red"), "age": ("young",)},
    "clown": _FACE,
    "person": {"pose": ATTRIBUTES["pose"]},
    "apple": {"colour": ("red", "yellow", "green")},
    **{name: {"colour": ATTRIBUTES["colour"]} for name in _COLOURED},
}
P_GREY_IF_OLD = 0.7
LARGE_FROM = 0.40
