"""Score words on held-out responses, against the same score for shuffled responses."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from mine_core.errors import EncodingError

# Voxels worked on at once: bounds the memory of the shuffled scores to some 70 MB at 2,000 permutations.
BLOCK = 4096
# Shuffles that tie with the observed score count against it, rounding included.
TIE = 1e-6


def standardised(columns: Float[np.ndarray, "stimulus column"]) -> Float[np.ndarray, "stimulus column"]:
    """Centre columns and scale them to length 1, so that products are Pearson correlations; constant columns become 0.

    Raises EncodingError if a value is not finite.
    """
    centred = np.asarray(columns, np.float32) - np.mean(columns, axis=0, dtype=np.float64).astype(np.float32)
    if not np.isfinite(centred).all():
        raise EncodingError(f"{int((~np.isfinite(centred)).sum())} of {centred.size} values are not finite; leave them out first.")
    length = np.linalg.norm(centred, axis=0)
    # what a constant column leaves after centring is rounding
    varies = length > 1e-6 * np.linalg.norm(columns, axis=0)
    return centred / np.where(varies, length, np.inf).astype(np.float32)


def held_out_scores(
    word_scores: Float[np.ndarray, "stimulus word"],
    responses: Float[np.ndarray, "stimulus voxel"],
    candidates: Int[np.ndarray, "voxel candidate"],
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "voxel candidate"], Float[np.ndarray, "voxel candidate"]]:
    """Correlate each voxel's candidate words with its responses, and test all of them together.

    score[v, k] = corr over stimuli of word_scores[:, candidates[v, k]] and responses[:, v]
    p[v, k] = (1 + #{shuffles whose largest score over v's candidates >= score[v, k]}) / (1 + n_permutations)

    A shuffle permutes the stimuli of the responses, the same for all voxels. Comparing with the largest score controls
    the chance of naming any word wrongly per voxel, however the candidates overlap.

    Parameters
    ----------
    word_scores, responses : stimuli that did not choose the candidates, in one order.
    candidates : positions of each voxel's words in `word_scores`.

    Returns
    -------
    Scores (-1 to 1) and p. A word or voxel without variance scores 0 with p = 1.

    References
    ----------
    Westfall, Young (1993), Resampling-based multiple testing (single-step maxT).
    """
    n_stimuli = len(word_scores)
    words, answers = standardised(word_scores), standardised(responses)
    shuffles = rng.permuted(np.tile(np.arange(n_stimuli), (n_permutations, 1)), axis=1)
    scores = np.empty(candidates.shape, np.float32)
    p = np.empty(candidates.shape)
    for start in range(0, len(candidates), BLOCK):
        rows = slice(start, start + BLOCK)
        block = answers[:, rows]
        scores[rows] = np.take_along_axis(block.T @ words, candidates[rows], axis=1)
        largest = _largest_shuffled(words, block, candidates[rows], shuffles)
        for k in range(candidates.shape[1]):
            p[rows, k] = 1 + (largest >= scores[rows, k, None] - TIE).sum(axis=1)
    return scores, p / (1 + n_permutations)


def _largest_shuffled(
    words: Float[np.ndarray, "stimulus word"],
    answers: Float[np.ndarray, "stimulus voxel"],
    candidates: Int[np.ndarray, "voxel candidate"],
    shuffles: Int[np.ndarray, "shuffle stimulus"],
) -> Float[np.ndarray, "voxel shuffle"]:
    """Largest shuffled score over each voxel's candidates: one product per word, with the voxels that have it."""
    by_voxel = np.ascontiguousarray(answers.T)
    largest = np.full((len(by_voxel), len(shuffles)), -np.inf, np.float32)
    for word in np.unique(candidates):
        having = np.flatnonzero((candidates == word).any(axis=1))
        shuffled = by_voxel[having] @ words[:, word][shuffles].T
        largest[having] = np.maximum(shuffled, largest[having])
    return largest


def passing(
    p: Float[np.ndarray, "voxel candidate"], level: float
) -> tuple[Bool[np.ndarray, "voxel candidate"], Float[np.ndarray, " voxel"]]:
    """Which words stand, and the FDR q of each voxel's best word over voxels (Benjamini, Hochberg 1995).

    A word passes if its p is at most the largest best-word p among voxels with q <= level. With no effect anywhere, the
    chance that any voxel gets a word is at most `level`; a voxel without effect among others gets one with probability
    below `level`.
    """
    best = p.min(axis=1)
    q = false_discovery_control(best, method="bh")
    threshold = best[q <= level].max(initial=0.0)
    return p <= threshold, q
