"""Labelled text: what a reader has read, tokenised and in batches."""

import copy
from collections.abc import Callable
from typing import Protocol

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.batches import Batches, loader, spread, training_batches, validation_batches
from kd_lightning.data.formats import say
from kd_lightning.data.tokens import TOKENS, encode, pad
from kd_lightning.views import Batch

UNKNOWN = 0.1  # share of unknown tokens from which a tokenizer is suspected


class Reader(Protocol):
    """Where rows come from: `glue.Glue`, `table.Table`."""

    labels: list[str]

    def splits(self, unlabelled: bool) -> dict[str, Dataset]:
        """train, validation, any further labelled split and, where wanted and there, unlabelled: each with the columns
        `sentence1`, `sentence2` (pairs) and `label`."""


class LabelledText(L.LightningDataModule):
    """Batches of `input_ids`, `attention_mask`, `token_type_ids` [B, S], `labels` [B] and `index` [B], the number of each row
    over all splits; `real` and `labelled`, the places in [B * S] that are not padding and those in [B] that have a label; rows
    of like length together.

    reader: where the rows come from. Its labels are the class names in the order of the logits; one name makes it a
    regression, whose labels are numbers.
    unlabelled: train on the rows of that split too, where there is one, with the label -100 (not a number, for a regression).
    augment: what makes the training rows, as they are read, into more.
    label_budget: keep the labels of so many training rows, drawn by label_seed, of each class its share (null: all). The others
    are unlabelled.
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
        label_budget: int | None,
        label_seed: int,
        workers: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.reader, self.max_length = reader, max_length
        self.tokenizer = self._fitting(tokenizer)
        self.batch_size, self.unlabelled, self.augment = batch_size, unlabelled, augment
        self.label_budget, self.label_seed = label_budget, label_seed
        self.workers, self.seed = workers, seed
        self.rows: dict[str, Dataset] = {}  # as they are read
        self.splits: dict[str, Dataset] = {}  # as a network reads them

    def _fitting(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        if self.max_length > tokenizer.model_max_length:
            raise ValueError(
                f"task.max_length={self.max_length}: this model reads {tokenizer.model_max_length} tokens at most."
            )
        return tokenizer

    def prepare_data(self) -> None:
        """Read and tokenise; every row is checked before the first batch."""
        if not self.splits:
            rows = self.reader.splits(self.unlabelled)
            if self.label_budget is not None:
                rows["train"], others = draw_labelled(rows["train"], self.label_budget, self.label_seed)
                if self.unlabelled:
                    named = [rows["unlabelled"]] if "unlabelled" in rows else []
                    rows["unlabelled"] = concatenate_datasets([others, *named])
            if self.augment is not None:
                rows["train"] = self.augment(rows["train"])
            self.rows = rows
            self._tokenise()

    def read_with(self, tokenizer: PreTrainedTokenizerBase) -> "LabelledText":
        """The same rows, of the same numbers, in another tokenizer's tokens. After prepare_data."""
        other = copy.copy(self)
        other.tokenizer = other._fitting(tokenizer)
        other._tokenise()
        return other

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

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """All but `index`, which is read on the host: where a stored teacher's answers lie."""
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"index": batch["index"]}

    @property
    def references(self) -> dict[str, float]:
        """A task has none: its teacher says how good is good."""
        return {}

    def numbers(self) -> dict[str, np.ndarray]:
        """The numbers of each split's rows, as a batch's `index` has them."""
        ends = np.cumsum([0, *map(len, self.splits.values())])
        return {name: start + np.arange(len(rows)) for start, (name, rows) in zip(ends, self.splits.items(), strict=False)}

    def gold(self) -> np.ndarray:
        """The labels of all rows, by number."""
        labels = concatenate_datasets(list(self.splits.values()))["label"]
        return np.asarray(labels, np.float32 if len(self.reader.labels) == 1 else np.int64)

    def every_row(self) -> tuple[DataLoader, pa.Table]:
        """All rows of all splits once, in batches, and their tokens in the order of `index`."""
        rows = concatenate_datasets(list(self.splits.values())).with_format("arrow")[:]
        batches = loader(self._batches(list(self.splits), validation_batches), self.workers, None)  # one process asks for all
        return batches, rows.select([n for n in TOKENS if n in rows.column_names])

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and tokens that an epoch trains on (train), that are validated on (val), and of all splits (all)."""
        counts = {name: (len(rows), sum(rows["length"])) for name, rows in self.splits.items()}
        parts = {"train": ("train", "unlabelled"), "val": ("validation",), "all": counts}
        found = {part: [counts[name] for name in names if name in counts] for part, names in parts.items()}
        return {part: (sum(rows for rows, _ in of), sum(tokens for _, tokens in of)) for part, of in found.items()}

    def sample(self, count: int) -> "LabelledText":
        """These data with so many rows of each split, from all over it and the longest among them. After prepare_data."""
        other = copy.copy(self)
        other.splits = {name: rows.select(spread(np.asarray(rows["length"]), count)) for name, rows in self.splits.items()}
        other.rows = {
            name: rows.select(spread(np.asarray(self.splits[name]["length"]), count)) for name, rows in self.rows.items()
        }
        return other

    def _loader(self, names: list[str], plan, **more) -> DataLoader:
        return loader(self._batches(names, plan, **more), self.workers, self.trainer)

    def _batches(self, names: list[str], plan, **more) -> Batches:
        numbers = self.numbers()
        index = np.concatenate([numbers[name] for name in names])
        data, labels = concatenate_datasets([self.splits[name] for name in names]), self.gold()[index]
        lengths = np.asarray(data["length"])
        names = [name for name in TOKENS if name in data.column_names]
        rows = data.select_columns(names).with_format("arrow")

        def collate(chosen: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
            table = rows[chosen]
            tokens = {name: table[name].combine_chunks().flatten().to_numpy() for name in names}
            batch = pad(tokens, lengths[chosen], self.tokenizer.pad_token_id)
            found = labels[chosen]
            known = ~np.isnan(found) if np.issubdtype(found.dtype, np.floating) else found != -100
            own = {"labels": found, "labelled": np.flatnonzero(known), "index": index[chosen]}
            own |= {"real": np.flatnonzero(batch["attention_mask"].numpy())}
            return batch | {name: torch.from_numpy(array) for name, array in own.items()}

        return plan(lengths, collate, batch_size=self.batch_size, seed=self.seed, **more)

    def _tokenise(self) -> None:
        texts = [name for name in self.rows["train"].column_names if name != "label"]
        tokenizer, max_length = self.tokenizer, self.max_length  # alone: datasets makes a copy of all that `tokens` knows

        def tokens(batch: dict[str, list]) -> dict[str, list]:
            encoded = encode(tokenizer, [batch[column] for column in texts], max_length)
            return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

        self.splits = {
            split: rows.map(
                tokens,
                batched=True,
                remove_columns=texts,
                load_from_cache_file=False,  # of augmented rows, which datasets would keep without a checksum
                desc=f"Tokenising {split}",
            )
            for split, rows in self.rows.items()
        }
        ids = [part.flatten().to_numpy() for part in self.splits["train"].with_format("arrow")["input_ids"].chunks]
        share = sum(np.count_nonzero(part == self.tokenizer.unk_token_id) for part in ids) / max(1, sum(map(len, ids)))
        if share > UNKNOWN:
            say(
                f"Of the training texts' tokens {share:.0%} are {self.tokenizer.unk_token}, the same to a network: is this "
                "tokenizer made for their language, and the model's own (teacher.tokenizer=)?"
            )


def draw_labelled(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """count of the rows, of each class its share, and the others without their labels. Of a regression's rows any are drawn."""
    if not 0 < count < len(rows):
        raise ValueError(
            f"task.label_budget={count}: give a number below the {len(rows)} training rows, or null for all of them."
        )
    labels = rows.with_format("arrow")["label"]
    number = pa.types.is_floating(labels.type)
    kind = Value("float32") if number else ClassLabel(num_classes=max(rows["label"]) + 1)
    drawn = Dataset.from_dict(
        {"row": range(len(rows)), "label": rows["label"]}, Features({"row": Value("int64"), "label": kind})
    )
    try:
        drawn = drawn.train_test_split(train_size=count, seed=seed, stratify_by_column=None if number else "label")
    except ValueError as error:
        raise ValueError(f"task.label_budget={count}: each class must have its share of it. {error}") from error
    kept, others = (rows.select(sorted(drawn[part]["row"])) for part in ("train", "test"))
    table = others.with_format("arrow")[:]
    none = pa.array([np.nan if number else -100] * len(table), labels.type)
    return kept, Dataset(table.set_column(table.column_names.index("label"), "label", none))
