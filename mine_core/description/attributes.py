"""Which attribute of what a voxel wants makes it answer more: red balls, faces with glasses, things at the left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.optimize import nnls

from mine_core.description.evidence import Evidence
from mine_core.description.vocabulary import Vocabulary
from mine_core.errors import EncodingError
from mine_core.types import AttributeScore

N_FOLDS, LEVEL, SEED = 5, 0.01, 7305
# What the base takes from the stimuli: its mean, the concepts' drive, and its square, for responses that saturate.
N_BASE = 3
LEAST_STIMULI = 50


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
    x_a[i] = sum over phrases of b_c presence[i, c] [the thing shows alternative a in i]
    score = correlation of x_a and the responses, the drive and its square held constant

    Five folds: on four the weights and the best alternative are found, on the fifth it is scored; the folds' products are
    summed, so that no stimulus scores an alternative that it helped to choose. p is of Student's t.

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
    Within a concept, correlational: attributes that come together in these stimuli are each other's company. A larger thing
    covers more of a receptive field, so that 'large' may speak of coverage and not of a preference.
    """
    evidence = ground.evidence
    concepts = _concepts(evidence, phrases)
    offered = _offered(ground, phrases, places)
    if not len(concepts) or not offered.any():
        return None
    presence = np.asarray(evidence.presence[:, concepts], np.float64)
    shown = np.asarray(evidence.shown[concepts][:, :, ground.of_set[offered]]) == ground.value[offered]
    y = np.asarray(responses, np.float64)
    picked, tops, lengths = [], 0.0, np.zeros(2)
    for fold in range(N_FOLDS):
        inside = ground.folds == fold
        weights = _weights(presence[~inside], y[~inside])
        best = int(_partial(presence[~inside], shown[:, ~inside], y[~inside], weights)[0].argmax())
        _, top, own, rest = _partial(presence[inside], shown[:, inside], y[inside], weights, best)
        picked.append(best)
        tops, lengths = tops + top, lengths + (own, rest)
    everywhere = int(_partial(presence, shown, y, _weights(presence, y))[0].argmax())
    score = tops / np.sqrt(lengths[0] * lengths[1]) if lengths.min() > 1e-9 else 0.0
    freedom = len(y) - N_FOLDS * N_BASE - 1
    p = float(stats.t.sf(score * np.sqrt(freedom / max(1 - score**2, 1e-9)), freedom))
    agreement = float(np.mean([best == everywhere for best in picked]))
    column = int(np.flatnonzero(offered)[everywhere])
    return AttributeScore(
        word=ground.words[column],
        attribute=evidence.sets[ground.of_set[column]].name,
        score=float(score),
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


def _partial(
    presence: Float[np.ndarray, "stimulus concept"],
    shown: Bool[np.ndarray, "concept stimulus value"],
    y: Float[np.ndarray, " stimulus"],
    weights: Float[np.ndarray, " concept"],
    only: int | None = None,
) -> tuple[Float[np.ndarray, " value"], float, float, float]:
    """Partial correlation of every alternative (or only one), with the product and squared lengths behind the last."""
    drive = presence * weights
    columns = shown if only is None else shown[:, :, only : only + 1]
    x = np.einsum("ic,civ->iv", drive, columns, optimize=True)
    total = drive.sum(axis=1)
    basis, _ = np.linalg.qr(np.stack([np.ones(len(y)), total, total**2], axis=1))
    rest, beyond = y - basis @ (basis.T @ y), x - basis @ (basis.T @ x)
    length = np.linalg.norm(beyond, axis=0)
    varies = length > 1e-6 * max(np.linalg.norm(total), 1e-12)
    scaled = np.where(varies, rest @ beyond / np.where(varies, length, 1.0), -np.inf)
    whole = np.linalg.norm(rest)
    last = float(scaled[-1]) if varies[-1] else 0.0
    return scaled / max(whole, 1e-12), last * whole, float(varies[-1]) * whole**2, whole**2
