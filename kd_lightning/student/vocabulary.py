"""Which tokens a low-resource student reads: functions of the teacher that give a tokenizer."""

from collections import Counter
from typing import Protocol

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kd_lightning.encoder import Encoder

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")


class Reader(Protocol):
    def splits(self, unlabelled: bool) -> dict[str, Dataset]: ...


def pieces(teacher: Encoder) -> PreTrainedTokenizerBase:
    """The teacher's own tokenizer."""
    return teacher.tokenizer


def words(teacher: Encoder, *, reader: Reader, size: int) -> PreTrainedTokenizerFast:
    """Lower-cased words and punctuation, as BERT splits them before its pieces: the most frequent of the task's training and
    unlabelled texts, size in all, special tokens included; equally frequent ones come in alphabetical order.

    Deviation: nlp-architect counts the development and test texts as well.
    """
    if size <= len(SPECIAL):
        raise ValueError(f"vocabulary size {size}: {len(SPECIAL)} are special tokens, so more are wanted.")
    normalise, split = BertNormalizer(lowercase=True), BertPreTokenizer()
    found: Counter[str] = Counter()
    for name, examples in reader.splits(unlabelled=True).items():
        if name in ("train", "unlabelled"):
            for column in (column for column in examples.column_names if column != "label"):
                for text in examples[column]:
                    found.update(word for word, _ in split.pre_tokenize_str(normalise.normalize_str(text)))
    kept = sorted(found.keys() - set(SPECIAL), key=lambda word: (-found[word], word))[: size - len(SPECIAL)]
    table = {word: number for number, word in enumerate([*SPECIAL, *kept])}
    tokenizer = Tokenizer(WordLevel(table, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalise, split
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)
