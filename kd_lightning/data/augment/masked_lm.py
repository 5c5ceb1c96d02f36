"""TinyBERT's data augmentation: more training rows, in which some words are others that would fit there."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from rich.console import Console
from torch import nn
from tqdm import tqdm

from kd_lightning.data.augment.candidates import SCHEMA, Candidates
from kd_lightning.data.augment.stop_words import STOP_WORDS
from kd_lightning.data.formats import say
from kd_lightning.keep import keep

FORMAT = 2  # raise when what is written changes: folders of another format are left alone
CANDIDATES, ROWS = "candidates.parquet", "rows.arrow"
BLOCK = 256  # sentences or rows that are worked on at once


def draws(
    words: Sequence[str], candidates: Sequence[Sequence[str]], *, probability: float, count: int, random: np.random.Generator
) -> list[tuple[str, ...]]:
    """The words count times, each that has candidates replaced with this probability by one of them, all alike likely."""
    places = [place for place, choices in enumerate(candidates) if choices]
    replaced = random.random((count, len(places))) < probability
    choice = random.integers(np.array([len(candidates[place]) for place in places], int), size=(count, len(places)))
    drawn = []
    for n in range(count):
        text = list(words)
        for j in np.flatnonzero(replaced[n]):
            text[places[j]] = candidates[places[j]][choice[n, j]]
        drawn.append(tuple(text))
    return drawn


class Share:
    """How many of the words with candidates changed in all draws, and how many should have.

    Expected of a word is probability · (1 - share of its candidates that are the word itself).
    """

    def __init__(self, probability: float) -> None:
        self.probability, self.words, self.changed, self.due = probability, 0, 0, 0.0

    def count(self, words: Sequence[str], candidates: Sequence[Sequence[str]], drawn: Sequence[tuple[str, ...]]) -> None:
        for place, choices in enumerate(candidates):
            if choices:
                self.words += len(drawn)
                self.changed += sum(text[place] != words[place] for text in drawn)
                self.due += len(drawn) * self.probability * (1 - choices.count(words[place]) / len(choices))

    @property
    def observed(self) -> float:
        return self.changed / max(self.words, 1)

    @property
    def expected(self) -> float:
        return self.due / max(self.words, 1)


class Augment:
    """Rows -> rows: each as it is, then its variants, with everything but one text the same (Jiao et al. 2020, algorithm 1).

    masked_lm: makes the network that `Candidates` asks. All columns but `label` vary, one after the other. probability of a
    word to be replaced (the paper's p_t), candidates of a word at most (K), variants of a text at most (N_a): of so many
    draws those that are new are kept. Candidates (Parquet) and rows (Arrow) are written once, under cache, keyed by all that
    they depend on. language: of the texts, whose stop words stay (`stop_words.py`).

    Deviation: while the second text of a pair varies, the first is the original; the release leaves its last variant there.
    Deviation: the words of the original with blanks between are no variant; in the release they may be one.
    Deviation: draws are seeded, by row; the release has no seed.
    """

    def __init__(
        self,
        *,
        masked_lm: Callable[[], nn.Module],
        vectors: str | None,
        probability: float,
        candidates: int,
        variants: int,
        language: str,
        precision: str,
        cache: str,
        seed: int,
    ) -> None:
        for name, value, possible in (
            ("probability", probability, 0 <= probability <= 1),
            ("candidates", candidates, candidates >= 1),
            ("variants", variants, variants >= 1),
        ):
            if not possible:
                wanted = "a share from 0 to 1" if name == "probability" else "a number from 1 up"
                raise ValueError(f"augment.{name}={value}: {wanted} is wanted; without augmentation: augment=none.")
        self.masked_lm, self.vectors, self.precision, self.language = masked_lm, vectors, precision, language
        self.probability, self.candidates, self.variants = probability, candidates, variants
        self.cache, self.seed = Path(cache), seed

    def __call__(self, rows: Dataset) -> Dataset:
        network = self.masked_lm()
        table = rows.with_format("arrow")[:]
        columns = [name for name in rows.column_names if name != "label"]
        sentences = sorted({text for column in columns for text in rows[column]}, key=lambda text: (-len(text), text))
        asked = [FORMAT, _digest(network), self.candidates, self._vectors_id(), self.language, sentences]
        drawn = [asked, rows.column_names, [rows[name][:] for name in rows.column_names]]
        drawn += [self.probability, self.variants, self.seed]
        found, kept = (self.cache / f"{name}-{_key(of)}" for name, of in (("candidates", asked), ("augmented", drawn)))

        def ask(scratch: Path) -> None:
            how = {"vectors": self.vectors, "precision": self.precision, "language": self.language}
            source = Candidates(network, count=self.candidates, **how)
            scratch.mkdir()
            with pq.ParquetWriter(scratch / CANDIDATES, SCHEMA) as writer:
                for answered in _ask(source, sentences):
                    writer.write_table(answered)

        def augment(scratch: Path) -> None:
            start, share, count = time.perf_counter(), Share(self.probability), 0
            candidates = pq.read_table(keep(found, ask) / CANDIDATES).combine_chunks()
            scratch.mkdir()
            with pa.ipc.new_stream(scratch / ROWS, table.schema) as writer:
                for made in self._augmented(table, columns, candidates, share):
                    writer.write_table(made)
                    count += len(made)
            seconds = time.perf_counter() - start
            Console(markup=False).print(
                f"Augmented {len(table)} rows to {count}, {len(table) / seconds:.1f} rows a second: {kept / ROWS}\n"
                f"Of the words that may change, {share.observed:.2%} did; {share.expected:.2%} are expected.",
                highlight=False,
                soft_wrap=True,
            )

        if self.language not in STOP_WORDS:
            known = f"only {', '.join(STOP_WORDS)} has a list of stop words"
            say(f"augment.language={self.language}: {known}, so any word of letters may be replaced.")
        made = Dataset.from_file(str(keep(kept, augment) / ROWS))
        if len(made) == len(rows):
            why = f"are not of letters, or stop words, or have no other (or augment.probability={self.probability} is too low)"
            say(f"augment: none of the {len(rows):,} rows has a variant, so training has these rows alone: their words {why}.")
        return made

    def _augmented(self, table: pa.Table, columns: list[str], found: pa.Table, share: Share) -> Iterator[pa.Table]:
        place = {sentence: i for i, sentence in enumerate(found["sentence"].to_pylist())}
        texts = {column: table[column].to_pylist() for column in columns}
        for start in tqdm(range(0, len(table), BLOCK), desc="Augmenting", unit_scale=BLOCK, unit=" rows", disable=None):
            sources: list[int] = []
            made: list[dict[str, str]] = []
            for row in range(start, min(start + BLOCK, len(table))):
                original = {column: texts[column][row] for column in columns}
                made.append(original)
                for number, column in enumerate(columns):
                    entry = place[original[column]]
                    words, candidates = found["words"][entry].as_py(), found["candidates"][entry].as_py()
                    random = np.random.default_rng([self.seed, row, number])
                    new = draws(words, candidates, probability=self.probability, count=self.variants, random=random)
                    share.count(words, candidates, new)
                    kept = [text for text in dict.fromkeys(new) if text != tuple(words)]
                    made += [original | {column: " ".join(text)} for text in kept]
                sources += [row] * (len(made) - len(sources))
            block = table.take(sources)
            for column in columns:
                field = table.schema.get_field_index(column)
                values = pa.array([row[column] for row in made], table.schema.field(field).type)
                block = block.set_column(field, table.schema.field(field), values)
            yield block

    def _vectors_id(self) -> list:
        path = self.vectors
        return [path, *(os.stat(path)[6:9:2] if path is not None and Path(path).exists() else ())]


def _ask(source: Candidates, sentences: list[str]) -> Iterator[pa.Table]:
    """sentences: by length, the longest first, so that a block has like lengths and what is too much shows at once."""
    with tqdm(total=len(sentences), desc="Asking for candidates", unit=" sentences", disable=None) as bar:
        for start in range(0, len(sentences), BLOCK):
            yield source(sentences[start : start + BLOCK])
            bar.update(min(BLOCK, len(sentences) - start))


def _digest(network: nn.Module) -> str:
    """A digest of the network's weights and of its vocabulary."""
    digest = hashlib.blake2b(network.spec.vocabulary_id.encode(), digest_size=8)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _key(content: list) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
