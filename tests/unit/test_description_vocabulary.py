"""Vocabularies say what their files say, and are embedded and scaled as an independent computation would."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.description.phantom_words import phantom_vocabulary_toml
from mine_core.description.vocabulary import (
    USER_GROUP,
    VOCABULARIES,
    calibrate,
    embed_vocabulary,
    load_vocabulary,
    open_vocabulary,
    parse_vocabulary,
    save_vocabulary,
    vocabulary_names,
    with_words,
)
from mine_core.errors import ArtifactError, BackboneError, ConfigError
from mine_core.figures import GROUP_COLOURS
from mine_core.subjects.phantom.scenes import ATTRIBUTES, BACKGROUNDS, CONCEPTS, VOCABULARY
from mine_core.types import BackboneSpec, Features

TABLE = {
    "about": "a few words",
    "templates": ["a photo of {}"],
    "group": [
        {"name": "animals", "words": ["dog", "cat"], "templates": ["a {}", "my {} outdoors"]},
        {"name": "colours", "words": {"red": ["something red", "a red thing"]}},
    ],
}


class WordBackbone:
    """Reads the words it knows: a text is the sum of its words' random vectors, scaled to length 1."""

    def __init__(self, words: Sequence[str], n_features: int = 12) -> None:
        self.tokenizer = WordTokenizer(words, 16)
        self.vectors = np.random.default_rng(5).normal(size=(self.tokenizer.vocab_size, n_features))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        ids = self.tokenizer(list(texts)).numpy()
        summed = (self.vectors[ids] * (ids > 0)[..., None]).sum(axis=1)
        return (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)


KNOWN = ["a", "an", "photo", "of", "dog", "cat", "my", "outdoors", "something", "red", "thing", "horse"]


def test_a_table_becomes_words_groups_and_prompts():
    vocabulary = parse_vocabulary(TABLE, "here")
    assert vocabulary.words == ("dog", "cat", "red")
    assert vocabulary.groups == ("animals", "animals", "colours")
    assert vocabulary.phrases[0] == ("a dog", "my dog outdoors")
    assert vocabulary.phrases[2] == ("a photo of something red", "a photo of a red thing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": 1}, "unknown key speed"),
        ({"templates": ["no place"]}, "must hold"),
        ({"group": [{"name": "g", "words": ["a", "a"]}]}, "given twice"),
        ({"group": [{"name": "g", "word": ["a"], "words": ["b"]}]}, "group 'g': unknown key word"),
    ],
)
def test_a_wrong_table_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_vocabulary(TABLE | change, "here")


def test_an_unknown_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="there are general, none, phantom"):
        load_vocabulary("../models")


def test_prompts_are_averaged():
    backbone = WordBackbone(KNOWN)
    vocabulary = embed_vocabulary(parse_vocabulary(TABLE, "here"), backbone)
    for word, said in enumerate(vocabulary.phrases):
        mean = np.mean([backbone.encode_text([phrase])[0] for phrase in said], axis=0)
        assert np.abs(vocabulary.embeddings[word] - mean / np.linalg.norm(mean)).max() < 1e-6


def test_a_users_word_joins_and_a_strange_one_is_refused():
    backbone = WordBackbone(KNOWN)
    vocabulary = embed_vocabulary(parse_vocabulary(TABLE, "here"), backbone)
    larger = with_words(vocabulary, ["  red  horse "], backbone)
    assert larger.words[-1] == "red horse" and larger.groups[-1] == USER_GROUP
    assert larger.phrases[-1] == ("a photo of red horse",)
    assert np.abs(larger.embeddings[-1] - backbone.encode_text(["a photo of red horse"])[0]).max() < 1e-6
    assert (larger.embeddings[:3] == vocabulary.embeddings).all() and larger.patch_sd is None
    with pytest.raises(BackboneError, match="zebra"):
        with_words(vocabulary, ["zebra"], backbone)
    with pytest.raises(ConfigError, match="given twice"):
        with_words(vocabulary, ["dog"], backbone)
    with pytest.raises(ConfigError, match="1 of 2 words are empty"):
        with_words(vocabulary, ["horse", " "], backbone)


@pytest.fixture
def embedded():
    return embed_vocabulary(parse_vocabulary(TABLE, "here"), WordBackbone(KNOWN))


def some_features(rng, n: int) -> Features:
    patches = rng.normal(0.4, 1, (n, 6, 12)).astype(np.float16)
    spec = BackboneSpec("random", (2, 3), 12, "0", "none")
    pooled = patches.astype(np.float32).sum(axis=1)
    return Features(pooled, patches, np.zeros_like(pooled), tuple(map(str, range(n))), spec)


def test_the_scale_is_the_sd_over_training_patches(rng, embedded):
    features, train = some_features(rng, 50), np.arange(0, 40)
    mean_patches = features.patches[train].astype(np.float64).mean(axis=0)
    found = calibrate(embedded, features, train, mean_patches).calibrated()
    for word in range(3):
        scores = (features.patches[train] - mean_patches) @ embedded.embeddings[word]
        assert found[word] == pytest.approx(scores.std(), rel=1e-4)


def test_few_hundred_images_are_enough_for_the_scale(rng, embedded):
    features = some_features(rng, 1200)
    mean_patches = features.patches.astype(np.float64).mean(axis=0)
    found = calibrate(embedded, features, np.arange(1200), mean_patches).calibrated()
    whole = ((features.patches - mean_patches) @ embedded.embeddings.T).std(axis=(0, 1))
    assert np.abs(found / whole - 1).max() < 0.04


def test_a_word_that_never_varies_is_refused(rng, embedded):
    features = some_features(rng, 30)
    flat = Features(features.pooled, features.patches * 0, features.pooled, features.stimulus_ids, features.backbone)
    with pytest.raises(BackboneError, match="the same in all 180"):
        calibrate(embedded, flat, np.arange(30), np.zeros((6, 12)))


def test_what_is_not_embedded_says_so():
    bare = parse_vocabulary(TABLE, "here")
    with pytest.raises(BackboneError, match="embed_vocabulary"):
        bare.embedded()
    with pytest.raises(BackboneError, match="calibrate"):
        bare.calibrated()


def test_a_vocabulary_comes_back_from_disk(rng, embedded, tmp_path):
    whole = calibrate(embedded, some_features(rng, 30), np.arange(30), np.zeros((6, 12)))
    save_vocabulary(whole, tmp_path)
    read = open_vocabulary(tmp_path)
    assert (read.words, read.groups, read.phrases, read.templates) == (whole.words, whole.groups, whole.phrases, whole.templates)
    assert (read.embeddings == whole.embeddings).all() and (read.patch_sd == whole.patch_sd).all()
    np.save(tmp_path / "patch_sd.npy", whole.patch_sd[:-1])
    with pytest.raises(ArtifactError, match="do not|parts have"):
        open_vocabulary(tmp_path)


# --- the files that come with the package ----------------------------------------------------------------------------


def test_the_phantoms_file_is_what_its_scenes_say():
    assert (VOCABULARIES / "phantom.toml").read_text() == phantom_vocabulary_toml()


def test_the_phantoms_words_cover_its_scenes_and_can_be_read():
    vocabulary = load_vocabulary("phantom")
    n_values = sum(map(len, ATTRIBUTES.values()))
    assert len(vocabulary) == len(CONCEPTS) + len(BACKGROUNDS) + n_values
    for concept in CONCEPTS:
        assert vocabulary.groups[vocabulary.words.index(concept.name)] == concept.group
    tokenizer = WordTokenizer(VOCABULARY, 40)
    tokenizer([phrase for said in vocabulary.phrases for phrase in said])
    assert len({phrase for said in vocabulary.phrases for phrase in said}) == sum(map(len, vocabulary.phrases))


def test_the_general_words_are_a_few_thousand_distinct_ones():
    vocabulary = load_vocabulary("general")
    assert 600 <= len(vocabulary) <= 5000
    assert len({word.lower() for word in vocabulary.words}) == len(vocabulary)
    assert all(word == word.strip() and word.isascii() for word in vocabulary.words)
    assert all(len(said) >= 2 for said in vocabulary.phrases)


@pytest.mark.parametrize("name", vocabulary_names())
def test_every_group_has_a_colour_of_its_own(name):
    vocabulary = load_vocabulary(name)
    assert len(set(vocabulary.groups)) <= len(GROUP_COLOURS)


def test_alternatives_are_words_of_the_file():
    groups = [{"name": "looks", "words": ["red", "blue", "calm"]}]
    table = {"about": "", "templates": ["{}"], "group": groups}
    entry = {"name": "colour", "words": ["red", "blue"]}
    found = parse_vocabulary(table | {"alternatives": [entry]}, "here").alternatives[0]
    assert (found.name, found.words, found.of, found.kind) == ("colour", ("red", "blue"), (), "thing")
    for wrong in ({"words": ["red"]}, {"words": ["red", "green"]}, {"of": ["nobody"]}, {"word": 1}):
        with pytest.raises(ConfigError, match="alternatives 'colour'"):
            parse_vocabulary(table | {"alternatives": [entry | wrong]}, "here")
    with pytest.raises(ConfigError, match="given twice"):
        parse_vocabulary(table | {"alternatives": [entry, entry | {"name": "again"}]}, "here")


def test_every_attribute_of_the_phantom_is_a_set_of_alternatives():
    found = {entry.name: entry for entry in load_vocabulary("phantom").alternatives}
    assert set(found) == set(ATTRIBUTES) and all(len(found[name].words) == len(values) for name, values in ATTRIBUTES.items())
    assert found["hat"].words == ("hat", "no hat") and found["hat"].of == ("faces",)
    assert {entry.kind for entry in load_vocabulary("general").alternatives} == {"thing", "scene"}


def test_alternatives_come_back_from_disk(tmp_path):
    vocabulary = embed_vocabulary(
        parse_vocabulary(TABLE | {"alternatives": [{"name": "pet", "words": ["dog", "cat"]}]}, "here"), WordBackbone(KNOWN)
    )
    save_vocabulary(replace(vocabulary, patch_sd=np.ones(3)), tmp_path)
    assert open_vocabulary(tmp_path).alternatives == vocabulary.alternatives
    assert with_words(vocabulary, ["horse"], WordBackbone(KNOWN)).alternatives == vocabulary.alternatives
    assert vocabulary.positions(["cat"]).tolist() == [1]
    with pytest.raises(ConfigError, match="'zebra' is not among the 3"):
        vocabulary.positions(["zebra"])
