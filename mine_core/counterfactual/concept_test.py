"""Is a concept the cause of a voxel's response, or only what comes with it? Scores, nulls and a verdict for every voxel.

After BrainCause (Golbari, Wasserman et al. 2026, arXiv:2605.23895), with what it lacks: a p-value for every voxel, a false discovery
rate over voxels, intervals, controls beside the edits, and a verdict that asks for activation as well.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mine_core.errors import AlignmentError, EditError
from mine_core.statistics import false_discovery_rate, resample_counts

Verdict = Literal["not tested", "neither", "activation only", "causal"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LEVEL = 0.05
N_BOOTSTRAP = 1000
LEAST_EDITED = 5  # images with a verified edit, or nothing is said of causes
SPREAD = 0.01  # SD: a voxel whose scores vary less has no evidence


@dataclass(frozen=True)
class EditedImage:
    """Predictions of one image in every voxel (SD of the voxel's predictions): as it is, after each edit, after each control."""

    before: Float[np.ndarray, " voxel"]
    edited: Float[np.ndarray, "edit voxel"]
    controls: Float[np.ndarray, "control voxel"]


@dataclass(frozen=True)
class ConceptEvidence:
    """What a concept is judged by.

    `measured[image, voxel]` are recorded responses to held-out images, z-scored over them; `positives`, those that show the concept
    `apart` from its company, and the `negatives[apart, word]` beside each of these are rows of it. `predicted` are predictions of
    the same images: they name the hardest negative, and nothing else. `removed` and `inserted` hold predictions of verified edits.
    """

    measured: Float[np.ndarray, "image voxel"]
    predicted: Float[np.ndarray, "predicted_image voxel"]
    positives: Int[np.ndarray, " positive"]
    apart: Int[np.ndarray, " apart"]
    negatives: Int[np.ndarray, "row word"]
    removed: tuple[EditedImage, ...]
    inserted: tuple[EditedImage, ...]

    def __post_init__(self) -> None:
        if self.measured.shape != self.predicted.shape:
            raise AlignmentError(f"Measured responses are {self.measured.shape}, predicted {self.predicted.shape}; give the same.")
        if len(self.negatives) != len(self.apart):
            raise AlignmentError(f"{len(self.apart)} images apart have negatives of {len(self.negatives)}; give a row for each.")
        for name, rows in (("positives", self.positives), ("images apart", self.apart)):
            if len(rows) < 2 or len(np.unique(rows)) != len(rows):
                raise EditError(f"{len(np.unique(rows))} different {name} were given; at least 2, each once, are needed.")


@dataclass(frozen=True)
class ConceptScores:
    """Scores, p-values, q-values and verdicts of every voxel. Measured are `s_pos` and `s_neg`, predicted the edits.

    `s_causal = (s_neg + s_edit) / 2`, with a 95 % interval over images (`low`, `high`). `s_elsewhere` is `s_edit` of the
    controls. `s_insert` is what putting the concept in adds, `s_insert_other` what related things add in the same place.
    `q_active` is of activation alone; `q_causal` of activation, negatives and edits together; `q_neg`, `q_edit` of each. Unreliable
    voxels have NaN for q and are not tested. `hardest[voxel]` is the word whose images are predicted to drive it most, and
    `hardest_gap` how much more the images apart drive it than those, measured. Scores of edits are NaN where too few were verified.
    """

    s_pos: Float[np.ndarray, " voxel"]
    s_neg: Float[np.ndarray, " voxel"]
    s_edit: Float[np.ndarray, " voxel"]
    s_elsewhere: Float[np.ndarray, " voxel"]
    s_insert: Float[np.ndarray, " voxel"]
    s_insert_other: Float[np.ndarray, " voxel"]
    s_causal: Float[np.ndarray, " voxel"]
    low: Float[np.ndarray, " voxel"]
    high: Float[np.ndarray, " voxel"]
    q_active: Float[np.ndarray, " voxel"]
    q_neg: Float[np.ndarray, " voxel"]
    q_edit: Float[np.ndarray, " voxel"]
    q_causal: Float[np.ndarray, " voxel"]
    hardest: Int[np.ndarray, " voxel"]
    hardest_gap: Float[np.ndarray, " voxel"]
    verdict: Int[np.ndarray, " voxel"]
    n_positive: int
    n_apart: int
    n_negative: int
    n_removed: int
    n_inserted: int

    def voxels(self, verdict: Verdict) -> Int[np.ndarray, " voxel"]:
        """Voxels of a verdict."""
        return np.flatnonzero(self.verdict == VERDICTS.index(verdict))


def contrast_p(
    weights: Float[np.ndarray, " weight"], responses: Float[np.ndarray, "image voxel"]
) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    """Contrast of responses, and its one-sided p when the responses are shuffled over the images.

    value[v] = sum_i weights[i] responses[i, v];  r = corr_i(weights, responses[:, v]), p of Student's t with n - 2 degrees

    The permutation distribution of a correlation has that t's first two moments exactly, so this is the p of all n! shuffles
    but for its higher moments. Constant voxels have p = 1.

    Raises AlignmentError if the weights do not sum to 0 or images differ in number.

    References
    ----------
    Pitman (1937), 10.2307/2983647.
    """
    n = len(weights)
    if len(responses) != n or abs(weights.sum()) > 1e-9 * np.abs(weights).sum() or n < 3:
        raise AlignmentError(f"{n} weights that sum to {weights.sum():.3g} were given for {len(responses)} images; they sum to 0.")
    value = weights @ responses
    centred = responses - responses.mean(axis=0)
    length = np.linalg.norm(centred, axis=0) * np.linalg.norm(weights)
    r = np.clip(value / np.where(length > 1e-9, length, np.inf), -1, 1)
    p = stats.t.sf(r * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-12)), n - 2)
    return value, np.where(length > 1e-9, p, 1.0)


def paired_p(differences: Float[np.ndarray, "image voxel"]) -> Float[np.ndarray, " voxel"]:
    """One-sided p that the mean over images is above 0, when edit and control may change places in every image.

    t = mean / (SD / sqrt(n)) with n - 1 degrees, which the distribution over all 2^n changes of sign follows but for higher
    moments (Fisher 1935; Pitman 1937). Voxels whose differences vary by less than 0.01 SD have p = 1.
    """
    n, spread = len(differences), differences.std(axis=0, ddof=1)
    t = differences.mean(axis=0) / np.where(spread > SPREAD, spread, np.inf) * np.sqrt(n)
    return np.where(spread > SPREAD, stats.t.sf(t, n - 1), 1.0)


def score_concept(evidence: ConceptEvidence, reliable: Bool[np.ndarray, " voxel"], rng: np.random.Generator) -> ConceptScores:
    """Score every voxel and say which answer the concept itself.

    S_pos = mean_i a(positive_i);  S_neg = mean_i [a(x_i) - mean_k a(negative_ik)]             (measured)
    S_edit = mean_i [a(x_i) - max_k a(edit_ik)];  S_causal = (S_neg + S_edit) / 2              (edits predicted)

    x are the images that show the concept apart from its company; the source takes the positives, which bring it along.
    Activation is called where the positives exceed all other held-out images (`contrast_p`; Benjamini and Hochberg over
    reliable voxels, q <= 0.05). Causal is a voxel where that and two more hold *together*: images apart exceed their matched
    negatives, and taking the concept out lowers the prediction more than taking out as much elsewhere (`paired_p`, with as
    many controls as edits and the same maximum). An intersection-union test (Berger 1982): p = the largest of the three, q over
    reliable voxels. Activation without it is refused.

    Parameters
    ----------
    reliable : voxels of which something may be said; the others are not tested.
    rng : of the bootstrap, 1,000 resamples of images apart with their negatives, and of edited images.

    Notes
    -----
    A prediction after an edit is the model's, not a brain's. S_neg asks for more than the mean related thing: a voxel that
    answers a whole group need not pass it. A refusal is no proof of absence: see how many images it rests on.

    References
    ----------
    Golbari, Wasserman et al. (2026), arXiv:2605.23895. Berger (1982), 10.2307/1267823.
    """
    n_images, n_positive = len(evidence.measured), len(evidence.positives)
    rest = np.full(n_images, -1 / (n_images - n_positive))
    rest[evidence.positives] = 1 / n_positive
    p_pos = contrast_p(rest, evidence.measured)[1]
    s_neg, p_neg = _against_negatives(evidence)
    hardest, gap = _hardest(evidence)
    drops = _differences(evidence.removed, -1)
    gains = _differences(evidence.inserted, 1)
    n_voxels = evidence.measured.shape[1]
    unknown = np.full(n_voxels, np.nan)
    tested = drops is not None and len(drops[0]) >= LEAST_EDITED
    s_edit, elsewhere = (drops[0].mean(axis=0), drops[1].mean(axis=0)) if tested and drops is not None else (unknown, unknown)
    p_edit = paired_p(drops[0] - drops[1]) if tested and drops is not None else np.ones(n_voxels)
    q_active, q_neg, q_edit, q_causal = (_q(p, reliable) for p in (p_pos, p_neg, p_edit, np.maximum.reduce([p_pos, p_neg, p_edit])))
    low, high = _interval(evidence, drops[0], rng) if tested and drops is not None else (unknown, unknown)
    return ConceptScores(
        s_pos=evidence.measured[evidence.positives].mean(axis=0),
        s_neg=s_neg,
        s_edit=s_edit,
        s_elsewhere=elsewhere,
        s_insert=unknown if gains is None else gains[0].mean(axis=0),
        s_insert_other=unknown if gains is None else gains[1].mean(axis=0),
        s_causal=(s_neg + s_edit) / 2,
        low=low,
        high=high,
        q_active=q_active,
        q_neg=q_neg,
        q_edit=q_edit if tested else unknown,
        q_causal=q_causal if tested else unknown,
        hardest=hardest,
        hardest_gap=gap,
        verdict=_verdicts(q_active, q_causal, reliable, tested),
        n_positive=n_positive,
        n_apart=len(evidence.apart),
        n_negative=len(np.unique(evidence.negatives)),
        n_removed=0 if drops is None else len(drops[0]),
        n_inserted=0 if gains is None else len(gains[0]),
    )


def _against_negatives(evidence: ConceptEvidence) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    """Images apart less the mean of their matched negatives, an image that serves several of them counting as often."""
    weights = np.zeros(len(evidence.measured))
    weights[evidence.apart] = 1 / len(evidence.apart)
    np.subtract.at(weights, evidence.negatives.ravel(), 1 / evidence.negatives.size)
    used = np.unique(np.concatenate([evidence.apart, evidence.negatives.ravel()]))
    return contrast_p(weights[used], evidence.measured[used])


def _hardest(evidence: ConceptEvidence) -> tuple[Int[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    """The word whose negatives are predicted highest, and what the images apart have beyond them as measured."""
    n_words = evidence.negatives.shape[1]
    predicted, measured = (
        np.stack([values[evidence.negatives[:, word]].mean(axis=0) for word in range(n_words)])
        for values in (evidence.predicted, evidence.measured)
    )
    hardest = predicted.argmax(axis=0)
    gap = evidence.measured[evidence.apart].mean(axis=0) - np.take_along_axis(measured, hardest[None], axis=0)[0]
    return hardest, gap


def _differences(
    images: tuple[EditedImage, ...], direction: int
) -> tuple[Float[np.ndarray, "image voxel"], Float[np.ndarray, "image voxel"]] | None:
    """What the edits of each image do in their direction, and what its controls do; None where there are no two images.

    Removals: the image less the largest of its edits, and of as many controls. Insertions: the edit less the image, and the mean
    control.
    """
    kept = [image for image in images if len(image.edited) and len(image.controls)]
    if len(kept) < 2:
        return None
    if direction > 0:
        return np.stack([one.edited.mean(axis=0) - one.before for one in kept]), np.stack(
            [one.controls.mean(axis=0) - one.before for one in kept]
        )
    return np.stack([one.before - one.edited.max(axis=0) for one in kept]), np.stack(
        [one.before - one.controls[: len(one.edited)].max(axis=0) for one in kept]
    )


def _q(p: Float[np.ndarray, " voxel"], reliable: Bool[np.ndarray, " voxel"]) -> Float[np.ndarray, " voxel"]:
    q = np.full(len(p), np.nan)
    if reliable.any():
        q[reliable] = false_discovery_rate(p[reliable])
    return q


def _interval(
    evidence: ConceptEvidence, drops: Float[np.ndarray, "image voxel"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    """95 % percentile interval of S_causal: images apart with their negatives, and edited images, drawn with replacement."""
    beyond = evidence.measured[evidence.apart] - evidence.measured[evidence.negatives].mean(axis=1)
    drawn = (_resampled(beyond, rng) + _resampled(drops, rng)) / 2
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def _resampled(values: Float[np.ndarray, "image voxel"], rng: np.random.Generator) -> Float[np.ndarray, "resample voxel"]:
    return resample_counts(len(values), N_BOOTSTRAP, rng).astype(np.float32) @ values.astype(np.float32) / len(values)


def _verdicts(
    q_active: Float[np.ndarray, " voxel"], q_causal: Float[np.ndarray, " voxel"], reliable: Bool[np.ndarray, " voxel"], tested: bool
) -> Int[np.ndarray, " voxel"]:
    """Index into VERDICTS; an active voxel stays untested where no edit could test it."""
    verdict = np.where(reliable, VERDICTS.index("neither"), VERDICTS.index("not tested"))
    active = reliable & (q_active <= LEVEL)
    verdict[active] = VERDICTS.index("activation only" if tested else "not tested")
    if tested:
        verdict[active & (q_causal <= LEVEL)] = VERDICTS.index("causal")
    return verdict
