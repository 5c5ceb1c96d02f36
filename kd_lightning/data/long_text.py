"""Long texts in pieces, so that a tokenizer never holds all of one."""

import re
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

PIECE = 1 << 16  # characters; a tokenizer needs some hundred bytes for each
AT_ONCE = 1 << 20  # characters that it is given at once; of one text it reads no more where only the beginning counts
EACH = 16  # characters for each token that is wanted of a beginning
BETWEEN = re.compile(r"(?<=[\w.,;:!?]) (?=\w)")  # words meet here in every vocabulary


def pieces(text: str, size: int = 0) -> Iterator[str]:
    """The text cut before blanks between words, where tokenizers cut it too: their tokens are those of the whole. size: of a
    piece, in characters (0: PIECE).

    Deviation: where there is no such blank for PIECE characters more, the text is cut all the same, and a word there is two.
    """
    size, start = size or PIECE, 0
    while len(text) - start > size:
        found = BETWEEN.search(text, start + size, start + size + PIECE)
        end = found.start() if found else min(start + size + PIECE, len(text))
        yield text[start:end]
        start = end
    yield text[start:]


def at_once(sizes: Sequence[int]) -> Iterator[slice]:
    """Neighbours of AT_ONCE characters at the most together; a larger one is alone. sizes: in characters."""
    start = held = 0
    for number, size in enumerate(sizes):
        if number > start and held + size > AT_ONCE:
            yield slice(start, number)
            start, held = number, 0
        held += size
    yield slice(start, len(sizes))


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[list[int]]:
    """The ids of each text, without special tokens."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    for some in map(texts.__getitem__, at_once(list(map(len, texts)))):
        if len(some) == 1:
            yield [i for piece in pieces(some[0]) for i in tokenizer(piece, **options)["input_ids"]]
        else:
            yield from tokenizer(some, **options)["input_ids"]


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> str:
    """As much of a text as gives count tokens or more, or all of it, but no more than AT_ONCE characters.

    Deviation: where those give fewer tokens, what follows is not read.
    """
    size = EACH * count
    while size < min(len(text), AT_ONCE):
        first = next(pieces(text, size))
        if len(tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"]) >= count:
            return first
        size *= 4
    return text[:AT_ONCE]
