"""A BERT from nothing: new weights, and a vocabulary learned from a corpus."""

from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModelForMaskedLM, BertConfig, BertTokenizerFast

from kd_lightning.encoder import Encoder


def bert(*, text_files: list[str], vocab_size: int, max_length: int, **shape: int) -> Encoder:
    """A randomly initialised BERT masked LM of this shape with a WordPiece vocabulary learned from text_files.

    max_length: positions, special tokens included. shape: fields of `transformers.BertConfig`. Lower-cased, as
    bert-base-uncased. Without dropout: a small model on one pass or a few over its text does not overfit.
    """
    absent = [name for name in text_files if not Path(name).is_file()]
    if absent:
        raise ValueError(f"student.text_files: {', '.join(absent)} cannot be found.")
    learner = BertWordPieceTokenizer(lowercase=True)
    lines = load_dataset("text", data_files=text_files, split="train").to_iterable_dataset()
    learner.train_from_iterator((row["text"] for row in lines), vocab_size=vocab_size, min_frequency=2, show_progress=True)
    vocabulary = learner.get_vocab()
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=max_length)
    config = BertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **shape,
    )
    return Encoder(AutoModelForMaskedLM.from_config(config, dtype=torch.float32), tokenizer)
