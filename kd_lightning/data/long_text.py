"""Long texts in pieces, so that a tokenizer never holds all of one."""

import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

PIECE = 1 << 16  # characters; a tokenizer needs some hundred bytes for each
BETWEEN = re.compile(r"(?<=[\w.,;:!?]) (?=\w)")  # words meet here in every vocabulary


def pieces(text: str) -> Iterator[str]:
    """The text cut before blanks between words, where tokenizers cut it too: their tokens are those of the whole. A text
    without such blanks is one piece."""
    start = 0
    while len(text) - start > PIECE and (found := BETWEEN.search(text, start + PIECE)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[list[int]]:
    """The ids of each text, without special tokens."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    short = [text if len(text) <= PIECE else "" for text in texts]
    for text, ids in zip(texts, tokenizer(short, **options)["input_ids"], strict=True):
        if len(text) <= PIECE:
            yield ids
        else:
            yield [i for piece in pieces(text) for i in tokenizer(piece, **options)["input_ids"]]


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> str:
    """As much of a text as gives count tokens or more, or all of it."""
    if len(text) <= PIECE:
        return text
    first = next(pieces(text))
    enough = len(tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"]) >= count
    return first if enough else text
