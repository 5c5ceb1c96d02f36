"""The GLUE tasks and whatever has their layout. A task's columns, labels, row counts and metrics are data (`conf/task`)."""

import functools
from pathlib import Path

from datasets import Dataset, load_dataset, load_from_disk
from pyarrow import parquet

from kd_lightning.data.files import stamp
from kd_lightning.data.formats import dataset_rows, say, tsv
from kd_lightning.data.rows import NoColumn, collect

REQUIRED = ("train", "validation", "unlabelled")


class NoFile(ValueError):
    """A split is not where it should be."""


class Glue:
    """Rows of a task from tab-separated files as the benchmark ships them, or from a data set of the hub.

    root: a folder with the files in its folder `folder`, or a copy of the hub's data set: `<configuration>/<split>-*.parquet`
    as the hub stores it, or `<configuration>` as `save_to_disk` leaves it. root null: from hub, [data set, configuration].
    files: split -> file. train and validation must be there; of the others those that are there and have labels are measured
    at the end, and unlabelled is for training. columns: the names of the columns where a file has no header line.
    text: one or two columns; label: the label's. labels: the class names in the order of the logits; values: how the files
    write them, in the same order (null: by name).
    hub_text: the text columns in the hub's data set, whose label is `label`. hub_splits: split -> its name there, with
    `configuration/` before it if that is another one.
    rows: split -> the benchmark's number of rows; a difference is reported. on_bad_row: error | skip.
    Fields are never quoted, and those after the last column are ignored.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str | None,
        folder: str,
        hub: list[str] | None,
        hub_text: list[str],
        hub_splits: dict[str, str],
        files: dict[str, str],
        columns: list[str] | None,
        text: list[str],
        label: str,
        labels: list[str],
        values: list[str] | None,
        rows: dict[str, int],
        on_bad_row: str,
    ) -> None:
        if root is None and hub is None:
            raise ValueError(f"task {name}: give task.root=<folder> or task.hub=[data set, configuration].")
        self.name, self.root, self.folder, self.hub = name, None if root is None else Path(root), folder, hub
        self.hub_text, self.hub_splits, self.files, self.columns = hub_text, hub_splits, files, columns
        self.text, self.label, self.labels, self.values = text, label, labels, values or labels
        self.rows, self.on_bad_row = rows, on_bad_row

    def splits(self, unlabelled: bool) -> dict[str, Dataset]:
        found = {}
        for split in self.files:
            if split == "unlabelled" and not unlabelled:
                continue
            try:
                found[split] = self.read(split, labelled=split != "unlabelled")
            except (NoColumn, NoFile) as error:
                if split in REQUIRED:
                    raise
                if isinstance(error, NoFile):  # where one is there, it may well be the benchmark's, without labels
                    say(f"{error} So nothing is measured on {split}.")
        return found

    def read(self, split: str, labelled: bool) -> Dataset:
        """The rows of one split.

        Raises NoFile where it is not there, NoColumn where it has not the columns that are wanted or the hub withholds the
        labels, ValueError for anything else that is wrong.
        """
        path = None if self.root is None else self.root / self.folder / self.files[split]
        configuration, _, name = self.hub_splits.get(split, split).rpartition("/")
        configuration = configuration or (self.hub[1] if self.hub else "")
        if path is None or (self.hub and not path.is_file() and (self.root / configuration).is_dir()):
            source, data = self._from_hub(configuration, name)
            if data is None:
                raise NoFile(f"task {self.name}: {source} has no split {name}.")
            if labelled and split not in REQUIRED and -1 in data.unique("label"):
                raise NoColumn(f"task {self.name}: {source} withholds the labels of {name}.")
            named = hasattr(data.features["label"], "names")
            rows, text, label, values = dataset_rows(data), self.hub_text, "label", self.labels if named else self.values
            source = f"{name} of {source}"
        else:
            if not path.is_file():
                raise NoFile(f"task {self.name}: {path} cannot be found.")
            columns = None if self.columns is None else tuple(self.columns)
            label, values = self.label if labelled else None, tuple(self.values)
            return self._counted(
                split, _collected(self.name, path, stamp(path), columns, tuple(self.text), label, values, self.on_bad_row)
            )
        source, label = f"task {self.name}: {source}", label if labelled else None
        found = collect(source, rows, text=text, label=label, values=values, on_bad_row=self.on_bad_row, empty=True)
        return self._counted(split, found)

    def _counted(self, split: str, found: Dataset) -> Dataset:
        official = self.rows.get(split, len(found))
        if len(found) != official:
            say(f"{self.name}: {split} has {len(found):,} rows; the benchmark has {official:,}.")
        return found

    def _from_hub(self, configuration: str, split: str) -> tuple[str, Dataset | None]:
        """What it is called and, if it is there, a split of the hub's data set or of its copy."""
        if self.root is None:
            source = f"{self.hub[0]}:{configuration}"
            try:
                return source, load_dataset(self.hub[0], configuration).get(split)
            except OSError as error:
                raise ValueError(f"task {self.name}: {source} cannot be loaded ({error}). Give glue=<folder>.") from error
        folder = self.root / configuration
        if (folder / "dataset_dict.json").is_file():
            return str(folder), load_from_disk(str(folder)).get(split)
        files = sorted(folder.glob(f"{split}-*.parquet"))
        return str(folder), Dataset(parquet.read_table(files)) if files else None


@functools.cache
def _collected(
    name: str,
    file: Path,
    changed: tuple[int, int],  # tells an edited file from the one that was read
    columns: tuple[str, ...] | None,
    text: tuple[str, ...],
    label: str | None,
    values: tuple[str, ...],
    on_bad_row: str,
) -> Dataset:
    """The rows of a file, read once however many stages of a process ask for them."""
    rows = tsv(file, columns, extra=True)
    return collect(f"task {name}: {file}", rows, text=text, label=label, values=values, on_bad_row=on_bad_row, empty=True)
