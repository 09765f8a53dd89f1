"""One voxel: how far it can be trusted, what it wants, and what speaks against that."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mine_core.description.decoding import LEAST_HELD_OUT, VoxelWords
from mine_core.description.scoring import standardised
from mine_core.description.vocabulary import Vocabulary
from mine_core.description.wants import VoxelWants
from mine_core.description.writing import write
from mine_core.errors import AlignmentError
from mine_core.types import AttributeScore, EncodingModel, EncodingScore, Features, Subject, VoxelProfile

# Below either, nothing is said of a voxel.
LEAST_R, LARGEST_Q = 0.15, 0.05
# A voxel whose model reaches less than this share of the explainable variance is called weak; so is one below this r.
WEAK_SHARE, WEAK_R = 0.25, 0.25
# Words that come together this often in the stimuli are each other's company.
COMPANY_R = 0.3
# A word that keeps less than this of its correlation, another held constant, could be its company.
KEEPS, N_COMPANY = 0.5, 3
N_EXEMPLARS, N_COUNTER = 6, 4
# Words that reach less than this share of the r² of the model say little of what drives a voxel.
TELLS = 0.25
# Counter-exemplars are looked for among this share of the stimuli, those that show most of the preferred word.
LOOKALIKE_SHARE = 0.1


def reliability(r: float, q: float, noise_ceiling: float) -> str:
    """Say `unreliable`, `weak` or `reliable`.

    Unreliable: held-out r below 0.15 or q above 0.05. Weak: r below 0.25, or r² below a quarter of the noise ceiling (the
    share of variance that repeats could explain; not used where it is unknown, NaN).
    """
    if not (r >= LEAST_R and q <= LARGEST_Q):
        return "unreliable"
    short_of_ceiling = noise_ceiling > 0 and r**2 < WEAK_SHARE * noise_ceiling
    return "weak" if r < WEAK_R or short_of_ceiling else "reliable"


def withheld_text(r: float, q: float, n_test: int) -> str:
    """Say why nothing is claimed of a voxel, with the numbers; empty if it is reliable enough."""
    if q > LARGEST_Q or not np.isfinite(r):
        return f"Withheld: held-out r = {r:.2f} (q = {q:.2g}) on {n_test} images is not above chance."
    if r < LEAST_R:
        return f"Withheld: held-out r = {r:.2f} (q = {q:.2g}) on {n_test} images is above chance but below {LEAST_R}."
    return ""


def wordless_text(backbone: str) -> str:
    """Say that a backbone has no words, and what stands without them."""
    return f"{backbone} has no words: it learnt from images alone. Its predictions, heatmaps and maps stand without them."


def profile_voxel(
    voxel: int,
    *,
    subject: Subject,
    features: Features,
    model: EncodingModel,
    score: EncodingScore,
    vocabulary: Vocabulary,
    words: VoxelWords,
    wants: VoxelWants | None = None,
    attributes: Sequence[AttributeScore] = (),
) -> VoxelProfile:
    """Put together what is known of one voxel.

    Exemplars are the stimuli of highest predicted response, over all splits. Counter-exemplars are lookalikes: among the
    tenth of stimuli that show most of the best word (of the exemplars, where no word stands), those that predicted and
    measured responses together put lowest. Caveats name what else could explain the words.

    Parameters
    ----------
    voxel : 0-based.
    features, model, score, words : of this subject and one backbone; `vocabulary` the one `words` were chosen from.
    wants, attributes : what accounts for the voxel's responses; without it the words of its pattern are told.

    Returns
    -------
    A profile; where `withheld` is not empty, it holds no description, exemplars or caveats. It is withheld where the voxel
    is not reliable, and everywhere where the backbone has no words or too few stimuli are held out to score them.

    Raises
    ------
    AlignmentError : if there is no such voxel, or features and subject are of other stimuli.

    Notes
    -----
    Exemplars rank *predicted* responses; a profile is correlational throughout. Only a counterfactual test tells a cause
    from its company.
    """
    _require_voxel(voxel, subject, features)
    r, q, ceiling = float(score.r[voxel]), float(score.q[voxel]), float(score.noise_ceiling[voxel])
    withheld = withheld_text(r, q, score.n_test)
    if not withheld and not features.backbone.has_words:
        withheld = f"Withheld: {wordless_text(features.backbone.name)}"
    if not withheld and words.n_held_out < LEAST_HELD_OUT:
        withheld = f"Withheld: words are scored on held-out images; there are {words.n_held_out}, and {LEAST_HELD_OUT} are needed."
    shown = _nothing() if withheld else _shown(voxel, subject, features, model, vocabulary, words, ceiling, wants)
    if not withheld and wants is not None:
        shown |= _wanted(wants, attributes, vocabulary, r, ceiling)
    return VoxelProfile(
        voxel=voxel,
        regions=subject.responses.voxels.region_names(voxel),
        r=r,
        noise_ceiling=ceiling,
        q=q,
        reliability=reliability(r, q, ceiling),
        withheld=withheld,
        **shown,
    )


def _nothing() -> dict[str, Any]:
    return {"description": None, "exemplars": (), "counter_exemplars": (), "caveats": ()}


def _shown(
    voxel: int,
    subject: Subject,
    features: Features,
    model: EncodingModel,
    vocabulary: Vocabulary,
    words: VoxelWords,
    ceiling: float,
    wants: VoxelWants | None,
) -> dict[str, Any]:
    phrases = words.standing(voxel) if wants is None else vocabulary.positions(wants.description.phrases).tolist()
    predicted = np.asarray(features.pooled, np.float32) @ np.asarray(model.coef[:, voxel], np.float32)
    exemplars = np.argsort(-predicted, kind="stable")[:N_EXEMPLARS]
    return {
        "description": words.description(voxel),
        "exemplars": tuple(exemplars.tolist()),
        "counter_exemplars": _counter_exemplars(voxel, subject, features, vocabulary, phrases, predicted, exemplars),
        "caveats": _caveats(voxel, subject, features, vocabulary, words, ceiling) if wants is None else (),
    }


def _wanted(
    wants: VoxelWants, attributes: Sequence[AttributeScore], vocabulary: Vocabulary, r: float, ceiling: float
) -> dict[str, Any]:
    """What is told of a voxel from the words that account for its responses, and what speaks against it."""
    phrases, told = wants.description.phrases, [entry for entry in attributes if entry.stands]
    group_of = dict(zip(vocabulary.words, vocabulary.groups, strict=True))
    written = write(phrases, told, wants.company, group_of)
    caveats = []
    for phrase in phrases:
        beside = [entry for entry in wants.company if entry.phrase == phrase][:N_COMPANY]
        if beside:
            first = beside[0]
            caveats.append(
                f"'{phrase}' comes with its usual company here: {', '.join(entry.word for entry in beside)}. '{first.word}' goes "
                f"with the responses too ({first.alone:.2f}), and '{phrase}' accounts for it ({first.left:.2f} is left); edits tell "
                "them apart."
            )
    if phrases and wants.r**2 < TELLS * r**2:
        caveats.append(f"Its words say little of what drives it: they reach r = {max(wants.r, 0):.2f} where the model reaches {r:.2f}.")
    contrast = wants.contrast
    withheld = ""
    if contrast is not None and contrast.outdone:
        withheld = (
            f"Contrast alone predicts its responses to held-out images better (r = {contrast.r:.2f}) than its words do "
            f"({wants.r:.2f}), and they add nothing to it (partial r = {contrast.added:.2f}): no word is told."
        )
    caveats += _general(bool(phrases) or bool(withheld), ceiling)
    return {
        "words_withheld": withheld,
        "description": wants.description,
        "attributes": tuple(attributes),
        "company": wants.company,
        "words_r": wants.r,
        "text": written.text,
        "features": written.features,
        "caveats": tuple(caveats),
    }


def sentence(profile: VoxelProfile) -> str:
    """Write a profile as one plain sentence, always the same for the same profile."""
    if profile.withheld:
        return profile.withheld
    place = f" in {' and '.join(profile.regions)}" if profile.regions else ""
    measured = f"held-out r = {profile.r:.2f}, {profile.reliability}"
    description = profile.description
    if profile.words_withheld:
        return f"Voxel {profile.voxel}{place} ({measured}). {profile.words_withheld}"
    if description is None or not description.phrases:
        return f"Voxel {profile.voxel}{place} ({measured}): no word of the vocabulary goes with its responses beyond chance."
    by_word = dict(zip(description.words, description.scores, strict=True))
    told = [f"{phrase} ({by_word[phrase]:+.2f})" for phrase in description.phrases]
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return f"Voxel {profile.voxel}{place} ({measured}) answers more to images that show {listed}."


def _counter_exemplars(
    voxel: int,
    subject: Subject,
    features: Features,
    vocabulary: Vocabulary,
    phrases: list[int],
    predicted: Float[np.ndarray, " stimulus"],
    exemplars: Int[np.ndarray, " exemplar"],
) -> tuple[int, ...]:
    pooled = np.asarray(features.pooled, np.float32)
    if phrases:
        likeness = pooled @ vocabulary.embedded()[phrases[0]]
    else:
        centred = pooled - pooled.mean(axis=0)
        likeness = centred @ centred[exemplars].mean(axis=0)
        likeness[exemplars] = -np.inf  # an image is no lookalike of itself
    n_alike = max(N_COUNTER, round(LOOKALIKE_SHARE * len(pooled)))
    alike = np.argsort(-likeness, kind="stable")[:n_alike]
    measured = np.asarray(subject.responses.values[:, voxel], np.float64)
    both = standardised(np.stack([predicted.astype(np.float64), measured], axis=1)).sum(axis=1)
    return tuple(alike[np.argsort(both[alike], kind="stable")[:N_COUNTER]].tolist())


def _caveats(
    voxel: int, subject: Subject, features: Features, vocabulary: Vocabulary, words: VoxelWords, ceiling: float
) -> tuple[str, ...]:
    found = usual_company(voxel, subject, features, vocabulary, words)
    return (*found, *_general(bool(words.passes[voxel].any()), ceiling))


def _general(has_words: bool, ceiling: float) -> list[str]:
    """Caveats of any voxel."""
    found = []
    if np.isfinite(ceiling) and ceiling < 0.1:
        found.append(f"Its repeats agree little (noise ceiling {ceiling:.2f}): numbers on this voxel move from sample to sample.")
    if not has_words:
        found.append("No word passes its null: look at the images, and add words of your own.")
    return found


def usual_company(voxel: int, subject: Subject, features: Features, vocabulary: Vocabulary, words: VoxelWords) -> tuple[str, ...]:
    """Say of each phrase which other passing words could be behind it, because they come together in the stimuli.

    For a phrase a and a passing word b whose scores correlate above 0.3 over all stimuli: the partial correlation of a
    with the measured held-out responses, b held constant. Where it is less than half of the correlation of a alone, b
    explains a as well. One line a phrase, naming the three words that leave it least.

    A partial correlation removes only what the backbone's score of b knows of b.
    """
    passing, phrases = words.candidates[voxel][words.passes[voxel]].tolist(), words.standing(voxel)
    held_out = np.concatenate([subject.splits.validation, subject.splits.test])
    scores = np.asarray(features.pooled, np.float32) @ vocabulary.embedded()[passing].T
    likeness = _correlations(scores)
    answers = np.asarray(subject.responses.values[:, [voxel]][held_out], np.float32)
    within = _correlations(np.concatenate([answers, scores[held_out]], axis=1))
    alone, together = within[0, 1:], within[1:, 1:]
    found = []
    for phrase in phrases:
        at = passing.index(phrase)
        left = _partial(alone[at], alone, together[at])
        behind = [b for b in np.argsort(left) if b != at and likeness[at, b] > COMPANY_R and left[b] < KEEPS * alone[at]]
        if behind:
            named = [vocabulary.words[passing[b]] for b in behind[:N_COMPANY]]
            found.append(
                f"'{vocabulary.words[phrase]}' is also explained by its usual company: {', '.join(named)}. With '{named[0]}' held "
                f"constant its correlation falls from {alone[at]:.2f} to {left[behind[0]]:.2f}."
            )
    return tuple(found)


def _correlations(columns: Float[np.ndarray, "stimulus column"]) -> Float[np.ndarray, "column column"]:
    scaled = standardised(columns).astype(np.float64)
    return scaled.T @ scaled


def _partial(own: float, other: Float[np.ndarray, " word"], together: Float[np.ndarray, " word"]) -> Float[np.ndarray, " word"]:
    """Correlation of one word with the responses, each other word held constant in turn; 0 where that word is the same."""
    left = np.sqrt(np.maximum((1 - other**2) * (1 - together**2), 0.0))
    return np.where(left > 1e-4, (own - other * together) / np.maximum(left, 1e-4), 0.0)


def _require_voxel(voxel: int, subject: Subject, features: Features) -> None:
    n_voxels = len(subject.responses.voxels)
    if not 0 <= voxel < n_voxels:
        raise AlignmentError(f"Voxel {voxel} was asked for; this subject has voxels 0 to {n_voxels - 1}.")
    if features.stimulus_ids != subject.stimuli.ids:
        raise AlignmentError(
            f"Features are of {len(features.stimulus_ids)} stimuli and the subject saw {len(subject.stimuli)}, with other ids; "
            "extract the features of this subject's stimuli."
        )
