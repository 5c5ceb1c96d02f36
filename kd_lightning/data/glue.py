"""The GLUE tasks, and other benchmarks of files in a folder. A task's columns, labels, row counts and metrics are data
(`conf/task`)."""

import functools
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from pyarrow import parquet

from kd_lightning.data.columns import held_out
from kd_lightning.data.files import stamp
from kd_lightning.data.formats import dataset_rows, reader_of, say, tsv
from kd_lightning.data.rows import NoColumn, collect

REQUIRED = ("train", "validation", "unlabelled")


class NoFile(ValueError):
    """A split is not where it should be."""


class Glue:
    """Rows of a task from files as the benchmark ships them, or from a data set of the hub.

    root: a folder with the files in its folder `folder`, or a copy of the hub's data set: `<configuration>/<split>-*.parquet`
    as the hub stores it, or `<configuration>` as `save_to_disk` leaves it. root null: from hub, [data set, configuration], of
    hub_revision (null: its main branch).
    files: split -> file, or several that together are one. train must be there, and validation where it is named; where it is
    not, validation_share of train is held out (`columns.held_out`). Of the others those that are there and have labels are
    measured at the end, and unlabelled is for training. format: of the files (`formats.NAMES`); null: by their endings; of tsv
    the fields are never quoted, and those after the last column ignored. columns: the names of the columns where a .tsv has no
    header line. text: one or two columns; label: the label's. labels: the class names in the order of the logits; values: how
    the files write them, in the same order (null: by name).
    hub_text, hub_label: these columns in the hub's data set. hub_splits: split -> its name there, with `configuration/` before
    it if that is another one, or a name for each of its files.
    rows: split -> the benchmark's number of rows; a difference is reported. on_bad_row: error | skip. on_empty, of a row
    without a text: error | skip | keep.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str | None,
        folder: str,
        hub: list[str] | None,
        hub_revision: str | None,
        hub_text: list[str],
        hub_label: str,
        hub_splits: dict[str, str | list[str]],
        files: dict[str, str | list[str]],
        format: str | None,
        columns: list[str] | None,
        text: list[str],
        label: str,
        labels: list[str],
        values: list[str] | None,
        rows: dict[str, int],
        validation_share: float,
        split_seed: int,
        on_bad_row: str,
        on_empty: str,
    ) -> None:
        if root is None and hub is None:
            raise ValueError(f"task {name}: give task.root=<folder> or task.hub=[data set, configuration].")
        self.name, self.root, self.folder, self.hub = name, None if root is None else Path(root), folder, hub
        self.hub_revision, self.hub_text, self.hub_label, self.hub_splits = hub_revision, hub_text, hub_label, hub_splits
        self.files, self.format, self.columns = files, format, columns
        self.text, self.label, self.labels, self.values = text, label, labels, values or labels
        self.rows, self.validation_share, self.split_seed = rows, validation_share, split_seed
        self.on_bad_row, self.on_empty = on_bad_row, on_empty

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
        if "validation" not in self.files:
            parts = held_out(found["train"], self.validation_share, self.split_seed, stratified=len(self.labels) > 1)
            found["train"], found["validation"] = parts
            say(f"{self.name}: {len(parts[1]):,} of train's rows are held out for validation.")
        return found

    def read(self, split: str, labelled: bool) -> Dataset:
        """The rows of one split.

        Raises NoFile where it is not there, NoColumn where it has not the columns that are wanted or the hub withholds the
        labels, ValueError for anything else that is wrong.
        """
        files, names = _listed(self.files[split]), _listed(self.hub_splits.get(split, split))
        if self.root is None:
            files = names
        elif len(files) != len(names):  # of files of one's own choice
            names = [split] * len(files)
        parts = [self._part(split, file, name, labelled) for file, name in zip(files, names, strict=True)]
        return self._counted(split, concatenate_datasets(parts))

    def _part(self, split: str, file: str, name: str, labelled: bool) -> Dataset:
        """The rows of a file of a split, or of what has this name on the hub."""
        path = None if self.root is None else self.root / self.folder / file
        configuration, _, name = name.rpartition("/")
        configuration = configuration or (self.hub[1] if self.hub else "")
        how = {"on_bad_row": self.on_bad_row, "on_empty": self.on_empty}
        if path is None or (self.hub and not path.is_file() and (self.root / configuration).is_dir()):
            source, data = self._from_hub(configuration, name)
            if data is None:
                raise NoFile(f"task {self.name}: {source} has no split {name}.")
            named = hasattr(data.features.get(self.hub_label), "names")
            further = labelled and split not in REQUIRED and self.hub_label in data.column_names
            if further and -1 in data.unique(self.hub_label):
                raise NoColumn(f"task {self.name}: {source} withholds the labels of {name}.")
            label, values = self.hub_label if labelled else None, self.labels if named else self.values
            source = f"task {self.name}: {name} of {source}"
            return collect(source, dataset_rows(data), text=self.hub_text, label=label, values=values, **how)
        if not path.is_file():
            raise NoFile(f"task {self.name}: {path} cannot be found.")
        columns = None if self.columns is None else tuple(self.columns)
        label, values = self.label if labelled else None, tuple(self.values)
        return _collected(self.name, path, stamp(path), self.format, columns, tuple(self.text), label, values, **how)

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
                return source, load_dataset(self.hub[0], configuration, revision=self.hub_revision).get(split)
            except (OSError, ValueError, RuntimeError, DatasetsError) as error:
                raise ValueError(
                    f"task {self.name}: {source} cannot be loaded ({error}). Give task.root=<folder of its files>, or "
                    "glue=<folder> for all of GLUE."
                ) from error
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
    form: str | None,
    columns: tuple[str, ...] | None,
    text: tuple[str, ...],
    label: str | None,
    values: tuple[str, ...],
    on_bad_row: str,
    on_empty: str,
) -> Dataset:
    """The rows of a file, read once however many stages of a process ask for them."""
    read = reader_of(file, form)
    rows = tsv(file, columns, extra=True) if read is tsv else read(file)
    source = f"task {name}: {file}"
    return collect(source, rows, text=text, label=label, values=values, on_bad_row=on_bad_row, on_empty=on_empty)


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names
