"""A BERT from nothing: new weights, and a vocabulary learned from a corpus."""

import hashlib
import json
from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertTokenizerFast

from kd_lightning.encoder import Encoder
from kd_lightning.keep import keep


def bert(*, text_files: list[str], cache: str, vocab_size: int, max_length: int, **shape: int) -> Encoder:
    """A randomly initialised BERT masked LM of this shape with a lower-cased WordPiece vocabulary learned from text_files.

    max_length: positions, special tokens included. shape: fields of `transformers.BertConfig`. The model is pre-trained without
    dropout, since a small model does not overfit in a few passes over its text; its configuration tells whoever fine-tunes it
    on few labels to use BERT's 0.1. The vocabulary is learned once and kept under cache, since learning it again may break
    ties differently, and a run that is resumed needs the same one.
    """
    absent = [name for name in text_files if not Path(name).is_file()]
    if absent:
        raise ValueError(f"student.text_files: {', '.join(absent)} cannot be found.")
    key = json.dumps([sorted((name, Path(name).stat().st_size) for name in text_files), vocab_size, max_length])
    folder = Path(cache) / f"vocabulary-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    keep(folder, lambda scratch: _learn(text_files, vocab_size, max_length, f"{scratch}-text").save_pretrained(scratch))
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


def _learn(text_files: list[str], vocab_size: int, max_length: int, cache: str) -> BertTokenizerFast:
    learner = BertWordPieceTokenizer(lowercase=True)
    lines = load_dataset("text", data_files=text_files, split="train", cache_dir=cache).to_iterable_dataset()
    learner.train_from_iterator((line["text"] for line in lines), vocab_size=vocab_size, min_frequency=2, show_progress=True)
    return BertTokenizerFast(vocab=learner.get_vocab(), do_lower_case=True, model_max_length=max_length)
