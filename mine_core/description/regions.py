"""What the voxels of a region share, what each part of it has of its own, and how surely it splits into parts at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mine_core.description.scoring import standardised
from mine_core.errors import EncodingError
from mine_core.statistics import resample_counts

N_RESAMPLES, LEVEL, PENALTY = 1000, 0.95, 0.05
# Halves of the stimuli that a split is tried on; a split counts where the halves agree this much (adjusted Rand index).
N_HALVES, REPEATS_FROM = 6, 0.3
MOST_PARTS, LEAST_VOXELS = 6, 12
N_WORDS = 4
# A voxel's own word exceeds the region's mean by this many standard errors, 1 / sqrt(stimuli): one in 30,000 words by chance.
ALONE = 4.0


@dataclass(frozen=True)
class GroupRecovery:
    """How well each group of words predicts a region's voxels, over held-out stimuli, and how far the best leads the next.

    `r[group]` is the mean over voxels; intervals resample stimuli and speak of these voxels.
    """

    groups: tuple[str, ...]
    r: Float[np.ndarray, " group"]
    low: Float[np.ndarray, " group"]
    high: Float[np.ndarray, " group"]
    best: str
    lead: float
    lead_low: float
    lead_high: float
    n_voxels: int


@dataclass(frozen=True)
class RegionParts:
    """A split of a region's voxels: part of each, words of each part with how much more it has of them, and stability.

    `stability[n_parts]` is the mean adjusted Rand index of splits by two halves of the training stimuli: 1 the same split, 0
    no more alike than by chance. One part only where no number of parts repeats. `alone[member]` are the words that one voxel has
    more of than the region's mean, by more than `ALONE` standard errors of a correlation over the held-out stimuli.
    """

    voxels: Int[np.ndarray, " member"]
    part: Int[np.ndarray, " member"]
    shared: tuple[tuple[str, float], ...]
    own: tuple[tuple[tuple[str, float], ...], ...]
    stability: Mapping[int, float]
    alone: tuple[tuple[tuple[str, float], ...], ...]


def recover_groups(
    seen: Float[np.ndarray, "train word"],
    left_out: Float[np.ndarray, "held_out word"],
    groups: Sequence[str],
    answers: Float[np.ndarray, "train member"],
    measured: Float[np.ndarray, "held_out member"],
    rng: np.random.Generator,
) -> GroupRecovery:
    """Predict a region's voxels from the words of one group at a time, and compare how well on held-out stimuli.

    b[v] = (S'S + 0.05 I)^-1 S' y[v], S the presence of the group's words at training stimuli
    r[g] = mean over voxels of corr over held-out stimuli of S b[v] and the measured responses

    A voxel may like one word of a group and not another, as places indoors and outdoors: it counts for the group all the same.
    Intervals are percentiles over 1,000 resamples of the held-out stimuli, the scale of each voxel held.

    Parameters
    ----------
    seen, left_out : presence, standardised; `groups` names the group of each column.
    answers, measured : responses of the region's voxels to the same stimuli.

    Raises EncodingError if there is no voxel, or fewer than two groups.
    """
    names = tuple(dict.fromkeys(groups))
    if not measured.shape[1] or len(names) < 2:
        raise EncodingError(f"{measured.shape[1]} voxels and {len(names)} groups were given; at least 1 and 2 are needed.")
    inside, wanted, found = np.array(groups), standardised(answers), standardised(measured).astype(np.float64)
    parts = []
    for name in names:
        columns = seen[:, inside == name].astype(np.float64)
        weights = np.linalg.solve(columns.T @ columns + PENALTY * np.eye(columns.shape[1]), columns.T @ wanted)
        predicted = standardised(left_out[:, inside == name] @ weights).astype(np.float64)
        parts.append((predicted * found).mean(axis=1))
    share = np.stack(parts, axis=1)  # what each stimulus adds to each group's mean correlation
    observed = share.sum(axis=0)
    drawn = resample_counts(len(share), N_RESAMPLES, rng) @ share
    order = np.argsort(-observed, kind="stable")
    lead = drawn[:, order[0]] - np.delete(drawn, order[0], axis=1).max(axis=1)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn, ends, axis=0)
    lead_low, lead_high = np.quantile(lead, ends)
    return GroupRecovery(
        groups=names,
        r=observed,
        low=low,
        high=high,
        best=names[order[0]],
        lead=float(observed[order[0]] - observed[order[1]]),
        lead_low=float(lead_low),
        lead_high=float(lead_high),
        n_voxels=measured.shape[1],
    )


def split_region(
    voxels: Int[np.ndarray, " member"],
    seen: Float[np.ndarray, "train word"],
    left_out: Float[np.ndarray, "held_out word"],
    answers: Float[np.ndarray, "train member"],
    measured: Float[np.ndarray, "held_out member"],
    words: Sequence[str],
    offered: Bool[np.ndarray, " word"],
    seed: int,
) -> RegionParts:
    """Split a region's voxels by what they want, and name what they share and what each part has of its own.

    Each voxel is its correlations with the offered words over training stimuli; k-means for 2 to 6 parts. The number of parts
    is the one on which splits by two halves of the stimuli agree best, if they agree at 0.3 or more. Words of a part are those
    whose held-out correlation exceeds that of the rest of the region most: the stimuli that name a part did not make it. Each
    voxel's own words are those whose held-out correlation exceeds the region's mean by four standard errors.

    Raises EncodingError if there are fewer than 12 voxels.

    References
    ----------
    Hubert and Arabie (1985), 10.1007/BF01908075; stability: Lange et al. (2004), 10.1162/089976604773717621.
    """
    if len(voxels) < LEAST_VOXELS:
        raise EncodingError(f"{len(voxels)} reliable voxels are in the region; splitting it needs at least {LEAST_VOXELS}.")
    places = np.flatnonzero(offered)
    rng = np.random.default_rng(seed)
    stability = _stability(seen[:, places], answers, rng)
    n_parts = max(stability, key=lambda n: stability[n])
    part = np.zeros(len(voxels), np.int64)
    if stability[n_parts] >= REPEATS_FROM:
        part = _clusters(_profiles(seen[:, places], answers), n_parts, seed)
    held_out = standardised(measured).T @ left_out[:, places]
    mean = held_out.mean(axis=0)
    own = []
    for number in range(part.max() + 1):
        inside = part == number
        beyond = held_out[inside].mean(axis=0) - (held_out[~inside].mean(axis=0) if (~inside).any() else 0.0)
        own.append(_best(beyond, words, places))
    least = ALONE / np.sqrt(len(measured))
    alone = tuple(_best(member - mean, words, places, least) for member in held_out)
    return RegionParts(voxels, part, _best(mean, words, places), tuple(own) if part.max() else (), stability, alone)


def _best(
    values: Float[np.ndarray, " word"], words: Sequence[str], places: Int[np.ndarray, " word"], least: float = 0.0
) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-values, kind="stable")[:N_WORDS]
    return tuple((words[places[i]], float(values[i])) for i in order if values[i] > least)


def _profiles(seen: Float[np.ndarray, "train word"], answers: Float[np.ndarray, "train member"]) -> Float[np.ndarray, "member word"]:
    """Correlations of voxels with words, scaled to length 1: the shape of what a voxel wants, not how strongly."""
    found = standardised(answers).T @ standardised(seen)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def _clusters(profiles: Float[np.ndarray, "member word"], n_parts: int, seed: int) -> Int[np.ndarray, " member"]:
    from sklearn.cluster import KMeans

    return KMeans(n_parts, n_init=4, random_state=seed).fit_predict(profiles).astype(np.int64)


def _stability(
    seen: Float[np.ndarray, "train word"], answers: Float[np.ndarray, "train member"], rng: np.random.Generator
) -> dict[int, float]:
    from sklearn.metrics import adjusted_rand_score

    numbers = range(2, min(MOST_PARTS, answers.shape[1] // 4) + 1)
    agreement: dict[int, list[float]] = {n_parts: [] for n_parts in numbers}
    for _ in range(N_HALVES):
        order = rng.permutation(len(seen))
        halves = [_profiles(seen[rows], answers[rows]) for rows in (order[: len(seen) // 2], order[len(seen) // 2 :])]
        for n_parts in numbers:
            split = [_clusters(half, n_parts, int(rng.integers(2**31))) for half in halves]
            agreement[n_parts].append(adjusted_rand_score(*split))
    return {n_parts: float(np.mean(found)) for n_parts, found in agreement.items()}
