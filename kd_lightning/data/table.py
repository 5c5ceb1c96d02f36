"""A task of one's own: rows of CSV, TSV, JSON Lines or Parquet files, or of a data set of the hub."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from kd_lightning.data.files import format_of, readable, stamp
from kd_lightning.data.formats import FORMATS, Rows, dataset_rows, say
from kd_lightning.data.rows import ABSENT, class_name, closest, collect, missing

WANTED = "name your rows, e.g. task.files.train=mine.csv task.text=[review] task.label=stars."
FEW = 5  # rows of a class; with fewer it may be a slip of who labelled them


def rows_of(file: str, hub: list[str] | None) -> Rows:
    """The rows of a file, or with hub, [data set] or [data set, configuration], of the split of that name."""
    if hub is not None:
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
    suffix = format_of(file, "task.files", list(FORMATS))
    if not path.exists():
        raise ValueError(f"task.files: {file} cannot be found.")
    return FORMATS[suffix](path)


def classes(*, file: str | None, hub: list[str] | None, label: str | None) -> list[str]:
    """The labels in the column, sorted. Rows that cannot be read are left to `Table`, which reports them."""
    if file is None or label is None:
        raise ValueError(f"task=table: {WANTED}")
    columns: dict[str, None] = {}
    seen: Counter[str] = Counter()
    for _, row in rows_of(file, hub):
        if isinstance(row, dict):
            columns |= dict.fromkeys(row)
            if (name := _named(row.get(label))) is not None:
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


def _named(value: Any) -> str | None:
    """The class that a label names; None where it names none."""
    if missing(value) or not readable(str(value)):
        return None
    try:
        name = class_name(value)
    except ValueError:
        return None
    return None if name.casefold() in ABSENT else name


class Table:
    """Rows of one's own files.

    files: split -> file, or the hub's name of the split. train must be given; unlabelled is for training, and any split
    other than these and validation is measured at the end. Without validation a share of train is held out: the same share
    of every class, the same rows for the same split_seed, and never a text that is also trained on.
    text: one or two columns; label: the label's. labels: the class names in the order of the logits; one makes it a
    regression. on_bad_row: error | skip. A file is read by its suffix (`formats.FORMATS`); a .tsv file
    is never quoted. How labels name classes is in `rows.class_name`.
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
        self.validation_share, self.split_seed, self.on_bad_row = validation_share, split_seed, on_bad_row
        for split in self.files:  # all, so that a chain refuses what is wrong before its first stage trains
            self._read(split)

    def splits(self, unlabelled: bool) -> dict[str, Dataset]:
        found = {split: self._read(split) for split in self.files}
        if not unlabelled:
            found.pop("unlabelled", None)
        self._describe(found["train"])
        if "validation" not in found:
            found["train"], found["validation"] = self._held_out(found["train"])
        shared = len(set(_texts(found["train"])) & set(_texts(found["validation"])))
        if shared:
            say(f"{self.name}: {shared:,} text{'s' * (shared > 1)} of validation also in train, so its figures flatter.")
        return found

    def _read(self, split: str) -> Dataset:
        file, hub = self.files[split], None if self.hub is None else tuple(self.hub)
        changed = stamp(file) if hub is None and Path(file).exists() else ()
        label = None if split == "unlabelled" else self.label
        return _collected(file, changed, hub, tuple(self.text), label, tuple(self.labels), self.on_bad_row)

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

    def _held_out(self, rows: Dataset) -> tuple[Dataset, Dataset]:
        """Train and validation. Rows of the same text stay together, in the stratum of the first one's label."""
        texts = _texts(rows)
        first = {text: i for i, text in reversed(list(enumerate(texts)))}
        labels = np.asarray(rows["label"]) if len(self.labels) > 1 else np.zeros(len(rows))
        distinct = np.array(sorted(first.values()))
        random, held = np.random.default_rng(self.split_seed), set()
        for label in np.unique(labels[distinct]):
            stratum = random.permutation(distinct[labels[distinct] == label])
            count = max(round(self.validation_share * len(stratum)), int(len(stratum) > 1))
            held |= {texts[i] for i in stratum[: min(count, len(stratum) - 1)]}
        if not held:
            raise ValueError(
                f"{self.files['train']}: {len(rows)} rows are too few to hold some out. Give task.files.validation."
            )
        chosen = np.array([text in held for text in texts])
        say(f"{self.name}: {chosen.sum():,} of these rows are held out for validation.")
        return rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))


@functools.cache
def _collected(
    file: str,
    changed: tuple,  # tells an edited file from the one that was read
    hub: tuple[str, ...] | None,
    text: tuple[str, ...],
    label: str | None,
    values: tuple[str, ...],
    on_bad_row: str,
) -> Dataset:
    """The rows of a split, read once however many stages of a process ask for them."""
    source = file if hub is None else f"{file} of {':'.join(hub)}"
    rows = rows_of(file, None if hub is None else list(hub))
    return collect(source, rows, text=text, label=label, values=values, on_bad_row=on_bad_row, empty=False)


def _texts(rows: Dataset) -> list[tuple[str, ...]]:
    return list(zip(*(rows[name] for name in rows.column_names if name != "label"), strict=True))
