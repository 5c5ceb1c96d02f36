"""A teacher of which nothing is known but its answers: an LLM's, an API's, or the average of several models'.

A file (CSV, JSON Lines, Parquet) has a line for each row of the task: `split` (train, validation, ...; where it is missing all
are of train), `row`, the row's number within its split from 0 on, and a number for each class in a column of the class's name;
of a regression, the score. The numbers are probabilities or logits, and the user says which.

Several files are averaged with weights: their probabilities, or their scores. Averaged logits would favour the model that
speaks loudest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv, json, parquet
from torch import nn

from kd_lightning.views import Batch, Needs, Readout, Spec, View

READERS = {
    ".csv": csv.read_csv,
    ".jsonl": json.read_json,
    ".ndjson": json.read_json,
    ".parquet": parquet.read_table,
}
KINDS = ("probabilities", "logits")
SUM = 0.02  # how far from 1 the sum of rounded probabilities may be
LEAST = 1e-6  # a probability of 0 would be a logit of -inf


class Answers(nn.Module):
    """A network that shows logits alone, by `index`, the number of each row. It reads no tokens.

    files: of which each answers every row. weights: of each, 1 where there are none. kind: what the files hold. labels: the
    class names in the order of the logits, one for a regression. `number` is to be called before the first batch.
    """

    def __init__(self, *, files: Sequence[str], weights: Sequence[float] | None, kind: str, labels: Sequence[str]) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"teacher.answers.kind={kind}: choose {' or '.join(KINDS)}.")
        if not files:
            raise ValueError("teacher.answers.files is empty: name the files of the answers, e.g. [answers.csv].")
        self.weights = np.ones(len(files)) if weights is None else np.asarray(weights, float)
        if len(self.weights) != len(files) or not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise ValueError(f"teacher.answers.weights={list(weights)}: give a number above 0 for each of {len(files)} files.")
        self.files, self.kind, self.labels = [Path(file) for file in files], kind, list(labels)
        self.spec = Spec(layers=0, hidden=0, heads=0, vocabulary=0, labels=tuple(labels), shows_attention=False, stored=True)
        self.register_buffer("logits", torch.empty(0, len(labels)), persistent=False)

    def number(self, splits: Mapping[str, np.ndarray]) -> None:
        """Read the answers. splits: the numbers of each split's rows, which a batch's `index` has."""
        read = [_read(file, self.kind, self.labels, splits) for file in self.files]
        mean = np.average(read, axis=0, weights=self.weights)
        logits = mean if len(self.labels) == 1 else np.log(mean.clip(LEAST))
        self.logits = torch.from_numpy(logits).to(self.logits)

    def forward(self, batch: Batch, needs: Needs) -> View:
        if needs.hidden or needs.attention or needs.probes:
            raise ValueError(
                "teacher.answers: of this teacher only answers are known, and no layers. Set the weights of the other terms to "
                "0, or choose method=bilstm, cnn, bow or distilbert."
            )
        shown = self.logits[batch["index"].to(self.logits.device)]  # [B, C]
        return View(readout=lambda rows: Readout(shown[rows]))


def _read(file: Path, kind: str, labels: list[str], splits: Mapping[str, np.ndarray]) -> np.ndarray:
    """Probabilities, or the scores of a regression, [N, C] by the rows' numbers."""
    if file.suffix not in READERS:
        raise ValueError(f"teacher.answers: {file} ends in none of {', '.join(READERS)}, by which a file is read.")
    if not file.is_file():
        raise ValueError(f"teacher.answers: {file} cannot be found.")
    wanted = ("row", *labels)
    try:
        table = READERS[file.suffix](file)
        columns = {name: table[name].to_numpy().astype(float) for name in wanted if name in table.column_names}
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"teacher.answers: {file} cannot be read as rows with numbers ({said}).") from error
    if absent := [name for name in wanted if name not in columns]:
        there = ", ".join(table.column_names)
        raise ValueError(f"teacher.answers: {file} has no column {', '.join(absent)}; it has {there}.")
    places, values = columns["row"], np.stack([columns[label] for label in labels], axis=1)
    named = table["split"].to_pylist() if "split" in table.column_names else ["train"] * len(places)
    total = max((int(numbers.max()) + 1 for numbers in splits.values() if len(numbers)), default=0)
    found = np.full((total, len(labels)), np.nan)
    for line, (split, place) in enumerate(zip(named, places, strict=True), start=1):
        if split not in splits or not (0 <= place < len(splits[split]) and place.is_integer()):
            what = f"answer {line}, is to row {place:g} of {split}"
            raise ValueError(f"teacher.answers: {file}, {what}, and the task has no such row.")
        number = splits[split][int(place)]
        if not np.isnan(found[number]).all():
            raise ValueError(f"teacher.answers: {file}, answer {line}, is a second one to row {place:g} of {split}.")
        found[number] = _checked(values[line - 1], kind, f"teacher.answers: {file}, answer {line}")
    for split, numbers in splits.items():
        if len(open_rows := np.flatnonzero(np.isnan(found[numbers]).any(1))):
            raise ValueError(
                f"teacher.answers: {file} has no answer to {len(open_rows):,} of {len(numbers):,} rows of {split}, row "
                f"{open_rows[0]} for one. Every row that is trained on or measured needs one."
            )
    return found


def _checked(values: np.ndarray, kind: str, where: str) -> np.ndarray:
    """The probabilities of one row, or its score."""
    if not np.isfinite(values).all():
        raise ValueError(f"{where}, has not a finite number for each class.")
    if len(values) == 1:
        return values
    if kind == "logits":
        powers = np.exp(values - values.max())
        return powers / powers.sum()
    if (values < 0).any() or abs(values.sum() - 1) > SUM:
        raise ValueError(
            f"{where}, holds {values.round(4).tolist()}, which are no probabilities. Say kind=logits if they are those."
        )
    return values / values.sum()
