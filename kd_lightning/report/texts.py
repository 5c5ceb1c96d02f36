"""The validation rows of a task as a reader of `conf/task` finds them, so that a page can show their texts."""

from collections.abc import Sequence

import torch

from kd_lightning.run.results import Result
from kd_lightning.run.task import reader


def texts(result: Result, settings: Sequence[str]) -> list[tuple[str, ...]]:
    """The text, or the two, of each row of the result's predictions. settings: where the task's data are, as for train.py.

    Raises ValueError where the rows cannot be had, or are others than those that were answered.
    """
    record = result.record
    source = reader(record.task.name, settings)
    examples = source.splits(False)["validation"]
    row, label = result.predictions["row"], result.predictions["label"]
    there = torch.tensor(examples["label"])
    if list(source.labels) != record.task.labels or int(row.max()) >= len(there) or not torch.equal(there[row], label):
        raise ValueError(f"task {record.task.name}: these rows are not those that {result.name} answered.")
    columns = [examples[name] for name in ("sentence1", "sentence2") if name in examples.column_names]
    return [tuple(str(column[number]) for column in columns) for number in row.tolist()]
