"""Words of some patches of an image, and an image made anew from such words: no pixel of the described image goes into it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.counterfactual.editors import create_editor
from mine_core.counterfactual.insertion import blend_in, insertion_mask, oval_mask
from mine_core.description.decoding import patch_words
from mine_core.errors import EditError
from mine_core.instrument import Instrument
from mine_core.instrument.instrument import Keyed
from mine_core.instrument.things import exemplars_of, things_of

MOST_THINGS = 3
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
CANVAS_BLUR = 1 / 16  # of the image's shorter side: things in it become patches of colour
PAINTED = 0.4  # of the image's shorter side: what an editor may paint a thing into


@dataclass(frozen=True)
class Said:
    """A thing that a description names, and the third of the image that it is in, downwards and to the right from 0."""

    word: str
    row: int
    column: int

    @property
    def text(self) -> str:
        """In words, as a model that makes images from text is told."""
        middle = self.row == 1 and self.column == 1
        return f"{self.word} in the middle" if middle else f"{self.word} at the {ROWS[self.row]} {COLUMNS[self.column]}"


def describe_patches(instrument: Instrument, stimulus: int, chosen: Int[np.ndarray, " patch"]) -> tuple[Said, ...]:
    """Name the things that the backbone reads in some patches of a stimulus, most patches first, three at most.

    Each patch says the thing whose word scores highest there (see `patch_words`); a thing is where the middle of its patches is, to
    a third of the image. Adjectives and the like are not told, for an image is made of things.

    Raises
    ------
    EditError
        If the backbone has no words for things.
    """
    vocabulary, (rows, columns) = instrument.vocabulary, instrument.features.backbone.grid
    things = [word for words in things_of(vocabulary).values() for word in words] if len(vocabulary) else []
    if not things:
        raise EditError(f"Backbone '{instrument.features.backbone.name}' has no words for things; nothing can be described.")
    places = vocabulary.positions(things)
    scores = patch_words(np.asarray(instrument.features.patches[stimulus]), instrument.mean_patches, vocabulary)[:, places]
    best = scores.argmax(axis=1)
    found = []
    for thing in np.unique(best[chosen]):
        own = chosen[best[chosen] == thing]
        row, column = ((place.mean() + 0.5) / n for place, n in zip(np.divmod(own, columns), (rows, columns), strict=True))
        found.append((-len(own), -float(scores[own, thing].mean()), Said(things[thing], int(3 * row), int(3 * column))))
    return tuple(said for *_, said in sorted(found, key=lambda entry: entry[:2])[:MOST_THINGS])


@runtime_checkable
class Maker(Protocol):
    """Makes images from descriptions."""

    @property
    def name(self) -> str:
        """What it is, as results say."""

    def make(self, instrument: Instrument, said: tuple[Said, ...]) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        """Return the image, and how many of the things are in it."""


@dataclass(frozen=True)
class CutOuts:
    """Lays cut-outs of the words, each from the training image that shows it best, on a neutral ground, in their own size."""

    name: str = "cut-outs of training images on a blurred one"

    def make(self, instrument: Instrument, said: tuple[Said, ...]) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        """Lay out the things, the first on top; a word without a clear cut-out, or too thin a one, is left out."""
        image, drawn = neutral_ground(instrument).copy(), 0
        height, width = image.shape[:2]
        for item in reversed(said):
            try:
                exemplar = exemplars_of(instrument, item.word)[0]
                size = min(1.0, max(exemplar.cutout.shape) / min(height, width))
                mask = insertion_mask(exemplar, height, width, x=(item.column + 0.5) / 3, y=(item.row + 0.5) / 3, size=size)
                image, drawn = blend_in(image, exemplar, mask), drawn + 1
            except EditError:
                continue
        return image, drawn


@dataclass(frozen=True)
class Painted:
    """Has a generative editor paint each thing, by its word, into an oval on the same neutral ground."""

    preset: str

    @property
    def name(self) -> str:
        """What it is, as results say."""
        return f"editor '{self.preset}' on a blurred training image"

    def make(self, instrument: Instrument, said: tuple[Said, ...]) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        """Paint the things one after the other, the first last; a word that the editor does not know is left out."""
        image, drawn = neutral_ground(instrument).copy(), 0
        height, width = image.shape[:2]
        editor = create_editor("diffusion", preset=self.preset)
        for item in reversed(said):
            mask = oval_mask(height, width, x=(item.column + 0.5) / 3, y=(item.row + 0.5) / 3, size=PAINTED)
            try:
                image, drawn = np.array(editor.edit(image, mask, f"insert {item.word}", seed=0).edited), drawn + 1
            except EditError:
                continue
        return image, drawn


def maker_of(editor: str) -> Maker:
    """The maker that an editor's name asks for; cut-outs for none."""
    return Painted(editor) if editor else CutOuts()


def neutral_ground(instrument: Instrument) -> UInt8[np.ndarray, "height width 3"]:
    """The training image whose embedding is nearest to the mean of all, blurred until no thing is left in it. Read-only."""
    return _ground(Keyed.of(instrument))


@lru_cache(maxsize=3)
def _ground(keyed: Keyed) -> UInt8[np.ndarray, "height width 3"]:
    import cv2

    instrument = keyed.instrument
    train = instrument.subject.splits.train
    apart: Float[np.ndarray, " train"] = np.array(
        [np.linalg.norm(np.asarray(instrument.features.pooled[i], np.float64) - instrument.mean_pooled) for i in train]
    )
    image = np.asarray(instrument.subject.stimuli.images[train[int(np.argmin(apart))]])
    ground = cv2.GaussianBlur(image, (0, 0), CANVAS_BLUR * min(image.shape[:2]))
    ground.flags.writeable = False
    return ground
