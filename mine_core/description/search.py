"""Which voxels go with a text: any words, or some minus others, against the measured responses to held-out images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from mine_core.description.scoring import standardised
from mine_core.errors import ConfigError, EncodingError
from mine_core.statistics import false_discovery_rate

LEVEL, N_SHUFFLES, LEAST_STIMULI, MOST_TEXTS = 0.05, 20, 20, 12


@dataclass(frozen=True)
class TextQuery:
    """What is looked for: texts that should be shown, and texts that should not."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    @property
    def title(self) -> str:
        """The query in one line."""
        told = " + ".join(self.wanted)
        return f"{told} − {' − '.join(self.unwanted)}" if self.unwanted else told


@dataclass(frozen=True)
class TextSearch:
    """Every voxel's correlation with a text over held-out stimuli, its p and FDR q, and what shuffled responses give.

    `calls` is True where q <= 0.05; `shuffled_calls` are the numbers of voxels beyond the same correlation when the stimuli of
    the responses are shuffled, one number a shuffle.
    """

    query: TextQuery
    r: Float[np.ndarray, " voxel"]
    p: Float[np.ndarray, " voxel"]
    q: Float[np.ndarray, " voxel"]
    calls: Bool[np.ndarray, " voxel"]
    shuffled_calls: tuple[int, ...]
    n_held_out: int


def parse_query(wanted: str, unwanted: str = "") -> TextQuery:
    """Read two lines of texts separated by commas; spaces are evened out.

    Raises ConfigError if nothing is wanted, a text is on both sides, or more than 12 texts are given.
    """
    sides = [tuple(" ".join(part.split()) for part in line.split(",") if part.strip()) for line in (wanted, unwanted)]
    both = sorted(set(sides[0]) & set(sides[1]))
    n_texts = len(sides[0]) + len(sides[1])
    if not sides[0] or both or n_texts > MOST_TEXTS:
        raise ConfigError(
            f"{len(sides[0])} texts are wanted and {len(sides[1])} unwanted, {both or 'none'} on both sides; give 1 to {MOST_TEXTS} "
            "texts, separated by commas, each on one side."
        )
    return TextQuery(*sides)


def text_score(
    pooled: Float[np.ndarray, "stimulus feature"],
    wanted: Float[np.ndarray, "text feature"],
    unwanted: Float[np.ndarray, "other feature"],
) -> Float[np.ndarray, " stimulus"]:
    """How much each stimulus shows what is wanted and not what is unwanted.

    score = mean over wanted of z(pooled @ t) - mean over unwanted of z(pooled @ t), z over the stimuli

    Each text counts by its own SD, so that a text that varies little in these stimuli is not drowned by another.

    Raises EncodingError if the score does not vary.
    """
    score = standardised(pooled @ wanted.T).mean(axis=1)
    if len(unwanted):
        score = score - standardised(pooled @ unwanted.T).mean(axis=1)
    if np.linalg.norm(score) < 1e-6:
        raise EncodingError(f"The texts score the same in all {len(pooled)} held-out stimuli; ask for others.")
    return score


def search(
    query: TextQuery,
    score: Float[np.ndarray, " stimulus"],
    answers: Float[np.ndarray, "stimulus voxel"],
    rng: np.random.Generator,
) -> TextSearch:
    """Correlate a text's score with every voxel's measured responses.

    r[v] = corr over held-out stimuli of score and responses[:, v]

    p is one-sided, of Student's t with n - 2 degrees of freedom, which the permutation distribution of a correlation follows
    to its second moment exactly; q is of Benjamini and Yekutieli (2001), which holds whatever the dependence of voxels.

    Parameters
    ----------
    answers : measured responses to held-out stimuli, standardised (`scoring.standardised`); constant voxels are 0.

    Raises
    ------
    EncodingError
        If fewer than 20 stimuli are held out, or score and responses are of different numbers of them.

    Notes
    -----
    The text was chosen by the user: trying many and showing the best is a search that q does not know of. A voxel that goes
    with a text may want its usual company.

    References
    ----------
    Pitman (1937), 10.2307/2983647: permutation of correlations.
    """
    n = len(score)
    if n < LEAST_STIMULI or len(answers) != n:
        raise EncodingError(f"{n} scores and {len(answers)} responses were given; the same {LEAST_STIMULI} or more stimuli are needed.")
    scaled = standardised(score[:, None])[:, 0]
    r = np.clip(scaled @ answers, -1, 1).astype(np.float64)
    p = stats.t.sf(r * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-12)), n - 2)
    q = false_discovery_rate(p, method="by")
    calls = q <= LEVEL
    least = r[calls].min() if calls.any() else np.inf
    shuffles = np.stack([scaled[rng.permutation(n)] for _ in range(N_SHUFFLES)])
    beyond = (shuffles @ answers >= least).sum(axis=1)
    return TextSearch(query, r, p, q, calls, tuple(int(count) for count in beyond), n)
