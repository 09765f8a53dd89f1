"""What each voxel wants: the few words that together account for its responses, and those that only keep them company."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.description.contrast import BesideContrast, beside_contrast
from mine_core.description.decoding import LEAST_HELD_OUT, VoxelWords
from mine_core.description.evidence import Evidence
from mine_core.description.scoring import held_out_scores, standardised
from mine_core.errors import AlignmentError, EncodingError
from mine_core.types import Company, Description, Responses

# A word enters if what the words before it leave grows with it by this many standard errors, and leaves below `STAYS`.
ENTERS, STAYS, MOST = 4.0, 3.0, 8
# Beside the words that account for a voxel, this many are scored that merely go with it.
N_BESIDE = 10
# A word that keeps less than this of its correlation, the voxel's phrases held constant, only keeps them company.
KEEPS = 0.5
SEED = 7304


@dataclass(frozen=True)
class VoxelWants:
    """One voxel's words: `description` with scores and p, the share of each phrase in the fit, and the usual company.

    `r` is the correlation of all phrases together, as fitted on training stimuli, with measured held-out responses; `contrast` what
    contrast alone predicts beside them (None: not known). Where it outdoes them, no phrase is told.
    """

    description: Description
    shares: tuple[float, ...]
    r: float
    company: tuple[Company, ...]
    contrast: BesideContrast | None = None


@dataclass(frozen=True)
class Ground:
    """What choosing and scoring words need of one subject and one backbone, computed once.

    `seen` and `left_out` are presence at training and held-out stimuli, standardised; `gram` holds products of columns of
    `seen`; `offered` is False for words that are values of a thing's attribute: they are told within a concept, not beside it.
    `level` is the largest p that stands, from the false discovery rate over voxels. `by_contrast` is what contrast alone predicts of
    held-out responses, where it is known.
    """

    words: tuple[str, ...]
    train: Int[np.ndarray, " train"]
    held_out: Int[np.ndarray, " held_out"]
    seen: Float[np.ndarray, "train word"]
    left_out: Float[np.ndarray, "held_out word"]
    gram: Float[np.ndarray, "word word"]
    offered: Bool[np.ndarray, " word"]
    level: float
    n_permutations: int
    by_contrast: Float[np.ndarray, "held_out voxel"] | None = None


def prepare(
    evidence: Evidence,
    words: VoxelWords,
    train: Int[np.ndarray, " train"],
    held_out: Int[np.ndarray, " held_out"],
    by_contrast: Float[np.ndarray, "held_out voxel"] | None = None,
) -> Ground:
    """Compute what all voxels share.

    Raises
    ------
    AlignmentError
        If evidence and words are of other words, or a stimulus is both in training and held out.
    EncodingError
        If fewer than 20 stimuli are held out.
    """
    if evidence.words != words.words:
        raise AlignmentError(f"Evidence is of {len(evidence.words)} words, the voxels' words of {len(words.words)}; build both again.")
    shared = np.intersect1d(train, held_out).size
    if shared:
        raise AlignmentError(f"{shared} stimuli are both in training and held out; a word is scored on others than chose it.")
    if len(held_out) < LEAST_HELD_OUT:
        raise EncodingError(f"{len(held_out)} stimuli are held out; scoring words needs at least {LEAST_HELD_OUT}.")
    inside = {word for entry in evidence.sets if entry.kind != "scene" for word in entry.words}
    presence = np.asarray(evidence.presence, np.float32)
    seen = standardised(presence[train])
    return Ground(
        words=evidence.words,
        train=train,
        held_out=held_out,
        seen=seen,
        left_out=standardised(presence[held_out]),
        gram=(seen.T @ seen).astype(np.float64),
        offered=np.array([word not in inside for word in evidence.words], bool),
        # p is kept in float32: what equals the largest p must not fall on its wrong side
        level=float(words.p[words.passes].max()) * (1 + 1e-5) if words.passes.any() else 0.0,
        n_permutations=words.n_permutations,
        by_contrast=by_contrast,
    )


def want(ground: Ground, words: VoxelWords, responses: Responses, voxels: Int[np.ndarray, " chosen"]) -> tuple[VoxelWants, ...]:
    """Choose the words of some voxels on training stimuli, and score them on held-out ones.

    Forward selection: the word enters next whose presence has the largest partial correlation with the measured training
    responses, the words before it held constant, as long as that is 4 standard errors above 0; words that fall below 3 leave,
    and so do negative ones. Order: by share of the fit. Scores are correlations of presence with measured held-out responses;
    p as in `held_out_scores`, over the voxel's chosen words and the ten that `voxel_words` put first. A phrase is a chosen
    word whose p is within `ground.level`. A word that stands without being chosen and keeps less than half of its correlation,
    the phrases held constant, is their company. No phrase is told where contrast alone outdoes them all (see `beside_contrast`).

    Notes
    -----
    Correlational throughout: the company named is what comes with a phrase in these stimuli, and the phrase itself may be
    company of what no word names. Errors of selection are bounded by the held-out test, not by the 4 standard errors.

    References
    ----------
    Efroymson (1960), in Mathematical Methods for Digital Computers: stepwise regression.
    """
    # columns before rows: the other way would copy the responses of all voxels
    given = np.asarray(responses.values[:, voxels], np.float32)
    answers = standardised(given[ground.train])
    towards = (ground.seen.T @ answers).astype(np.float64)
    chosen = [select(ground.gram, towards[:, i], len(ground.train), ground.offered) for i in range(len(voxels))]
    candidates = np.stack([_candidates(ground, words.candidates[v], found) for v, (found, _) in zip(voxels, chosen, strict=True)])
    measured = given[ground.held_out]
    scores, p = held_out_scores(
        ground.left_out, measured, candidates, n_permutations=ground.n_permutations, rng=np.random.default_rng(SEED)
    )
    left_out = standardised(measured)
    found = [_wants(ground, left_out[:, i], candidates[i], scores[i], p[i], *chosen[i]) for i in range(len(voxels))]
    if ground.by_contrast is None:
        return tuple(wants for wants, _ in found)
    contrast = np.asarray(ground.by_contrast[:, voxels], np.float32)
    return tuple(_unless_outdone(*found[i], left_out[:, i], contrast[:, i]) for i in range(len(voxels)))


def _unless_outdone(
    wants: VoxelWants,
    fit: Float[np.ndarray, " held_out"],
    answers: Float[np.ndarray, " held_out"],
    contrast: Float[np.ndarray, " held_out"],
) -> VoxelWants:
    """Take the phrases back where contrast predicts the voxel better and they add nothing."""
    if not wants.description.phrases:
        return wants
    beside = beside_contrast(fit, answers, contrast)
    if not beside.outdone:
        return replace(wants, contrast=beside)
    return replace(wants, description=replace(wants.description, phrases=()), shares=(), company=(), contrast=beside)


def select(
    gram: Float[np.ndarray, "word word"], towards: Float[np.ndarray, " word"], n: int, offered: Bool[np.ndarray, " word"]
) -> tuple[list[int], list[float]]:
    """Words that account for one voxel, and the standardised weight of each, from products of standardised columns.

    Parameters
    ----------
    gram, towards : products of words with each other, and with the responses.
    n : stimuli behind them.
    offered : False for words that may not be chosen.
    """
    kept: list[int] = []
    tried: set[int] = set()
    while len(kept) < MOST:
        t = np.where(offered, _partial_t(gram, towards, kept, n), -np.inf)
        t[[*kept, *tried]] = -np.inf
        best = int(t.argmax())
        if t[best] < ENTERS:
            break
        kept.append(best)
        tried.add(best)
        kept = _without_weak(gram, towards, kept, n)
    weights = np.linalg.lstsq(gram[np.ix_(kept, kept)], towards[kept], rcond=1e-8)[0] if kept else np.zeros(0)
    order = np.argsort(-weights, kind="stable")
    return [kept[i] for i in order if weights[i] > 0], [float(weights[i]) for i in order if weights[i] > 0]


def _partial_t(
    gram: Float[np.ndarray, "word word"], towards: Float[np.ndarray, " word"], kept: list[int], n: int
) -> Float[np.ndarray, " word"]:
    """Standard errors by which every word would add to those kept."""
    if not kept:
        return towards / np.sqrt(1 / n)
    inverse = np.linalg.pinv(gram[np.ix_(kept, kept)], rcond=1e-8)
    weights = inverse @ towards[kept]
    explained = min(float(towards[kept] @ weights), 1 - 1e-9)
    across = gram[:, kept]
    own = np.maximum(np.diag(gram) - np.einsum("wk,kl,wl->w", across, inverse, across), 1e-4)
    return (towards - across @ weights) / np.sqrt(own * (1 - explained) / n)


def _without_weak(gram: Float[np.ndarray, "word word"], towards: Float[np.ndarray, " word"], kept: list[int], n: int) -> list[int]:
    while len(kept) > 1:
        inverse = np.linalg.pinv(gram[np.ix_(kept, kept)], rcond=1e-8)
        weights = inverse @ towards[kept]
        error = np.sqrt(np.maximum(np.diag(inverse), 1e-12) * max(1 - float(towards[kept] @ weights), 1e-9) / n)
        t = weights / error
        weakest = int(t.argmin())
        if t[weakest] >= STAYS:
            break
        kept = [word for i, word in enumerate(kept) if i != weakest]
    return kept


def _candidates(ground: Ground, beside: Int[np.ndarray, " candidate"], chosen: list[int]) -> Int[np.ndarray, " padded"]:
    """Chosen words and those that the pattern puts first, padded by repeating the first to one length."""
    others = [word for word in beside.tolist() if word not in chosen and ground.offered[word]][:N_BESIDE]
    found = [*chosen, *others] or beside[:1].tolist()
    return np.array(found + found[:1] * (MOST + N_BESIDE - len(found)), np.int64)


def _wants(
    ground: Ground,
    answers: Float[np.ndarray, " held_out"],
    candidates: Int[np.ndarray, " candidate"],
    scores: Float[np.ndarray, " candidate"],
    p: Float[np.ndarray, " candidate"],
    chosen: list[int],
    weights: list[float],
) -> tuple[VoxelWants, Float[np.ndarray, " held_out"]]:
    """One voxel's words, and what its phrases together predict."""
    told = list(dict.fromkeys(candidates.tolist()))  # without the padding
    at = {word: i for i, word in reversed(list(enumerate(candidates.tolist())))}
    stands = {word: bool(p[at[word]] <= ground.level) for word in told}
    phrases = [word for word in chosen if stands[word]]
    whole = sum(weights) or 1.0
    fit = ground.left_out[:, phrases] @ np.array([weights[chosen.index(word)] for word in phrases], np.float32)
    length = float(np.linalg.norm(fit))
    rows = [at[word] for word in told]
    wants = VoxelWants(
        description=Description(
            phrases=tuple(ground.words[word] for word in phrases),
            words=tuple(ground.words[word] for word in told),
            scores=scores[rows],
            p=p[rows],
            held_out=True,
        ),
        shares=tuple(weight / whole for word, weight in zip(chosen, weights, strict=True) if stands[word]),
        r=float(fit @ answers) / length if length > 0 else 0.0,
        company=_company(ground, answers, phrases, [word for word in told if stands[word] and word not in chosen]),
    )
    return wants, fit


def _company(ground: Ground, answers: Float[np.ndarray, " held_out"], phrases: list[int], others: list[int]) -> tuple[Company, ...]:
    """Words that stand, and that the phrases account for on held-out stimuli; each with the phrase it comes with most."""
    if not phrases or not others:
        return ()
    given = ground.left_out[:, phrases].astype(np.float64)
    basis, _ = np.linalg.qr(given)
    rest = answers - basis @ (basis.T @ answers)
    found = []
    for word in others:
        own = ground.left_out[:, word].astype(np.float64)
        alone = float(own @ answers)
        beyond = own - basis @ (basis.T @ own)
        length = np.linalg.norm(beyond) * np.linalg.norm(rest)
        left = float(beyond @ rest) / length if length > 1e-6 else 0.0
        if left < KEEPS * alone:
            with_most = phrases[int((given.T @ own).argmax())]
            found.append(Company(ground.words[word], ground.words[with_most], alone, float(left)))
    return tuple(sorted(found, key=lambda entry: -entry.alone))
