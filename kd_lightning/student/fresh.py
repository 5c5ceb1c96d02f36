"""A BERT from nothing: new weights, and a vocabulary learned from a corpus."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import Normalizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, PreTrainedTokenizerFast

from kd_lightning.encoder import Encoder
from kd_lightning.keep import keep
from kd_lightning.student.vocabulary import INPUTS, normalizer

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def bert(
    *,
    text_files: list[str],
    cache: str,
    vocab_size: int,
    max_length: int,
    lowercase: bool = True,
    strip_accents: bool = False,
    character_coverage: float = 1.0,
    **shape: int,
) -> Encoder:
    """A randomly initialised BERT masked LM of this shape with a WordPiece vocabulary learned from text_files.

    max_length: positions, special tokens included. character_coverage: the share of the text that the characters of the
    vocabulary make up, the most frequent first, as in SentencePiece; a word with any other is [UNK]. shape: fields of
    `transformers.BertConfig`. The model is pre-trained without dropout, since a small model does not overfit in a few passes
    over its text; its configuration tells whoever fine-tunes it on few labels to use BERT's 0.1. The vocabulary is learned
    once and kept under cache, since learning it again may break ties differently, and a run that is resumed needs the same one.
    """
    if not 0 < character_coverage <= 1:
        raise ValueError(f"student.character_coverage={character_coverage}: give a share above 0 and up to 1, e.g. 0.9995.")
    absent = [name for name in text_files if not Path(name).is_file()]
    if absent:
        raise ValueError(f"student.text_files: {', '.join(absent)} cannot be found.")
    read = [lowercase, strip_accents, character_coverage]
    key = json.dumps([sorted((name, Path(name).stat().st_size) for name in text_files), vocab_size, max_length, *read])
    folder = Path(cache) / f"vocabulary-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"

    def learn(scratch: Path) -> None:
        def lines() -> Iterator[str]:
            rows = load_dataset("text", data_files=text_files, split="train", cache_dir=f"{scratch}-text")
            return (row["text"] for row in rows.to_iterable_dataset())

        normal = normalizer(lowercase=lowercase, strip_accents=strip_accents)
        _learned(lines, normal, vocab_size, max_length, character_coverage).save_pretrained(scratch)

    keep(folder, learn)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **shape,
    )
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    return Encoder(model, tokenizer)


def _learned(
    lines: Callable[[], Iterator[str]], normal: Normalizer, vocab_size: int, max_length: int, coverage: float
) -> PreTrainedTokenizerFast:
    characters = Counter(letter for line in lines() for letter in normal.normalize_str(line))
    wanted = coverage * characters.total()
    enough = sum(covered < wanted for covered in accumulate(n for _, n in characters.most_common())) + 1
    learner = BertWordPieceTokenizer()
    learner.normalizer = normal
    options = {"vocab_size": vocab_size, "min_frequency": 2, "limit_alphabet": enough}
    learner.train_from_iterator(lines(), **options, show_progress=True)
    tokenizer = learner._tokenizer
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = list(INPUTS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, model_max_length=max_length, **SPECIAL)
