"""Words are recovered where they were planted, survive their null, and are chosen as an independent computation would."""

from dataclasses import replace

import numpy as np
import pytest

from mine_core.description.decoding import (
    attributed_words,
    describe_voxels,
    image_words,
    open_voxel_words,
    patch_words,
    save_voxel_words,
    voxel_words,
)
from mine_core.description.scoring import held_out_scores, passing
from mine_core.description.vocabulary import Alternatives, Vocabulary
from mine_core.errors import AlignmentError, BackboneError, EncodingError
from mine_core.types import BackboneSpec, EncodingModel, Features, Responses, VoxelIndex

GRID, N_FEATURES, N_WORDS = (4, 4), 32, 20
SPEC = BackboneSpec("random", GRID, N_FEATURES, "0" * 64, "none")


def some_vocabulary(rng: np.random.Generator, n_words: int = N_WORDS) -> Vocabulary:
    texts = rng.normal(size=(n_words, N_FEATURES)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    words = tuple(f"word{i}" for i in range(n_words))
    groups = tuple("even" if i % 2 == 0 else "odd" for i in range(n_words))
    return Vocabulary(words, groups, tuple((word,) for word in words), ("{}",), texts, np.ones(n_words))


def features_of(pooled: np.ndarray, patches: np.ndarray | None = None) -> Features:
    n = len(pooled)
    patches = np.zeros((n, GRID[0] * GRID[1], N_FEATURES), np.float16) if patches is None else patches
    return Features(pooled, patches, np.zeros_like(pooled), tuple(map(str, range(n))), SPEC)


def subject_of(coef: np.ndarray, values: np.ndarray) -> tuple[EncodingModel, Responses]:
    n_voxels = coef.shape[1]
    voxels = VoxelIndex("s", np.arange(n_voxels), (n_voxels, 1, 1), (), np.zeros((0, n_voxels), bool))
    model = EncodingModel("ridge", coef, np.zeros(n_voxels), np.ones(n_voxels), np.ones(n_voxels), voxels, SPEC)
    return model, Responses(values.astype(np.float32), None, tuple(map(str, range(len(values)))), voxels, "z")


# --- patches and images ----------------------------------------------------------------------------------------------


@pytest.fixture
def planted_image(rng):
    """One image: word 3 at patch 5, word 8 at patch 10, on a ground that says word 0 everywhere."""
    vocabulary = some_vocabulary(rng)
    mean_patches = 5 * vocabulary.embeddings[[0] * 16] + 0.1 * rng.normal(size=(16, N_FEATURES))
    patches = mean_patches + 0.05 * rng.normal(size=(16, N_FEATURES))
    patches[5] += vocabulary.embeddings[3]
    patches[10] += vocabulary.embeddings[8]
    return vocabulary, mean_patches, features_of(patches.sum(axis=0)[None], patches[None].astype(np.float32))


def test_a_planted_patch_says_its_word(planted_image):
    vocabulary, mean_patches, features = planted_image
    scores = patch_words(features.patches[0], mean_patches, vocabulary)
    assert scores.shape == (16, N_WORDS)
    assert scores[5].argmax() == 3 and scores[10].argmax() == 8


def test_what_is_said_everywhere_is_taken_away(planted_image):
    vocabulary, mean_patches, features = planted_image
    raw = features.patches[0] @ vocabulary.embeddings.T
    assert raw[5].argmax() == 0  # without the mean patches, the ground wins
    assert patch_words(features.patches[0], mean_patches, vocabulary)[5].argmax() == 3


def test_a_word_that_varies_more_needs_more(planted_image):
    vocabulary, mean_patches, features = planted_image
    loud = Vocabulary(vocabulary.words, vocabulary.groups, vocabulary.phrases, ("{}",), vocabulary.embeddings, np.arange(1.0, 21.0))
    plain = patch_words(features.patches[0], mean_patches, vocabulary)
    assert np.abs(patch_words(features.patches[0], mean_patches, loud) * np.arange(1, 21) - plain).max() < 1e-5


def test_words_follow_the_attribution(planted_image):
    vocabulary, mean_patches, features = planted_image
    values = np.full((2, 4, 4), -1.0)
    values[0, 1, 1], values[1, 2, 2] = 2.0, 3.0  # patches 5 and 10
    words = attributed_words(features, mean_patches, np.array([0, 0]), values, vocabulary, k=1)
    assert words == (("word3",), ("word8",))
    none = attributed_words(features, mean_patches, np.array([0]), -np.ones((1, 4, 4)), vocabulary)
    assert none == ((),)


def test_every_image_is_read_at_its_own_place(planted_image):
    vocabulary, mean_patches, features = planted_image
    other = features.patches[0].copy()
    other[5] += 3 * vocabulary.embeddings[11]
    both = features_of(np.zeros((2, N_FEATURES), np.float32), np.stack([features.patches[0], other]))
    values = np.zeros((2, 4, 4))
    values[:, 1, 1] = 1.0  # patch 5
    assert attributed_words(both, mean_patches, np.array([1, 0]), values, vocabulary, k=1) == (("word11",), ("word3",))
    assert image_words(both, 1, values[0], mean_patches, vocabulary, k=1)[0].word == "word11"


def test_the_table_of_an_image(planted_image):
    vocabulary, mean_patches, features = planted_image
    values = np.zeros((4, 4))
    values[1, 1], values[2, 2] = 3.0, 2.0
    table = image_words(features, 0, values, mean_patches, vocabulary, k=5)
    scores = patch_words(features.patches[0], mean_patches, vocabulary)
    assert [row.rank for row in table] == [1, 2, 3, 4, 5]
    assert table[0].word == "word3" and table[0].count == 1
    assert table[0].score == pytest.approx(scores[5, 3], rel=1e-5)  # half of the drive is in patch 5 alone
    assert all(a.score >= b.score for a, b in zip(table, table[1:], strict=False))
    assert image_words(features, 0, -values, mean_patches, vocabulary) == ()


def test_words_need_a_scale(planted_image):
    vocabulary, mean_patches, features = planted_image
    bare = Vocabulary(vocabulary.words, vocabulary.groups, vocabulary.phrases, ("{}",), vocabulary.embeddings)
    with pytest.raises(BackboneError, match="no scale"):
        patch_words(features.patches[0], mean_patches, bare)


# --- voxels ----------------------------------------------------------------------------------------------------------


def correlated_pooled(rng: np.random.Generator, n: int) -> np.ndarray:
    """Embeddings with a few directions that most of the variance lies in, as natural images have."""
    mixing = rng.normal(size=(N_FEATURES, N_FEATURES)) * np.geomspace(3, 0.1, N_FEATURES)
    return (rng.normal(size=(n, N_FEATURES)) @ mixing.T + rng.normal(size=N_FEATURES)).astype(np.float32)


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    x = x - x.mean(axis=0)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean(axis=0)))


def test_the_pattern_score_is_the_correlation_of_word_and_prediction(rng):
    pooled, vocabulary = correlated_pooled(rng, 300), some_vocabulary(rng)
    coef = rng.normal(size=(N_FEATURES, 5))
    coef[:, 4] = 0
    found = voxel_words(pooled, coef, vocabulary)
    expected = np.corrcoef((pooled @ vocabulary.embeddings.T).T, (pooled @ coef[:, :4]).T)[N_WORDS:, :N_WORDS]
    assert np.abs(found[:4] - expected).max() < 1e-4
    assert np.abs(found[4]).max() == 0


def test_the_forward_pattern_finds_words_that_the_weights_miss(rng):
    vocabulary = some_vocabulary(rng, 20)
    pooled = correlated_pooled(rng, 600)
    planted = np.arange(20)
    drive = pooled @ vocabulary.embeddings[planted].T
    responses = drive / drive.std(axis=0) + rng.normal(size=drive.shape)
    coef = ridge(pooled, responses, 30.0)
    by_pattern = (voxel_words(pooled, coef, vocabulary).argmax(axis=1) == planted).mean()
    cosine = (coef / np.linalg.norm(coef, axis=0)).T @ vocabulary.embeddings.T
    by_weights = (cosine.argmax(axis=1) == planted).mean()
    assert by_pattern >= 0.9 > by_weights + 0.2


@pytest.fixture
def planted_voxels(rng):
    """60 voxels: 20 of one word each, 20 of noise, 20 constant or of two words."""
    vocabulary, pooled = some_vocabulary(rng), rng.normal(size=(900, N_FEATURES)).astype(np.float32)
    drive = pooled @ vocabulary.embeddings.T
    drive /= drive.std(axis=0)
    pairs = np.stack([drive[:, i] + 0.8 * drive[:, (i + 7) % 20] for i in range(20)], axis=1)
    clean = np.concatenate([drive, np.zeros((900, 20)), pairs], axis=1)
    values = clean + 1.0 * rng.normal(size=clean.shape)
    values[:, 59] = 2.5
    coef = ridge(pooled[:600], values[:600], 10.0)
    model, responses = subject_of(coef, values)
    words = describe_voxels(
        features_of(pooled),
        responses,
        model,
        vocabulary,
        train=np.arange(600),
        held_out=np.arange(600, 900),
        rng=rng,
        n_permutations=999,
    )
    return words, vocabulary, pooled, values


def test_planted_words_come_first(planted_voxels):
    words, vocabulary, _, _ = planted_voxels
    first = [words.description(voxel).words[0] for voxel in range(20)]
    assert np.mean([word == vocabulary.words[voxel] for voxel, word in enumerate(first)]) >= 0.95
    assert words.passes[:20, 0].all()
    assert np.mean([set(words.description(40 + v).phrases[:2]) == {f"word{v}", f"word{(v + 7) % 20}"} for v in range(19)]) >= 0.9


def test_a_voxel_that_never_varies_gets_no_word(planted_voxels):
    words, _, _, _ = planted_voxels
    assert (words.scores[59] == 0).all() and (words.p[59] == 1).all()
    assert words.description(59).phrases == ()


def test_a_score_is_the_correlation_on_held_out_stimuli(planted_voxels):
    words, vocabulary, pooled, values = planted_voxels
    for voxel in (0, 25, 45):
        description = words.description(voxel)
        for word, score in zip(description.words, description.scores, strict=True):
            seen = pooled[600:] @ vocabulary.embeddings[vocabulary.words.index(word)]
            assert score == pytest.approx(np.corrcoef(seen, values[600:, voxel])[0, 1], abs=1e-4)


def test_the_preferred_group_is_that_of_the_best_word(planted_voxels):
    words, _, _, _ = planted_voxels
    found = words.preferred_group(("odd", "even"))
    expected = np.array([1, 0] * 10)
    assert (found[:20] == expected).mean() >= 0.95
    assert (found[20:40] == -1).mean() >= 0.8 and found[59] == -1


def test_a_word_that_others_account_for_is_no_phrase_of_its_own(rng):
    """Word 1 is nearly word 0, the voxel wants word 0 and word 2."""
    texts = rng.normal(size=(6, N_FEATURES)).astype(np.float32)
    texts[1] = texts[0] + 0.3 * texts[3]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    vocabulary = Vocabulary(tuple("abcdef"), ("g",) * 6, tuple((w,) for w in "abcdef"), ("{}",), texts, np.ones(6))
    pooled = rng.normal(size=(900, N_FEATURES)).astype(np.float32)
    drive = pooled @ texts.T
    values = (drive[:, [0]] + 0.7 * drive[:, [2]]) + 0.3 * rng.normal(size=(900, 1))
    model, responses = subject_of(ridge(pooled[:600], values[:600], 1.0), values)
    splits = {"train": np.arange(600), "held_out": np.arange(600, 900)}
    words = describe_voxels(features_of(pooled), responses, model, vocabulary, **splits, rng=rng, n_permutations=199)
    passing_words = {words.words[w] for w in words.candidates[0][words.passes[0]]}
    assert {"a", "b", "c"} <= passing_words
    assert words.description(0).phrases == ("a", "c")
    # the same partial correlation, from residuals
    prediction = pooled[:600] @ model.coef[:, 0]
    given = np.stack([np.ones(600), drive[:600, 0]], axis=1)
    left = [x - given @ np.linalg.lstsq(given, x, rcond=None)[0] for x in (drive[:600, 2].astype(float), prediction)]
    by = dict(zip(words.candidates[0].tolist(), words.chosen_by[0].tolist(), strict=True))
    assert words._partial(2, [0], by) == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-3)


def test_of_words_that_exclude_each_other_one_is_told(rng):
    """'hat' and 'no hat' both go with a voxel that likes heads: both were told of one voxel."""
    vocabulary, pooled = some_vocabulary(rng, 6), rng.normal(size=(900, N_FEATURES)).astype(np.float32)
    drive = pooled @ vocabulary.embeddings.T
    values = (drive[:, [0]] + 0.9 * drive[:, [1]] + 0.8 * drive[:, [2]]) + 0.3 * rng.normal(size=(900, 1))
    model, responses = subject_of(ridge(pooled[:600], values[:600], 1.0), values)
    splits = {"train": np.arange(600), "held_out": np.arange(600, 900)}
    sets = (Alternatives("hat", ("word0", "word1")),)
    told = []
    for known in (vocabulary, replace(vocabulary, alternatives=sets)):
        words = describe_voxels(features_of(pooled), responses, model, known, **splits, rng=rng, n_permutations=199)
        told.append(set(words.description(0).phrases))
    assert {"word0", "word1"} <= told[0]
    assert len({"word0", "word1"} & told[1]) == 1 and "word2" in told[1]


# --- the null --------------------------------------------------------------------------------------------------------


def test_shuffled_responses_describe_almost_no_voxel(rng):
    vocabulary, pooled = some_vocabulary(rng), correlated_pooled(rng, 300)
    drive = pooled @ vocabulary.embeddings.T
    values = np.tile(drive / drive.std(axis=0), (1, 15))
    described = []
    for _ in range(8):
        order = np.concatenate([rng.permutation(200), 200 + rng.permutation(100)])
        shuffled = values[order] + 0.5 * rng.normal(size=values.shape)
        model, responses = subject_of(ridge(pooled[:200], shuffled[:200], 10.0), shuffled)
        splits = {"train": np.arange(200), "held_out": np.arange(200, 300)}
        words = describe_voxels(features_of(pooled), responses, model, vocabulary, **splits, rng=rng, n_permutations=199)
        described.append(words.passes.any(axis=1).mean())
    assert np.mean(described) <= 0.05


def test_p_of_noise_is_uniform_and_never_too_small(rng):
    word_scores, responses = rng.normal(size=(80, 12)), rng.normal(size=(80, 1500))
    candidates = np.argsort(rng.random((1500, 12)), axis=1)[:, :4]
    _, p = held_out_scores(word_scores, responses, candidates, n_permutations=199, rng=rng)
    smallest = p.min(axis=1)
    for level in (0.05, 0.2, 0.5):
        # the same shuffles serve all voxels and the 12 words are few: the share varies more than a binomial's
        assert abs((smallest <= level).mean() - level) < 0.04
    assert p.min() >= 1 / 200


def test_scores_and_p_equal_a_plain_loop(rng):
    word_scores, responses = rng.normal(size=(30, 6)), rng.normal(size=(30, 5))
    responses[:, 0] += word_scores[:, 2]
    candidates = np.array([[2, 1], [0, 5], [3, 4], [5, 2], [1, 0]])
    scores, p = held_out_scores(word_scores, responses, candidates, n_permutations=150, rng=np.random.default_rng(4))
    shuffles = np.random.default_rng(4).permuted(np.tile(np.arange(30), (150, 1)), axis=1)
    for voxel in range(5):
        observed = [np.corrcoef(word_scores[:, w], responses[:, voxel])[0, 1] for w in candidates[voxel]]
        null = [max(np.corrcoef(word_scores[s, w], responses[:, voxel])[0, 1] for w in candidates[voxel]) for s in shuffles]
        assert np.abs(scores[voxel] - observed).max() < 1e-5
        assert np.abs(p[voxel] - [(1 + sum(n >= o for n in null)) / 151 for o in observed]).max() < 1e-6
    assert p[0, 0] < 0.02


def test_what_passes_is_what_false_discovery_control_says():
    p = np.array([[0.001, 0.02], [0.01, 0.5], [0.3, 0.012], [0.9, 0.04], [0.7, 0.8]])
    passes, q = passing(p, 0.05)
    # best p 0.001, 0.01, 0.012, 0.04, 0.7 against 0.01, 0.02, 0.03, 0.04, 0.05: the first four stand
    assert (passes == (p <= 0.04)).all()
    assert q == pytest.approx([0.005, 0.02, 0.02, 0.05, 0.7])
    assert not passing(np.full((4, 2), 0.5), 0.05)[0].any()
    lone = np.full((200, 2), 0.9)
    lone[3, 1] = 0.002  # small, but one of 200
    assert not passing(lone, 0.05)[0].any()


def test_block_borders_do_not_matter(rng, monkeypatch):
    word_scores, responses = rng.normal(size=(40, 5)), rng.normal(size=(40, 11))
    candidates = rng.integers(0, 5, (11, 3))
    whole = held_out_scores(word_scores, responses, candidates, n_permutations=50, rng=np.random.default_rng(1))
    monkeypatch.setattr("mine_core.description.scoring.BLOCK", 4)
    parts = held_out_scores(word_scores, responses, candidates, n_permutations=50, rng=np.random.default_rng(1))
    assert np.abs(whole[0] - parts[0]).max() < 1e-6 and (whole[1] == parts[1]).all()


# --- refusals and the store ------------------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused(rng):
    vocabulary, pooled = some_vocabulary(rng), rng.normal(size=(100, N_FEATURES)).astype(np.float32)
    values = rng.normal(size=(100, 3))
    model, responses = subject_of(rng.normal(size=(N_FEATURES, 3)), values)
    features = features_of(pooled)

    def describe(features=features, responses=responses, train=60, held_out=60):
        splits = {"train": np.arange(train), "held_out": np.arange(held_out, 100)}
        return describe_voxels(features, responses, model, vocabulary, **splits, rng=rng, n_permutations=99)

    swapped = Features(pooled, features.patches, pooled, features.stimulus_ids[::-1], SPEC)
    with pytest.raises(AlignmentError, match="ids differ"):
        describe(features=swapped)
    with pytest.raises(AlignmentError, match="10 stimuli are both"):
        describe(train=70)
    with pytest.raises(EncodingError, match="5 stimuli are held out"):
        describe(held_out=95)
    values[70, 1] = np.nan
    with pytest.raises(EncodingError, match="not finite"):
        describe(responses=subject_of(model.coef, values)[1])


def test_words_of_voxels_come_back_from_disk(planted_voxels, tmp_path):
    words, _, _, _ = planted_voxels
    save_voxel_words(words, tmp_path)
    read = open_voxel_words(tmp_path)
    assert (read.words, read.groups, read.n_held_out, read.n_permutations) == (words.words, words.groups, 300, 999)
    for voxel in (0, 30, 59):
        one, other = read.description(voxel), words.description(voxel)
        assert one.phrases == other.phrases and one.words == other.words and (one.scores == other.scores).all()
    with pytest.raises(ValueError, match="read-only"):
        read.scores[0, 0] = 1
