"""A teacher of which nothing is known but its answers: an LLM's, an API's, or the average of several models'.

A file (CSV, JSON Lines, Parquet) has a line for each row of the task, with a number for each class in a column of the class's
name; of a regression, the score in a column of its name. Which row it answers says its text, in the task's own columns of text
(the logits of several answers to one text are averaged). A file without these has `row`, the row's number within its
split from 0 on, and `split` (train, validation, ...; where it is missing all are of train).

The numbers are probabilities or logits. Several files are averaged with weights: their probabilities, or their scores. Averaged
logits would favour the model that speaks loudest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv, json, parquet
from torch import nn

from kd_lightning.teacher.stored import sent
from kd_lightning.views import Batch, Needs, Readout, Spec, View

Text = tuple[str, ...]  # the one text of a row, or its two
KINDS = PROBABILITIES, LOGITS = ("probabilities", "logits")
ROUNDED = 0.0051  # for each class, how far from 1 the sum of probabilities may be: that of two decimals
LEAST = 1e-6  # a probability of 0 would be a logit of -inf


class Answers(nn.Module):
    """A network that shows logits alone, by `index`, the number of each row. It reads no tokens.

    files: of which each answers every row. weights: of each, 1 where there are none. kind: what the files hold; None: the
    numbers of each tell. labels: the class names in the order of the logits, one for a regression. text: the task's columns
    of text. `number` is to be called before the first batch.
    """

    def __init__(
        self,
        *,
        files: Sequence[str],
        weights: Sequence[float] | None,
        kind: str | None,
        labels: Sequence[str],
        text: Sequence[str],
    ) -> None:
        super().__init__()
        if kind not in (None, *KINDS):
            raise ValueError(f"teacher.kind={kind}: choose {' or '.join(KINDS)}, or null where the numbers tell.")
        if not files:
            raise ValueError("teacher.answers=[]: name the files of the answers, e.g. teacher.answers=answers.csv.")
        self.weights = np.ones(len(files)) if weights is None else np.asarray(list(weights), float)
        if len(self.weights) != len(files) or not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise ValueError(f"teacher.weights={list(weights)}: give a number above 0 for each of {len(files)} files.")
        self.files, self.kind, self.labels, self.text = [Path(file) for file in files], kind, list(labels), list(text)
        self.spec = Spec(layers=0, hidden=0, heads=0, vocabulary=0, labels=tuple(labels), shows_attention=False, stored=True)

    @property
    def tokenizer(self) -> None:
        """A teacher has one from which a student may take its tokens; this one raises ValueError."""
        raise ValueError(
            "teacher.answers: of this teacher only answers are known, and the student would begin with its tokens or layers. "
            "Choose student/vocabulary=words for bilstm, cnn and bow, or start=corpus for another method."
        )

    def number(self, splits: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[Text]]) -> None:
        """Read the answers. splits: the numbers of each split's rows, which a batch's `index` has; texts: of these rows."""
        read = np.stack([self._read(file, splits, texts) for file in self.files])  # [F, N, C]
        if len(self.labels) == 1:
            logits = np.average(read, axis=0, weights=self.weights)
        else:
            shares = np.average(_softmax(read), axis=0, weights=self.weights)
            logits = read[0] if len(read) == 1 else _logits_of(shares)
        self.logits = torch.from_numpy(logits).float()

    def forward(self, batch: Batch, needs: Needs) -> View:
        shown = sent(self.logits[batch["index"].cpu()], batch["input_ids"].device)  # [B, C]
        return View(readout=lambda rows: Readout(shown[rows]))

    def _read(self, file: Path, splits: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[Text]]) -> np.ndarray:
        """Logits, or the scores of a regression, [N, C] by the rows' numbers."""
        table = _table(file, self.text)
        by_text = all(column in table.column_names for column in self.text)
        wanted = self.labels if by_text else ["row", *self.labels]
        if absent := [name for name in wanted if name not in table.column_names]:
            named = f"Rows are named by {' and '.join(self.text)}, or by row and split."
            raise ValueError(
                f"{_said(file)} has no column {', '.join(absent)}; it has {', '.join(table.column_names)}. {named}"
            )
        try:
            values = np.stack([table[label].to_numpy().astype(float) for label in self.labels], axis=1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{_said(file)} has answers that are no numbers ({str(error).splitlines()[0]}).") from error
        answers = _logits(values, self.kind, file) if len(self.labels) > 1 else _finite(values, file)
        total = max((int(numbers.max()) + 1 for numbers in splits.values() if len(numbers)), default=0)
        found = np.full((total, len(self.labels)), np.nan)
        if by_text:
            _by_text(
                found, answers, list(zip(*(table[column].to_pylist() for column in self.text), strict=True)), splits, texts
            )
        else:
            _by_row(found, answers, table, splits, file)
        for split, numbers in splits.items():
            if len(open_rows := np.flatnonzero(np.isnan(found[numbers]).any(1))):
                raise ValueError(
                    f"{_said(file)} has no answer to {len(open_rows):,} of {len(numbers):,} rows of {split}, row "
                    f"{open_rows[0]} for one. Every row that is trained on or measured needs one."
                )
        return found


def _said(file: Path) -> str:
    return f"teacher.answers: {file}"


def _table(file: Path, text: Sequence[str]) -> pa.Table:
    """text: columns that are texts, whatever is in them."""
    if not file.is_file():
        raise ValueError(f"{_said(file)} cannot be found.")
    texts = {column: pa.string() for column in text}
    readers = {
        ".csv": lambda: csv.read_csv(
            file,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=texts),
        ),
        ".jsonl": lambda: json.read_json(file),
        ".ndjson": lambda: json.read_json(file),
        ".parquet": lambda: parquet.read_table(file),
    }
    if file.suffix not in readers:
        raise ValueError(f"{_said(file)} ends in none of {', '.join(readers)}, by which a file is read.")
    try:
        return readers[file.suffix]()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{_said(file)} cannot be read ({str(error).splitlines()[0]}).") from error


def _by_text(
    found: np.ndarray,
    answers: np.ndarray,
    answered: list[Text],
    splits: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[Text]],
) -> None:
    """Fill in for each row the answer to its text, the mean of several."""
    lines: dict[Text, list[int]] = {}
    for line, text in enumerate(answered):
        lines.setdefault(text, []).append(line)
    for split, numbers in splits.items():
        for number, text in zip(numbers, texts[split], strict=True):
            if text in lines:
                found[number] = answers[lines[text]].mean(0)


def _by_row(found: np.ndarray, answers: np.ndarray, table: pa.Table, splits: Mapping[str, np.ndarray], file: Path) -> None:
    """Fill in for each row the answer that has its number. Splits that are not read here are left out."""
    named = table["split"].to_pylist() if "split" in table.column_names else ["train"] * len(answers)
    for line, (split, place) in enumerate(zip(named, table["row"].to_pylist(), strict=True), start=1):
        if split not in splits:
            continue
        what = f"{_said(file)}, answer {line},"
        if not (isinstance(place, int | float) and 0 <= place < len(splits[split]) and float(place).is_integer()):
            raise ValueError(f"{what} is to row {place} of {split}, and the task has no such row.")
        number = splits[split][int(place)]
        if not np.isnan(found[number]).all():
            raise ValueError(f"{what} is a second one to row {place} of {split}.")
        found[number] = answers[line - 1]


def _finite(values: np.ndarray, file: Path) -> np.ndarray:
    if len(bad := np.flatnonzero(~np.isfinite(values).all(1))):
        raise ValueError(f"{_said(file)}, answer {bad[0] + 1}, has not a finite number for each class.")
    return values


def _logits(values: np.ndarray, kind: str | None, file: Path) -> np.ndarray:
    """values: [L, C], of this kind; None: they tell which."""
    sums = _finite(values, file).sum(1)
    fits = (values >= 0).all(1) & (abs(sums - 1) <= ROUNDED * values.shape[1])
    if kind is None and not fits.any() and (values < 0).any():
        kind = LOGITS
    if kind == LOGITS:
        return values
    if len(bad := np.flatnonzero(~fits)):
        quoted = f"{_said(file)}, answer {bad[0] + 1}, holds {values[bad[0]].round(4).tolist()}, which"
        if kind == PROBABILITIES:
            raise ValueError(f"{quoted} are no probabilities. Write teacher.kind=logits if they are those.")
        raise ValueError(f"{quoted} may be logits or damaged probabilities. Write teacher.kind=logits if they are those.")
    return _logits_of(values / sums[:, None])


def _logits_of(shares: np.ndarray) -> np.ndarray:
    """Probabilities leave the sum of a row's logits open. Here it is 0: a loss on the logits themselves, as a small student
    has, would otherwise first teach how far below 0 they lie."""
    logits = np.log(shares.clip(LEAST))
    return logits - logits.mean(-1, keepdims=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
