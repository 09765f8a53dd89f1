import pytest
import torch

from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.errors import BackboneError

WORDS = ("a", "ball", "dog", "red")


def test_round_trip_and_layout():
    tokenizer = WordTokenizer(WORDS, 8)
    ids = tokenizer(["a red ball", "dog"])
    assert ids.shape == (2, 8) and ids.dtype == torch.long
    assert ids[1].tolist() == [1, 5, tokenizer.end_id, 0, 0, 0, 0, 0]
    assert [tokenizer.decode(row) for row in ids] == ["a red ball", "dog"]


def test_end_token_is_the_largest_id_of_every_text():
    tokenizer = WordTokenizer(WORDS, 8)
    ids = tokenizer(["a red ball", " ".join(WORDS)])
    assert (ids.max(dim=1).values == tokenizer.end_id).all()
    assert ids.argmax(dim=1).tolist() == [4, 5]


def test_one_text_and_another_length():
    assert WordTokenizer(WORDS, 8)("a dog", 5).tolist() == [[1, 3, 5, 7, 0]]


def test_unknown_words_are_refused_unless_allowed():
    with pytest.raises(BackboneError, match="zebra"):
        WordTokenizer(WORDS, 8)("a zebra")
    tokenizer = WordTokenizer(WORDS, 8, allow_unknown=True)
    assert tokenizer.decode(tokenizer("a zebra")[0]) == "a <unknown>"


@pytest.mark.parametrize("words, length", [(("a", "a"), 8), (WORDS, 2)])
def test_refuses_bad_vocabulary_and_context(words, length):
    with pytest.raises(BackboneError):
        WordTokenizer(words, length)


def test_refuses_long_text_and_strange_id():
    tokenizer = WordTokenizer(WORDS, 4)
    with pytest.raises(BackboneError, match="3 words and 2 fit"):
        tokenizer("a red dog")
    with pytest.raises(BackboneError, match="99"):
        tokenizer.decode([1, 99])
