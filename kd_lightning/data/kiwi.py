"""The morphemes of Korean text, by Kiwi (an extra: pip install -e '.[korean]')."""

from collections.abc import Sequence
from functools import cache
from typing import Any


@cache
def _kiwi() -> Any:
    try:
        from kiwipiepy import Kiwi
    except ImportError as error:
        raise ValueError(
            "Kiwi, which analyses Korean words, is not installed: pip install -e '.[korean]', or choose another vocabulary "
            "(student/vocabulary=pieces) and augment.tagger=null."
        ) from error
    return Kiwi(num_workers=1)


def spans(text: str) -> list[tuple[int, int, str]]:
    """Begin, end and part of speech of each morpheme, in characters of the text; contracted ones overlap."""
    return [(token.start, token.end, str(token.tag)) for token in _kiwi().tokenize(text)]


def tagged(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with the parts of speech of its morphemes, e.g. NNG+JKS: a noun with its subject particle. A tagger for `Tang`,
    who then puts only a word of the same endings in another's place."""
    found: list[list[str]] = [[] for _ in words]
    places = [number for number, word in enumerate(words) for _ in f"{word} "]
    for start, _, tag in spans(" ".join(words)):
        found[places[start]].append(tag)
    return [(word, "+".join(tags)) for word, tags in zip(words, found, strict=True)]
