"""Fewer tokens: texts of kept pieces are cut as before, and networks compute what they computed."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from languages import ENGLISH, KOREAN, bytes_bpe, deberta, sentences, suffix_bpe, unigram, wordpiece
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    MobileBertConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from kd_lightning.data.source import all_texts
from kd_lightning.encoder import Encoder, classifier, masked_lm
from kd_lightning.method.distilbert import DistilBERT
from kd_lightning.student.embeddings import principal_components
from kd_lightning.student.transplant import distilbert, layers_of, smaller
from kd_lightning.student.vocabulary import segmented, used, words
from kd_lightning.trim import reading, tokenizer_of
from kd_lightning.views import Needs

OTHERS = ("größer als İstanbul", "日本語", "fox 학교 🙂", "Foxes!", "ㅋㅎㅋㅎ", "")


KINDS = {
    "Unigram": (unigram, XLMRobertaConfig),
    "Unigram of DeBERTa": (deberta, BertConfig),
    "WordPiece": (wordpiece, BertConfig),
    "BPE of bytes": (bytes_bpe, RobertaConfig),
    "BPE with suffix": (suffix_bpe, BertConfig),
}


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory) -> Path:
    """The folder of a masked LM with a tokenizer of a kind. Every parameter is random."""
    make, config_class = KINDS[request.param]
    tokenizer, folder = make(), tmp_path_factory.mktemp("whole")
    config = config_class(
        vocab_size=len(tokenizer) + 3,  # rows that belong to no token, as in many a released model
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=80,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(("norm" in name.lower() and name.endswith("weight")) + 0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


KEPT = sentences(KOREAN, 40, 2)


def seen_in(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> set[int]:
    return {number for text in texts for number in tokenizer(text, add_special_tokens=False)["input_ids"]}


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def korean(teacher: Encoder, characters: bool = True) -> PreTrainedTokenizerBase:
    return used(teacher, reader=None, corpus=lambda: iter(KEPT), characters=characters)


@pytest.mark.parametrize("characters", [True, False])
def test_texts_of_kept_pieces_are_cut_as_before_also_by_the_folder_that_is_left(place, characters, tmp_path):
    whole = AutoTokenizer.from_pretrained(place)
    own = korean(masked_lm(place), characters)
    own.save_pretrained(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    assert len(own) < 0.9 * len(whole)
    assert set(own.get_vocab()) < set(whole.get_vocab())
    new = sentences(KOREAN, 2000, 3) + sentences(f"{ENGLISH} {KOREAN}", 2000, 4) + ["<s> 학교<mask>", *OTHERS]
    expected = {text: pieces_of(whole, text) for text in [*KEPT, *new]}
    kept = set(own.get_vocab()) - ({"[UNK]"} if isinstance(whole, BertTokenizer) else set())
    exact = [text for text, names in expected.items() if set(names) <= kept]
    assert set(KEPT) <= set(exact)
    assert len(exact) > 1500
    for reads in (own, AutoTokenizer.from_pretrained(tmp_path)):
        assert [pieces_of(reads, text) for text in exact] == [expected[text] for text in exact]
        pair = whole.convert_ids_to_tokens(whole(KEPT[0], KEPT[1])["input_ids"])
        assert reads.convert_ids_to_tokens(reads(KEPT[0], KEPT[1])["input_ids"]) == pair
        assert (reads.pad_token_id, reads.mask_token) == (whole.pad_token_id, whole.mask_token)


def test_the_price_of_an_unknown_character_stays():
    """`abcd` costs 24 as ab and cd, and 31 as an unknown character and bcd: 10 more than the dearest piece, and 1."""
    vocabulary = [("<pad>", 0.0), ("never", -3.0), ("ab", -12.0), ("cd", -12.0), ("bcd", -1.0), ("dear", -20.0), ("<unk>", 0.0)]
    named = {"pad_token": "<pad>", "unk_token": "<unk>"}
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(vocabulary, 6, False)), **named)
    own = tokenizer_of(whole, seen_in(whole, ["abcd", "bcd"]), characters=True)
    assert "never" not in own.get_vocab()
    assert own.tokenize("abcd") == whole.tokenize("abcd") == ["ab", "cd"]
    assert own("xbcd")["input_ids"] == own.convert_tokens_to_ids(["<unk>", "bcd"])


def test_characters_without_a_piece_are_still_spelt_in_bytes():
    spelt = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    vocabulary = [("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0), ("never", -2.0), *spelt]
    named = {"pad_token": "<pad>", "unk_token": "<unk>"}
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(vocabulary, 1, True)), **named)
    own = tokenizer_of(whole, seen_in(whole, ["a"]), characters=False)
    assert len(own) == len(whole) - 1
    assert own.tokenize("aé") == whole.tokenize("aé") == ["a", "<0xC3>", "<0xA9>"]


def test_a_piece_has_the_very_score_that_it_had():
    """To the last bit, which decides between two ways of cutting a run of one character."""
    whole = unigram()
    own = tokenizer_of(whole, seen_in(whole, KEPT), characters=True)
    before, after = (dict(json.loads(reads.backend_tokenizer.to_str())["model"]["vocab"]) for reads in (whole, own))
    assert len(after) > 100
    assert after.items() <= before.items()


def test_no_text_is_unknown_that_was_not_so_before(place):
    whole = AutoTokenizer.from_pretrained(place)
    own = tokenizer_of(whole, set(), characters=True)  # no piece of more than one character
    texts = [*sentences(ENGLISH, 50, 5), *sentences(KOREAN, 50, 6), *OTHERS]
    for text in texts:
        assert own(text)["input_ids"].count(own.unk_token_id) <= whole(text)["input_ids"].count(whole.unk_token_id)
        if whole.unk_token_id not in whole(text)["input_ids"]:
            ours, theirs = (reads.decode(reads(text)["input_ids"], skip_special_tokens=True) for reads in (own, whole))
            assert ours.replace(" ", "") == theirs.replace(" ", "")


def outputs(model, tokenizer, text: str):
    with torch.no_grad():
        tokens = tokenizer(text, return_tensors="pt")
        return model(**{name: tokens[name] for name in ("input_ids", "attention_mask")}, output_hidden_states=True)


def test_a_copied_student_computes_the_same_before_and_after(place, tmp_path):
    """Plain transformers reads both folders."""
    teacher, whole = masked_lm(place), AutoTokenizer.from_pretrained(place)
    student = smaller(teacher, path=None, copy_layers=[1, 2], vocabulary=korean)
    student.model.save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    before = AutoModelForMaskedLM.from_pretrained(place).eval()
    after, own = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert after.config.vocab_size == len(own) == student.spec.vocabulary < len(whole)
    found = (after.config.pad_token_id, after.config.bos_token_id, after.config.eos_token_id)
    assert found == (own.pad_token_id, own.cls_token_id, own.sep_token_id)
    rows = whole.convert_tokens_to_ids(own.convert_ids_to_tokens(range(len(own))))
    for text in KEPT[:10]:
        old, new = outputs(before, whole, text), outputs(after, own, text)
        for ours, theirs in zip(new.hidden_states, old.hidden_states, strict=True):
            assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert_close(new.logits, old.logits[..., rows], rtol=1e-5, atol=1e-5)


def test_a_classifier_of_the_teachers_layers_computes_the_same_before_and_after(place, tmp_path):
    teacher = classifier(place, ["no", "yes"])
    teacher.model.save_pretrained(tmp_path)
    before, whole = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(place)
    student = layers_of(teacher, num_hidden_layers=2, copy_layers=[1, 2], vocabulary=korean)
    assert len(student.tokenizer) < len(whole)
    for text in KEPT[:5]:
        ours, theirs = outputs(student.model.eval(), student.tokenizer, text), outputs(before, whole, text)
        assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-6)
        assert ours.logits.abs().sum() > 0


def test_a_teacher_reads_the_pieces_of_its_student_and_what_is_compared_has_one_length(place, engine):
    teacher = masked_lm(place)
    student = smaller(teacher, path=None, copy_layers=None, vocabulary=korean)
    cut = reading(teacher, student.tokenizer)
    assert (cut.spec.vocabulary, cut.spec.vocabulary_id) == (student.spec.vocabulary, student.spec.vocabulary_id)
    text = "the foxes jumped 학교에서"  # of pieces that are not kept
    tokens = dict(student.tokenizer(text, return_tensors="pt"))
    plain = AutoModelForMaskedLM.from_pretrained(place).eval()
    whole = AutoTokenizer.from_pretrained(place)
    names = student.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    assert names != pieces_of(whole, text)
    with torch.no_grad():
        expected = plain(torch.tensor([whole.convert_tokens_to_ids(names)]), output_hidden_states=True)
        view = cut(tokens, Needs(hidden=frozenset({0, 2}), logits=True))
    assert_close(view.hidden[2], expected.hidden_states[2], rtol=1e-5, atol=1e-6)
    rows = whole.convert_tokens_to_ids(student.tokenizer.convert_ids_to_tokens(range(student.spec.vocabulary)))
    assert_close(view.logits(torch.arange(len(names))), expected.logits[0][:, rows], rtol=1e-5, atol=1e-5)
    weights = {"temperature": 2.0, "soft": 5.0, "mlm": 2.0, "cosine": 1.0, "masked_only": False}
    DistilBERT(**weights, **engine(student, cut))  # its objective takes both
    assert reading(teacher, teacher.tokenizer) is teacher


def test_a_mobilebert_too_loses_the_columns_of_its_head(make_tokenizer):
    """Its last linear has a row for each token in one part and a column in the other."""
    whole = make_tokenizer()
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 16}
    config = MobileBertConfig(vocab_size=97, embedding_size=16, intra_bottleneck_size=16, **shape)
    teacher = Encoder(AutoModelForMaskedLM.from_config(config), whole).eval()
    own = tokenizer_of(whole, {7, 20, 50}, characters=True)
    cut = reading(teacher, own)
    with torch.no_grad():
        theirs = teacher.model(torch.tensor([[2, 7, 50, 20, 3]])).logits[..., [0, 1, 2, 3, 4, 7, 20, 50]]
        ours = cut.model(torch.tensor([own.convert_tokens_to_ids(["[CLS]", "w7", "w50", "w20", "[SEP]"])])).logits
    assert ours.shape[-1] == len(own) == 8
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_students_without_attention_keep_the_teachers_vectors_of_these_pieces(place):
    teacher = masked_lm(place)
    own = segmented(korean(teacher))
    assert 1 in own("학교", "영화", return_token_type_ids=True)["token_type_ids"]
    vectors = principal_components(own, teacher, size=8)
    table = teacher.model.get_input_embeddings().weight.detach()
    table = table[teacher.tokenizer.convert_tokens_to_ids(own.convert_ids_to_tokens(range(len(own))))]
    gram = (table - table.mean(0)) @ (table - table.mean(0)).T
    largest = torch.linalg.eigvalsh(gram)[-8:].sum() / gram.trace()  # of the variance, by 8 directions
    found = torch.linalg.eigvalsh(vectors @ vectors.T)[-8:]
    kept = torch.linalg.eigvalsh(gram)[-8:]
    assert vectors.shape == (len(own), 8)
    assert 0 < largest < 1
    assert_close(found / found.sum(), kept / kept.sum(), rtol=1e-3, atol=1e-4)


def test_the_pieces_are_those_of_the_task_and_of_the_corpus(tmp_path, make_encoder, capsys):
    (tmp_path / "corpus.txt").write_text("w10 w11\n\nw12\n", encoding="utf-8")
    rows = Dataset.from_dict({"sentence1": ["w20 w21"], "label": [0]})
    others = Dataset.from_dict({"sentence1": ["w30"], "label": [0]})
    reader = SimpleNamespace(splits=lambda unlabelled: {"train": rows, "unlabelled": rows, "validation": others})
    corpus = partial(all_texts, source=[str(tmp_path / "corpus.txt")], cache=str(tmp_path))
    special, chosen = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], partial(used, make_encoder(), characters=True)
    both, task, text = (chosen(reader=one, corpus=two) for one, two in ((reader, corpus), (reader, None), (None, corpus)))
    assert sorted(both.get_vocab()) == sorted([*special, "w10", "w11", "w12", "w20", "w21"])
    assert sorted(task.get_vocab()) == sorted([*special, "w20", "w21"])
    assert sorted(text.get_vocab()) == sorted([*special, "w10", "w11", "w12"])
    assert "The student keeps 10 of its teacher's 97 pieces: 5 occur in the texts, and 5 serve all others." in (
        capsys.readouterr().out
    )
    assert len(chosen(reader=reader, corpus=partial(all_texts, source=None, cache=str(tmp_path)))) == 7
    with pytest.raises(ValueError, match=r"student\.vocabulary\.reader and student\.vocabulary\.corpus are both null"):
        chosen(reader=None, corpus=None)


def test_what_cannot_be_cut_is_refused(make_encoder):
    teacher = make_encoder()
    table = {name: number for number, name in enumerate(["[PAD]", "[UNK]", "a"])}
    level = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(table, "[UNK]")), pad_token="[PAD]")
    with pytest.raises(ValueError, match="the teacher's tokenizer is a WordLevel, of which no pieces can be left out"):
        tokenizer_of(level, set(), characters=True)
    rows = Dataset.from_dict({"sentence1": ["w20 w21"], "label": [0]})
    others = partial(words, reader=SimpleNamespace(splits=lambda unlabelled: {"train": rows}), size=50)
    settings = {"copy_head": True, "fold_token_type": False, "freeze_position_embeddings": False, "path": None}
    with pytest.raises(ValueError, match=r"so it reads the teacher's pieces\. Choose student/vocabulary=used"):
        distilbert(teacher, num_hidden_layers=2, copy_layers="uniform", vocabulary=others, **settings)
