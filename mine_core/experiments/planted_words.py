"""What a phantom's planted truth would be called: the words that a right description of each voxel holds."""

from dataclasses import dataclass

import numpy as np

from mine_core.description.phantom_words import SHOWN_AS
from mine_core.subjects.phantom.scenes import ATTRIBUTES, BACKGROUNDS, CONCEPTS, GROUPS
from mine_core.subjects.phantom.truth import PlantedTruth

DRIVING_SHARE = 0.5
SURROUNDINGS = {
    "indoors": [place.indoor for place in BACKGROUNDS],
    "outdoors": [not place.indoor for place in BACKGROUNDS],
    "nature": [not place.built for place in BACKGROUNDS],
    "built place": [place.built for place in BACKGROUNDS],
}


@dataclass(frozen=True)
class PlantedWords:
    """Right words, group, attribute word ("" for none) of one voxel, and the driver and company of a confounded one ("")."""

    words: frozenset[str]
    group: str
    attribute: str
    driver: str
    company: str


def planted_words(truth: PlantedTruth, voxel: int) -> PlantedWords:
    """Words of a voxel that is driven by concepts or surroundings.

    Right are the names of concepts and backgrounds that drive it at least half as much as the strongest, and the word for a
    kind of surroundings ('indoors') where exactly its backgrounds drive it.
    """
    concepts, places = truth.concept_weights[voxel], truth.background_weights[voxel]
    least = DRIVING_SHARE * max(float(concepts.max()), float(places.max()))
    words = {CONCEPTS[i].name for i in np.flatnonzero((concepts > 0) & (concepts >= least))}
    driving = (places > 0) & (places >= least)
    words |= {BACKGROUNDS[i].name for i in np.flatnonzero(driving)}
    words |= {name for name, inside in SURROUNDINGS.items() if driving.any() and (driving == np.array(inside)).all()}
    driver, beside, place = (int(values[voxel]) for values in (truth.driver, truth.company_concept, truth.company_background))
    company = CONCEPTS[beside].name if beside >= 0 else BACKGROUNDS[place].name if place >= 0 else ""
    return PlantedWords(
        frozenset(words), GROUPS[truth.group[voxel]], _attribute(truth, voxel), CONCEPTS[driver].name if driver >= 0 else "", company
    )


def _attribute(truth: PlantedTruth, voxel: int) -> str:
    attribute = int(truth.attribute[voxel])
    if attribute < 0:
        return ""
    name = list(ATTRIBUTES)[attribute]
    value = ATTRIBUTES[name][int(truth.attribute_value[voxel])]
    return SHOWN_AS.get(name, {}).get(value, value)
