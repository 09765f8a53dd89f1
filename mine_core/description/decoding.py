"""Words of patches, of images and of voxels, from the joint space of images and text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.attribution.decomposition import strongest_patches
from mine_core.description.scoring import held_out_scores, passing, standardised
from mine_core.description.vocabulary import Vocabulary
from mine_core.errors import AlignmentError, ArtifactError, EncodingError
from mine_core.types import Description, EncodingModel, Features, Responses

N_CANDIDATES = 10
# Held-out stimuli that a correlation of words with responses needs.
LEAST_HELD_OUT = 20
# A passing word is a phrase of its own if its correlation with the prediction, the phrases before it held constant, is this large.
ADDS = 0.15
# Words of a patch that count towards an image's table.
WORDS_A_PATCH = 3


@dataclass(frozen=True)
class WordRow:
    """One word of an image: its mean score in SD of training patches, and in how many attributed patches it is prominent."""

    rank: int
    word: str
    score: float
    count: int


def patch_words(
    patches: Float[np.ndarray, "*image patch feature"],
    mean_patches: Float[np.ndarray, "patch feature"],
    vocabulary: Vocabulary,
) -> Float[np.ndarray, "*image patch word"]:
    """Score every word at every patch, with what is usual there taken away.

    score[p, w] = (patches[p] - mean_patches[p]) @ t_w / patch_sd[w]

    Subtracting the average patch removes what a word scores everywhere, dividing by its SD keeps words that are about
    everything from winning: the prior that makes decoded words look alike. In SD of the word over training patches.

    Raises BackboneError if the vocabulary is not embedded and calibrated.

    Notes
    -----
    What the patch's part of the embedding says, which may hold what other patches told it; not what a person would see.

    References
    ----------
    Gandelsman, Efros, Steinhardt (2024), arXiv:2310.05916; prior: Hernandez et al. (2022), arXiv:2201.11114.
    """
    scale = vocabulary.calibrated().astype(np.float32)
    beyond = np.asarray(patches, np.float32) - np.asarray(mean_patches, np.float32)
    return beyond @ vocabulary.embedded().T / scale


def image_words(
    features: Features,
    stimulus: int,
    values: Float[np.ndarray, "row col"],
    mean_patches: Float[np.ndarray, "patch feature"],
    vocabulary: Vocabulary,
    k: int = 10,
) -> tuple[WordRow, ...]:
    """Table of the `k` words of the patches that drive one voxel in one image: rank, word, mean score, count.

    Patches are the strongest that carry half of the positive attribution; the mean is weighted by attribution; the count
    is of patches among whose three best words this one is. Empty where nothing raises the prediction.
    """
    scores, weights = _driving_words(features, np.array([stimulus]), values[None], mean_patches, vocabulary)
    if not weights.any():
        return ()
    mean = weights[0] @ scores[0]
    prominent = np.argsort(-scores[0][weights[0] > 0], axis=1, kind="stable")[:, :WORDS_A_PATCH]
    count = np.bincount(prominent.ravel(), minlength=len(vocabulary))
    ranked = np.argsort(-mean, kind="stable")[:k]
    return tuple(WordRow(i + 1, vocabulary.words[w], float(mean[w]), int(count[w])) for i, w in enumerate(ranked))


def attributed_words(
    features: Features,
    mean_patches: Float[np.ndarray, "patch feature"],
    stimuli: Int[np.ndarray, " image"],
    values: Float[np.ndarray, "image row col"],
    vocabulary: Vocabulary,
    k: int = 3,
) -> tuple[tuple[str, ...], ...]:
    """Return the `k` best words of the patches that drive one voxel, for each of several images, quickly."""
    scores, weights = _driving_words(features, stimuli, values, mean_patches, vocabulary)
    means = np.einsum("ip,ipw->iw", weights, scores, optimize=True)
    best = np.argsort(-means, axis=1, kind="stable")[:, :k]
    return tuple(tuple(vocabulary.words[w] for w in row) if weight.any() else () for row, weight in zip(best, weights, strict=True))


def _driving_words(
    features: Features,
    stimuli: Int[np.ndarray, " image"],
    values: Float[np.ndarray, "image row col"],
    mean_patches: Float[np.ndarray, "patch feature"],
    vocabulary: Vocabulary,
) -> tuple[Float[np.ndarray, "image patch word"], Float[np.ndarray, "image patch"]]:
    """Words of every patch, and weights that sum to 1 over the patches that drive the voxel (0 if none does)."""
    scores = patch_words(features.patches[stimuli], mean_patches, vocabulary)
    weights = np.stack([np.where(strongest_patches(image), image, 0.0).ravel() for image in values]).astype(np.float32)
    total = weights.sum(axis=1, keepdims=True)
    return scores, weights / np.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class VoxelWords:
    """Words of every voxel: chosen on training stimuli, scored on held-out ones.

    `chosen_by[voxel, candidate]` is the training score that chose `candidates[voxel, candidate]`, in falling order;
    `scores` are correlations with measured held-out responses, `p` is corrected over a voxel's candidates, `q[voxel]` is
    its best word's FDR over voxels; `passes` says which words stand. `likeness[word, word]` is the correlation of words
    over training stimuli; of the words of one of the `alternatives` at most one is told of a voxel.
    """

    words: tuple[str, ...]
    groups: tuple[str, ...]
    candidates: Int[np.ndarray, "voxel candidate"]
    chosen_by: Float[np.ndarray, "voxel candidate"]
    scores: Float[np.ndarray, "voxel candidate"]
    p: Float[np.ndarray, "voxel candidate"]
    passes: Bool[np.ndarray, "voxel candidate"]
    q: Float[np.ndarray, " voxel"]
    likeness: Float[np.ndarray, "word word"]
    n_held_out: int
    n_permutations: int
    alternatives: tuple[tuple[str, ...], ...] = ()

    def description(self, voxel: int) -> Description:
        """Return the voxel's candidate words, best first, and the phrases: words that pass and say something of their own."""
        order = np.argsort(-self.scores[voxel], kind="stable")
        return Description(
            phrases=tuple(self.words[w] for w in self.standing(voxel)),
            words=tuple(self.words[w] for w in self.candidates[voxel, order]),
            scores=self.scores[voxel, order],
            p=self.p[voxel, order],
            held_out=True,
        )

    def standing(self, voxel: int) -> list[int]:
        """Words that pass, in the order they were chosen, without those that the ones before them account for.

        A word is left out when its partial correlation with the predicted response on training stimuli, the words before
        it held constant, is below 0.15, and when another of its set of alternatives stands: of 'hat' and 'no hat' at most one.
        """
        kept: list[int] = []
        rivals = self._rivals()
        by = dict(zip(self.candidates[voxel].tolist(), self.chosen_by[voxel].tolist(), strict=True))
        for word in self.candidates[voxel][self.passes[voxel]].tolist():
            if rivals.get(word, set()) & set(kept):
                continue
            if not kept or self._partial(word, kept, by) >= ADDS:
                kept.append(word)
        return kept

    def _rivals(self) -> dict[int, set[int]]:
        """Words that each word excludes."""
        places = {word: place for place, word in enumerate(self.words)}
        sets = [{places[word] for word in members if word in places} for members in self.alternatives]
        return {word: members - {word} for members in sets for word in members}

    def _partial(self, word: int, given: list[int], by: dict[int, float]) -> float:
        """Correlation of a word with the prediction, with other words held constant, from pairwise correlations."""
        inner = self.likeness[np.ix_(given, given)].astype(np.float64)
        own, target = self.likeness[given, word].astype(np.float64), np.array([by[other] for other in given])
        # least squares, since two words may always come together
        own_fit, target_fit = np.linalg.lstsq(inner, np.stack([own, target], axis=1), rcond=1e-6)[0].T
        left = max(1 - own @ own_fit, 0.0), max(1 - target @ target_fit, 0.0)
        return (by[word] - own @ target_fit) / np.sqrt(left[0] * left[1]) if min(left) > 1e-6 else 0.0

    def preferred_group(self, groups: Sequence[str]) -> Int[np.ndarray, " voxel"]:
        """Position in `groups` of the group of each voxel's best held-out word, -1 where no word passes."""
        if not self.words:
            return np.full(len(self.passes), -1)
        best = np.where(self.passes, self.scores, -np.inf).argmax(axis=1)
        word = np.take_along_axis(self.candidates, best[:, None], axis=1)[:, 0]
        place = np.array([groups.index(group) for group in self.groups])
        return np.where(self.passes.any(axis=1), place[word], -1)


def no_words(n_voxels: int, n_held_out: int) -> VoxelWords:
    """Words of voxels where none can be scored, for want of words or of held-out stimuli: no candidate passes, q = 1."""
    none = np.zeros((n_voxels, 0), np.float32)
    return VoxelWords(
        words=(),
        groups=(),
        candidates=none.astype(np.int32),
        chosen_by=none,
        scores=none,
        p=none,
        passes=none.astype(bool),
        q=np.ones(n_voxels, np.float32),
        likeness=np.zeros((0, 0), np.float32),
        n_held_out=n_held_out,
        n_permutations=0,
    )


def voxel_words(
    pooled_train: Float[np.ndarray, "train feature"],
    coef: Float[np.ndarray, "feature voxel"],
    vocabulary: Vocabulary,
) -> Float[np.ndarray, "voxel word"]:
    """Score every word for every voxel by the forward pattern of its weights, on training stimuli.

    pattern[v] = Cov(pooled) @ coef[:, v]
    score[v, w] = t_w @ pattern[v] / (SD of pooled @ t_w * SD of pooled @ coef[:, v])

    The weights of a linear model also cancel what features share and are no picture of what a voxel wants; the pattern
    says what goes with its predicted response. Dividing by the word's own SD takes away the prior of words that point
    along what varies most in all images. It equals the correlation of word score and prediction.

    Parameters
    ----------
    pooled_train : embeddings of the stimuli that the model was fit on.

    Returns
    -------
    Scores, -1 to 1; 0 for a voxel whose prediction does not vary.

    References
    ----------
    Haufe et al. (2014), 10.1016/j.neuroimage.2013.10.067.
    """
    centred = np.asarray(pooled_train, np.float32) - np.mean(pooled_train, axis=0, dtype=np.float64).astype(np.float32)
    covariance = centred.T @ centred / len(centred)
    texts, weights = vocabulary.embedded().astype(np.float32), np.asarray(coef, np.float32)
    pattern = covariance @ weights
    word_sd = np.sqrt(np.maximum(np.einsum("wf,wf->w", texts @ covariance, texts), 0.0))
    voxel_sd = np.sqrt(np.maximum(np.einsum("fv,fv->v", pattern, weights), 0.0))
    scale = np.outer(voxel_sd, word_sd)
    return (pattern.T @ texts.T) / np.where(scale > 0, scale, np.inf)


def describe_voxels(
    features: Features,
    responses: Responses,
    model: EncodingModel,
    vocabulary: Vocabulary,
    *,
    train: Int[np.ndarray, " train"],
    held_out: Int[np.ndarray, " held_out"],
    rng: np.random.Generator,
    n_permutations: int = 2000,
    n_candidates: int = N_CANDIDATES,
    level: float = 0.05,
) -> VoxelWords:
    """Choose words for every voxel on training stimuli and score them on measured held-out responses.

    The candidates are the words with the highest `voxel_words`; the score is the correlation over held-out stimuli of the
    word's similarity to the image, pooled @ t_w, with the measured response; the null shuffles the responses over stimuli.

    Parameters
    ----------
    train, held_out : positions of stimuli, disjoint.
    level : FDR over voxels; within a voxel, the chance of any wrong word.

    Raises
    ------
    AlignmentError : if features and responses are not of the same stimuli in the same order, or the splits overlap.
    EncodingError : if fewer than 20 stimuli are held out, or a response is not finite.

    Notes
    -----
    A word that passes goes with the response on images that did not choose it. It may do so through its usual company:
    see the caveats of a profile, and the counterfactual test.
    """
    _require_aligned(features, responses, train, held_out)
    pooled = np.asarray(features.pooled, np.float32)
    train_scores = voxel_words(pooled[train], model.coef, vocabulary)
    n_kept = min(n_candidates, len(vocabulary))
    candidates = np.argsort(-train_scores, axis=1, kind="stable")[:, :n_kept]
    texts = vocabulary.embedded().T
    scores, p = held_out_scores(
        pooled[held_out] @ texts,
        np.asarray(responses.values[held_out], np.float32),
        candidates,
        n_permutations=n_permutations,
        rng=rng,
    )
    passes, q = passing(p, level)
    similarity = standardised(pooled[train] @ texts)
    return VoxelWords(
        words=vocabulary.words,
        groups=vocabulary.groups,
        candidates=candidates.astype(np.int32),
        chosen_by=np.take_along_axis(train_scores, candidates, axis=1),
        scores=scores,
        p=p.astype(np.float32),
        passes=passes,
        q=q.astype(np.float32),
        likeness=similarity.T @ similarity,
        n_held_out=len(held_out),
        n_permutations=n_permutations,
        alternatives=tuple(entry.words for entry in vocabulary.alternatives),
    )


def _require_aligned(features: Features, responses: Responses, train: np.ndarray, held_out: np.ndarray) -> None:
    if features.stimulus_ids != responses.stimulus_ids:
        n_features, n_responses = len(features.stimulus_ids), len(responses.stimulus_ids)
        raise AlignmentError(
            f"Features are of {n_features} stimuli, responses of {n_responses}, and their ids differ; extract the features of "
            "this subject's stimuli."
        )
    shared = np.intersect1d(train, held_out).size
    if shared:
        raise AlignmentError(
            f"{shared} stimuli are both in training and held out; a word's score needs stimuli that did not choose it."
        )
    if len(held_out) < LEAST_HELD_OUT:
        raise EncodingError(f"{len(held_out)} stimuli are held out; scoring words needs at least {LEAST_HELD_OUT}.")


ARRAYS = ("candidates", "chosen_by", "scores", "p", "passes", "q", "likeness")


def save_voxel_words(words: VoxelWords, directory: Path) -> None:
    """Write as one npy file per array and voxel_words.json."""
    for name in ARRAYS:
        np.save(directory / f"{name}.npy", getattr(words, name), allow_pickle=False)
    texts = {name: getattr(words, name) for name in ("words", "groups", "n_held_out", "n_permutations", "alternatives")}
    (directory / "voxel_words.json").write_text(json.dumps(texts))


def open_voxel_words(directory: Path) -> VoxelWords:
    """Read what `save_voxel_words` wrote, memory-mapped and read-only; raises ArtifactError if it does not fit together."""
    texts = json.loads((directory / "voxel_words.json").read_text())
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    n_words, shape = len(texts["words"]), arrays["candidates"].shape
    if arrays["likeness"].shape != (n_words, n_words) or any(arrays[name].shape != shape for name in ARRAYS[1:5]):
        raise ArtifactError(f"Voxel words in {directory.name} do not fit together ({n_words} words); delete it and build again.")
    return VoxelWords(
        words=tuple(texts["words"]),
        groups=tuple(texts["groups"]),
        n_held_out=texts["n_held_out"],
        n_permutations=texts["n_permutations"],
        alternatives=tuple(tuple(members) for members in texts["alternatives"]),
        **arrays,
    )
