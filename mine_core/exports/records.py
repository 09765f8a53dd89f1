"""Maps with what has to be said of them when they leave the instrument: what they are, their null, what they were made from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from mine_core.artifacts import hash_array, hash_text
from mine_core.description.search import TextSearch
from mine_core.errors import ConfigError, SubjectError
from mine_core.exports.maps import CortexMap, cortex_map, preferred_group, response_map, signed_map, text_map
from mine_core.instrument import Instrument
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.profiles import LARGEST_Q, LEAST_R

SCORES = ("accuracy", "normalised", "ceiling", "q")
"""Maps that every fitted instrument has; `normalised` and `ceiling` where responses were repeated."""
PREDICTED = "A prediction of an encoding model, not a measurement of a brain."
AGREEMENT = "How well an encoding model predicts measured responses to images that it was not fit on."
WITHHELD = f"not predicted above chance (r < {LEAST_R:g} or q > {LARGEST_Q:g})"
NOTHING = "no value above its null"
UNKNOWN = "unknown"
_SHUFFLED = "held-out responses shuffled over images, {n:,} times; q by Benjamini and Yekutieli over voxels"


@dataclass(frozen=True)
class MapRecord:
    """A map and what is said of it: a name for files, what it is, its null, whether it is predicted, and what it was made from.

    `withheld[voxel]` is the reason why a voxel has no value, or empty; `n_images` is over how many images a value is taken, and
    `n_permutations` how many shuffles its null has, None where it is not of shuffles.
    """

    name: str
    shown: CortexMap
    definition: str
    null: str
    nature: str
    withheld: tuple[str, ...]
    n_images: int
    n_permutations: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Float32[np.ndarray, " voxel"]:
        """One number per voxel as it is written, NaN where it is withheld."""
        return np.asarray(self.shown.values, np.float32)


def offered_scores(instrument: Instrument) -> tuple[str, ...]:
    """Names of the maps of accuracy that this subject has."""
    unknown = np.isnan(instrument.score.noise_ceiling).all()
    return tuple(name for name in SCORES if not (unknown and name in ("normalised", "ceiling")))


def score_record(instrument: Instrument, name: str) -> MapRecord:
    """One of the maps of accuracy: `accuracy`, `normalised`, `ceiling` or `q`, with every voxel's number; none is withheld.

    Raises ConfigError for another name, or for a noise ceiling where responses were not repeated.
    """
    if name not in offered_scores(instrument):
        raise ConfigError(f"There is no map '{name}' of this subject; there are {', '.join(offered_scores(instrument))}.")
    score = instrument.score
    shuffled = _SHUFFLED.format(n=score.n_permutations)
    if name == "q":
        caption = f"False discovery q of held-out accuracy; {len(score.q):,} voxels, {score.n_test} held-out images."
        shown = CortexMap("q of accuracy", score.q, 0.0, 1.0, False, "q", caption)
    else:
        shown = cortex_map(instrument, name, -1)
    said = {
        "accuracy": ("Pearson r of predicted and measured responses over held-out images", shuffled),
        "normalised": ("held-out R2 over the noise ceiling, where the ceiling is at least 0.1", f"0; of R2: {shuffled}"),
        "ceiling": ("share of the variance of held-out responses that repeats could explain", "0, a voxel without signal"),
        "q": ("smallest false discovery rate at which a voxel counts as predicted", f"q is the null's: {shuffled}"),
    }[name]
    return MapRecord(name, shown, *said, AGREEMENT, _unknown(shown), score.n_test, score.n_permutations)


def group_record(instrument: Instrument) -> MapRecord:
    """Group of each voxel's best word; raises ConfigError for a backbone without words."""
    if not instrument.features.backbone.has_words:
        raise ConfigError(f"Backbone '{instrument.features.backbone.name}' has no words, so there is no map 'group'.")
    shown = preferred_group(instrument)
    definition = "group of the vocabulary's word whose presence correlates best with held-out responses"
    null = "the word's correlation with shuffled responses (q <= 0.05), and contrast alone"
    n_images, n_shuffles = instrument.words.n_held_out, instrument.words.n_permutations
    return MapRecord("group", shown, definition, null, AGREEMENT, _withheld(instrument, shown), n_images, n_shuffles)


def view_record(instrument: Instrument, name: str, stimulus: int) -> MapRecord:
    """The map that a page shows under a name: one of accuracy, `group`, or `image` of a stimulus."""
    if name == "group":
        return group_record(instrument)
    return image_record(instrument, stimulus) if name == "image" else score_record(instrument, name)


def search_record(instrument: Instrument, found: TextSearch) -> MapRecord:
    """Correlation of a text with measured responses, where it is beyond chance."""
    shown = text_map(instrument, found)
    definition = "Pearson r of how much held-out images show the texts, as the backbone sees it, with measured responses"
    by_chance = f"{np.mean(found.shuffled_calls):.1f} voxels on average"
    null = f"one-sided t test over held-out images, q <= 0.05 over voxels; by shuffled responses: {by_chance}"
    about = {"shows": list(found.query.wanted), "but_not": list(found.query.unwanted), "shuffled_calls": list(found.shuffled_calls)}
    name = file_label("search", found.query.title)
    withheld = _withheld(instrument, shown)
    return MapRecord(name, shown, definition, null, AGREEMENT, withheld, found.n_held_out, about=about)


def image_record(instrument: Instrument, stimulus: int) -> MapRecord:
    """Predicted response to one stimulus; raises SubjectError if there is no such stimulus."""
    n_stimuli = len(instrument.subject.stimuli)
    if not 0 <= stimulus < n_stimuli:
        raise SubjectError(f"Image {stimulus} was asked for; this subject has images 0 to {n_stimuli - 1}.")
    shown = response_map(instrument, instrument.features.pooled[stimulus], f"image {stimulus}")
    definition = "predicted response to one image, less that to the average training image, in SD of each voxel's predictions"
    about = {"stimulus": stimulus, "stimulus_id": instrument.subject.stimuli.ids[stimulus]}
    null = "0, the average training image"
    return MapRecord(f"image{stimulus}", shown, definition, null, PREDICTED, _withheld(instrument, shown), 1, about=about)


def shift_record(instrument: Instrument, trial: Trial, request: EditRequest) -> MapRecord:
    """Predicted shift of every reliable voxel by an edit."""
    shift = trial.shift
    shown = signed_map(instrument, shift.shift, "Predicted shift", f"Predicted shift of this edit ({trial.edit.instruction})")
    definition = "predicted response after the edit less that before it, in SD of each voxel's predictions over training images"
    null = f"{len(shift.control_names)} matched control edits of the same image; ranks and shifts are in the edit's own export"
    about = {
        "instruction": trial.edit.instruction,
        "voxel": request.voxel,
        "stimulus": request.stimulus,
        "stimulus_id": instrument.subject.stimuli.ids[request.stimulus],
        "editor": trial.edit.editor,
        "edit_seed": trial.edit.seed,
        "guided_by": shift.guided_by,
    }
    return MapRecord(
        f"shift{edit_label(request, trial)}", shown, definition, null, PREDICTED, _withheld(instrument, shown), 1, about=about
    )


def edit_label(request: EditRequest, trial: Trial) -> str:
    """A name of letters and digits for an edit, with a hash of the edited image."""
    return f"{request.kind}v{request.voxel}i{request.stimulus}x{hash_array(trial.edit.edited)[:6]}"


def file_label(kind: str, text: str) -> str:
    """A name of letters and digits alone, as BIDS wants it: the kind, the text's own letters, and a hash that tells texts apart."""
    return f"{kind}{re.sub(r'[^A-Za-z0-9]', '', text.title())[:24]}x{hash_text(text)[:6]}"


def _unknown(shown: CortexMap) -> tuple[str, ...]:
    return tuple("" if finite else UNKNOWN for finite in np.isfinite(np.asarray(shown.values, np.float64)))


def _withheld(instrument: Instrument, shown: CortexMap) -> tuple[str, ...]:
    reliable: Bool[np.ndarray, " voxel"] = instrument.reliable
    finite = np.isfinite(np.asarray(shown.values, np.float64))
    return tuple("" if f else (NOTHING if r else WITHHELD) for f, r in zip(finite, reliable, strict=True))
