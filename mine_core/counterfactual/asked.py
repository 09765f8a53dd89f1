"""What can be asked of a thing that is painted: questions, their answers, and which of them a prompt tells."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.concepts import DRAWN

FACES = tuple(concept for concept, drawn in DRAWN.items() if "expression" in drawn)
GROUP_NOUNS = {"faces": "face", "animals": "animal", "food": "food"}
DRAWN_ATTRIBUTES = ("colour", "expression", "glasses", "hat", "hair", "age", "view", "pose")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "concept": tuple(concept.name for concept in scenes.CONCEPTS),
    **{name: scenes.ATTRIBUTES[name] for name in DRAWN_ATTRIBUTES},
}


def answers_of(items: Sequence[scenes.SceneObject]) -> dict[str, Int[np.ndarray, " item"]]:
    """True answers per question; -1 where a question does not apply."""
    told = [{"concept": item.concept, **dict(item.attributes)} for item in items]
    return {name: np.array([values.index(each[name]) if name in each else -1 for each in told]) for name, values in QUESTIONS.items()}


def answers_told(items: Sequence[scenes.SceneObject | None], prompts: Sequence[str]) -> dict[str, Int[np.ndarray, " item"]]:
    """True answers per question, -1 where the prompt does not say them."""
    shown = [item for item in items if item is not None]
    known = {name: iter(values) for name, values in answers_of(shown).items()}
    found = {name: np.full(len(items), -1) for name in QUESTIONS}
    for row, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
        if item is None:
            continue
        for name, values in known.items():
            answer = next(values)
            if answer >= 0 and _told(name, QUESTIONS[name][answer], prompt):
                found[name][row] = answer
    return found


def _told(question: str, answer: str, prompt: str) -> bool:
    thing = {"glasses": "glasses", "hat": "a hat"}.get(question)
    if thing:
        return f"without {thing}" in prompt if answer == "no" else thing in prompt and f"without {thing}" not in prompt
    if question == "view":
        return f"looking {'ahead' if answer == 'front' else answer}" in prompt
    return f" {answer} hair" in prompt if question == "hair" else answer in prompt.split()
