"""From a seed to a scene graph."""

from mine_core.errors import SubjectError
from mine_core.subjects.phantom.scenes.concepts import (
    BACKGROUND_INDEX,
    BACKGROUNDS,
    CO_OCCURRENCE,
    DRAWN,
    FACES,
    LAYOUT,
    P_GREY_IF_OLD,
    CoOccurrence,
)
from mine_core.subjects.phantom.scenes.dice import SCENE_TAG, Dice
from mine_core.subjects.phantom.scenes.graph import CENTRE_WITHIN, Scene, SceneObject

_CONCEPT_RULES = {rule.cue: rule for rule in CO_OCCURRENCE if rule.kind == "concept"}
_PLACE_RULES = {rule.cue: rule for rule in CO_OCCURRENCE if rule.kind == "background"}
_OUTDOORS = tuple(background.name for background in BACKGROUNDS if not background.indoor)
_INDOORS = tuple(background.name for background in BACKGROUNDS if background.indoor)
_INDOOR_CUES = frozenset(cue for cue, rule in _PLACE_RULES.items() if rule.partner in _INDOORS)
_MOST_OBJECTS = 4
_COUNT_CUMULATIVE = (0.16, 0.50, 0.83, 1.0)
_SIZE_BY_COUNT = (1.2, 1.0, 0.88, 0.80)
_P_INDOOR_IF_FREE = 0.8
_MOST_COVERED = 0.36
_PLACEMENTS = 12
_SHRINK = 0.88
_POSITIONS = ("left", "right", "top", "bottom", "centre")
_GROUND_POSITIONS = ("left", "right", "bottom", "centre", "left", "right", "centre", "top")

Box = tuple[float, float, float, float]


def sample_scene(seed: int) -> Scene:
    """The scene of this seed: a pure function of it (PCG64 over SeedSequence([tag, seed])).

    Concepts are drawn with weights that make them about equally frequent; `CO_OCCURRENCE` holds exactly; objects
    are placed so that every one stays visible.

    Parameters
    ----------
    seed : int >= 0

    Raises
    ------
    SubjectError : if the seed is negative.
    """
    if seed < 0:
        raise SubjectError(f"Scene seed {seed} is negative; give a seed of 0 or more.")
    dice = Dice(SCENE_TAG, seed, block=96)
    names = _draw_concepts(dice)
    background = _draw_background(names, dice)
    objects = tuple(
        SceneObject(name, round(x, 5), round(y, 5), round(size, 5), _draw_attributes(name, dice), dice.seed())
        for name, x, y, size in _arrange(names, dice)
    )
    return Scene(seed, background, objects, 1 if dice.chance(0.5) else -1)


def _draw_concepts(dice: Dice) -> list[str]:
    target = dice.unit()
    count = next(index for index, edge in enumerate(_COUNT_CUMULATIVE, 1) if target < edge)
    names: list[str] = []
    while len(names) < count:
        names.append(_draw_one(names, dice))
    for cue in names:
        if cue in _CONCEPT_RULES:
            return _settle(names, _CONCEPT_RULES[cue], dice)
    return names


def _draw_one(names: list[str], dice: Dice) -> str:
    eligible = [name for name in LAYOUT if _fits(name, names)]
    weights = [LAYOUT[name].weight for name in eligible]
    mark = dice.unit() * sum(weights)
    for name, weight in zip(eligible, weights, strict=True):
        mark -= weight
        if mark < 0:
            return name
    return eligible[-1]


def _fits(name: str, names: list[str]) -> bool:
    """Whether `name` may join `names`: once each, one cue of each kind, two faces at most, no room around a house."""
    if name in names:
        return False
    if name in _CONCEPT_RULES and any(other in _CONCEPT_RULES for other in names):
        return False
    if name in _PLACE_RULES and any(other in _PLACE_RULES for other in names):
        return False
    if name in FACES and sum(other in FACES for other in names) >= 2:
        return False
    if name in _INDOOR_CUES:
        return not any(LAYOUT[other].outdoor for other in names)
    return not (LAYOUT[name].outdoor and any(other in _INDOOR_CUES for other in names))


def _settle(names: list[str], rule: CoOccurrence, dice: Dice) -> list[str]:
    """Decide the partner of a cue by one coin, whatever was drawn by chance."""
    others = [name for name in names if name != rule.partner]
    if not dice.chance(rule.probability):
        return others
    if len(others) == _MOST_OBJECTS:
        others.remove(next(name for name in reversed(others) if name != rule.cue))
    return [*others, rule.partner]


def _draw_background(names: list[str], dice: Dice) -> str:
    outdoor = any(LAYOUT[name].outdoor for name in names)
    rule = next((_PLACE_RULES[name] for name in names if name in _PLACE_RULES), None)
    if rule is not None:
        if dice.chance(rule.probability):
            return rule.partner
        allowed = _OUTDOORS if outdoor else tuple(BACKGROUND_INDEX)
        return dice.pick([name for name in allowed if name != rule.partner])
    if not outdoor and dice.chance(_P_INDOOR_IF_FREE):
        return dice.pick(_INDOORS)
    return dice.pick(_OUTDOORS)


def _draw_attributes(name: str, dice: Dice) -> tuple[tuple[str, str], ...]:
    drawn = {attribute: dice.pick(values) for attribute, values in DRAWN.get(name, {}).items()}
    if drawn.get("age") == "old" and dice.chance(P_GREY_IF_OLD):
        drawn["hair"] = "grey"
    return tuple(drawn.items())


def _arrange(names: list[str], dice: Dice) -> list[tuple[str, float, float, float]]:
    """Places and sizes, back to front; shrinks until each object is visible, and ends at one object per quadrant."""
    factor = _SIZE_BY_COUNT[len(names) - 1]
    scales = [dice.unit() for _ in names]
    for _ in range(4):
        placed = _place_all(names, scales, factor, dice)
        if placed is not None:
            return placed
        factor *= _SHRINK
    quadrants = ((0.27, 0.30), (0.73, 0.30), (0.27, 0.74), (0.73, 0.74))
    return [(name, x, y, 0.40) for name, (x, y) in zip(names, quadrants, strict=False)]


def _place_all(names: list[str], scales: list[float], factor: float, dice: Dice) -> list[tuple[str, float, float, float]] | None:
    placed: list[tuple[str, float, float, float]] = []
    boxes: list[Box] = []
    for name, scale in zip(names, scales, strict=True):
        layout = LAYOUT[name]
        size = layout.smallest + scale * (layout.largest - layout.smallest)
        size = max(size * factor, layout.smallest * min(1.0, factor))
        for _ in range(_PLACEMENTS):
            x, y = _draw_place(name, size, dice)
            box = _box(name, x, y, size)
            if all(_covered_share(box, other) <= _MOST_COVERED for other in boxes) and _all_visible([*boxes, box]):
                placed.append((name, x, y, size))
                boxes.append(box)
                break
        else:
            return None
    return sorted(placed, key=lambda item: _box(*item)[3])


def _draw_place(name: str, size: float, dice: Dice) -> tuple[float, float]:
    layout = LAYOUT[name]
    half_x, half_y = layout.half_width * size / 2, layout.half_height * size / 2
    if name in FACES and dice.chance(0.55):
        return _inside(dice.between(0.2, 0.8), half_x), 1.01 - half_y
    position = dice.pick(_GROUND_POSITIONS if layout.ground else _POSITIONS)
    dx, dy = dice.between(-CENTRE_WITHIN, CENTRE_WITHIN), dice.between(-CENTRE_WITHIN, CENTRE_WITHIN)
    if position != "centre":
        away = dice.between(CENTRE_WITHIN, 0.36)
        along = dice.between(-away, away)
        sign = -1 if position in ("left", "top") else 1
        dx, dy = (sign * away, along) if position in ("left", "right") else (along, sign * away)
    if layout.ground and position not in ("top", "centre"):
        dy = abs(dy)
    return _inside(0.5 + dx, half_x), _inside(0.5 + dy, half_y)


def _inside(centre: float, half: float) -> float:
    margin = half + 0.01
    return 0.5 if margin >= 0.5 else min(max(centre, margin), 1 - margin)


def _box(name: str, x: float, y: float, size: float) -> Box:
    layout = LAYOUT[name]
    half_x, half_y = layout.half_width * size / 2, layout.half_height * size / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _covered_share(box: Box, other: Box) -> float:
    """Share of the smaller box that lies in the other."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1]))
    return wide * high / smaller


def _all_visible(boxes: list[Box]) -> bool:
    """Whether no box is covered by more than the limit in sum over the boxes in front of it (those whose base is lower)."""
    for back in boxes:
        front = [other for other in boxes if other[3] > back[3]]
        if sum(_covered_share(back, other) for other in front) > _MOST_COVERED:
            return False
    return True
