"""Tokenizers that are not the model's own, or are read by another class: made as they lie on the hub, tiny and at random."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from kd_lightning.encoder import classifier, masked_lm
from kd_lightning.tokenizer_check import _say
from kd_lightning.views import Needs

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HANGUL = [f"{chr(0xAC00 + 28 * n)}나" for n in range(40)]  # words of two syllables
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
CASED = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}


@pytest.fixture
def model(tmp_path):
    """A folder with a BERT of random weights, and with a vocab.txt and a tokenizer_config.json where they are given."""
    _say.cache_clear()

    def make(words: list[str] | None = None, about: dict | None = None, kind=(BertConfig, BertForMaskedLM), **config) -> Path:
        torch.manual_seed(0)
        kind[1](kind[0](vocab_size=64, **(SHAPE | {"pad_token_id": 0} | config))).save_pretrained(tmp_path / "model")
        if words is not None:
            (tmp_path / "model" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        if about is not None:
            (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        return tmp_path / "model"

    return make


def sentencepiece(*template: str) -> PreTrainedTokenizerFast:
    """As KoBERT's: a Unigram over blanks written as the sign of SentencePiece."""
    pieces = [(name, 0.0) for name in SPECIAL] + [(f"▁{word}", -1.0) for word in HANGUL] + [("▁", -9.0)]
    backend = Tokenizer(Unigram(pieces, unk_id=1))
    backend.pre_tokenizer = Metaspace()
    ids = [(name, SPECIAL.index(name)) for name in template if name in SPECIAL]
    backend.post_processor = TemplateProcessing(single=" ".join(template), special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def test_a_tokenizer_may_lie_elsewhere_and_is_read_by_the_models_class_where_it_names_none(model, tmp_path):
    folder, place = model(), tmp_path / "its tokenizer"
    with pytest.raises(ValueError, match=r"there is no tokenizer .* or name it: teacher\.tokenizer=<folder or hub name>"):
        masked_lm(folder)
    place.mkdir()
    (place / "vocab.txt").write_text("\n".join([*SPECIAL, *HANGUL]) + "\n", encoding="utf-8")
    (place / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ids = [2, 5, 8, 3]
    batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    for encoder in (masked_lm(folder, tokenizer=place), classifier(folder, ["no", "yes"], tokenizer=place)):
        assert encoder.tokenizer(f"{HANGUL[0]} {HANGUL[3]}")["input_ids"] == ids
    with torch.no_grad():
        expected = BertForMaskedLM.from_pretrained(folder).eval()(**batch).logits[0]
        shown = masked_lm(folder, tokenizer=place).eval()(batch, Needs(logits=True)).logits(torch.arange(4))
    assert_close(shown, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("none", r"teacher\.tokenizer=.*none: nothing is there, and a folder with tokenizer\.json, vocab\.txt or the like"),
        ("model/config.json", r"config\.json: a file is there, and a folder with tokenizer\.json"),
        (".", r"there is no tokenizer \(tokenizer\.json"),
    ],
)
def test_a_place_without_a_tokenizer_is_refused(place, words, model, tmp_path):
    with pytest.raises(ValueError, match=words):
        masked_lm(model(), tokenizer=tmp_path / place)


CODE = r"is code of its own, which is never run here\. .* teacher\.tokenizer=<folder or hub name>, saved as tokenizer\.json"
OWN = {"AutoTokenizer": ["tokenization_kobert.KoBertTokenizer", None]}
READ = r"read as a BertTokenizer, does not know 100% of the words of its own vocabulary"
MARKED = [*SPECIAL, *(f"▁{word}" for word in HANGUL)]


@pytest.mark.parametrize(
    ("vocabulary", "about", "words"),
    [
        (MARKED, {"tokenizer_class": "KoBertTokenizer"}, rf"its tokenizer \('KoBertTokenizer'\) {CODE}"),
        (MARKED, {"auto_map": OWN}, rf"its tokenizer {CODE}"),
        (MARKED, CASED, READ),
        (MARKED, None, READ),
        ([*SPECIAL, *HANGUL], None, READ + r".*\"do_lower_case\": false"),
        ([*SPECIAL, *HANGUL], CASED | {"do_lower_case": True}, READ),
        (
            [*SPECIAL, *HANGUL, *(f"##{chr(0xAC00 + n)}" for n in range(30))],
            CASED,
            "knows token 74 and the model has vectors for 0 to 63",
        ),
    ],
)
def test_a_tokenizer_read_by_another_class_is_refused_before_it_gives_wrong_answers(vocabulary, about, words, model):
    with pytest.raises(ValueError, match=words):
        masked_lm(model(vocabulary, about))


def test_what_belongs_together_is_read_and_nothing_is_said(model, tmp_path, capsys):
    encoder = masked_lm(model([*SPECIAL, *HANGUL], CASED))
    assert encoder.tokenizer.tokenize(f"{HANGUL[1]} {HANGUL[2]}") == HANGUL[1:3]
    sentencepiece("[CLS]", "$A", "[SEP]").save_pretrained(tmp_path / "pieces")
    assert masked_lm(model(), tokenizer=tmp_path / "pieces").tokenizer(HANGUL[2])["input_ids"] == [2, 7, 3]
    about = json.loads((tmp_path / "pieces" / "tokenizer_config.json").read_text())
    (tmp_path / "pieces" / "tokenizer_config.json").write_text(json.dumps(about | {"auto_map": OWN}))  # tokenizer.json says all
    assert masked_lm(model(), tokenizer=tmp_path / "pieces").tokenizer(HANGUL[2])["input_ids"] == [2, 7, 3]
    assert capsys.readouterr().out == ""


def test_the_token_that_a_head_reads_must_stand_first(model, tmp_path, capsys):
    sentencepiece("$A", "[SEP]", "[CLS]").save_pretrained(tmp_path / "behind")
    with pytest.raises(ValueError, match=r"puts \[CLS\] behind the text, and the model's head reads what stands first"):
        classifier(model(), ["no", "yes"], tokenizer=tmp_path / "behind")
    sentencepiece("$A", "[SEP]").save_pretrained(tmp_path / "without")
    assert masked_lm(model(), tokenizer=tmp_path / "without")
    assert "its tokenizer puts no [CLS] before a text, so a head reads the text's first token." in capsys.readouterr().out


def test_another_padding_is_refused_where_positions_are_counted_from_it_and_else_said(model, capsys):
    words = [*SPECIAL, *HANGUL]
    assert masked_lm(model(words, CASED, pad_token_id=1))
    assert "pads with token 0 and config.json says 1 (pad_token_id). They may not belong" in capsys.readouterr().out
    roberta = (RobertaConfig, RobertaForMaskedLM)
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    assert masked_lm(model(words, CASED, roberta, **ids))
    assert capsys.readouterr().out == ""
    with pytest.raises(
        ValueError, match=r"pads with token 0 and config\.json says 1 .* from which this model counts its positions"
    ):
        masked_lm(model(words, CASED, roberta, **(ids | {"pad_token_id": 1})))


def test_other_first_and_last_tokens_than_the_configurations_are_said_once(model, capsys):
    folder = model([*SPECIAL, *HANGUL], CASED, bos_token_id=5, sep_token_id=3)
    for _ in range(2):
        masked_lm(folder)
    assert capsys.readouterr().out == (
        f"{folder}: its tokenizer's cls token is 2 and config.json says 5 (bos_token_id). They may not belong together.\n"
    )
