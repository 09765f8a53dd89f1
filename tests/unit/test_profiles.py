"""A profile withholds what it cannot stand for, and names the company that could explain its words."""

from dataclasses import replace

import numpy as np
import pytest

from mine_core.description.captioning import caption_stimuli
from mine_core.description.decoding import describe_voxels
from mine_core.description.vocabulary import Vocabulary
from mine_core.errors import AlignmentError, BackboneError, Cancelled
from mine_core.profiles import profile_voxel, reliability, sentence, usual_company, withheld_text
from mine_core.types import (
    BackboneSpec,
    EncodingModel,
    EncodingScore,
    Features,
    Responses,
    Splits,
    StimulusSet,
    Subject,
    VoxelIndex,
)

N, D = 900, 16
WORDS = ("ball", "person", "tree", "cup", "sky", "dog")
SPEC = BackboneSpec("random", (1, 1), D, "0" * 64, "none")
# voxel 0 wants balls alone, 1 wants ball and person alike, 2 is noise, 3 wants trees
BALL, BOTH, NOISE, TREE = range(4)


@pytest.fixture(scope="module")
def world():
    """Images in which a ball mostly comes with a person; words are orthogonal directions that say it with some noise."""
    rng = np.random.default_rng(11)
    texts = np.eye(6, D, dtype=np.float32)
    present = rng.random((N, 6)) < 0.3
    present[:, 0] = np.where(rng.random(N) < 0.85, present[:, 1], present[:, 0])  # the ball keeps company
    pooled = rng.normal(0, 0.3, (N, D)).astype(np.float32)
    pooled[:, :6] += present
    values = rng.normal(0, 0.7, (N, 4))
    values[:, BALL] += 1.5 * present[:, 0]
    values[:, BOTH] += present[:, 0] + present[:, 1]
    values[:, TREE] += 1.5 * present[:, 2]
    train, held_out = np.arange(500), np.arange(500, N)
    x = pooled[train] - pooled[train].mean(axis=0)
    coef = np.linalg.solve(x.T @ x + 10 * np.eye(D), x.T @ (values[train] - values[train].mean(axis=0)))
    membership = np.array([[True, False, False, False], [True, False, False, True]])
    voxels = VoxelIndex("s", np.arange(4), (4, 1, 1), ("EBA", "PPA"), membership)
    ids = tuple(f"image-{i}" for i in range(N))
    stimuli = StimulusSet(ids, np.zeros((N, 4, 4, 3), np.uint8), ((),) * N, "none")
    responses = Responses(values.astype(np.float32), None, ids, voxels, "z")
    splits = Splits(train, np.arange(500, 700), np.arange(700, N))
    subject = Subject("s", "custom", stimuli, responses, splits, "", None)
    features = Features(pooled, np.zeros((N, 1, D), np.float16), np.zeros((N, D), np.float16), ids, SPEC)
    sd = (pooled[train] @ coef).std(axis=0)
    model = EncodingModel("ridge", coef, np.zeros(4), np.ones(4), sd, voxels, SPEC)
    predicted = pooled[held_out] @ coef
    r = np.array([np.corrcoef(predicted[:, v], values[held_out, v])[0, 1] for v in range(4)])
    q = np.where(r > 0.2, 0.001, 0.6)
    score = EncodingScore(r, r**2, np.array([0.5, 0.5, 0.0, 0.5]), q, q, len(held_out), 999)
    vocabulary = Vocabulary(WORDS, ("things",) * 6, tuple((w,) for w in WORDS), ("{}",), texts, np.ones(6))
    words = describe_voxels(features, responses, model, vocabulary, train=train, held_out=held_out, rng=rng, n_permutations=499)
    found = {"subject": subject, "features": features, "model": model, "score": score, "vocabulary": vocabulary, "words": words}
    return found, present


def test_a_reliable_voxel_gets_its_word_and_its_images(world):
    parts, present = world
    profile = profile_voxel(TREE, **parts)
    assert profile.reliability == "reliable" and profile.withheld == "" and profile.regions == ("PPA",)
    assert profile.description.phrases[0] == "tree"
    assert present[list(profile.exemplars), 2].all()
    predicted = parts["features"].pooled @ parts["model"].coef[:, TREE]
    assert profile.exemplars[0] == predicted.argmax() and len(profile.exemplars) == 6


def test_counter_exemplars_look_alike_and_answer_little(world):
    parts, _ = world
    profile = profile_voxel(TREE, **parts)
    tree = parts["features"].pooled @ parts["vocabulary"].embeddings[2]
    measured = parts["subject"].responses.values[:, TREE]
    chosen = list(profile.counter_exemplars)
    alike = np.argsort(-tree)[: N // 10]
    assert set(chosen) <= set(alike.tolist()) and not set(chosen) & set(profile.exemplars)
    assert measured[chosen].mean() < measured[alike].mean() - 0.5 * measured.std()


def test_lookalikes_are_found_without_a_word(world):
    parts, _ = world
    silent = replace(parts["words"], passes=np.zeros_like(parts["words"].passes))
    profile = profile_voxel(TREE, **(parts | {"words": silent}))
    assert profile.description.phrases == () and len(profile.counter_exemplars) == 4
    assert not set(profile.counter_exemplars) & set(profile.exemplars)
    assert any("No word passes" in caveat for caveat in profile.caveats)
    assert "no word" in sentence(profile)


def test_an_unreliable_voxel_is_withheld_with_its_numbers(world):
    parts, _ = world
    profile = profile_voxel(NOISE, **parts)
    r = parts["score"].r[NOISE]
    assert profile.withheld == f"Withheld: held-out r = {r:.2f} (q = 0.6) on 400 images is not above chance."
    assert profile.description is None and profile.exemplars == profile.counter_exemplars == profile.caveats == ()
    assert profile.reliability == "unreliable" and sentence(profile) == profile.withheld


def parts_for_company(world):
    parts, _ = world
    return {key: parts[key] for key in ("subject", "features", "vocabulary", "words")}


def calling_it(words, voxel, name):
    """The same words, with one of them chosen first, as an encoder that took the company for the cause would."""
    order = np.argsort(words.candidates[voxel] != WORDS.index(name), kind="stable")
    changed = {key: np.array(getattr(words, key)) for key in ("candidates", "scores", "p", "passes")}
    for array in changed.values():
        array[voxel] = array[voxel][order]
    return replace(words, **changed)


def test_a_cause_is_not_explained_by_its_company(world):
    parts, _ = world
    assert parts["words"].description(BALL).phrases[0] == "ball"
    assert "person" in {WORDS[w] for w in parts["words"].candidates[BALL][parts["words"].passes[BALL]]}
    assert not any(text.startswith("'ball'") for text in usual_company(BALL, **parts_for_company(world)))


def test_company_taken_for_the_cause_is_found_out(world):
    """The figures in the caveat equal the correlation of residuals."""
    parts, _ = world
    mistaken = parts_for_company(world) | {"words": calling_it(parts["words"], BALL, "person")}
    text = usual_company(BALL, **mistaken)[0]
    assert text.startswith("'person' is also explained by its usual company: ball. With 'ball' held constant")
    held_out = np.arange(500, N)
    ball, person = (parts["features"].pooled[held_out, i].astype(float) for i in (0, 1))
    answers = parts["subject"].responses.values[held_out, BALL].astype(float)
    given = np.stack([np.ones(len(ball)), ball], axis=1)
    left = [x - given @ np.linalg.lstsq(given, x, rcond=None)[0] for x in (person, answers)]
    alone, partial = np.corrcoef(person, answers)[0, 1], np.corrcoef(*left)[0, 1]
    assert text.endswith(f"falls from {alone:.2f} to {partial:.2f}.")
    assert text in profile_voxel(BALL, **(parts | {"words": mistaken["words"]})).caveats


def test_two_words_that_both_drive_are_not_called_company(world):
    parts, _ = world
    assert set(parts["words"].description(BOTH).phrases) == {"ball", "person"}
    assert usual_company(BOTH, **parts_for_company(world)) == ()


def test_words_that_the_backbone_reads_alike_explain_each_other(world):
    parts, _ = world
    texts = parts["vocabulary"].embeddings.copy()
    texts[1] = texts[0]
    vocabulary = replace(parts["vocabulary"], embeddings=texts)
    words = describe_voxels(
        parts["features"],
        parts["subject"].responses,
        parts["model"],
        vocabulary,
        train=np.arange(500),
        held_out=np.arange(500, N),
        rng=np.random.default_rng(0),
        n_permutations=99,
    )
    told = usual_company(BALL, **(parts_for_company(world) | {"vocabulary": vocabulary, "words": words}))
    assert len(told) == 1 and told[0].startswith("'ball' is also explained by its usual company: person")
    assert words.description(BALL).phrases == ("ball",)


def test_the_sentence_says_what_was_scored(world):
    parts, _ = world
    profile = profile_voxel(TREE, **parts)
    told = sentence(profile)
    assert told == sentence(profile_voxel(TREE, **parts))
    assert told.startswith(f"Voxel 3 in PPA (held-out r = {profile.r:.2f}, reliable) answers more to images that show tree (+0.")


@pytest.mark.parametrize(
    ("r", "q", "ceiling", "expected"),
    [
        (0.6, 0.001, 0.5, "reliable"),
        (0.2, 0.001, 0.1, "weak"),
        (0.3, 0.001, 0.6, "weak"),  # r² is a seventh of what repeats could explain
        (0.3, 0.001, np.nan, "reliable"),
        (0.1, 0.001, 0.5, "unreliable"),
        (0.4, 0.2, 0.5, "unreliable"),
        (np.nan, np.nan, np.nan, "unreliable"),
    ],
)
def test_reliability_follows_the_numbers(r, q, ceiling, expected):
    assert reliability(r, q, ceiling) == expected
    assert bool(withheld_text(r, q, 250)) == (expected == "unreliable")


def test_what_does_not_belong_together_is_refused(world):
    parts, _ = world
    with pytest.raises(AlignmentError, match="Voxel 4"):
        profile_voxel(4, **parts)
    other = replace(parts["features"], stimulus_ids=parts["features"].stimulus_ids[::-1])
    with pytest.raises(AlignmentError, match="other ids"):
        profile_voxel(0, **(parts | {"features": other}))


# --- captions --------------------------------------------------------------------------------------------------------


class Counting:
    """Says what the first pixel of each image is."""

    def caption(self, images):
        return [f"pixel {image[0, 0, 0]}" for image in images]


class Careless:
    """Forgets the last image of a batch."""

    def caption(self, images):
        return [""] * (len(images) - 1)


def test_captions_come_in_order_with_progress():
    images = np.arange(150, dtype=np.uint8)[:, None, None, None] * np.ones((150, 2, 2, 3), np.uint8)
    stimuli = StimulusSet(tuple(map(str, range(150))), images, ((),) * 150, "none")
    seen = []
    captions = caption_stimuli(stimuli, Counting(), lambda done, total, _: seen.append((done, total)))
    assert captions == tuple(f"pixel {i}" for i in range(150))
    assert seen == [(64, 150), (128, 150), (150, 150)]
    with pytest.raises(Cancelled, match="after 64 of 150"):
        caption_stimuli(stimuli, Counting(), lambda done, total, _: seen.append((done, total)), lambda: len(seen) > 3)
    with pytest.raises(BackboneError, match="64 images were given and 63"):
        caption_stimuli(stimuli, Careless())
