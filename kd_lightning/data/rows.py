"""Rows as columns of texts and labels; whatever is wrong with one is said with its file and its place there."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from kd_lightning.data.formats import Rows, readable

UNLABELLED = -100
SHOWN = 5  # bad rows that a message quotes


class NoColumn(ValueError):
    """A file has not the columns that are wanted."""


@functools.cache
def say(sentence: str) -> None:
    """Print a sentence, once, however many stages read the same rows."""
    print(sentence, flush=True)


def collect(
    source: str, rows: Rows, *, text: Sequence[str], label: str | None, values: Sequence[str], on_bad_row: str, empty: bool
) -> Dataset:
    """The rows as columns `sentence1`, `sentence2` (pairs) and `label`.

    text: one column or two. label: the label's column (None: the rows have none). values: how the classes are written, in
    the order of their numbers; one value makes the label a number. empty: whether a text may be empty. on_bad_row: error
    lists the first bad rows and how many there are, skip leaves them out and says how many.
    """
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row={on_bad_row}: choose error or skip.")
    names = ["sentence1", "sentence2"][: len(text)]
    columns: dict[str, list] = {name: [] for name in (*names, "label")}
    wanted, bad = [*text, *([label] if label else [])], []
    for place, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            absent = [column for column in wanted if column not in row]
            if absent and not columns["label"]:
                raise NoColumn(f"{source} has no column {' and '.join(absent)}; its columns are {', '.join(row)}.")
            if absent:
                raise ValueError(f"{' and '.join(absent)} is missing")
            texts = [_text(row[column], column, empty) for column in text]
            number = _number(row[label] if label else None, label, values)
        except NoColumn:
            raise
        except ValueError as error:
            bad.append(f"{place}: {error}")
            continue
        for name, value in zip(columns, (*texts, number), strict=True):
            columns[name].append(value)
    quoted = "; ".join(bad[:SHOWN]) + (" ..." if len(bad) > SHOWN else "")
    count = f"{len(bad):,} bad row{'s' if len(bad) > 1 else ''}"
    if bad and on_bad_row == "error":
        raise ValueError(f"{source} has {count} ({quoted}). Correct them, or leave them out with task.on_bad_row=skip.")
    if not columns["label"]:
        raise ValueError(f"{source} has no rows{f' but {count} ({quoted})' if bad else ''}.")
    if bad:
        say(f"{source}: {count} left out ({quoted}).")
    return Dataset.from_dict(columns)


def _text(value: Any, column: str, empty: bool) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column} is missing" if value is None else f"{column} is {value!r}, not a text")
    if not (empty or value.strip()):
        raise ValueError(f"{column} is empty")
    if not readable(value):
        raise ValueError(f"{column} holds bytes that are not UTF-8")
    return value


def _number(value: Any, column: str | None, values: Sequence[str]) -> int | float:
    """A label as a number: a class by its place, a score as it is; unlabelled is -100, or NaN among scores."""
    if column is None:
        return UNLABELLED if len(values) > 1 else math.nan
    if value is None or value == "":
        raise ValueError(f"{column} is missing")
    if len(values) > 1:
        if str(value) not in values:
            raise ValueError(f"{column} is '{value}'; known are {', '.join(values)}")
        return values.index(str(value))
    try:
        score = float(value)
    except (ValueError, TypeError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{column} is '{value}', not a number")
    return score
