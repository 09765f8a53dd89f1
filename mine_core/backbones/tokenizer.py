"""A tokenizer of whole words, for a backbone whose world has a small vocabulary."""

from collections.abc import Sequence

import torch
from jaxtyping import Int

from mine_core.errors import BackboneError

PAD, START, UNKNOWN = "<pad>", "<start>", "<unknown>"
END = "<end>"


class WordTokenizer:
    """Words to ids and back; called as open_clip calls its tokenizers, `(texts, context_length) -> ids`.

    Ids: 0 pad, 1 start, 2 unknown, then the words in the order given, and last the end token, so that it has the largest
    id of any text: open_clip's `argmax` pooling reads the text's embedding there. Words are separated by white space.

    Parameters
    ----------
    words : the vocabulary, distinct lower-case words.
    context_length : longest text in tokens, start and end included.
    allow_unknown : map words outside the vocabulary to the unknown token; otherwise they are refused.

    Raises
    ------
    BackboneError : for a repeated word, a context too short to hold a word, a text that is too long, or a word outside
        the vocabulary that was not allowed.
    """

    def __init__(self, words: Sequence[str], context_length: int, *, allow_unknown: bool = False) -> None:
        if len(set(words)) != len(words):
            raise BackboneError(f"A vocabulary must not repeat words; found {len(words) - len(set(words))} repeats.")
        if context_length < 3:
            raise BackboneError(f"context_length is {context_length}; give at least 3 (start, one word, end).")
        self.words = tuple(words)
        self.context_length = context_length
        self.allow_unknown = allow_unknown
        self._texts = (PAD, START, UNKNOWN, *self.words, END)
        self._ids = {word: index + 3 for index, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._texts)

    @property
    def pad_id(self) -> int:
        """Id that fills a text up to the context."""
        return 0

    @property
    def start_id(self) -> int:
        """Id that opens every text."""
        return 1

    @property
    def end_id(self) -> int:
        """Id that closes every text: the largest one."""
        return self.vocab_size - 1

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Int[torch.Tensor, "text token"]:
        """Ids of `texts`, one row each, padded to the context."""
        length = context_length or self.context_length
        rows = [self._encode(text, length) for text in ([texts] if isinstance(texts, str) else texts)]
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = torch.tensor(values)
        return ids

    def _encode(self, text: str, length: int) -> list[int]:
        words = text.lower().split()
        strange = [word for word in words if word not in self._ids]
        if strange and not self.allow_unknown:
            raise BackboneError(
                f"'{text}' holds {len(strange)} words this backbone has never read (first: '{strange[0]}'); "
                f"use its {len(self.words)} words, such as {', '.join(self.words[:5])}."
            )
        if len(words) + 2 > length:
            raise BackboneError(f"A text has {len(words)} words and {length - 2} fit; shorten '{text[:40]}...'.")
        unknown = self._texts.index(UNKNOWN)
        return [self.start_id, *(self._ids.get(word, unknown) for word in words), self.end_id]

    def decode(self, ids: Sequence[int] | Int[torch.Tensor, " token"]) -> str:
        """Text of one row of ids, up to the first end token; pad and start are left out."""
        words = []
        for index in torch.as_tensor(ids).tolist():
            if not 0 <= index < self.vocab_size:
                raise BackboneError(f"Token id {index} is outside 0 ... {self.vocab_size - 1}.")
            if index == self.end_id:
                break
            if index not in (self.pad_id, self.start_id):
                words.append(self._texts[index])
        return " ".join(words)
