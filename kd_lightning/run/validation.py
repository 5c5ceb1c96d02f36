"""What student and teacher answered on the validation rows (`predictions.parquet`), as tables for people.

A network's probabilities are the softmax of its logits; a regression has scores in their place.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from kd_lightning.run.results import matrix
from kd_lightning.run.shown import printable

BINS = 15  # of confidence, equally wide
ROWS = 200  # that a table of rows holds at the most
CLASSES = 20  # of which a row shows the probabilities
LONGEST = 500  # characters of a text

Table = tuple[list[str], list[list[Any]]]  # the columns and the rows


def texts(rows: Dataset) -> list[tuple[str, ...]]:
    """Of each row the one text or the two that a network reads."""
    return list(zip(*(rows[name] for name in ("sentence1", "sentence2") if name in rows.column_names), strict=True))


def logits(predictions: pa.Table) -> dict[str, Tensor]:
    """Of each network that answered, [N, C] in the order of the rows."""
    names = [name for name in ("student", "teacher") if name in predictions.column_names]
    return {name: matrix(predictions[name]).double() for name in names}


def disagreement(probabilities: dict[str, Tensor], labels: Tensor) -> Tensor:
    """[N], from 0 to 1: half the sum of the differences of both networks' probabilities (their total variation distance). Of a
    student alone, what it leaves for the other classes than the label's. Scores of a regression differ as numbers do."""
    student = probabilities["student"]
    if student.shape[1] == 1:
        other = probabilities["teacher"] if "teacher" in probabilities else labels[:, None]
        return (student - other).abs().squeeze(1)
    if "teacher" in probabilities:
        return (student - probabilities["teacher"]).abs().sum(1) / 2
    return 1 - student.gather(1, labels[:, None]).squeeze(1)


def rows(predictions: pa.Table, texts: Sequence[Sequence[str]], names: Sequence[str]) -> Table:
    """The rows on which the networks disagree most, those first. texts: of each row, one or a pair's two. names: of the
    classes."""
    found, labels = logits(predictions), torch.tensor(predictions["label"].to_pylist())
    classes = len(names) > 1
    known = {who: values.softmax(1) if classes else values for who, values in found.items()}
    apart = disagreement(known, labels)
    names = [printable(name) for name in names]
    columns = ["row", *(["text"] if len(texts[0]) == 1 else ["text 1", "text 2"]), "label", *known, "disagreement"]
    shown = range(len(names)) if classes and len(names) <= CLASSES else ()
    columns += [f"{who}: {names[c]}" for who in known for c in shown]
    lines = []
    for n in apart.argsort(descending=True, stable=True)[:ROWS].tolist():
        answers = [names[values[n].argmax()] if classes else float(values[n]) for values in known.values()]
        label = names[labels[n]] if classes else float(labels[n])
        line = [predictions["row"][n].as_py(), *(printable(text[:LONGEST]) for text in texts[n]), label, *answers]
        lines.append([*line, float(apart[n]), *(float(values[n, c]) for values in known.values() for c in shown)])
    return columns, lines


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """The expected calibration error (Guo et al. 2017): how far confidence is from accuracy, averaged over the rows' bins."""
    return float(multiclass_calibration_error(logits.softmax(1), labels, logits.shape[1], n_bins=BINS, norm="l1"))


def reliability(logits: Tensor, labels: Tensor) -> Table:
    """For each bin of confidence that holds rows: its ends, how many rows, their mean confidence and their accuracy."""
    confidence, answers = logits.softmax(1).max(1)
    ends = torch.linspace(0, 1, BINS + 1, dtype=confidence.dtype)
    place = torch.bucketize(confidence, ends[1:-1])  # a bin holds its upper end
    lines = []
    for number in place.unique().tolist():
        there = place == number
        right = (answers == labels)[there].double().mean()
        ends_here = [float(ends[number]), float(ends[number + 1])]
        lines.append([*ends_here, int(there.sum()), float(confidence[there].mean()), float(right)])
    return ["from", "to", "rows", "confidence", "accuracy"], lines
