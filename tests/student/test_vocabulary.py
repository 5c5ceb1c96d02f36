"""What the vocabularies that are made anew do to text of any language."""

import unicodedata
from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast, RobertaTokenizer

from kd_lightning.student import fresh
from kd_lightning.student.vocabulary import morphemes, pieces, words, words_or_pieces

GERMAN = (
    "Die größte Straße führt übers Öl-Land: STRAẞE, Äpfel, süße Grüße.",
    "Ob Füße, Flüsse oder Flüße? Im Übrigen heißt es »Maß« und nicht »Mass«.",
)
TURKISH = (
    "Işık İzmir'de ağır ağır söndü; kızım ÇİÇEK'i Iğdır'da gördü.",
    "Şoför, ılık çayını içip ĞÜŞİÖÇ yazdı: I ile İ, ı ile i ayrı harflerdir.",
)
TEXTS = (
    *GERMAN,
    *TURKISH,
    "한국어 형태소를 읽는다",
    "東京 で 日本語",
    "Émile's café, größer als İstanbul",
    "हिन्दी में",
    "👨\u200d👩\u200d👧 ❤\ufe0f",
    unicodedata.normalize("NFD", "한글 naïve"),
)
SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def reader(*texts: str) -> SimpleNamespace:
    rows = Dataset.from_dict({"sentence1": list(texts), "label": [0] * len(texts)})
    return SimpleNamespace(splits=lambda unlabelled: {"train": rows, "validation": rows})


def learned(folder, **case: bool) -> PreTrainedTokenizerFast:
    (folder / "text.txt").write_text("\n".join(TEXTS * 3), encoding="utf-8")
    given = {"text_files": [str(folder / "text.txt")], "cache": str(folder / "cache"), "vocab_size": 300, "max_length": 128}
    return fresh.bert(**given, **case, **SHAPE).tokenizer


def letters(text: str) -> list[tuple[int, int, str]]:
    """An analyser that takes each character for a morpheme."""
    return [(i, i + 1, "X") for i in range(len(text))]


MADE = {
    "words": lambda folder, **case: words(None, reader=reader(*TEXTS), size=500, **case),
    "morphemes": lambda folder, **case: morphemes(None, reader=reader(*TEXTS), analyser=letters, size=500, **case),
    "fresh": learned,
}


def plain(text: str, lowercase: bool) -> str:
    """Without blanks, composed, and in lower case where that is asked, which Python knows by itself."""
    return unicodedata.normalize("NFC", "".join((text.lower() if lowercase else text).split()))


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", MADE)
def test_every_tokenizer_that_is_trained_gives_the_text_back(kind, lowercase, tmp_path):
    tokenizer = MADE[kind](tmp_path, lowercase=lowercase)
    tokenizer.save_pretrained(tmp_path / "saved")
    BertConfig().save_pretrained(tmp_path / "saved")
    for reads in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        back = [reads.decode(reads(text)["input_ids"], skip_special_tokens=True) for text in TEXTS]
        assert [plain(text, False) for text in back] == [plain(text, lowercase) for text in TEXTS]


@pytest.mark.parametrize("kind", MADE)
def test_without_accents_letters_stay_that_have_none(kind, tmp_path):
    """ß, ẞ and the dotless ı are letters of their own; the dot of an İ and what stands on a Ğ are accents. Lower case is
    that of no language: the Turkish I becomes i."""
    tokenizer = MADE[kind](tmp_path, strip_accents=True)
    back = [tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in (*GERMAN, *TURKISH)]
    assert [plain(text, False) for text in back] == [
        "diegroßtestraßefuhrtubersol-land:straße,apfel,sußegruße.",
        "obfuße,flusseoderfluße?imubrigenheißtes»maß«undnicht»mass«.",
        "isıkizmir'deagıragırsondu;kızımcicek'iigdır'dagordu.",
        "sofor,ılıkcayınıicipgusiocyazdı:iilei,ıileiayrıharflerdir.",
    ]


def test_a_syllable_of_hangul_is_one_character_and_accents_go_where_that_is_asked():
    kept, gone = (words(None, reader=reader(*TEXTS), size=500, strip_accents=strip) for strip in (False, True))
    assert {"한국어", "café"} <= set(kept.get_vocab())
    assert {"한국어", "cafe"} <= set(gone.get_vocab())


def test_rare_characters_are_left_out_where_less_is_to_be_covered(tmp_path):
    (tmp_path / "text.txt").write_text("aab\n" * 33 + "aac\n", encoding="utf-8")
    given = {"text_files": [str(tmp_path / "text.txt")], "cache": str(tmp_path), "vocab_size": 50, "max_length": 16}
    all_of_it, most = (fresh.bert(character_coverage=share, **given, **SHAPE).tokenizer for share in (1.0, 0.99))
    assert "[UNK]" not in all_of_it.tokenize("aac aab")
    assert most.tokenize("aac aab")[0] == "[UNK]"
    assert "[UNK]" not in most.tokenize("aab")
    with pytest.raises(ValueError, match=r"student\.character_coverage=0: give a share above 0"):
        fresh.bert(character_coverage=0, **given, **SHAPE)


def test_pieces_are_the_default_where_words_would_be_unknown_and_that_is_said(make_encoder, capsys):
    teacher = make_encoder()
    few = words_or_pieces(teacher, reader=reader("a b a b", "a b c"), size=100, unknown=0.2)  # 1 of 7 words occurs once
    assert set(few.get_vocab()) == {"[PAD]", "[UNK]", "[MASK]", "a", "b", "c"}
    assert not capsys.readouterr().out
    many = words_or_pieces(teacher, reader=reader("a b a b", "a b c"), size=100, unknown=0.1)
    assert many is teacher.tokenizer
    assert "about 14% would be unknown to a student of 100 words, more than 10%" in capsys.readouterr().out


def test_the_second_text_of_a_pair_is_told_from_the_first_also_with_a_roberta():
    table = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5, "b": 6}
    own = RobertaTokenizer(vocab=table, merges=[], model_max_length=32)
    made = pieces(SimpleNamespace(tokenizer=own))
    assert made("a", "b")["input_ids"] == own("a", "b")["input_ids"] == [0, 5, 2, 2, 6, 2]
    assert made("a", "b")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert made("a")["input_ids"] == own("a")["input_ids"]
    assert made.model_max_length == 32
