"""What accounts for a voxel is told, what only keeps it company is named as such, and noise gets nothing."""

from dataclasses import replace

import numpy as np
import pytest

from mine_core.description.attributes import attribute_of, prepare_attributes
from mine_core.description.decoding import VoxelWords
from mine_core.description.evidence import Evidence
from mine_core.description.vocabulary import Alternatives, Vocabulary
from mine_core.description.wants import prepare, select, want
from mine_core.description.writing import write
from mine_core.errors import AlignmentError, EncodingError
from mine_core.types import AttributeScore, Company, Responses, VoxelIndex

N, TRAIN = 1500, 1000
WORDS = ("ball", "person", "tree", "cup", "red", "blue", "green", "at the left", "at the right", "happy", "sad")
SETS = (
    Alternatives("colour", ("red", "blue", "green")),
    Alternatives("position", ("at the left", "at the right"), (), "place"),
    Alternatives("mood", ("happy", "sad"), ("people",)),
)
GROUPS = ("toys", "people", "plants", "toys", *("looks",) * 5, "people", "people")
BALL, BOTH, NOISE, RED, LEFT = range(5)


def indexed(values: np.ndarray) -> Responses:
    n = values.shape[1]
    voxels = VoxelIndex("s", np.arange(n), (n, 1, 1), (), np.zeros((0, n), bool))
    return Responses(values.astype(np.float32), None, tuple(map(str, range(len(values)))), voxels, "z")


@pytest.fixture(scope="module")
def world():
    """Balls mostly come with persons. One voxel wants balls, one balls and persons, one nothing, one red balls, one left ones."""
    rng = np.random.default_rng(3)
    present = rng.random((N, 4)) < 0.25
    present[:, 1] = np.where(present[:, 0], rng.random(N) < 0.8, present[:, 1])
    shown = np.stack([rng.integers(0, len(entry.words), (len(WORDS), N)) for entry in SETS], axis=2).astype(np.int8)
    shown[4:] = -1
    presence = np.zeros((N, len(WORDS)), np.float16)
    presence[:, :4] = np.where(present, 0.95, 0.05)
    drive = np.stack(
        [
            present[:, 0],
            present[:, 0] + present[:, 1],
            np.zeros(N),
            present[:, 0] * (1 + 1.2 * (shown[0, :, 0] == 0)),
            present[:, 0] * (1 + 1.2 * (shown[0, :, 1] == 0)),
        ],
        axis=1,
    )
    values = 1.2 * drive + rng.normal(0, 0.8, drive.shape)
    evidence = Evidence(WORDS, SETS, presence, shown, np.zeros((len(WORDS), N, 9), np.uint8), tuple(map(str, range(N))))
    candidates = np.tile(np.arange(4), (5, 1))
    none = np.zeros((5, 4), np.float32)
    p = np.full((5, 4), 0.001, np.float32)
    words = VoxelWords(WORDS, GROUPS, candidates, none, none, p, p < 0.05, np.full(5, 0.01), np.eye(len(WORDS)), N - TRAIN, 499)
    words.p[:, 1:] = 0.02
    return evidence, words, indexed(values), present


@pytest.fixture(scope="module")
def found(world):
    evidence, words, responses, _ = world
    ground = prepare(evidence, words, np.arange(TRAIN), np.arange(TRAIN, N))
    return want(ground, words, responses, np.arange(5)), ground


def test_the_cause_is_told_and_its_company_is_named(found):
    wants, _ = found
    assert wants[BALL].description.phrases == ("ball",)
    assert [(entry.word, entry.phrase) for entry in wants[BALL].company] == [("person", "ball")]
    entry = wants[BALL].company[0]
    assert entry.alone > 0.2 and entry.left < 0.5 * entry.alone
    assert set(wants[BOTH].description.phrases) == {"ball", "person"} and not wants[BOTH].company


def test_noise_gets_no_phrase(world, found):
    wants, ground = found
    assert wants[NOISE].description.phrases == () and wants[NOISE].r == 0
    rng = np.random.default_rng(1)
    evidence, words, _, _ = world
    many = indexed(rng.normal(size=(N, 400)))
    by_voxel = ("candidates", "chosen_by", "scores", "p", "passes")
    wide = replace(words, q=np.ones(400), **{name: np.tile(getattr(words, name)[:1], (400, 1)) for name in by_voxel})
    told = want(ground, wide, many, np.arange(400))
    assert np.mean([bool(entry.description.phrases) for entry in told]) < 0.01


def test_the_reach_of_the_words_is_a_held_out_correlation(world, found):
    evidence, _, responses, _ = world
    wants, _ = found
    ball = np.asarray(evidence.presence[TRAIN:, 0], np.float64)
    assert wants[BALL].r == pytest.approx(np.corrcoef(ball, responses.values[TRAIN:, BALL])[0, 1], abs=1e-4)
    assert wants[BALL].description.scores[0] == pytest.approx(wants[BALL].r, abs=1e-4)
    assert sum(wants[BOTH].shares) == pytest.approx(1)


def test_a_word_scored_on_held_out_stimuli_was_not_chosen_by_them(world, found):
    evidence, words, responses, _ = world
    _, ground = found
    values = responses.values.copy()
    values[TRAIN:] = np.random.default_rng(2).normal(size=(N - TRAIN, 5))
    told = want(ground, words, indexed(values), np.arange(5))
    assert not any(entry.description.phrases for entry in told)  # chosen as before, and scored as nothing


def test_selection_equals_a_plain_stepwise_regression():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(600, 9)) @ rng.normal(size=(9, 9))
    y = x[:, 2] + 0.7 * x[:, 6] + rng.normal(size=600) * x.std()
    x, y = (a - a.mean(axis=0) for a in (x, y))
    x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y)
    kept, weights = select(x.T @ x, x.T @ y, 600, np.ones(9, bool))
    plain: list[int] = []
    while True:
        base = x[:, plain]
        rest = (y - base @ np.linalg.lstsq(base, y, rcond=None)[0]) if plain else y
        t = np.full(9, -np.inf)
        for word in set(range(9)) - set(plain):
            own = x[:, word] - base @ np.linalg.lstsq(base, x[:, word], rcond=None)[0] if plain else x[:, word]
            t[word] = own @ rest / np.linalg.norm(own) / np.sqrt((1 - (y @ y - rest @ rest)) / 600)
        if t.max() < 4:
            break
        plain.append(int(t.argmax()))
    assert set(kept) == set(plain) == {2, 6}
    assert weights == pytest.approx(np.linalg.lstsq(x[:, kept], y, rcond=None)[0].tolist())


def test_what_does_not_belong_together_is_refused(world):
    evidence, words, _, _ = world
    other = replace(words, words=WORDS[::-1])
    with pytest.raises(AlignmentError, match="build both again"):
        prepare(evidence, other, np.arange(TRAIN), np.arange(TRAIN, N))
    with pytest.raises(AlignmentError, match="100 stimuli are both"):
        prepare(evidence, words, np.arange(TRAIN + 100), np.arange(TRAIN, N))
    with pytest.raises(EncodingError, match="5 stimuli are held out"):
        prepare(evidence, words, np.arange(TRAIN), np.arange(N - 5, N))


# --- attributes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributes(world):
    phrases = tuple((word,) for word in WORDS)
    return prepare_attributes(world[0], Vocabulary(WORDS, GROUPS, phrases, ("{}",), alternatives=SETS))


def test_planted_attributes_are_found_and_stand(world, attributes):
    values = world[2].values.astype(np.float64)
    red = attribute_of(attributes, ("ball",), values[:, RED])
    assert red.word == "red" and red.attribute == "colour" and red.stands and red.p <= 0.001 and red.agreement == 1
    left = attribute_of(attributes, ("ball",), values[:, LEFT], places=True)
    assert left.word == "at the left" and left.stands
    assert not attribute_of(attributes, ("ball",), values[:, LEFT]).stands  # no colour was planted there


def test_an_attribute_is_told_of_groups_that_can_have_it(world, attributes):
    evidence, _, responses, present = world
    y = present[:, 1] * (1.0 + (evidence.shown[1, :, 2] == 0)) + np.random.default_rng(0).normal(0, 0.5, N)
    assert attribute_of(attributes, ("person",), y).word == "happy"
    assert attribute_of(attributes, ("ball",), y).attribute == "colour"  # a ball has no mood
    assert attribute_of(attributes, (), responses.values[:, 0].astype(float)) is None
    assert attribute_of(attributes, ("red",), responses.values[:, 0].astype(float)) is None


def test_without_a_planted_attribute_few_stand(world, attributes):
    """The best of three colours on four fifths, scored on the last fifth: its p is that of chance."""
    rng = np.random.default_rng(8)
    drive = world[3][:, 0].astype(float)
    scores = [attribute_of(attributes, ("ball",), drive + rng.normal(0, 0.7, N)) for _ in range(300)]
    p = np.array([entry.p for entry in scores])
    assert np.mean([entry.stands for entry in scores]) <= 0.02
    assert abs((p <= 0.2).mean() - 0.2) < 0.08 and abs((p <= 0.5).mean() - 0.5) < 0.1


SIZES = (Alternatives("size", ("large", "small")), Alternatives("position", ("at the left", "at the right"), (), "place"))


@pytest.fixture(scope="module")
def sized():
    """Balls at nine places, the large ones covering more cells. What a receptive field sees of them saturates."""
    rng = np.random.default_rng(12)
    words = ("ball", "large", "small", "at the left", "at the right")
    present, large, place = rng.random(N) < 0.5, rng.random(N) < 0.5, rng.integers(0, 9, N)
    coverage = np.zeros((N, 9))
    coverage[np.arange(N), place] = np.where(large, 0.9, 0.4)
    coverage += np.where(large, 0.25, 0.0)[:, None] * rng.random((N, 9))
    coverage *= present[:, None]
    shown = np.full((5, N, 2), -1, np.int8)
    shown[0] = np.stack([~large, place % 3 > 1], axis=1)
    presence = np.zeros((N, 5), np.float16)
    presence[:, 0] = np.where(present, 0.95, 0.05)
    seen = np.zeros((5, N, 9), np.uint8)
    seen[0] = np.rint(255 * np.clip(coverage, 0, 1))
    evidence = Evidence(words, SIZES, presence, shown, seen, tuple(map(str, range(N))))
    vocabulary = Vocabulary(words, ("toys", *("looks",) * 4), tuple((word,) for word in words), ("{}",), alternatives=SIZES)
    return prepare_attributes(evidence, vocabulary), coverage, large, rng


def test_a_thing_that_covers_more_of_a_receptive_field_is_not_told_as_a_size(sized):
    """Large balls drive a voxel more because more of them is in view: no preference for size was planted."""
    ground, coverage, large, rng = sized
    told, prefers = [], []
    for _ in range(60):
        field = rng.random(9) ** 3
        share = coverage @ field / field.sum()
        drive = share / (share + 0.1)
        noise = rng.normal(0, drive.std(), N)
        told.append(attribute_of(ground, ("ball",), drive + noise))
        prefers.append(attribute_of(ground, ("ball",), drive * (1 + 1.5 * large) + noise))
    assert np.mean([entry.stands for entry in told]) <= 0.1
    assert np.mean([entry.word == "large" and entry.stands for entry in prefers]) >= 0.8


def test_places_are_told_though_coverage_tells_them_too(sized):
    ground, coverage, _, rng = sized
    share = coverage[:, [0, 3, 6]].mean(axis=1)
    found = attribute_of(ground, ("ball",), share / (share + 0.1) + rng.normal(0, 0.1, N), places=True)
    assert found.word == "at the left" and found.stands


# --- writing ---------------------------------------------------------------------------------------------------------

RED_BALLS = AttributeScore("red", "colour", 0.2, 1e-4, 1.0, True)


def test_one_sentence_and_its_features():
    group_of = dict(zip(WORDS, GROUPS, strict=True))
    told = write(("ball",), (RED_BALLS,), (Company("person", "ball", 0.3, 0.0),), group_of)
    assert told.text == "Images that show ball, above all where colour is 'red'."
    assert told.features == ("ball", "colour: red", "person (only beside ball)")
    assert write(("ball", "tree", "cup"), (), (), group_of).text == "Images that show ball, tree and cup."
    toys = dict.fromkeys(WORDS, "toys")
    assert write(("ball", "tree", "cup"), (), (), toys).text == "Images that show toys: ball, tree and cup."
    assert write((), (RED_BALLS,), (), group_of).text == "" and write((), (), (), group_of).features == ()
    assert 3 <= len(write(WORDS, (RED_BALLS,), (), group_of).features) <= 10
