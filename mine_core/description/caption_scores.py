"""Scores of voxels' texts without any truth: does likeness to an image's caption predict the response to the image?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from mine_core.description.scoring import standardised
from mine_core.errors import AlignmentError

TEMPERATURE = 1 / 150


def caption_scores(
    likeness: Float[np.ndarray, "stimulus voxel"], responses: Float[np.ndarray, "measured column"]
) -> Float[np.ndarray, " voxel"]:
    """Spearman correlation over stimuli of a text's likeness to the captions with the measured responses, voxel by voxel.

    score[v] = corr(rank(likeness[:, v]), rank(responses[:, v]))

    Parameters
    ----------
    likeness : similarity of each voxel's text to each held-out stimulus's caption.
    responses : measured, of the same stimuli, which chose no text.

    Returns
    -------
    -1 to 1; 0 where either does not vary.

    Raises AlignmentError if the shapes differ.

    Notes
    -----
    A text scores where it says what the captions say; what captions leave out cannot score.

    References
    ----------
    Matsuyama, Nishimoto, Takagi (2026), LaVCa, arXiv:2502.13606, sentence-level accuracy.
    """
    if likeness.shape != responses.shape:
        raise AlignmentError(
            f"Likeness is {likeness.shape}, responses are {responses.shape}; give one row a stimulus, one column a voxel."
        )
    return np.einsum("iv,iv->v", standardised(rankdata(likeness, axis=0)), standardised(rankdata(responses, axis=0)))


def mean_by_image(
    embeddings: Float[np.ndarray, "caption feature"], owner: Int[np.ndarray, " caption"], n_stimuli: int
) -> Float[np.ndarray, "stimulus feature"]:
    """Mean embedding of each stimulus's captions, scaled to length 1; raises AlignmentError if a stimulus has none."""
    counts = np.bincount(owner, minlength=n_stimuli)
    if not counts.all():
        raise AlignmentError(f"{int((counts == 0).sum())} of {n_stimuli} stimuli have no caption; give at least one each.")
    summed = np.zeros((n_stimuli, embeddings.shape[1]))
    np.add.at(summed, owner, embeddings)
    return (summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def word_likeness(texts: Sequence[str], captions: Sequence[str]) -> Float[np.ndarray, "caption text"]:
    """Likeness that no backbone judges: cosine of word counts, rare words counting more (TF-IDF over the captions)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    known = reader.fit_transform(captions)
    return (known @ reader.transform(texts).T).toarray().astype(np.float32)


def project(
    coef: Float[np.ndarray, "feature voxel"], bank: Float[np.ndarray, "image feature"], temperature: float = TEMPERATURE
) -> Float[np.ndarray, "voxel feature"]:
    """Bring each voxel's weights among the embeddings of real images, as BrainSCUBA does.

    projected[v] = sum_i softmax_i(cos(coef[:, v], bank[i]) / temperature) bank[i] / |bank[i]|, scaled to length 1

    Raw weights lie where no image lies; a caption is looked for near images.

    References
    ----------
    Luo, Henderson, Tarr, Wehbe (2024), BrainSCUBA, arXiv:2310.04420.
    """
    images = bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
    weights = coef / np.maximum(np.linalg.norm(coef, axis=0), 1e-12)
    sharp = (images @ weights).T.astype(np.float64) / temperature
    share = np.exp(sharp - sharp.max(axis=1, keepdims=True))
    found = (share / share.sum(axis=1, keepdims=True)) @ images
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def nearest_captions(
    projected: Float[np.ndarray, "voxel feature"], captions: Sequence[str], embeddings: Float[np.ndarray, "caption feature"]
) -> tuple[str, ...]:
    """Caption whose embedding is nearest to each voxel's projected weights, in place of a captioner that reads embeddings.

    Raises AlignmentError if there are more captions than embeddings, or fewer.
    """
    if len(captions) != len(embeddings):
        raise AlignmentError(f"{len(captions)} captions were given with {len(embeddings)} embeddings; give one each.")
    return tuple(captions[i] for i in (projected @ embeddings.T).argmax(axis=1))
