"""Labelled text: the GLUE tasks and whatever has their layout. A task's columns, labels and metrics are data (`conf/task`)."""

import csv
from pathlib import Path

import lightning as L
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.batches import loader, training_batches, validation_batches

UNLABELLED = -100


class LabelledText(L.LightningDataModule):
    """Batches of `input_ids`, `attention_mask`, `token_type_ids` [B, S] and `labels` [B], rows of like length together.

    root, folder: where tab-separated files lie as the benchmark ships them (fields are never quoted); root null: from hub,
    [data set, configuration].
    files: split -> file, of the splits train, validation, test and unlabelled; only the first two must exist. columns: the
    names of the columns where a file has no header line (null: it has one). text: one or two columns; label: the label's.
    labels: the class names in the order of the logits; one name makes it a regression, whose labels are numbers. values:
    how the files write these classes, in the same order (null: by their names).
    unlabelled: train on the rows of that split too, where there is one, with the label -100 (not a number, for a regression).
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        root: str | None,
        folder: str,
        hub: list[str] | None,
        files: dict[str, str],
        columns: list[str] | None,
        text: list[str],
        label: str,
        labels: list[str],
        values: list[str] | None,
        max_length: int,
        batch_size: int,
        unlabelled: bool,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        if max_length > tokenizer.model_max_length:
            raise ValueError(f"task.max_length={max_length}: this model reads {tokenizer.model_max_length} tokens at most.")
        if root is None and hub is None:
            raise ValueError(f"task {name}: give task.root=<folder> or task.hub=[data set, configuration].")
        self.folder = None if root is None else Path(root) / folder
        self.tokenizer, self.name, self.hub, self.files = tokenizer, name, hub, dict(files)
        self.columns, self.text, self.label, self.labels = columns, list(text), label, list(labels)
        self.values = list(labels if values is None else values)
        self.max_length, self.batch_size, self.unlabelled = max_length, batch_size, unlabelled
        self.workers, self.seed = workers, seed
        self.splits: dict[str, Dataset] = {}

    @property
    def has_test(self) -> bool:
        """Whether there is a test split with labels."""
        return "test" in self.splits

    def prepare_data(self) -> None:
        """Read and tokenise; every row is checked before the first batch."""
        if self.splits:
            return
        for split in ("train", "validation", "test", "unlabelled"):
            wanted = split in ("train", "validation") or (split == "unlabelled" and self.unlabelled and split in self.files)
            rows = self._read(split, wanted)
            if rows is not None and (wanted or split == "test"):
                self.splits[split] = self._tokenise(rows, split)

    def setup(self, stage: str) -> None:
        self.prepare_data()

    def train_dataloader(self) -> DataLoader:
        rows = [self.splits[name] for name in ("train", "unlabelled") if name in self.splits]
        data = rows[0] if len(rows) == 1 else concatenate_datasets(rows)
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._loader(data, training_batches, epoch=epoch)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.splits["validation"], validation_batches)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.splits["test"], validation_batches)

    def _loader(self, data: Dataset, plan, **more) -> DataLoader:
        labels = np.asarray(data["label"], np.float32 if len(self.labels) == 1 else np.int64)
        rows = data.select_columns([name for name in ("input_ids", "token_type_ids") if name in data.column_names])

        def collate(chosen: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
            columns = {name: [torch.tensor(ids) for ids in column] for name, column in rows[chosen].items()}
            lengths = torch.tensor([len(ids) for ids in columns["input_ids"]])
            pad = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": 0}
            batch = {name: pad_sequence(ids, batch_first=True, padding_value=pad[name]) for name, ids in columns.items()}
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            return {**batch, "attention_mask": mask, "labels": torch.from_numpy(labels[chosen])}

        batches = plan(np.asarray(data["length"]), collate, batch_size=self.batch_size, seed=self.seed, **more)
        return loader(batches, self.workers, self.trainer)

    def _read(self, split: str, wanted: bool) -> Dataset | None:
        """The columns that matter, as strings; None where this split does not exist and need not."""
        if self.folder is None:
            data = load_dataset(*self.hub)
            if split not in data:
                if wanted:
                    raise ValueError(f"task {self.name}: {':'.join(self.hub)} has no split {split}; it has {', '.join(data)}.")
                return None
            rows = data[split]
            if self.label not in rows.column_names:
                rows = rows.rename_column("label", self.label)  # the hub's name for whatever the files call it
            if split == "test" and -1 in rows.unique(self.label):
                return None  # the benchmark's own test labels are withheld
            names = getattr(rows.features[self.label], "names", None)
            if not names:
                return rows
            written = dict(zip(self.labels, self.values, strict=True))
            column = [written.get(names[i], names[i]) for i in rows[self.label]]
            return rows.remove_columns(self.label).add_column(self.label, column)
        path = self.folder / self.files.get(split, "")
        if not path.is_file():
            if wanted:
                raise ValueError(f"task {self.name}: {path} cannot be found.")
            return None
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = csv.reader((line.rstrip("\r\n") for line in file), delimiter="\t", quoting=csv.QUOTE_NONE)
            header = self.columns or next(lines, [])
            needed = [*self.text, *([self.label] if split != "unlabelled" else [])]
            absent = [column for column in needed if column not in header]
            if absent and split == "test":
                return None  # the benchmark's own test files have no labels
            if absent:
                raise ValueError(
                    f"task {self.name}: {path} has no column {' and '.join(absent)}; its columns are {', '.join(header)}."
                )
            places = [header.index(column) for column in needed]
            data: dict[str, list[str]] = {column: [] for column in needed}
            for number, fields in enumerate(lines, start=1 if self.columns else 2):
                if len(fields) <= max(places):
                    raise ValueError(
                        f"task {self.name}: {path}, line {number} has {len(fields)} fields, but column "
                        f"{header[max(places)]} is the {max(places) + 1}th."
                    )
                for column, place in zip(needed, places, strict=True):
                    data[column].append(fields[place])
        if not data[needed[0]]:
            raise ValueError(f"task {self.name}: {path} has no rows.")
        return Dataset.from_dict(data)

    def _tokenise(self, rows: Dataset, split: str) -> Dataset:
        values = rows[self.label] if self.label in rows.column_names else [None] * len(rows)
        labels = [self._label(value, split, number) for number, value in enumerate(values, start=1)]

        def encode(batch: dict[str, list]) -> dict[str, list]:
            encoded = self.tokenizer(*(batch[column] for column in self.text), truncation=True, max_length=self.max_length)
            return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

        tokenised = rows.map(encode, batched=True, remove_columns=rows.column_names, desc=f"Tokenising {split}")
        return tokenised.add_column("label", labels)

    def _label(self, value: str | int | float | None, split: str, number: int) -> int | float:
        """A label as a number: class names by their place, regression scores as they are, nothing as -100."""
        if value is None:
            return float("nan") if len(self.labels) == 1 else UNLABELLED
        if len(self.labels) == 1:
            try:
                return float(value)
            except ValueError:
                raise ValueError(f"task {self.name}: row {number} of {split} has the score '{value}', not a number.") from None
        if value in self.values:
            return self.values.index(value)
        raise ValueError(
            f"task {self.name}: row {number} of {split} has the label '{value}'; known are {', '.join(self.values)}."
        )
