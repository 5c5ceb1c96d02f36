"""A vocabulary of real words and a masked LM that says what it is told to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import BertTokenizerFast

from kd_lightning.views import Readout, Spec, View

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "was", "not", ".", ",", "'", "3", "film", "movie", "play", "good", "bad", "fine", "##ful", "##ly", "cat", "dog"),
    *("영화", "드라마", "좋다", "हिन्दी"),
)


class Scripted(nn.Module):
    """At a [MASK], whose sentence follows once more as it is, ranks the words that the script has for the hidden word.

    Where the script has none: the hidden word itself and then the vocabulary in order. asked: every batch.
    """

    def __init__(self, tokenizer: BertTokenizerFast, script: dict[str, list[str]]) -> None:
        super().__init__()
        self.tokenizer, self.script = tokenizer, script
        self.spec = Spec(layers=1, hidden=1, heads=1, vocabulary=len(WORDS), vocabulary_id="words")
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[dict[str, Tensor]] = []

    def forward(self, batch: dict[str, Tensor], needs) -> View:
        self.asked.append(batch)
        ids = batch["input_ids"]

        def readout(rows: Tensor) -> Readout:
            scores = torch.zeros(len(rows), len(WORDS))
            for score, row in zip(scores, rows.tolist(), strict=True):
                sequence, place = ids[row // ids.shape[1]].tolist(), row % ids.shape[1]
                assert sequence[place] == WORDS.index("[MASK]")
                hidden = WORDS[sequence[sequence.index(WORDS.index("[SEP]")) + place]]
                ranked = self.script.get(hidden, [hidden, *WORDS])
                for rank, word in enumerate(dict.fromkeys(ranked)):
                    score[WORDS.index(word)] = 100 - rank
            return Readout(scores)

        return View(readout=readout)


@pytest.fixture
def words() -> tuple[str, ...]:
    return WORDS


@pytest.fixture
def make_words_tokenizer() -> Callable[..., BertTokenizerFast]:
    def make(max_length: int = 64, lower: bool = True) -> BertTokenizerFast:
        table = {word: i for i, word in enumerate(WORDS)}
        return BertTokenizerFast(vocab=table, do_lower_case=lower, model_max_length=max_length)

    return make


@pytest.fixture
def scripted(make_words_tokenizer) -> Callable[..., Scripted]:
    def make(script: dict[str, list[str]] | None = None, **tokenizer) -> Scripted:
        return Scripted(make_words_tokenizer(**tokenizer), script or {})

    return make
