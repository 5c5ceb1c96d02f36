"""What a page shows of a result's kept answers: confusion, calibration, agreement and the rows where two networks differ.

Of several seeds it is the first one's answers. N rows, C classes (two or more).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.functional.classification import multiclass_confusion_matrix

from kd_lightning.report.collect import Sweep, numbers
from kd_lightning.run.bootstrap import Difference, holm
from kd_lightning.run.results import Result, differences

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies in one tenth: their mean confidence, the share of right answers, how many they are."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class Pair:
    """Two results and their difference. adjusted: its p-value after Holm's correction for all pairs of the page."""

    ours: str
    theirs: str
    task: str
    difference: Difference
    adjusted: float


def confusion(logits: Tensor, label: Tensor) -> Tensor:
    """[C, C] counts: a row is what is right, a column what was answered. logits: [N, C]; label: [N]."""
    return multiclass_confusion_matrix(logits.argmax(-1), label, num_classes=logits.shape[-1])


def calibration(logits: Tensor, label: Tensor) -> list[Bin]:
    """The bins that hold a row, by confidence (the highest probability); a bin holds its upper bound (Guo et al. 2017)."""
    confidence, answer = logits.double().softmax(-1).max(-1)
    right = (answer == label).double()
    place = (confidence * BINS).ceil().clamp(1, BINS)
    return [
        Bin(float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (place == number for number in range(1, BINS + 1))
        if inside.any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The mean distance of confidence and accuracy over all rows (ECE, the same source)."""
    return sum(each.rows * abs(each.confidence - each.accuracy) for each in bins) / sum(each.rows for each in bins)


def agreement(student: Tensor, teacher: Tensor, label: Tensor) -> list[float | None]:
    """For each class, of the rows whose label it is, the share that both answer alike; None where it has no row."""
    same = (student.argmax(-1) == teacher.argmax(-1)).double()
    return [float(same[label == c].mean()) if (label == c).any() else None for c in range(student.shape[-1])]


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """[N]: half the sum of the differences of all probabilities (total variation), 0 alike to 1. Both: [N, C] logits.

    Of a regression, C = 1, the difference of the two numbers.
    """
    if student.shape[-1] == 1:
        return (student - teacher).abs().squeeze(-1)
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


def pairs(results: list[Result]) -> list[Pair]:
    """Every two results of the same rows, as `kd_lightning.run.results` compares them."""
    found = differences(results)
    adjusted = holm([difference.p for _, _, difference in found])
    return [
        Pair(ours.name, theirs.name, ours.record.task.name, difference, p)
        for (ours, theirs, difference), p in zip(found, adjusted, strict=True)
    ]


def importance(sweep: Sweep) -> dict[str, float]:
    """Setting -> Spearman's rank correlation with the value, of those that are numbers and have two or more values.

    It sees only what goes up or down throughout, and one setting at a time.
    """
    values = numbers(sweep, "value")
    found = {name: numbers(sweep, name) for name in sweep.settings}
    if not values or len(set(values)) < 2:
        return {}
    return {
        name: float(spearman_corrcoef(torch.tensor(numeric, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)))
        for name, numeric in found.items()
        if numeric and len(set(numeric)) > 1
    }
