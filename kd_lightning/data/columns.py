"""The columns of many rows, in Arrow: a row costs its bytes there, and as objects of Python several times as many."""

import itertools
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from datasets import Dataset

ROWS, CHARACTERS = 10_000, 1 << 24  # that are held as objects at the most
BLOCK = 100  # rows that are read back at once


class Columns:
    """Takes rows one at a time and holds few of them as objects. names: of the columns, the last one of numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.parts = names, []
        self.held: list[Sequence[str | float]] = []
        self.size = 0

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + len(self.held)

    def append(self, *row: str | float) -> None:
        self.held.append(row)
        self.size += sum(map(len, row[:-1]))
        if len(self.held) == ROWS or self.size >= CHARACTERS:
            self._flush()

    def dataset(self) -> Dataset:
        self._flush()
        return Dataset(pa.concat_tables(self.parts))

    def _flush(self) -> None:
        if self.held:
            self.parts.append(pa.table([pa.array(values) for values in zip(*self.held, strict=True)], self.names))
            self.held, self.size = [], 0


def text_numbers(*parts: Dataset) -> list[np.ndarray]:
    """[N] of each part: a number for each row, the same where the text (of pairs: both texts) is the same, in any of the
    parts. Texts are told apart by digests of 16 bytes."""
    names = [name for name in parts[0].column_names if name != "label"]
    digests = bytearray()
    for part in parts:
        for rows in part.select_columns(names).iter(BLOCK):
            for text in itertools.chain.from_iterable(zip(*(rows[name] for name in names), strict=True)):
                digests += blake2b(text.encode(), digest_size=16).digest()
    found = np.unique(np.frombuffer(digests, np.dtype((np.void, 16 * len(names)))), return_inverse=True)[1]
    return np.split(found, np.cumsum([len(part) for part in parts])[:-1])


def held_out(rows: Dataset, share: float, seed: int, *, stratified: bool) -> tuple[Dataset, Dataset]:
    """Train and validation, which has this share: of every class, where stratified, and the same rows for the same seed. Rows
    of the same text stay together, in the stratum of the first one's label."""
    (texts,) = text_numbers(rows)
    distinct = np.sort(np.unique(texts, return_index=True)[1])  # the first row of each text
    labels = np.asarray(rows["label"])[distinct] if stratified else np.zeros(len(distinct))
    random, held = np.random.default_rng(seed), []
    by_label = distinct[np.argsort(labels, kind="stable")]
    for stratum in np.split(by_label, np.cumsum(np.unique(labels, return_counts=True)[1])[:-1]):
        drawn = random.permutation(stratum)
        count = max(round(share * len(drawn)), int(len(drawn) > 1))
        held.append(texts[drawn[: min(count, len(drawn) - 1)]])
    chosen = np.isin(texts, np.concatenate(held))
    if not chosen.any():
        raise ValueError(f"{len(rows)} rows are too few to hold some out.")
    return rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))
