"""What a scene is called: captions from templates, prompts for concepts and attributes, and the words that they use."""

from mine_core.subjects.phantom.scenes.concepts import ATTRIBUTES, BACKGROUNDS, CONCEPTS
from mine_core.subjects.phantom.scenes.dice import CAPTION_TAG, Dice
from mine_core.subjects.phantom.scenes.graph import Scene, SceneObject

PLACES = {
    "beach": "at the beach",
    "forest": "in a forest",
    "mountains": "in the mountains",
    "snow": "in the snow",
    "street": "on a street",
    "kitchen": "in a kitchen",
    "bedroom": "in a bedroom",
    "office": "in an office",
}
POSITIONS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "centre": "in the middle",
}
_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "there is ")
_PLURAL = frozenset({"skis", "scissors"})
_P_ATTRIBUTE, _P_POSITION, _P_PLACE, _P_SIZE = 0.6, 0.4, 0.8, 0.25
MOST_WORDS = 32


def captions(scene: Scene, n: int = 3) -> tuple[str, ...]:
    """Write `n` captions, each naming every object, some of their attributes and positions, and mostly the place."""
    dice = Dice(CAPTION_TAG, scene.seed, block=160)
    return tuple(_caption(scene, dice) for _ in range(n))


def _caption(scene: Scene, dice: Dice) -> str:
    order = sorted(scene.objects, key=lambda item: -item.size)
    if dice.chance(0.3):
        order.reverse()
    spare = MOST_WORDS - 12 - 3 * len(order)
    parts = []
    for item in order:
        phrase, spare = _phrase(item, dice, spare)
        parts.append(phrase)
    text = dice.pick(_OPENINGS) + _join(parts)
    if dice.chance(_P_PLACE):
        text += " " + PLACES[scene.background]
    elif dice.chance(0.5):
        labels = scene.labels
        text += (
            " indoors" if labels["indoor"] == "indoor" else " outdoors" + (" in nature" if labels["natural"] == "natural" else "")
        )
    return text


def _join(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return " and ".join(parts[:2]) + "".join(f" with {part}" for part in parts[2:])


def _phrase(item: SceneObject, dice: Dice, spare: int) -> tuple[str, int]:
    """One object in words, with as many of its attributes as there is room for."""
    labels = item.labels
    before, after = [], []
    if dice.chance(_P_SIZE):
        before.append(labels["size"])
    for name in ("expression", "age", "pose", "colour"):
        told = name in labels and not (name == "age" and item.concept == "child")
        if told and dice.chance(_P_ATTRIBUTE):
            before.append(labels[name])
    after += [words for name in ("hair", "glasses", "hat", "view") if name in labels for words in _after(name, labels[name], dice)]
    if dice.chance(_P_POSITION):
        after.append(POSITIONS[labels["position"]])
    kept = []
    for words in after:
        cost = len(words.split()) + 1
        if len(before) + cost <= spare:
            kept.append(words)
            spare -= cost
    spare -= len(before)
    noun = " ".join([*before, item.concept])
    return " ".join([with_article(noun), *_with(kept)]), spare


def _after(name: str, value: str, dice: Dice) -> list[str]:
    if not dice.chance(_P_ATTRIBUTE):
        return []
    if name == "hair":
        return [f"{value} hair"]
    if name == "view":
        return ["looking " + {"front": "ahead", "left": "left", "right": "right"}[value]] if dice.chance(0.6) else []
    if value == "no":
        return []
    return ["glasses" if name == "glasses" else "a hat"]


def _with(kept: list[str]) -> list[str]:
    things = [words for words in kept if words.split()[-1] in ("hair", "glasses", "hat")]
    rest = [words for words in kept if words not in things]
    return ([f"with {' and '.join(things)}"] if things else []) + rest


def with_article(noun: str) -> str:
    """The noun phrase with `a` or `an`, or without an article where it is plural."""
    if noun.split()[-1] in _PLURAL:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def concept_prompt(name: str) -> str:
    """Text for one concept, as used to find it by words."""
    return f"a photo of {with_article(name)}"


def background_prompt(name: str) -> str:
    """Text for one background."""
    return f"a photo {PLACES[name]}"


def attribute_prompts() -> dict[tuple[str, str], str]:
    """Text for every attribute value."""
    patterns = {
        "expression": "a {0} face",
        "age": "a face that is {0}",
        "hair": "a face with {0} hair",
        "pose": "a {0} person",
        "colour": "something {0}",
        "size": "something {0}",
    }
    prompts = {(name, value): pattern.format(value) for name, pattern in patterns.items() for value in ATTRIBUTES[name]}
    for name, thing in (("glasses", "glasses"), ("hat", "a hat")):
        prompts[name, "yes"] = f"a face with {thing}"
        prompts[name, "no"] = f"a face without {thing}"
    for value, towards in (("front", "ahead"), ("left", "left"), ("right", "right")):
        prompts["view", value] = f"a face looking {towards}"
    prompts |= {("position", value): f"something {words}" for value, words in POSITIONS.items()}
    prompts["indoor", "indoor"], prompts["indoor", "outdoor"] = "indoors", "outdoors"
    prompts["natural", "natural"], prompts["natural", "built"] = "in nature", "in a built place"
    return prompts


def _vocabulary() -> tuple[str, ...]:
    texts = [concept_prompt(concept.name) for concept in CONCEPTS]
    texts += [background_prompt(background.name) for background in BACKGROUNDS]
    texts += [*attribute_prompts().values(), *PLACES.values(), *POSITIONS.values(), *_OPENINGS]
    texts += ["a an and with a hat glasses hair looking ahead indoors outdoors in nature face faces text food animal vehicle tool"]
    return tuple(sorted({word for text in texts for word in text.split()}))


VOCABULARY: tuple[str, ...] = _vocabulary()
