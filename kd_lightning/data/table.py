"""A task of one's own: rows of CSV, TSV, JSON, JSON Lines or Parquet files, or of a data set of the hub."""

import functools
from collections import Counter
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from kd_lightning.data.columns import held_out, text_numbers
from kd_lightning.data.files import Row, Rows, readable, stamp
from kd_lightning.data.formats import dataset_rows, reader_of, say
from kd_lightning.data.rows import ABSENT, cell, class_name, closest, collect, missing, names

WANTED = "name your rows, e.g. task.files.train=mine.csv task.text=[review] task.label=stars."
FEW = 5  # rows of a class; with fewer it may be a slip of who labelled them


def rows_of(file: str, hub: list[str] | None, form: str | None) -> Rows:
    """The rows of a file, of this format or (None) of that which its ending says, or with hub, [data set] or [data set,
    configuration], of the split of that name."""
    if hub is not None:
        if form is not None:
            raise ValueError(f"task.format={form}: the rows come from the hub, and only files have a format. Leave it out.")
        try:
            data = load_dataset(*hub)
        except (OSError, ValueError, DatasetsError) as error:
            raise ValueError(
                f"task.hub: {':'.join(hub)} cannot be loaded ({error}). Give [data set] or [data set, configuration], or files."
            ) from error
        if file not in data:
            raise ValueError(f"task.files: {':'.join(hub)} has no split {file}; it has {', '.join(data)}.")
        return dataset_rows(data[file])
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"task.files: {file} is a folder, and a file is wanted. Name a file in it.")
    read = reader_of(file, form)
    if not path.exists():
        raise ValueError(f"task.files: {file} cannot be found.")
    return read(path)


def classes(*, file: str | None, hub: list[str] | None, label: str | None, format: str | None) -> list[str]:
    """The labels in the column, sorted. Rows that cannot be read are left to `Table`, which reports them."""
    if file is None or label is None:
        raise ValueError(f"task=table: {WANTED}")
    columns: dict[str, None] = {}
    seen: Counter[str] = Counter()
    for _, row in rows_of(file, hub, format):
        if isinstance(row, dict):
            columns |= dict.fromkeys(names(row))
            if (name := _named(row, label)) is not None:
                seen[name] += 1
    found = sorted(seen)
    if not found:
        there = f"its columns are {', '.join(columns)}.{'' if label in columns else closest([label], columns)}"
        raise ValueError(f"{file} has no row with a {label}; {there}")
    if len(found) == 1:
        raise ValueError(f"{file}: every row has the {label} '{found[0]}', so there is nothing to learn.")
    if len(found) > max(2, seen.total() / 2):
        raise ValueError(
            f"{file}: {label} has {len(found):,} different values in {seen.total():,} rows. If they are scores, choose "
            "task=table_regression; else name the classes, task.labels=[...]."
        )
    return found


def _named(row: Row, label: str) -> str | None:
    """The class that a row's label names; None where it names none."""
    try:
        value = cell(row, label)
        name = class_name(value)
    except (KeyError, ValueError):
        return None
    if missing(value) or not readable(str(value)):
        return None
    return None if name.casefold() in ABSENT else name


class Table:
    """Rows of one's own files.

    files: split -> file, or the hub's name of the split. train must be given; unlabelled is for training, and any split
    other than these and validation is measured at the end. Without validation a share of train is held out: the same share
    of every class, the same rows for the same split_seed, and never a text that is also trained on.
    text: one or two columns; label: the label's. Dots in a name lead into objects, unless a column is called so. labels: the
    class names in the order of the logits; one makes it a regression. format: of the files (`formats.NAMES`); null: by their
    endings; tsv is never quoted. on_bad_row: error | skip. on_empty, of a row without a text: error | skip | keep. How labels
    name classes is in `rows.class_name`.
    """

    def __init__(
        self,
        *,
        name: str,
        files: dict[str, str | None],
        hub: list[str] | None,
        text: list[str] | None,
        label: str | None,
        labels: list[str],
        validation_share: float,
        split_seed: int,
        on_bad_row: str,
        on_empty: str,
        format: str | None,
    ) -> None:
        if text is None or label is None or files.get("train") is None:
            raise ValueError(f"task {name}: {WANTED}")
        if len(text) not in (1, 2):
            raise ValueError(f"task.text={text}: name one column, or two for pairs.")
        if not 0 < validation_share < 1:
            raise ValueError(f"task.validation_share={validation_share}: choose a share between 0 and 1, e.g. 0.1.")
        self.name, self.hub, self.text, self.label = name, hub, text, label
        self.files = {split: file for split, file in files.items() if file is not None}
        self.labels = [str(label) for label in labels]
        self.validation_share, self.split_seed, self.format = validation_share, split_seed, format
        self.on_bad_row, self.on_empty = on_bad_row, on_empty
        for split in self.files:  # all, so that a chain refuses what is wrong before its first stage trains
            self._read(split)

    def splits(self, unlabelled: bool) -> dict[str, Dataset]:
        found = {split: self._read(split) for split in self.files}
        if not unlabelled:
            found.pop("unlabelled", None)
        self._describe(found["train"])
        if "validation" not in found:
            try:
                parts = held_out(found["train"], self.validation_share, self.split_seed, stratified=len(self.labels) > 1)
            except ValueError as error:
                raise ValueError(f"{self.files['train']}: {error} Give task.files.validation.") from error
            found["train"], found["validation"] = parts
            say(f"{self.name}: {len(parts[1]):,} of these rows are held out for validation.")
        shared = len(np.intersect1d(*text_numbers(found["train"], found["validation"])))
        if shared:
            say(f"{self.name}: {shared:,} text{'s' * (shared > 1)} of validation also in train, so its figures flatter.")
        return found

    def _read(self, split: str) -> Dataset:
        file, hub = self.files[split], None if self.hub is None else tuple(self.hub)
        changed = stamp(file) if hub is None and Path(file).exists() else ()
        label = None if split == "unlabelled" else self.label
        how = (self.format, self.on_bad_row, self.on_empty)
        return _collected(file, changed, hub, tuple(self.text), label, tuple(self.labels), *how)

    def _describe(self, train: Dataset) -> None:
        labels = train["label"]
        if len(self.labels) == 1:
            what = f"{self.label} from {min(labels):g} to {max(labels):g}, on average {np.mean(labels):g}"
        else:
            counts = Counter(labels).most_common()
            what = ", ".join(f"{self.labels[i]}: {n:,}" for i, n in counts[:20]) + (" ..." if len(counts) > 20 else "")
            what += f"; always saying {self.labels[counts[0][0]]} is right {counts[0][1] / len(labels):.1%} of the time"
        say(f"{self.name}: {len(labels):,} labelled rows ({what}).")
        if len(self.labels) > 1 and (few := [f"{self.labels[i]} ({n})" for i, n in counts if n < FEW]):
            say(f"{self.name}: few rows are {', '.join(few[:20])}. If these are slips, name the classes: task.labels=[...].")


@functools.cache
def _collected(
    file: str,
    changed: tuple,  # tells an edited file from the one that was read
    hub: tuple[str, ...] | None,
    text: tuple[str, ...],
    label: str | None,
    values: tuple[str, ...],
    form: str | None,
    on_bad_row: str,
    on_empty: str,
) -> Dataset:
    """The rows of a split, read once however many stages of a process ask for them."""
    source = file if hub is None else f"{file} of {':'.join(hub)}"
    rows = rows_of(file, None if hub is None else list(hub), form)
    return collect(source, rows, text=text, label=label, values=values, on_bad_row=on_bad_row, on_empty=on_empty)
