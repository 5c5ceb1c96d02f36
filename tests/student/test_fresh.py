"""A BERT from nothing, on a vocabulary that is learned once."""

from pathlib import Path

import pytest
from tokenizers import BertWordPieceTokenizer

from kd_lightning.student import fresh

SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Builds the network, and keeps count of the vocabularies that were learned."""
    learned = []
    train = BertWordPieceTokenizer.train_from_iterator

    def counted(self, *given, **more):
        learned.append(more["vocab_size"])
        return train(self, *given, **more)

    monkeypatch.setattr(BertWordPieceTokenizer, "train_from_iterator", counted)
    (tmp_path / "text.txt").write_text("A word and another word.\n" * 20, encoding="utf-8")

    def build(vocab_size: int = 60):
        given = {"text_files": [str(tmp_path / "text.txt")], "cache": str(tmp_path / "cache"), "max_length": 16}
        return fresh.bert(vocab_size=vocab_size, **given, **SHAPE)

    build.learned, build.cache = learned, tmp_path / "cache"
    return build


def test_the_vocabulary_is_learned_once_and_kept(built):
    first, second = built(), built()
    assert built.learned == [60]
    vocabulary = first.tokenizer.get_vocab()
    assert vocabulary == second.tokenizer.get_vocab()
    assert {"[CLS]", "word", "another"} <= set(vocabulary)
    assert first.model.config.vocab_size == len(vocabulary)
    built(50)
    assert built.learned == [60, 50]
    assert len(list(built.cache.iterdir())) == 2


def test_an_interruption_leaves_nothing_behind(built, monkeypatch):
    def stop(self, folder):
        Path(folder).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(fresh.PreTrainedTokenizerFast, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        built()
    assert list(built.cache.iterdir()) == []
