"""Labelled text: what a reader has read, tokenised and in batches."""

from collections.abc import Callable
from typing import Protocol

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.batches import loader, training_batches, validation_batches

TOKENS = ("input_ids", "token_type_ids")  # what a network reads of a row


class Reader(Protocol):
    """Where rows come from: `glue.Glue`, `table.Table`."""

    labels: list[str]

    def splits(self, unlabelled: bool) -> dict[str, Dataset]:
        """train, validation, any further labelled split and, where wanted and there, unlabelled: each with the columns
        `sentence1`, `sentence2` (pairs) and `label`."""


class LabelledText(L.LightningDataModule):
    """Batches of `input_ids`, `attention_mask`, `token_type_ids` [B, S], `labels` [B] and `index` [B], the number of each row
    over all splits; rows of like length together.

    reader: where the rows come from. Its labels are the class names in the order of the logits; one name makes it a
    regression, whose labels are numbers.
    unlabelled: train on the rows of that split too, where there is one, with the label -100 (not a number, for a regression).
    augment: what makes the training rows, as they are read, into more.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        reader: Reader,
        max_length: int,
        batch_size: int,
        unlabelled: bool,
        augment: Callable[[Dataset], Dataset] | None,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        if max_length > tokenizer.model_max_length:
            raise ValueError(f"task.max_length={max_length}: this model reads {tokenizer.model_max_length} tokens at most.")
        self.tokenizer, self.reader, self.max_length = tokenizer, reader, max_length
        self.batch_size, self.unlabelled, self.augment = batch_size, unlabelled, augment
        self.workers, self.seed = workers, seed
        self.splits: dict[str, Dataset] = {}

    def prepare_data(self) -> None:
        """Read and tokenise; every row is checked before the first batch."""
        if not self.splits:
            rows = self.reader.splits(self.unlabelled)
            if self.augment is not None:
                rows["train"] = self.augment(rows["train"])
            self.splits = {split: self._tokenise(data, split) for split, data in rows.items()}

    def setup(self, stage: str) -> None:
        self.prepare_data()

    def train_dataloader(self) -> DataLoader:
        names = [name for name in ("train", "unlabelled") if name in self.splits]
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._loader(names, training_batches, epoch=epoch)

    def val_dataloader(self) -> DataLoader:
        return self._loader(["validation"], validation_batches)

    def evaluations(self) -> dict[str, DataLoader]:
        """The labelled splits that are measured at the end, beside validation."""
        further = [name for name in self.splits if name not in ("train", "validation", "unlabelled")]
        return {name: self._loader([name], validation_batches) for name in further}

    @property
    def references(self) -> dict[str, float]:
        """A task has none: its teacher says how good is good."""
        return {}

    def every_row(self) -> tuple[DataLoader, pa.Table]:
        """All rows of all splits once, in batches, and their tokens in the order of `index`."""
        rows = concatenate_datasets(list(self.splits.values())).with_format("arrow")[:]
        return self._loader(list(self.splits), validation_batches), rows.select([n for n in TOKENS if n in rows.column_names])

    def _loader(self, names: list[str], plan, **more) -> DataLoader:
        starts = dict(zip(self.splits, np.cumsum([0, *map(len, self.splits.values())]), strict=False))
        index = np.concatenate([starts[name] + np.arange(len(self.splits[name])) for name in names])
        data = concatenate_datasets([self.splits[name] for name in names])
        labels = np.asarray(data["label"], np.float32 if len(self.reader.labels) == 1 else np.int64)
        rows = data.select_columns([name for name in TOKENS if name in data.column_names])

        def collate(chosen: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
            columns = {name: [torch.tensor(ids) for ids in column] for name, column in rows[chosen].items()}
            lengths = torch.tensor([len(ids) for ids in columns["input_ids"]])
            pad = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": 0}
            batch = {name: pad_sequence(ids, batch_first=True, padding_value=pad[name]) for name, ids in columns.items()}
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            numbers, answers = torch.from_numpy(index[chosen]), torch.from_numpy(labels[chosen])
            return {**batch, "attention_mask": mask, "labels": answers, "index": numbers}

        batches = plan(np.asarray(data["length"]), collate, batch_size=self.batch_size, seed=self.seed, **more)
        return loader(batches, self.workers, self.trainer)

    def _tokenise(self, rows: Dataset, split: str) -> Dataset:
        texts = [name for name in rows.column_names if name != "label"]

        def encode(batch: dict[str, list]) -> dict[str, list]:
            encoded = self.tokenizer(*(batch[column] for column in texts), truncation=True, max_length=self.max_length)
            return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

        return rows.map(encode, batched=True, remove_columns=texts, desc=f"Tokenising {split}")
