"""What an export is held against: PyTorch's answers to the task's validation rows, and PyTorch's time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_lightning.exported import Exported
from kd_lightning.predict import Classifier
from kd_lightning.run.record import Task
from kd_lightning.run.shown import printable
from kd_lightning.run.task import metric, reader
from kd_lightning.run.timing import Time, times

BATCHES = (1, 32)
ALONE, MIXED = 64, 5  # rows that are also answered one by one and in batches of five, as they come
MOVED = 0.01  # of the standard deviation of PyTorch's scores: a score that moves less is the same answer

Text = tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """Of one format. changed: the share of answers that are not PyTorch's. distance: the largest between two logits. score: the
    task's metric. times: for a batch of each size."""

    megabytes: float
    changed: float
    distance: float
    score: float
    times: dict[int, Time]


def validation(folder: Path, task: Task, classifier: Classifier, settings: Sequence[str]) -> tuple[list[Text], Tensor]:
    """The task's validation rows, texts or pairs, and their labels [N]."""
    try:
        source = reader(task.name, settings)
        examples = source.splits(False)["validation"]
    except ValueError as error:
        raise ValueError(f"{folder}: {error}" + ("" if settings else " Say with --set where its rows are.")) from error
    if [printable(label) for label in source.labels] != classifier.labels:
        raise ValueError(
            f"{folder}: config.json names the classes {', '.join(classifier.labels[:20])}; those of these rows are "
            f"{', '.join(map(str, source.labels[:20]))}, in this order."
        )
    columns = [list(examples[name]) for name in ("sentence1", "sentence2") if name in examples.column_names]
    return list(zip(*columns, strict=True)), torch.tensor(examples["label"])


def changed(ours: Tensor, theirs: Tensor) -> Tensor:
    """[N]: where the answers of two networks differ. ours, theirs: logits [N, C]; one class: scores, which differ where they
    are further apart than MOVED of the deviation of theirs."""
    if theirs.shape[1] == 1:
        return (ours - theirs).abs()[:, 0] > MOVED * theirs.std(correction=0)
    return ours.argmax(-1) != theirs.argmax(-1)


def score(task: Task, logits: Tensor, labels: Tensor) -> float:
    """The task's deciding metric."""
    measured = metric(task.name, task.monitor, logits.shape[1])
    return float(measured(logits[:, 0] if logits.shape[1] == 1 else logits.argmax(-1), labels))


def answers(exported: Exported, texts: list[Text], theirs: Tensor) -> tuple[Tensor, float]:
    """Logits [N, C] of the exported file, rows of like length in batches of 32; and the largest distance of a logit from
    theirs, also where the first rows are answered alone and in mixed batches."""
    order = np.argsort([sum(map(len, row)) for row in texts], kind="stable")
    ours = torch.empty_like(theirs)
    ours[order] = torch.from_numpy(exported.logits([texts[row] for row in order], max(BATCHES)))
    few = [torch.from_numpy(exported.logits(texts[:ALONE], batch)) - theirs[:ALONE] for batch in (1, MIXED)]
    return ours, max(float(distance.abs().max()) for distance in (ours - theirs, *few))


@torch.inference_mode()
def clocked(classifier: Classifier, exports: dict[str, Exported], texts: list[Text]) -> tuple[int, dict[str, dict[int, Time]]]:
    """The tokens of the row of median length; and how long batches of it take, tokenised already, in PyTorch and each form."""
    exported = next(iter(exports.values()))
    lengths = [exported.encode([text])["input_ids"].shape[1] for text in texts]
    text = texts[int(np.argsort(lengths)[len(lengths) // 2])]
    inputs = {size: exported.encode([text] * size) for size in BATCHES}
    tensors = {size: {name: torch.from_numpy(array) for name, array in batch.items()} for size, batch in inputs.items()}
    calls = {("pytorch", size): partial(classifier.model, **tensors[size]) for size in BATCHES}
    calls |= {(form, size): partial(one.run, inputs[size]) for form, one in exports.items() for size in BATCHES}
    measured = dict(zip(calls, times(list(calls.values())), strict=True))
    forms = ("pytorch", *exports)
    return inputs[1]["input_ids"].shape[1], {form: {size: measured[form, size] for size in BATCHES} for form in forms}
