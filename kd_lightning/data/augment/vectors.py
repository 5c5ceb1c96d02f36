"""Nearest words by the cosine of word vectors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.files import readable, text, unreadable

ROWS = 100_000  # of a file, the most frequent first: as many as TinyBERT's release reads
CHUNK = 256  # words looked up together: their cosines with all others are in memory at once


class Vectors:
    """Words with a vector each [W, D], and the vector of any word that is asked about (None where there is none)."""

    def __init__(self, words: Sequence[str], vectors: Tensor, vector_of: Callable[[str], Tensor | None]) -> None:
        self.words, self.vectors, self.vector_of = words, F.normalize(vectors, dim=-1), vector_of

    def nearest(self, words: Sequence[str], count: int) -> dict[str, list[str]]:
        """word -> the count words nearest to it, itself excluded, title-cased where it is; no entry for unknown words."""
        found: dict[str, list[str]] = {}
        known = {word: vector for word in words if (vector := self.vector_of(word)) is not None}
        for start in range(0, len(known), CHUNK):
            asked = list(known)[start : start + CHUNK]
            cosines = F.normalize(torch.stack([known[word] for word in asked]), dim=-1) @ self.vectors.T  # [N, W]
            ranks = cosines.topk(min(count + 2, len(self.words))).indices.tolist()  # itself may be there in two cases
            for word, rank in zip(asked, ranks, strict=True):
                near = [self.words[i] for i in rank if self.words[i].lower() != word.lower()][:count]
                found[word] = [other.title() for other in near] if word.istitle() else near
        return found


def glove(path: str) -> Vectors:
    """The first ROWS rows of a text file, compressed or not, in GloVe's format: a word and the D numbers of its vector, with
    blanks between.

    The last D fields are the vector (some words have blanks in them); D is counted in the first row. A word that is not
    there is looked up in lower case.
    """
    if not Path(path).is_file():
        raise ValueError(f"word vectors {path}: no such file. Give a text file of GloVe vectors.")
    rows: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    if not Path(path).stat().st_size:
        raise ValueError(f"word vectors {path}: the file is empty. Give a text file of GloVe vectors.")
    with text(path, "\n") as file:
        for number, line in zip(range(1, ROWS + 1), file, strict=False):
            if not readable(line):
                raise ValueError(f"word vectors {path}, line {number}: {unreadable(line)}")
            fields = line.rstrip().split(" ")
            width = len(vectors[0]) if vectors else len(fields) - 1
            try:
                vector = np.array(fields[-width:], np.float32)
            except ValueError:
                vector = np.empty(0)
            if width < 2 or len(vector) != width or len(fields) <= width:
                raise ValueError(
                    f"word vectors {path}, line {number}: a word and the numbers of its vector are wanted, as many in each "
                    f"line, and this is '{line[:40].rstrip()}'. Give a text file of GloVe vectors."
                )
            rows.setdefault(" ".join(fields[:-width]), len(rows))
            if len(rows) > len(vectors):
                vectors.append(vector)
    table = torch.from_numpy(np.stack(vectors))

    def vector_of(word: str) -> Tensor | None:
        row = rows.get(word, rows.get(word.lower()))
        return None if row is None else table[row]

    return Vectors(list(rows), table, vector_of)


def input_embeddings(weights: Tensor, tokenizer: PreTrainedTokenizerBase) -> Vectors:
    """The vocabulary's whole words with their input embeddings, weights [V, D]; a word in pieces has the pieces' mean."""
    words = {word: row for word, row in tokenizer.get_vocab().items() if word.isalpha()}  # no [MASK], no ##s, no 42

    def vector_of(word: str) -> Tensor:
        return weights[tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]].mean(0)

    return Vectors(list(words), weights[list(words.values())], vector_of)
