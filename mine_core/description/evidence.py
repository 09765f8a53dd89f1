"""How surely each stimulus shows each word, and which of several alternatives the thing it shows has."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.description.decoding import patch_words
from mine_core.description.vocabulary import Alternatives, Vocabulary
from mine_core.errors import AlignmentError, ArtifactError, Cancelled
from mine_core.types import Features, IsCancelled, OnProgress

# Sharpness of the soft maximum over patches, and of the weights of the patches that show a word, per SD of a patch's score.
SHARPNESS = 2.0
# A word is present where its soft maximum lies this many SD above its mean over training stimuli; per SD, how sharp that is.
PRESENT_FROM, SLOPE = 1.5, 4.0
# Where in the image a word is seen is kept for this many rows and columns of cells.
CELLS = 3
BATCH, CLIP = 64, 20.0
ARRAYS = ("presence", "shown", "coverage")
UNKNOWN = -1


@dataclass(frozen=True)
class Evidence:
    """What a backbone sees in each stimulus, word by word.

    `presence[stimulus, word]` is 0 to 1; `shown[word, stimulus, set]` is the position within `sets[set].words` of the
    alternative that the patches showing the word have (-1: the word is itself one of the alternatives);
    `coverage[word, stimulus, cell]` is how much of each of 3 x 3 cells, row by row, shows it, in 255ths (0: an alternative, too). It
    is what one model sees, not what is there.
    """

    words: tuple[str, ...]
    sets: tuple[Alternatives, ...]
    presence: Float[np.ndarray, "stimulus word"]
    shown: Int[np.ndarray, "word stimulus set"]
    coverage: UInt8[np.ndarray, "word stimulus cell"]
    stimulus_ids: tuple[str, ...]


def contrasts(vocabulary: Vocabulary, entry: Alternatives) -> Float[np.ndarray, "value feature"]:
    """Directions that tell the words of one set apart: each word's embedding minus the mean over the set.

    What all of them share is the thing that has the attribute, which is no preference for either: without it, 'hat' and
    'no hat' are opposite directions.
    """
    texts = vocabulary.embedded()[vocabulary.positions(entry.words)].astype(np.float32)
    return texts - texts.mean(axis=0)


def find_evidence(
    features: Features,
    mean_patches: Float[np.ndarray, "patch feature"],
    vocabulary: Vocabulary,
    train: Int[np.ndarray, " train"],
    *,
    described: Int[np.ndarray, " word"] | None = None,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> Evidence:
    """Find how surely each stimulus shows each word.

    m[i, w] = log mean_p exp(2 s[i, p, w]) / 2,  s the scores of `patch_words`
    presence[i, w] = 1 / (1 + exp(-4 (z[i, w] - 1.5))),  z = m in SD over training stimuli
    coverage[w, i, k] = mean over the patches p of cell k of 1 / (1 + exp(-4 (s[i, p, w] - 1.5)))

    A soft maximum over patches finds a small thing that the mean over patches dilutes; the sigmoid makes a thing that is there
    count once, however large its score. Words of scenes are contrasts of the pooled embedding, from z = 0. Which alternative
    a thing has is read where the word is seen: the contrast of the mean over patches, weighted by softmax_p(2 s), in SD over
    training stimuli that show the word.

    Parameters
    ----------
    train : positions of training stimuli; they alone set means and SD.
    described : positions of the words whose things' alternatives are wanted; all by default. Each takes 2 bytes a stimulus
        and alternative of memory.

    Raises
    ------
    Cancelled : if `cancelled()` became True.
    AlignmentError : if there is no training stimulus.

    Notes
    -----
    No response enters. The level 1.5 suits words that a few to some thirty in a hundred stimuli show; it was chosen on a
    phantom (seed 0) by how well planted concepts are found.
    """
    if not len(train):
        raise AlignmentError("No training stimulus was given; means and SD are theirs.")
    passes = _Passes(features, np.asarray(mean_patches, np.float32), vocabulary, described, on_progress, cancelled)
    raw, things = passes.soft_maxima(), passes.things
    scenes = {entry.name: np.asarray(features.pooled, np.float32) @ contrasts(vocabulary, entry).T for entry in passes.scenes}
    level = np.full(len(vocabulary), PRESENT_FROM, np.float32)
    for entry in passes.scenes:
        places = vocabulary.positions(entry.words)
        raw[:, places], level[places] = scenes[entry.name], 0.0
    presence = _presence(raw, train, level)
    shown = np.full((len(vocabulary), len(features.stimulus_ids), len(vocabulary.alternatives)), UNKNOWN, np.int8)
    for position, entry in enumerate(vocabulary.alternatives):
        if entry.kind == "scene":
            values = scenes[entry.name]
            shown[things, :, position] = _likeliest(values[None], np.ones((1, len(train)), np.float32), train)[0]
    passes.fill(shown, presence, train)
    return Evidence(vocabulary.words, vocabulary.alternatives, presence, shown, passes.coverage(), features.stimulus_ids)


def _presence(
    raw: Float[np.ndarray, "stimulus word"], train: Int[np.ndarray, " train"], level: Float[np.ndarray, " word"]
) -> Float[np.ndarray, "stimulus word"]:
    mean, sd = raw[train].mean(axis=0), raw[train].std(axis=0)
    z = (raw - mean) / np.where(sd > 1e-6, sd, np.inf)
    return (1 / (1 + np.exp(-SLOPE * (z - level)))).astype(np.float16)


def _likeliest(
    values: Float[np.ndarray, "word stimulus value"], weights: Float[np.ndarray, "word train"], train: Int[np.ndarray, " train"]
) -> Int[np.ndarray, "word stimulus"]:
    """Alternative whose contrast is farthest above its weighted mean over training stimuli, in weighted SD."""
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    mean = np.einsum("wi,wiv->wv", share, values[:, train])
    sd = np.sqrt(np.maximum(np.einsum("wi,wiv->wv", share, values[:, train] ** 2) - mean**2, 0))
    return ((values - mean[:, None]) / np.maximum(sd, 1e-6)[:, None]).argmax(axis=2).astype(np.int8)


class _Passes:
    """The walk over all patches, batch by batch; lives for one call."""

    def __init__(
        self,
        features: Features,
        mean_patches: Float[np.ndarray, "patch feature"],
        vocabulary: Vocabulary,
        described: Int[np.ndarray, " word"] | None,
        on_progress: OnProgress | None,
        cancelled: IsCancelled | None,
    ) -> None:
        self._features, self._mean, self._vocabulary = features, mean_patches, vocabulary
        self._on_progress, self._cancelled = on_progress or (lambda *_: None), cancelled or (lambda: False)
        self._n = len(features.stimulus_ids)
        self._local: Float[np.ndarray, "word stimulus value"] | None = None
        self._covered: UInt8[np.ndarray, "word stimulus cell"] | None = None
        sets = vocabulary.alternatives
        self.scenes = [entry for entry in sets if entry.kind == "scene"]
        self.local_sets = [position for position, entry in enumerate(sets) if entry.kind != "scene"]
        inside = {word for entry in sets for word in entry.words}
        wanted = set(range(len(vocabulary)) if described is None else described.tolist())
        self.things = np.array([i for i, word in enumerate(vocabulary.words) if word not in inside and i in wanted], np.int64)

    def soft_maxima(self) -> Float[np.ndarray, "stimulus word"]:
        """Soft maximum over patches of every word's score; the contrasts where each thing is seen are kept for `fill`."""
        directions = self._directions()
        raw = np.empty((self._n, len(self._vocabulary)), np.float32)
        local = np.empty((len(self.things), self._n, directions.shape[0]), np.float16)
        pool, covered = cells_of(self._features.backbone.grid), np.zeros((len(self.things), self._n, CELLS**2), np.uint8)
        for start in range(0, self._n, BATCH):
            if self._cancelled():
                raise Cancelled(f"Stopped after {start} of {self._n} stimuli; start again to look at them all.")
            rows = slice(start, min(start + BATCH, self._n))
            patches = np.asarray(self._features.patches[rows], np.float32)
            scores = np.clip(patch_words(patches, self._mean, self._vocabulary), -CLIP, CLIP)
            weights = np.exp(SHARPNESS * scores)
            raw[rows] = np.log(weights.mean(axis=1)) / SHARPNESS
            share = np.einsum("kp,ipw->wik", pool, 1 / (1 + np.exp(-SLOPE * (scores[:, :, self.things] - PRESENT_FROM))), optimize=True)
            covered[:, rows] = np.rint(255 * share)
            if len(directions) and len(self.things):
                seen = weights[:, :, self.things]
                seen /= seen.sum(axis=1, keepdims=True)
                local[:, rows] = (seen.transpose(0, 2, 1) @ ((patches - self._mean) @ directions.T)).transpose(1, 0, 2)
            self._on_progress(rows.stop, self._n, "looking for every word in every image")
        self._local, self._covered = local, covered
        return raw

    def coverage(self) -> UInt8[np.ndarray, "word stimulus cell"]:
        """How much of each cell shows each word, after `soft_maxima`; 0 for words that were not looked at."""
        found = np.zeros((len(self._vocabulary), self._n, CELLS**2), np.uint8)
        if self._covered is not None:
            found[self.things] = self._covered
        return found

    def _directions(self) -> Float[np.ndarray, "value feature"]:
        found = [contrasts(self._vocabulary, self._vocabulary.alternatives[position]) for position in self.local_sets]
        return np.concatenate(found) if found else np.zeros((0, self._mean.shape[1]), np.float32)

    def fill(
        self,
        shown: Int[np.ndarray, "word stimulus set"],
        presence: Float[np.ndarray, "stimulus word"],
        train: Int[np.ndarray, " train"],
    ) -> None:
        """Write the likeliest alternative of every thing in every stimulus, word by word."""
        if self._local is None:
            return
        for row, word in enumerate(self.things):
            weights = presence[train, word].astype(np.float32)[None]
            start = 0
            for position in self.local_sets:
                width = len(self._vocabulary.alternatives[position].words)
                values = self._local[row : row + 1, :, start : start + width].astype(np.float32)
                shown[word, :, position] = _likeliest(values, weights, train)[0]
                start += width


def cells_of(grid: tuple[int, int]) -> Float[np.ndarray, "cell patch"]:
    """Weights that average the patches whose centre lies in each of 3 x 3 cells; 0 for a cell that holds none."""
    row, col = (np.floor((np.arange(n) + 0.5) * CELLS / n).astype(int) for n in grid)
    cell = (CELLS * row[:, None] + col[None]).ravel()
    inside = (cell == np.arange(CELLS**2)[:, None]).astype(np.float32)
    return inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)


def no_evidence(n_stimuli: int, stimulus_ids: tuple[str, ...]) -> Evidence:
    """Evidence of no word, for a backbone that reads none."""
    empty = np.zeros((n_stimuli, 0), np.float16)
    shown, coverage = np.zeros((0, n_stimuli, 0), np.int8), np.zeros((0, n_stimuli, CELLS**2), np.uint8)
    return Evidence((), (), empty, shown, coverage, stimulus_ids)


def save_evidence(evidence: Evidence, directory: Path) -> None:
    """Write as presence.npy, shown.npy, coverage.npy and evidence.json."""
    for name in ARRAYS:
        np.save(directory / f"{name}.npy", getattr(evidence, name), allow_pickle=False)
    texts = {"words": evidence.words, "stimulus_ids": evidence.stimulus_ids}
    (directory / "evidence.json").write_text(json.dumps(texts))


def open_evidence(directory: Path, vocabulary: Vocabulary) -> Evidence:
    """Read what `save_evidence` wrote, memory-mapped; raises ArtifactError if it is of another vocabulary."""
    texts = json.loads((directory / "evidence.json").read_text())
    presence, shown, coverage = (np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS)
    if tuple(texts["words"]) != vocabulary.words or presence.shape[1] != len(vocabulary):
        raise ArtifactError(f"Evidence in {directory.name} is of {presence.shape[1]} words, the vocabulary has {len(vocabulary)}.")
    return Evidence(vocabulary.words, vocabulary.alternatives, presence, shown, coverage, tuple(texts["stimulus_ids"]))
