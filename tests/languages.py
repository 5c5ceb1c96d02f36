"""Texts of two languages, and tokenizers of each kind that are trained on them: what models of many languages have."""

import json
import random

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

ENGLISH = "the quick brown foxes jumped over lazy dogs while seventeen unhappy travellers were running towards stations"
KOREAN = "나는 오늘 학교에서 친구들과 점심을 먹었다 그리고 저녁에는 집에서 재미있는 영화를 보았다 정말 즐거웠다 감사합니다"
SPECIAL = ["<s>", "<never used>", "<pad>", "<unk>", "</s>"]


def sentences(words: str, count: int, seed: int) -> list[str]:
    """With runs of one character, which can be cut in several ways that are equally good."""
    chance, known = random.Random(seed), words.split()
    runs = [mark * length for mark in "ㅋㅠ.!" for length in range(1, 12)]
    return [" ".join(chance.choices(known + runs, k=chance.randrange(3, 9))) for _ in range(count)]


TRAINING = sentences(ENGLISH, 300, 0) + sentences(KOREAN, 300, 1)


def trained(model: models.Model, split: pre_tokenizers.PreTokenizer, trainer: trainers.Trainer) -> dict:
    learner = Tokenizer(model)
    learner.pre_tokenizer, learner.normalizer = split, normalizers.NFC()
    learner.train_from_iterator(TRAINING, trainer)
    return json.loads(learner.to_str())["model"]


def scored(special: list[str], size: int) -> list[tuple[str, float]]:
    quiet = {"vocab_size": size, "unk_token": special[3], "special_tokens": special, "show_progress": False}
    return [*map(tuple, trained(models.Unigram(), pre_tokenizers.Metaspace(), trainers.UnigramTrainer(**quiet))["vocab"])]


def unigram() -> PreTrainedTokenizerBase:
    """XLM-R's."""
    return XLMRobertaTokenizer(vocab=[*scored(SPECIAL, 260), ("<mask>", 0.0)], model_max_length=64)


def deberta() -> PreTrainedTokenizerBase:
    """mDeBERTa's: its mask token stands outside the model's own vocabulary."""
    return DebertaV2Tokenizer(vocab=scored(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], 260), model_max_length=64)


def wordpiece() -> PreTrainedTokenizerBase:
    """mBERT's and KoELECTRA's: cased."""
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    found = trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(), trainer)
    return BertTokenizer(vocab=found["vocab"], do_lower_case=False, model_max_length=64)


def bytes_bpe() -> PreTrainedTokenizerBase:
    """RoBERTa's."""
    quiet = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, "<mask>"], **quiet)
    found = trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)
    merges = [tuple(pair) for pair in found["merges"]]
    return RobertaTokenizer(vocab=found["vocab"], merges=merges, model_max_length=64)


def suffix_bpe() -> PreTrainedTokenizerBase:
    """HerBERT's and XLM's: </w> ends a word. Here too the mask token stands outside the model's own vocabulary."""
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False)
    found = trained(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), pre_tokenizers.BertPreTokenizer(), trainer)
    merges = [tuple(pair) for pair in found["merges"]]
    backend = Tokenizer(models.BPE(found["vocab"], merges, unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=True))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>")
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    backend.post_processor = processors.BertProcessing(("</s>", 4), ("<s>", 0))
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **named)
