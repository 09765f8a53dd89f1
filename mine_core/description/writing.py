"""From scored words to one clean sentence and a few features: always the same for the same words, and nothing added."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mine_core.description.vocabulary import USER_GROUP
from mine_core.types import AttributeScore, Company

MOST_TOLD, MOST_FEATURES, LEAST_FEATURES = 6, 10, 3
# So many phrases of one group, and nothing else, are told as the group.
A_GROUP = 3


@dataclass(frozen=True)
class Written:
    """One sentence and 3 to 10 features, the strongest first; fewer features where fewer were earned."""

    text: str
    features: tuple[str, ...]


def write(
    phrases: Sequence[str],
    attributes: Sequence[AttributeScore],
    company: Sequence[Company],
    group_of: Mapping[str, str],
) -> Written:
    """Write what a voxel wants from its scored words.

    Parameters
    ----------
    phrases : words that stand, the strongest first.
    attributes : alternatives that stand within them.
    company : words that only keep the phrases company; told as such where fewer than three features were earned.
    group_of : group of each word of the vocabulary; a user's own words make no group.

    Returns
    -------
    Nothing at all where no phrase stands.
    """
    if not phrases:
        return Written("", ())
    told = list(phrases[:MOST_TOLD])
    groups = Counter("" if group_of.get(word) == USER_GROUP else group_of.get(word, "") for word in phrases)
    group, count = groups.most_common(1)[0]
    named = f"{group}: " if group and count == len(phrases) >= A_GROUP else ""
    text = f"Images that show {named}{listed(told)}"
    if attributes:
        text += ", above all where " + " and ".join(f"{entry.attribute} is '{entry.word}'" for entry in attributes)
    features = [*phrases, *(f"{entry.attribute}: {entry.word}" for entry in attributes)]
    if named:
        features.insert(0, group)
    for entry in company:
        if len(features) >= LEAST_FEATURES:
            break
        features.append(f"{entry.word} (only beside {entry.phrase})")
    if len(features) < LEAST_FEATURES and group and group not in features:
        features.append(f"of the group {group}")
    return Written(f"{text}.", tuple(features[:MOST_FEATURES]))


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
