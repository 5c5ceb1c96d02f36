"""Artifacts read back: what a model scored on a task, over the seeds it was trained with."""

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import parquet
from torch import Tensor
from torchmetrics import Metric

from kd_lightning.manifest import AGAIN, check
from kd_lightning.run.bootstrap import Difference, difference, resampled_scores
from kd_lightning.run.record import Record, read, read_metrics
from kd_lightning.run.task import metric

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Result:
    """One model on one task: an artifact for each seed, and what the first says of itself."""

    folders: list[Path]
    record: Record

    @property
    def name(self) -> str:
        """The artifact's, without its seed."""
        return self.record.name

    @property
    def measures_a_task(self) -> bool:
        """Whether what decides for its stage is the task's own metric, and no loss."""
        task = self.record.task
        return task is not None and self.record.metric == f"val/student/{task.monitor}"

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        return [read_metrics(folder) for folder in self.folders]

    def scores(self, key: str) -> list[float]:
        """A metric under each seed that has it."""
        return [metrics[key] for metrics in self.metrics if key in metrics]

    @cached_property
    def predictions(self) -> dict[str, Tensor] | None:
        """Of the validation data: `row` and `label` [N], and the `logits` [R, N, C] of R seeds. None if one kept none."""
        files = [folder / PREDICTIONS for folder in self.folders]
        if self.record.task is None or not all(file.is_file() for file in files):
            return None
        first, *others = map(_predictions, files)
        for file, other in zip(files[1:], others, strict=True):
            if not all(torch.equal(first[name], other[name]) for name in ("row", "label")):
                raise ValueError(f"{file} has other rows than {files[0]}, and both say that they are seeds of one model.")
            if other["logits"].shape != first["logits"].shape:
                raise ValueError(f"{file} has other classes than {files[0]}, and both say that they are seeds of one model.")
        return first | {"logits": torch.stack([kept["logits"] for kept in (first, *others)])}

    @cached_property
    def taught(self) -> Tensor | None:
        """The teacher's logits [N, C] of the rows of `predictions`, which the first seed kept. None if it kept none."""
        file = self.folders[0] / PREDICTIONS
        if self.predictions is None or "teacher" not in parquet.read_schema(file).names:
            return None
        logits = _predictions(file, "teacher")["logits"]
        if logits.shape != self.predictions["logits"].shape[1:]:
            raise ValueError(f"{file} has other classes of the teacher than of the student. {AGAIN}")
        return logits

    @property
    def majority(self) -> float | None:
        """The deciding metric of one answer for all rows, their most frequent label. None where the task has no classes."""
        if self.predictions is None or self.predictions["logits"].shape[-1] == 1:
            return None
        labels = self.predictions["label"]
        return float(self._metric()(labels.mode().values.expand_as(labels), labels))

    @property
    def counts(self) -> Tensor:
        """[C]: how many rows each class has, by the labels. Empty where there are no predictions or no classes."""
        if self.predictions is None or self.predictions["logits"].shape[-1] == 1:
            return torch.zeros(0, dtype=torch.long)
        return torch.bincount(self.predictions["label"], minlength=self.predictions["logits"].shape[-1])

    @property
    def uneven(self) -> bool:
        """Whether the largest class has at least twice the rows of the smallest, so that accuracy says little of the latter."""
        return bool(len(self.counts)) and bool(self.counts.max() >= 2 * self.counts.min())

    @property
    def answers(self) -> Tensor:
        """[R, N]: the class that each seed's model gives each row."""
        return self.predictions["logits"].argmax(-1)

    @property
    def macro_f1(self) -> list[float]:
        """Of each seed the mean of the classes' F1; a class that is neither given nor labelled is left out."""
        given = torch.stack([torch.bincount(said, minlength=len(self.counts)) for said in self.answers])
        return [float(f1[~f1.isnan()].mean()) for f1 in 2 * self._found / (given + self.counts).double()]

    @property
    def recall(self) -> Tensor:
        """[C]: of each class the share of its rows that are found, the mean over seeds; NaN for a class of no rows."""
        return (self._found / self.counts.double()).mean(0)

    @property
    def _found(self) -> Tensor:
        """[R, C]: how many rows of each class have it as their answer. torchmetrics counts them in a C x C table."""
        label = self.predictions["label"]
        return torch.stack([torch.bincount(label[said == label], minlength=len(self.counts)) for said in self.answers])

    def label(self, number: int) -> str:
        """A class by its name, or by its number where the run does not name as many."""
        labels = self.record.task.labels
        return labels[number] if len(labels) == len(self.counts) else str(number)

    @cached_property
    def resampled(self) -> Tensor:
        return resampled_scores(self._metric(), self.predictions["logits"], self.predictions["label"])

    def _metric(self) -> Metric:
        """The task's deciding metric, empty."""
        return metric(self.record.task.name, self.record.task.monitor, self.predictions["logits"].shape[-1])


def column(values: Tensor) -> pa.Array:
    """Numbers [N], or a list of C for each row of [N, C]."""
    flat = pa.array(values.flatten().numpy())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def matrix(lists: pa.ChunkedArray) -> Tensor:
    """[N, C] in float32 of lists of C finite numbers each; raises ValueError for others."""
    sizes, flat = pc.list_value_length(lists).unique().to_pylist(), pc.list_flatten(lists)
    if len(sizes) != 1 or not sizes[0] or flat.null_count or not pa.types.is_floating(flat.type):
        raise ValueError("not as many numbers in each row")
    return torch.from_numpy(flat.cast(pa.float32()).to_numpy().copy()).reshape(-1, sizes[0])


def _predictions(file: Path, who: str = "student") -> dict[str, Tensor]:
    """`row` and `label` [N] and somebody's `logits` [N, C] of one artifact, checked: they may be a stranger's."""
    try:
        found = parquet.read_table(file, columns=["row", "label", who])
        kept = {name: torch.tensor(found[name].to_pylist()) for name in ("row", "label")}
        kept["logits"] = matrix(found[who])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as rows with a label and a {who}'s logits each. {AGAIN}") from error
    row, label, logits = kept.values()
    classes = logits.shape[1] if logits.ndim == 2 else 0
    known = classes == 1 or (not label.is_floating_point() and bool(((label >= 0) & (label < classes)).all()))
    finite = label.isfinite().all() and logits.isfinite().all()
    if not (classes and len(row) and not row.is_floating_point() and known and finite):
        raise ValueError(f"{file} has not in every row a label and a finite logit for each class. {AGAIN}")
    return kept


def collect(folders: Iterable[str | Path]) -> list[Result]:
    """The artifacts in these folders, those together that differ in their seed alone."""
    found: dict[tuple[Path, str], Result] = {}
    for folder in map(Path, folders):
        check(folder)
        record = read(folder)
        found.setdefault((folder.resolve().parent, record.setting), Result([], record)).folders.append(folder)
    return list(found.values())


def teacher_of(result: Result, results: Iterable[Result]) -> Result | None:
    """The artifact among these that a result learned from. No path that an artifact gives is opened."""
    if result.record.teacher is None:
        return None
    folder = Path(result.record.teacher).absolute()
    return next((other for other in results if folder in [each.absolute() for each in other.folders]), None)


def teacher_scores(result: Result, results: Iterable[Result], key: str) -> list[float]:
    """What a result's teacher scores in its metric `<split>/student/<name>`: the figure of the teacher's own artifact where it
    is among these. Otherwise that of the student's run, which may differ in some rows: in mixed precision it has the teacher's
    weights in bfloat16."""
    if "/student/" not in key:  # a loss is compared with no teacher's
        return []
    own = teacher_of(result, results)
    if own is not None and own.scores(key):
        return own.scores(key)
    return result.scores(key.replace("/student/", "/teacher/"))


def differences(results: Iterable[Result]) -> list[tuple[Result, Result, Difference]]:
    """The paired bootstrap of every two results that have predictions of the same rows of the same task."""
    found = []
    for ours, theirs in itertools.combinations(results, 2):
        if ours.predictions is None or theirs.predictions is None or _measured(ours) != _measured(theirs):
            continue
        if all(torch.equal(ours.predictions[name], theirs.predictions[name]) for name in ("row", "label")):
            found.append((ours, theirs, difference(ours.resampled, theirs.resampled)))
    return found


def _measured(result: Result) -> tuple[str, str]:
    return result.record.task.name, result.record.metric


def mean_and_deviation(scores: list[float]) -> str:
    """ "0.8123", or "0.8123 ± 0.0045" of several: their mean and the deviation of a sample (n - 1)."""
    if not scores:
        return ""
    deviation = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4f}{deviation}"
