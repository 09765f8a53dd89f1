"""Evidence finds what patches show, whatever its size, and which alternative the thing that is shown has."""

import numpy as np
import pytest

from mine_core.description.evidence import cells_of, contrasts, find_evidence, open_evidence, save_evidence
from mine_core.description.vocabulary import Alternatives, Vocabulary
from mine_core.errors import AlignmentError, ArtifactError, Cancelled
from mine_core.types import BackboneSpec, Features

N, PATCHES, D = 400, 16, 24
WORDS = ("ball", "cup", "tree", "red", "blue", "indoors", "outdoors")
SETS = (Alternatives("colour", ("red", "blue")), Alternatives("room", ("indoors", "outdoors"), (), "scene"))


@pytest.fixture(scope="module")
def world():
    """A ball in one patch of a fifth of the images, red or blue there; a cup of the other colour beside it; indoors or not."""
    rng = np.random.default_rng(7)
    texts = np.linalg.qr(rng.normal(size=(D, len(WORDS))))[0].T.astype(np.float32)
    patches = 0.1 * rng.normal(size=(N, PATCHES, D))
    ball, cup, red, indoors = rng.random(N) < 0.2, rng.random(N) < 0.3, rng.random(N) < 0.5, rng.random(N) < 0.5
    for i in range(N):
        at, beside = rng.choice(PATCHES, 2, replace=False)
        colour = texts[3] if red[i] else texts[4]
        patches[i, at] += ball[i] * (2 * texts[0] + colour)
        patches[i, beside] += cup[i] * (2 * texts[1] + texts[3] + texts[4] - colour)
    pooled = patches.sum(axis=1) + rng.normal(size=D) + np.where(indoors, 2.0, -2.0)[:, None] * (texts[5] - texts[6])
    spec = BackboneSpec("random", (4, 4), D, "0" * 64, "none")
    ids = tuple(map(str, range(N)))
    features = Features(pooled.astype(np.float32), patches.astype(np.float16), np.zeros((N, D), np.float32), ids, spec)
    vocabulary = Vocabulary(WORDS, ("things",) * 7, tuple((w,) for w in WORDS), ("{}",), texts, np.ones(7), SETS)
    mean = patches.mean(axis=0).astype(np.float32)
    evidence = find_evidence(features, mean, vocabulary, np.arange(300))
    return evidence, features, vocabulary, mean, (ball, cup, red, indoors)


def test_presence_tells_images_that_show_a_word_from_those_that_do_not(world):
    evidence, _, _, _, (ball, cup, _, indoors) = world
    for word, there in ((0, ball), (1, cup), (5, indoors), (6, ~indoors)):
        presence = np.asarray(evidence.presence[:, word], np.float32)
        assert presence[there].min() > presence[~there].max() or ((presence > 0.5) == there).mean() > 0.95, WORDS[word]
        assert presence.min() >= 0 and presence.max() <= 1


def test_the_alternative_is_read_where_the_thing_is(world):
    evidence, _, _, _, (ball, cup, red, indoors) = world
    # in images with both, the ball has one colour and the cup the other
    assert (evidence.shown[0, ball, 0] == np.where(red[ball], 0, 1)).mean() > 0.95
    assert (evidence.shown[1, cup, 0] == np.where(red[cup], 1, 0)).mean() > 0.95
    assert (evidence.shown[0, :, 1] == np.where(indoors, 0, 1)).mean() > 0.95
    assert (evidence.shown[3:] == -1).all()  # an alternative has no alternatives


def test_presence_is_its_formula(world):
    evidence, features, vocabulary, mean, _ = world
    scores = (np.asarray(features.patches, np.float32) - mean) @ vocabulary.embeddings[2]
    soft = np.log(np.exp(2 * scores).mean(axis=1)) / 2
    z = (soft - soft[:300].mean()) / soft[:300].std()
    assert np.abs(evidence.presence[:, 2] - 1 / (1 + np.exp(-4 * (z - 1.5)))).max() < 2e-3


def test_coverage_is_its_formula_by_cell(world):
    evidence, features, vocabulary, mean, (ball, *_) = world
    scores = (np.asarray(features.patches, np.float32) - mean) @ vocabulary.embeddings[0]
    shows = (1 / (1 + np.exp(-4 * (scores - 1.5)))).reshape(N, 4, 4)
    parts = (slice(0, 1), slice(1, 3), slice(3, 4))  # centres of four rows in thirds
    by_hand = np.stack([shows[:, rows, cols].mean(axis=(1, 2)) for rows in parts for cols in parts], axis=1)
    assert np.abs(evidence.coverage[0] / 255 - by_hand).max() <= 0.5 / 255 + 1e-6
    assert evidence.coverage[0, ball].sum(axis=1).min() > evidence.coverage[0, ~ball].sum(axis=1).max()
    assert not evidence.coverage[3:].any()  # alternatives are nowhere


def test_cells_average_every_patch_once():
    for grid in ((4, 4), (8, 8), (7, 5), (1, 1), (2, 3)):
        cells = cells_of(grid)
        assert cells.shape == (9, grid[0] * grid[1]) and ((cells > 0).sum(axis=0) == 1).all()
        assert set(np.round(cells.sum(axis=1), 6)) <= {0.0, 1.0}


def test_opposites_are_opposite_directions(world):
    _, _, vocabulary, _, _ = world
    first, second = contrasts(vocabulary, SETS[0])
    assert np.abs(first + second).max() < 1e-6


def test_held_out_stimuli_set_no_level(world):
    evidence, features, vocabulary, mean, _ = world
    altered = Features(features.pooled, features.patches.copy(), features.remainder, features.stimulus_ids, features.backbone)
    altered.patches[300:] *= 3
    again = find_evidence(altered, mean, vocabulary, np.arange(300))
    assert (again.presence[:300, :5] == evidence.presence[:300, :5]).all()


def test_only_described_words_are_looked_at_for_alternatives(world):
    _, features, vocabulary, mean, _ = world
    some = find_evidence(features, mean, vocabulary, np.arange(300), described=np.array([1]))
    assert (some.shown[0, :, 0] == -1).all() and (some.shown[1, :, 0] >= 0).all()


def test_evidence_comes_back_from_disk_and_refuses_another_vocabulary(world, tmp_path):
    evidence, _, vocabulary, _, _ = world
    save_evidence(evidence, tmp_path)
    read = open_evidence(tmp_path, vocabulary)
    assert (read.presence == evidence.presence).all() and (read.shown == evidence.shown).all()
    assert read.sets == SETS and read.stimulus_ids == evidence.stimulus_ids
    fewer = Vocabulary(WORDS[:3], ("things",) * 3, tuple((w,) for w in WORDS[:3]), ("{}",), vocabulary.embeddings[:3], np.ones(3))
    with pytest.raises(ArtifactError, match="7 words, the vocabulary has 3"):
        open_evidence(tmp_path, fewer)


def test_it_can_be_stopped_and_needs_training_stimuli(world):
    _, features, vocabulary, mean, _ = world
    with pytest.raises(Cancelled, match="after 0 of 400"):
        find_evidence(features, mean, vocabulary, np.arange(300), cancelled=lambda: True)
    with pytest.raises(AlignmentError, match="No training stimulus"):
        find_evidence(features, mean, vocabulary, np.zeros(0, np.int64))
