"""Running text for masked language modelling and general distillation."""

import copy
import hashlib
import json
from pathlib import Path

import lightning as L
import numpy as np
import torch
from datasets import load_from_disk
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.batches import loader, spread, training_batches, validation_batches
from kd_lightning.data.files import stamp
from kd_lightning.data.masking import Masking
from kd_lightning.data.sequences import SHORTEST, counted, write
from kd_lightning.data.source import check, locate, read
from kd_lightning.keep import keep

FORMAT = 1  # raise when the tokenised form changes: caches of another format are left alone
BLOCK = 32  # held-out sequences are taken in blocks of neighbours, so that a document is seldom on both sides


class Corpus(L.LightningDataModule):
    """Batches of `input_ids`, `attention_mask` [B, S], `real`, the places in [B * S] that are not padding, and, where
    mask_share > 0, `rows` and `labels` [N].

    source: files, each read by its own suffix (and one of a compression after it: .gz, .xz, .bz2): .txt is a paragraph a line,
    with an empty line between documents; .jsonl, .ndjson, .json, .csv, .tsv and .parquet have a column `text`. Or "docs"
    (embedded), or one hub name, "data set:configuration". All files are read through once when this is made, so that what is
    wrong in one is said before anything trains. The tokenised is kept memory-mapped under cache, keyed by the source and the
    vocabulary.

    join_lines: fill sequences up with following lines of the same document (false: a line is a sequence, as in
    DistilBERT's release). held_out: share of the sequences for validation. max_sequences: train on so many at the most, from
    all over the corpus.
    Deviation: TinyBERT's release pairs segments as BERT does; here a sequence is one segment.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        source: str | list[str],
        cache: str,
        max_length: int,
        join_lines: bool,
        batch_size: int,
        mask_share: float,
        mask_smoothing: float,
        held_out: float,
        max_sequences: int | None,
        workers: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.tokenizer, self.cache = tokenizer, Path(cache)
        self.source = locate(source, cache)
        self.max_length, self.join_lines, self.batch_size = max_length, join_lines, batch_size
        self.mask_share, self.mask_smoothing, self.held_out = mask_share, mask_smoothing, held_out
        self.max_sequences, self.workers, self.seed = max_sequences, workers, seed
        if max_length > tokenizer.model_max_length:
            raise ValueError(
                f"data.max_length={max_length}: this tokenizer's model reads {tokenizer.model_max_length} at most."
            )
        if not self.folder.exists():
            check(self.source)

    def prepare_data(self) -> None:
        """Read and tokenise once."""
        keep(self.folder, self._make)

    def _make(self, scratch: Path) -> None:
        beside = Path(f"{scratch}-text")
        beside.mkdir()
        text = read(self.source, str(beside))
        if not write(text, self.tokenizer, self.max_length, self.join_lines, scratch, beside):
            raise ValueError(
                f"{', '.join(self.source)}: no text to train on is in there (sequences of {SHORTEST} tokens or more)."
            )

    def setup(self, stage: str) -> None:
        folder = self.folder
        data = load_from_disk(str(folder))
        self.lengths = np.asarray(data.data.column("length"))
        self.data = data.with_format("arrow")
        block = np.arange(len(data)) // BLOCK
        every = max(1, round(1 / self.held_out)) if self.held_out else len(data) + 1
        held = (block % every == min(every - 1, block[-1])) & (self.held_out > 0)
        self.train_rows, self.val_rows = np.flatnonzero(~held), np.flatnonzero(held)
        if not len(self.train_rows):
            raise ValueError(f"{', '.join(self.source)}: {len(data)} sequences are too few to hold {self.held_out} out.")
        if self.max_sequences is not None and self.max_sequences < len(self.train_rows):
            self.train_rows = self.train_rows[np.linspace(0, len(self.train_rows) - 1, self.max_sequences).astype(int)]
        self.counts = counted(folder, data, len(self.tokenizer))
        self.masking = Masking(self.tokenizer, self.counts, share=self.mask_share, smoothing=self.mask_smoothing)

    @property
    def references(self) -> dict[str, float]:
        """The entropy of the tokens' frequencies, in nats: the loss of a masked LM that reads nothing of the text."""
        counts = self.counts.double()
        counts[torch.tensor(self.tokenizer.all_special_ids)] = 0
        return {"val/unigram_entropy": float(torch.distributions.Categorical(counts).entropy())} if self.mask_share else {}

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._loader(training_batches, self.train_rows, epoch=epoch)

    def val_dataloader(self) -> DataLoader:
        return self._loader(validation_batches, self.val_rows)

    def evaluations(self) -> dict[str, DataLoader]:
        """A corpus has nothing to measure on but its held-out sequences."""
        return {}

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Sequences and tokens that an epoch trains on (train), that are held out (val), and all (all)."""
        parts = {"train": self.train_rows, "val": self.val_rows, "all": np.arange(len(self.lengths))}
        return {part: (len(rows), int(self.lengths[rows].sum())) for part, rows in parts.items()}

    def sample(self, count: int) -> "Corpus":
        """This corpus with so many sequences on each side, from all over it and the longest among them. After setup."""
        other = copy.copy(self)
        other.train_rows, other.val_rows = (
            rows[spread(self.lengths[rows], count)] for rows in (self.train_rows, self.val_rows)
        )
        return other

    def _loader(self, plan, rows: np.ndarray, **more) -> DataLoader:
        def collate(chosen: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            return self.collate(rows[chosen], generator)

        batches = plan(self.lengths[rows], collate, batch_size=self.batch_size, seed=self.seed, **more)
        return loader(batches, self.workers, self.trainer)

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """Pad to the longest, hide what is to be predicted."""
        column = self.data[rows].column("input_ids").combine_chunks()
        lengths = torch.as_tensor(self.lengths[rows])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # [B, S]
        real = mask.flatten().nonzero().squeeze(-1)  # [N]
        ids = torch.full_like(mask, self.tokenizer.pad_token_id)
        ids.view(-1)[real] = torch.from_numpy(column.flatten().to_numpy().astype(np.int64))
        return {"attention_mask": mask, "real": real} | self.masking(ids, mask, generator)

    @property
    def folder(self) -> Path:
        """Where the tokenised form of this source, vocabulary and length is kept."""
        files = [[name, *(stamp(name) if Path(name).exists() else ())] for name in self.source]
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        key = json.dumps([FORMAT, files, vocabulary, self.max_length, self.join_lines])
        return self.cache / f"corpus-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
