"""Rendered scenes as training batches, and every phrase whose truth the scene graph settles.

The one module of the backbones that knows the phantom's scenes; training and quality read them through it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch.utils.data import DataLoader, Dataset

from mine_core.backbones.phantom_model import PhantomConfig
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.captions import PLACES, POSITIONS, with_article
from mine_core.subjects.phantom.scenes.concepts import DRAWN

STORED_SIZE = 192  # the size at which the phantom's stimuli are kept; a backbone sees them reduced by area
MOST_OBJECTS = 4
FACIAL = ("expression", "glasses", "hat", "hair", "age", "view")
VEHICLES = ("car", "bus", "bicycle", "boat")
TOOLS = ("hammer", "scissors")
N_COMPOSITIONS = 64
GROUPS = scenes.GROUPS
GROUP_OF_CONCEPT = tuple(GROUPS.index(concept.group) for concept in scenes.CONCEPTS)


@dataclass(frozen=True)
class Phrase:
    """A text, its family, and the concepts it can be true of (none for backgrounds)."""

    text: str
    family: str
    scope: frozenset[str] = field(default_factory=frozenset)


class PhraseBank:
    """Every phrase that the scene graph can settle, and which of them are true of an object or a background.

    Families: `concept` ("a photo of a dog", "a dog"), `group` ("an animal"), `place` (backgrounds, indoors
    ...), `facial` ("a face with glasses"), `attribute` ("something red", "a running person"),
    `composition` ("a red ball", "a dog on the left").
    """

    def __init__(self) -> None:
        self.concepts = tuple(concept.name for concept in scenes.CONCEPTS)
        self.groups = {concept.name: concept.group for concept in scenes.CONCEPTS}
        self.phrases: list[Phrase] = []
        self._index: dict[str, int] = {}
        self._drawn = _attribute_values()
        everything = frozenset(self.concepts)
        for concept in self.concepts:
            for text in _concept_texts(concept):
                self._add(text, "concept", everything)
            for text in _group_texts(concept, self.groups[concept]):
                self._add(text, "group", everything)
        for background in scenes.BACKGROUNDS:
            for text in _place_texts(background):
                self._add(text, "place", frozenset())
        for concept, attributes in self._drawn.items():
            for text, name in ((t, n) for n, values in attributes.items() for v in values for t in _attribute_texts(n, v)):
                family = "facial" if name in FACIAL else "attribute"
                self._add(text, family, frozenset(c for c, drawn in self._drawn.items() if name in drawn))
            for text in (t for n, values in attributes.items() for v in values for t in _compositions(concept, n, v)):
                self._add(text, "composition", frozenset((concept,)))
        self.texts = tuple(phrase.text for phrase in self.phrases)
        self.families = np.array([phrase.family for phrase in self.phrases])

    def _add(self, text: str, family: str, scope: frozenset[str]) -> None:
        if text not in self._index:
            self._index[text] = len(self.phrases)
            self.phrases.append(Phrase(text, family, scope))

    def index(self, text: str) -> int:
        """Position of a phrase."""
        return self._index[text]

    def true_of(self, item: scenes.SceneObject) -> list[int]:
        """Positions of all phrases that are true of an object."""
        texts = [*_concept_texts(item.concept), *_group_texts(item.concept, self.groups[item.concept])]
        for name, value in item.labels.items():
            texts += [*_attribute_texts(name, value), *_compositions(item.concept, name, value)]
        return [self._index[text] for text in texts]

    def true_in(self, background: str) -> list[int]:
        """Positions of all phrases that are true of a background."""
        found = next(place for place in scenes.BACKGROUNDS if place.name == background)
        return [self._index[text] for text in _place_texts(found)]

    def in_scope(self, concept: str) -> list[int]:
        """Positions of all phrases that could be true of an object of this concept."""
        return [index for index, phrase in enumerate(self.phrases) if concept in phrase.scope]

    def draw(self, truth: Bool[np.ndarray, "scene object phrase"], rng: np.random.Generator) -> Int[np.ndarray, " bank"]:
        """Positions of a step's phrases: one text per concept (first, in order), then the other families, then compositions."""
        concepts = [self._index[_concept_texts(name)[rng.integers(2)]] for name in self.concepts]
        fixed = np.flatnonzero(np.isin(self.families, ("group", "place", "facial", "attribute")))
        present = np.flatnonzero(truth.any(axis=(0, 1)) & (self.families == "composition"))
        compositions = rng.permutation(present)[:N_COMPOSITIONS]
        return np.concatenate([np.array(concepts), fixed, compositions])


def _attribute_values() -> dict[str, dict[str, tuple[str, ...]]]:
    drawn = DRAWN
    always = {name: scenes.ATTRIBUTES[name] for name in ("size", "position")}
    return {concept.name: {**drawn.get(concept.name, {}), **always} for concept in scenes.CONCEPTS}


def _concept_texts(concept: str) -> tuple[str, str]:
    return scenes.concept_prompt(concept), with_article(concept)


def _group_texts(concept: str, group: str) -> tuple[str, ...]:
    by_group = {"faces": ("a face", "faces"), "words": ("text",), "food": ("food",), "animals": ("an animal",)}
    if concept in VEHICLES:
        return ("a vehicle",)
    if concept in TOOLS:
        return ("a tool",)
    return by_group.get(group, ())


def _place_texts(background: scenes.Background) -> tuple[str, ...]:
    prompts = scenes.attribute_prompts()
    return (
        scenes.background_prompt(background.name),
        PLACES[background.name],
        prompts["indoor", "indoor" if background.indoor else "outdoor"],
        prompts["natural", "built" if background.built else "natural"],
    )


_PROMPTS = scenes.attribute_prompts()


def _attribute_texts(name: str, value: str) -> tuple[str, ...]:
    return (_PROMPTS[name, value],)


def _compositions(concept: str, name: str, value: str) -> tuple[str, ...]:
    thing = with_article(concept)
    if name in ("colour", "size", "pose", "expression", "age"):
        return (with_article(f"{value} {concept}"),)
    if name == "position":
        return (f"{thing} {POSITIONS[value]}",)
    if name == "hair":
        return (f"{thing} with {value} hair",)
    if name == "view":
        return (f"{thing} looking {'ahead' if value == 'front' else value}",)
    worn = "glasses" if name == "glasses" else "a hat"
    return (f"{thing} {'with' if value == 'yes' else 'without'} {worn}",)


@dataclass(frozen=True)
class Batch:
    """One step's scenes: images, one caption each, patch coverage per object, and the truth of the drawn phrases.

    `phrases` are positions in the bank, `phrase_ids` the same as text.

    `coverage[scene, object, patch]` is the share of a patch that the visible object fills; `truth` and `scope` say per
    object whether a phrase is true of it, or could be; `place[scene, phrase]` is the truth of phrases about backgrounds.
    """

    images: UInt8[torch.Tensor, "scene row col 3"]
    caption_ids: Int[torch.Tensor, "scene position"]
    phrases: Int[torch.Tensor, " phrase"]
    phrase_ids: Int[torch.Tensor, "phrase token"]
    families: tuple[str, ...]
    coverage: Float[torch.Tensor, "scene object patch"]
    truth: Bool[torch.Tensor, "scene object phrase"]
    scope: Bool[torch.Tensor, "scene object phrase"]
    place: Bool[torch.Tensor, "scene phrase"]


def place_of(position: str) -> str:
    """Words for a position, as captions use them."""
    return POSITIONS[position]


def patch_coverage(object_map: np.ndarray, n_objects: int, grid: int) -> Float[np.ndarray, "object patch"]:
    """Share of each patch that each of `n_objects` fills, objects beyond the scene's being empty."""
    cell = object_map.shape[0] // grid
    cells = object_map.reshape(grid, cell, grid, cell).transpose(0, 2, 1, 3).reshape(grid * grid, cell * cell)
    return np.stack([(cells == index).mean(axis=1) for index in range(n_objects)]).astype(np.float32)


def reduced(image: UInt8[np.ndarray, "row col 3"], size: int) -> UInt8[np.ndarray, "small_row small_col 3"]:
    """An image at the backbone's size, by area."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


class SceneBatches(Dataset):
    """Batch number -> Batch, a pure function of the number: training that resumes sees the scenes it would have seen."""

    def __init__(self, config: PhantomConfig, first_seed: int, batch_size: int) -> None:
        self.config = config
        self.first_seed = first_seed
        self.batch_size = batch_size
        self.bank = PhraseBank()
        self.tokenizer = config.tokenizer()
        self._scopes = {concept: self.bank.in_scope(concept) for concept in self.bank.concepts}

    def __getitem__(self, number: int) -> Batch:
        """Render batch `number`."""
        rng = np.random.default_rng([self.first_seed, number])
        size, n_phrases = self.batch_size, len(self.bank.phrases)
        images = np.empty((size, self.config.image_size, self.config.image_size, 3), np.uint8)
        coverage = np.zeros((size, MOST_OBJECTS, self.config.grid**2), np.float32)
        truth = np.zeros((size, MOST_OBJECTS, n_phrases), bool)
        scope = np.zeros_like(truth)
        place = np.zeros((size, n_phrases), bool)
        texts = []
        for row in range(size):
            scene = scenes.sample_scene(self.first_seed + number * size + row)
            rendered = scenes.render(scene, STORED_SIZE)
            images[row] = reduced(rendered.image, self.config.image_size)
            coverage[row] = patch_coverage(rendered.object_map, MOST_OBJECTS, self.config.grid)
            texts.append(scenes.captions(scene, 3)[rng.integers(3)])
            place[row, self.bank.true_in(scene.background)] = True
            for index, item in enumerate(scene.objects):
                truth[row, index, self.bank.true_of(item)] = True
                scope[row, index, self._scopes[item.concept]] = True
        drawn = self.bank.draw(truth, rng)
        phrases = [self.bank.texts[index] for index in drawn]
        return Batch(
            torch.from_numpy(images),
            self.tokenizer(texts),
            torch.from_numpy(drawn),
            _trimmed(self.tokenizer(phrases)),
            tuple(self.bank.families[drawn].tolist()),
            torch.from_numpy(coverage),
            *(torch.from_numpy(table[..., drawn]) for table in (truth, scope, place)),
        )


def _trimmed(ids: Int[torch.Tensor, "text token"]) -> Int[torch.Tensor, "text shorter"]:
    """Ids without the columns that are padding in every row."""
    return ids[:, : int((ids != 0).sum(dim=1).max())].clone()


def batches(dataset: SceneBatches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches `start` to `stop`, rendered by `workers` processes (0: in this one)."""
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_single_thread if workers else None,
        )
    )


def _single_thread(worker: int) -> None:  # noqa: ARG001 - the signature is torch's
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@dataclass(frozen=True)
class HeldOut:
    """Scenes that no backbone was trained on: reduced images, graphs, and object maps at the stored size."""

    images: UInt8[np.ndarray, "scene row col 3"]
    scenes: tuple[scenes.Scene, ...]
    object_maps: np.ndarray


def held_out(n_scenes: int, image_size: int, first_seed: int = 1_000_000) -> HeldOut:
    """Render scenes `first_seed` and following."""
    graphs = tuple(scenes.sample_scene(first_seed + index) for index in range(n_scenes))
    rendered = [scenes.render(graph, STORED_SIZE) for graph in graphs]
    return HeldOut(
        np.stack([reduced(item.image, image_size) for item in rendered]),
        graphs,
        np.stack([item.object_map for item in rendered]),
    )


def vocabulary() -> tuple[str, ...]:
    """Words of the scenes' captions and of every phrase."""
    return tuple(sorted({*scenes.VOCABULARY, *(word for text in PhraseBank().texts for word in text.split())}))
