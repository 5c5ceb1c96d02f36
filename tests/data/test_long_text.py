"""Tokens of a long text in pieces against those of the whole, by the library's own tokenizers."""

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from kd_lightning.data import long_text, tokens
from kd_lightning.data.long_text import beginning, pieces, token_ids
from kd_lightning.data.tokens import encode

TEXT = "w5 w6, w7.  w8 unheard\tw9 \n w10 - w11: w12 (w13) w14's end. " * 40


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(long_text, "PIECE", 50)
    monkeypatch.setattr(long_text, "AT_ONCE", 500)


@pytest.fixture
def byte_level() -> PreTrainedTokenizerFast:
    """As RoBERTa's: a blank is a part of the word after it."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT], vocab_size=300, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)


def test_pieces_are_the_text_and_small():
    found = list(pieces(TEXT))
    assert "".join(found) == TEXT
    assert len(found) > 20
    assert max(map(len, found)) < 150


def test_a_text_without_a_blank_is_cut_all_the_same():
    found = list(pieces("x" * 500 + " y" * 30))
    assert "".join(found) == "x" * 500 + " y" * 30
    assert len(found) > 4
    assert max(map(len, found)) <= 100


@pytest.mark.parametrize("which", ["tokenizer", "byte_level"])
def test_the_tokens_are_those_of_the_whole_text(which, request):
    reads = request.getfixturevalue(which)
    texts = ["w5 w6", TEXT, "", TEXT[7:], *["w5 w6", "w7 " * 60] * 9, "x" * 90]
    expected = [reads(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    assert list(token_ids(reads, texts)) == expected
    assert len(expected[1]) > 500


def test_a_beginning_is_enough_for_the_tokens_that_are_read_and_no_more(tokenizer):
    def cut(text: str) -> list[int]:
        return tokenizer(text, truncation=True, max_length=8)["input_ids"]

    found = beginning(tokenizer, TEXT, 8)
    assert len(found) < 150
    assert cut(found) == cut(TEXT)
    sparse = "x" * 140 + TEXT  # a word that is not known, and then as many as are wanted
    assert len(beginning(tokenizer, sparse, 8)) <= 500
    assert cut(beginning(tokenizer, sparse, 8)) == cut(sparse)
    assert len(beginning(tokenizer, "x" * 10_000, 8)) == 500
    assert cut("x" * 500) == cut("x" * 10_000)
    assert beginning(tokenizer, TEXT[:480], 1000) == TEXT[:480]
    assert beginning(tokenizer, "w5 " * 3, 100) == "w5 " * 3


class Watched:
    """A tokenizer that keeps how many characters it was given at once."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.sizes, self.truncation_side = tokenizer, [], tokenizer.truncation_side

    def __call__(self, *columns, **options):
        self.sizes.append(sum(len(text) for column in columns for text in ([column] if isinstance(column, str) else column)))
        return self.tokenizer(*columns, **options)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_tokenizer_is_given_few_characters_at_once_and_the_tokens_are_those_of_the_whole(
    columns, side, tokenizer, monkeypatch
):
    monkeypatch.setattr(tokens, "AT_ONCE", 500)
    tokenizer.truncation_side = side
    texts = [[TEXT[7 * n : 40 * n + 7] for n in range(12)], ["w7 w8 " * (12 - n) for n in range(12)]][:columns]
    expected = tokenizer(*texts, truncation=True, max_length=16)["input_ids"]
    watched = Watched(tokenizer)
    assert encode(watched, texts, 16)["input_ids"] == expected
    assert max(watched.sizes) <= 500 < sum(map(len, texts[0]))
    texts = [["x" * 2000, "w7", "y " * 500] for _ in texts]
    watched.sizes.clear()
    found = encode(watched, texts, 16)["input_ids"]
    assert max(watched.sizes) <= 500 * columns
    assert [len(ids) for ids in found] == [
        len(tokenizer(*row, truncation=True, max_length=16)["input_ids"]) for row in zip(*texts, strict=True)
    ]
