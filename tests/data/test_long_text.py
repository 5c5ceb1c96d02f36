"""Tokens of a long text in pieces against those of the whole, by the library's own tokenizers."""

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from kd_lightning.data import long_text
from kd_lightning.data.long_text import beginning, pieces, token_ids

TEXT = "w5 w6, w7.  w8 unheard\tw9 \n w10 - w11: w12 (w13) w14's end. " * 40


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(long_text, "PIECE", 50)


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
    assert list(pieces("x" * 500)) == ["x" * 500]


@pytest.mark.parametrize("which", ["tokenizer", "byte_level"])
def test_the_tokens_are_those_of_the_whole_text(which, request):
    reads = request.getfixturevalue(which)
    texts = ["w5 w6", TEXT, "", TEXT[7:], "x" * 500]
    expected = [reads(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    assert list(token_ids(reads, texts)) == expected
    assert len(expected[1]) > 500


def test_a_beginning_is_enough_for_the_tokens_that_are_read_and_no_more(tokenizer):
    def cut(text: str) -> list[int]:
        return tokenizer(text, truncation=True, max_length=8)["input_ids"]

    found = beginning(tokenizer, TEXT, 8)
    assert len(found) < 150
    assert cut(found) == cut(TEXT)
    assert beginning(tokenizer, TEXT, 1000) == TEXT
    assert beginning(tokenizer, "w5 " * 3, 100) == "w5 " * 3
