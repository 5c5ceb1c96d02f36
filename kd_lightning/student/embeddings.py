"""The word vectors that a low-resource student starts from: functions of its tokenizer and the teacher that give [V, E]."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kd_lightning.encoder import Encoder, vocabulary_id
from kd_lightning.student.low_resource_model import UNIFORM
from kd_lightning.trim import rows


class Vectors(Protocol):
    vector_of: Callable[[str], Tensor | None]


def random(tokenizer: PreTrainedTokenizerBase, teacher: Encoder, *, size: int) -> Tensor:
    """Uniform in -0.25..0.25 (Kim 2014)."""
    return torch.empty(len(tokenizer), size).uniform_(-UNIFORM, UNIFORM)


def from_vectors(tokenizer: PreTrainedTokenizerBase, teacher: Encoder, *, vectors: Vectors) -> Tensor:
    """Pre-trained vectors, found by word; a token without one starts at random. Raises ValueError where no token has one."""
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    found = {number: vector for number, word in enumerate(words) if (vector := vectors.vector_of(word)) is not None}
    if not found:
        raise ValueError("student.embeddings: no token of the student's vocabulary has a vector in that file.")
    table = random(tokenizer, teacher, size=len(next(iter(found.values()))))
    table[list(found)] = torch.stack(list(found.values())).float()
    return table


def principal_components(tokenizer: PreTrainedTokenizerBase, teacher: Encoder, *, size: int) -> Tensor:
    """The teacher's input embeddings, centred, in their first principal directions, and scaled together to the standard
    deviation of the random start, for which the bodies are made."""
    chosen = rows(tokenizer, teacher.tokenizer)
    if chosen is None and vocabulary_id(tokenizer) != teacher.spec.vocabulary_id:
        raise ValueError(
            "student.embeddings: the teacher's input embeddings belong to its own tokens. Let the student read them "
            "(student/vocabulary=pieces or used), or choose student/embeddings=random."
        )
    weights = teacher.model.get_input_embeddings().weight.detach().float()  # [V, D]
    if chosen is not None:
        weights = weights[chosen]
    if not 0 < size <= weights.shape[1]:
        raise ValueError(f"student.embeddings.size={size}: the teacher's input embeddings are {weights.shape[1]} wide.")
    centred = weights - weights.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors  # of ascending variance
    table = centred @ directions.flip(1)[:, :size]
    return table * (UNIFORM / 3**0.5 / table.std())
