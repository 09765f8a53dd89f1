"""The phantom's vocabulary file, written from the tables of its scenes: `python -m mine_core.description.phantom_words`.

Every concept, attribute value and background becomes a word, so that nothing the phantom can show lacks a name.
"""

from mine_core.artifacts import write_text
from mine_core.description.vocabulary import VOCABULARIES
from mine_core.subjects.phantom.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    CONCEPTS,
    GROUPS,
    attribute_prompts,
    background_prompt,
    concept_prompt,
)

APPEARANCE = "colour, size, position"
PLACES = "places"
# Which group an attribute tells of; the rest can be said of anything.
ATTRIBUTE_GROUP = {
    "expression": "faces",
    "glasses": "faces",
    "hat": "faces",
    "hair": "faces",
    "age": "faces",
    "view": "faces",
    "pose": "bodies",
    "indoor": PLACES,
    "natural": PLACES,
}
# What an attribute value is called where the value alone does not say it, or another attribute has it too.
SHOWN_AS = {
    "glasses": {"yes": "glasses", "no": "no glasses"},
    "hat": {"yes": "hat", "no": "no hat"},
    "hair": {value: f"{value} hair" for value in ATTRIBUTES["hair"]},
    "view": {"front": "looking ahead", "left": "looking left", "right": "looking right"},
    "position": {value: f"in the {value}" if value == "centre" else f"at the {value}" for value in ATTRIBUTES["position"]},
    "indoor": {"indoor": "indoors", "outdoor": "outdoors"},
    "natural": {"natural": "nature", "built": "built place"},
}
# Attributes whose values a whole scene has, and those that say where a thing is.
OF_SCENE, OF_PLACE = ("indoor", "natural"), ("position",)
PREAMBLE = "Everything the phantom's scenes can show. Written by python -m mine_core.description.phantom_words; do not edit."


def phantom_words() -> dict[str, dict[str, tuple[str, ...]]]:
    """Words of each group with the phrases to embed, in the order of the scenes' tables."""
    words: dict[str, dict[str, tuple[str, ...]]] = {group: {} for group in (*GROUPS, APPEARANCE)}
    for concept in CONCEPTS:
        prompt = concept_prompt(concept.name)
        words[concept.group][concept.name] = (prompt, prompt.removeprefix("a photo of "))
    for background in BACKGROUNDS:
        prompt = background_prompt(background.name)
        words[PLACES][background.name] = (prompt, prompt.removeprefix("a photo "))
    for (name, value), prompt in attribute_prompts().items():
        shown = SHOWN_AS.get(name, {}).get(value, value)
        words[ATTRIBUTE_GROUP.get(name, APPEARANCE)][shown] = (prompt,)
    return words


def phantom_alternatives() -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """Name, kind, groups of things and words of every attribute."""
    found: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = []
    for name, values in ATTRIBUTES.items():
        kind = "scene" if name in OF_SCENE else "place" if name in OF_PLACE else "thing"
        group = ATTRIBUTE_GROUP.get(name)
        of = (group,) if group and kind == "thing" else ()
        found.append((name, kind, of, tuple(SHOWN_AS.get(name, {}).get(value, value) for value in values)))
    return found


def quoted(phrases: tuple[str, ...]) -> str:
    """Phrases as the items of a TOML list."""
    return ", ".join(f'"{phrase}"' for phrase in phrases)


def phantom_vocabulary_toml() -> str:
    """Text of assets/vocabularies/phantom.toml."""
    lines = [f'about = "{PREAMBLE}"', 'templates = ["{}"]']
    for group, words in phantom_words().items():
        lines += ["", "[[group]]", f'name = "{group}"', "[group.words]"]
        lines += [f'"{word}" = [{quoted(phrases)}]' for word, phrases in words.items()]
    for name, kind, of, values in phantom_alternatives():
        lines += ["", "[[alternatives]]", f'name = "{name}"', f'kind = "{kind}"', f"of = [{quoted(of)}]", f"words = [{quoted(values)}]"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(VOCABULARIES / "phantom.toml", phantom_vocabulary_toml())
