"""How texts become a batch: the one place that says it, for training and for prediction."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.long_text import AT_ONCE, at_once, beginning

TOKENS = ("input_ids", "token_type_ids")  # what a network reads of a row


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int) -> dict[str, list[list[int]]]:
    """The tokens of each row, cut to max_length. texts: one column, or the two of pairs.

    Deviation: of a text of a pair AT_ONCE characters are read (of a pair the longer loses, and which that is, its whole length
    says).
    """
    right = tokenizer.truncation_side == "right"
    if len(texts) == 1 and right:
        texts = [[beginning(tokenizer, text, max_length) for text in texts[0]]]
    else:
        read = slice(AT_ONCE) if right else slice(-AT_ONCE, None)
        texts = [[text[read] for text in column] for column in texts]
    encoded: dict[str, list[list[int]]] = {}
    for some in at_once([sum(map(len, row)) for row in zip(*texts, strict=True)]):
        found = tokenizer(*(list(column[some]) for column in texts), truncation=True, max_length=max_length, padding=False)
        for name in TOKENS:
            if name in found:
                encoded.setdefault(name, []).extend(found[name])
    return encoded


def pad(tokens: Mapping[str, np.ndarray], lengths: np.ndarray, pad_token_id: int) -> dict[str, Tensor]:
    """TOKENS and `attention_mask` [B, S], padded on the right. tokens: those of all rows, one row after the other."""
    real = np.arange(max(1, lengths.max())) < lengths[:, None]  # [B, S]
    batch = {}
    for name, values in tokens.items():
        padded = np.full(real.shape, pad_token_id if name == "input_ids" else 0, np.int64)
        padded[real] = values
        batch[name] = padded
    return {name: torch.from_numpy(array) for name, array in (batch | {"attention_mask": real.astype(np.int64)}).items()}
