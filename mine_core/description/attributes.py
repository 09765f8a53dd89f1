"""Which attribute of what a voxel wants makes it answer more: red balls, faces with glasses, things at the left."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls

from mine_core.description.evidence import Evidence
from mine_core.description.vocabulary import Vocabulary
from mine_core.errors import EncodingError
from mine_core.types import AttributeScore

N_FOLDS, LEVEL, SEED, N_DRAWS = 5, 0.01, 7305, 999
LEAST_STIMULI = 50
FLAT = 1e-9
# Directions of what is held constant that are shorter than this share of the longest are rounding.
DEPENDENT = 1e-6


@dataclass(frozen=True)
class AttributeGround:
    """Alternatives as columns: word, set and kind of each, and which groups' things may have it."""

    words: tuple[str, ...]
    of_set: Int[np.ndarray, " value"]
    value: Int[np.ndarray, " value"]
    evidence: Evidence
    group_of: dict[str, str]
    folds: Int[np.ndarray, " stimulus"]


def prepare_attributes(evidence: Evidence, vocabulary: Vocabulary) -> AttributeGround:
    """Compute what all voxels share; folds are drawn once, by stimulus.

    Raises EncodingError if there are fewer than 50 stimuli.
    """
    n_stimuli = len(evidence.stimulus_ids)
    if n_stimuli < LEAST_STIMULI:
        raise EncodingError(f"{n_stimuli} stimuli were given; telling attributes apart needs at least {LEAST_STIMULI}.")
    columns = [(s, v, word) for s, entry in enumerate(evidence.sets) for v, word in enumerate(entry.words)]
    return AttributeGround(
        words=tuple(word for _, _, word in columns),
        of_set=np.array([s for s, _, _ in columns], np.int64),
        value=np.array([v for _, v, _ in columns], np.int64),
        evidence=evidence,
        group_of=dict(zip(vocabulary.words, vocabulary.groups, strict=True)),
        folds=np.random.default_rng(SEED).permutation(n_stimuli) % N_FOLDS,
    )


def attribute_of(
    ground: AttributeGround, phrases: Sequence[str], responses: Float[np.ndarray, " stimulus"], *, places: bool = False
) -> AttributeScore | None:
    """Find the attribute that raises a voxel's responses to what it wants, and score it on stimuli that did not choose it.

    drive[i] = sum over phrases of b_c presence[i, c], b >= 0 by least squares on the responses
    covered[i, k] = sum over phrases of b_c presence[i, c] coverage[c, i, k], k a cell of 3 x 3
    x_a[i] = sum over phrases of b_c presence[i, c] [the thing shows alternative a in i]
    score = correlation of x_a and the responses; held constant: the drive, its square, covered[:, k] and its square root

    A response to a thing grows with how much of the receptive field it covers, and saturates. Large things cover more of any:
    were the drive alone held constant, 'large' would be told of voxels that do not care for size. The cells are a receptive field of
    any place and shape, the square roots its saturation. For places, covered is not held constant, since it is what is asked.

    Five folds: the alternative that is best on four is scored on the fifth, so that no stimulus scores an alternative that it
    helped to choose; products are summed over folds. Scores of folds still depend on each other, for each helps to choose for
    the others: p compares with 999 draws of normal noise put through the same choices on the same stimuli.

    Parameters
    ----------
    phrases : words that the voxel wants; those that are alternatives themselves are left out.
    responses : measured, at all stimuli.
    places : look at where in the image the thing is, instead of at what it is like.

    Returns
    -------
    The alternative that all stimuli together choose; it stands where p <= 0.01 and more than half of the folds agree. None
    where no phrase is a thing that has alternatives.

    Notes
    -----
    Within a concept, correlational: attributes that come together in these stimuli are each other's company. Coverage is what the
    backbone sees, on nine cells: what they miss of a small receptive field may still be told as 'large'.
    """
    evidence = ground.evidence
    concepts = _concepts(evidence, phrases)
    offered = _offered(ground, phrases, places)
    if not len(concepts) or not offered.any():
        return None
    rest, beyond, n_held = _partialled(
        np.asarray(evidence.presence[:, concepts], np.float64),
        None if places else evidence.coverage[concepts] / 255.0,
        np.asarray(evidence.shown[concepts][:, :, ground.of_set[offered]]) == ground.value[offered],
        np.asarray(responses, np.float64),
    )
    folds = [ground.folds == fold for fold in range(N_FOLDS)]
    products = np.stack([beyond[inside].T @ rest[inside] for inside in folds])
    squares = np.stack([beyond[inside].T @ beyond[inside] for inside in folds])
    own = np.einsum("fvv->fv", squares)
    if not (own.sum(axis=0) > FLAT).any() or rest @ rest <= FLAT:
        return None
    z, picked = _chosen(products[None], own)
    noise = np.sqrt(rest @ rest / (len(rest) - n_held - 1))
    p = float((1 + (_null(squares, own) * noise >= z[0]).sum()) / (1 + N_DRAWS))
    rows = np.arange(N_FOLDS)
    length = np.sqrt(own[rows, picked[0]].sum() * (rest @ rest))
    score = float(products[rows, picked[0]].sum() / length) if length > FLAT else 0.0
    everywhere = int(_ratio(products.sum(axis=0), own.sum(axis=0)).argmax())
    agreement = float((picked[0] == everywhere).mean())
    column = int(np.flatnonzero(offered)[everywhere])
    return AttributeScore(
        word=ground.words[column],
        attribute=evidence.sets[ground.of_set[column]].name,
        score=score,
        p=p,
        agreement=agreement,
        stands=p <= LEVEL and agreement > 0.5,
    )


def _concepts(evidence: Evidence, phrases: Sequence[str]) -> Int[np.ndarray, " concept"]:
    """Positions of the phrases that are things: their alternatives were looked at."""
    inside = {word for entry in evidence.sets for word in entry.words}
    return np.array([evidence.words.index(word) for word in phrases if word not in inside], np.int64)


def _offered(ground: AttributeGround, phrases: Sequence[str], places: bool) -> Bool[np.ndarray, " value"]:
    """Alternatives that the things among the phrases may have."""
    groups = {ground.group_of[word] for word in phrases}
    sets = [(entry.kind == "place") == places and (not entry.of or bool(groups & set(entry.of))) for entry in ground.evidence.sets]
    return np.array(sets, bool)[ground.of_set] if sets else np.zeros(0, bool)


def _weights(presence: Float[np.ndarray, "stimulus concept"], y: Float[np.ndarray, " stimulus"]) -> Float[np.ndarray, " concept"]:
    """Least squares with non-negative weights; equal ones where none is positive."""
    found = nnls(presence - presence.mean(axis=0), y - y.mean())[0]
    return found if found.any() else np.ones(presence.shape[1])


def _partialled(
    presence: Float[np.ndarray, "stimulus concept"],
    coverage: Float[np.ndarray, "concept stimulus cell"] | None,
    shown: Bool[np.ndarray, "concept stimulus value"],
    y: Float[np.ndarray, " stimulus"],
) -> tuple[Float[np.ndarray, " stimulus"], Float[np.ndarray, "stimulus value"], int]:
    """Responses, and every alternative's share of the drive, without what is held constant, and of how many dimensions that is."""
    drive = presence * _weights(presence, y)
    x = np.einsum("ic,civ->iv", drive, shown, optimize=True)
    total = drive.sum(axis=1)
    held = [np.ones((len(y), 1)), total[:, None], total[:, None] ** 2]
    if coverage is not None:
        covered = np.einsum("ic,cik->ik", drive, coverage, optimize=True)
        held += [covered, np.sqrt(covered)]
    basis = _basis(np.concatenate(held, axis=1))
    return y - basis @ (basis.T @ y), x - basis @ (basis.T @ x), basis.shape[1]


def _basis(columns: Float[np.ndarray, "stimulus column"]) -> Float[np.ndarray, "stimulus dimension"]:
    """Orthonormal basis of what the columns span, whatever their scales; columns of a cell that shows nothing add nothing."""
    length = np.linalg.norm(columns, axis=0)
    left, strength, _ = np.linalg.svd(columns[:, length > 0] / length[length > 0], full_matrices=False)
    return left[:, strength > DEPENDENT * strength[0]]


def _ratio(products: Float[np.ndarray, "*draw value"], squares: Float[np.ndarray, "*draw value"]) -> Float[np.ndarray, "*draw value"]:
    """Products over lengths; -inf where an alternative does not vary."""
    return np.where(squares > FLAT, products / np.sqrt(np.maximum(squares, FLAT)), -np.inf)


def _chosen(
    products: Float[np.ndarray, "draw fold value"], own: Float[np.ndarray, "fold value"]
) -> tuple[Float[np.ndarray, " draw"], Int[np.ndarray, "draw fold"]]:
    """Best alternative on the other folds, for each fold, and the sum of what the folds say of theirs."""
    others = products.sum(axis=1, keepdims=True) - products
    picked = _ratio(others, np.broadcast_to(own.sum(axis=0) - own, others.shape)).argmax(axis=2)
    says = np.where(own > FLAT, products / np.sqrt(np.maximum(own, FLAT)), 0.0)
    return np.take_along_axis(says, picked[:, :, None], axis=2)[:, :, 0].sum(axis=1), picked


def _null(squares: Float[np.ndarray, "fold value value"], own: Float[np.ndarray, "fold value"]) -> Float[np.ndarray, " draw"]:
    """What `_chosen` gives for noise of unit variance: products are normal, with the alternatives' own squares for covariance."""
    values, vectors = np.linalg.eigh(squares)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    drawn = np.einsum("fvw,dfw->dfv", roots, _normals(squares.shape[1]), optimize=True)
    return _chosen(drawn, own)[0]


@lru_cache(maxsize=8)
def _normals(n_values: int) -> Float[np.ndarray, "draw fold value"]:
    return np.random.default_rng(SEED).normal(size=(N_DRAWS, N_FOLDS, n_values))
