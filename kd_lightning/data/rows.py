"""Rows of files, one at a time, so that whatever is wrong with one is said with its file and line."""

import csv
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset
from pyarrow import parquet

UNLABELLED = -100
SHOWN = 5  # bad rows that a message quotes

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row | ValueError]]  # (place in its file, the row by column or what is wrong with it)


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


def readable(text: str) -> bool:
    """Whether all of it was UTF-8: a byte that is not has become a lone surrogate."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


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


def tsv(path: Path, columns: Sequence[str] | None = None, *, extra: bool = False) -> Rows:
    """Tab-separated values, in which nothing is ever quoted.

    columns: the names of the columns where the first line holds none of them and so is no header. extra: fields after
    the last column are ignored; else they make a bad row.
    """
    with _open(path, "\n") as file:
        yield from _named(((n, line.rstrip("\r\n").split("\t")) for n, line in enumerate(file, 1)), columns, extra)


def comma_separated(path: Path) -> Rows:
    """Comma-separated values, quoted as in RFC 4180."""

    def records(file: Iterable[str]) -> Iterator[tuple[int, list[str] | ValueError]]:
        reader = csv.reader(file, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                yield first, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, ValueError(str(error))

    with _open(path, "") as file:
        yield from _named(records(file), None, extra=False)


def json_lines(path: Path) -> Rows:
    with _open(path, "\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                row = ValueError(f"not JSON ({error.msg})")
            if not isinstance(row, dict | ValueError):
                row = ValueError("not a JSON object")
            yield f"line {number}", row


def parquet_rows(path: Path) -> Rows:
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file ({error}).") from error
    yield from dataset_rows(Dataset(table))


def dataset_rows(data: Dataset) -> Rows:
    """Classes by their names; the label -1, with which the hub withholds one, is None."""
    classes = {column: feature.names for column, feature in data.features.items() if hasattr(feature, "names")}
    for start, batch in enumerate(data.iter(1000)):
        for name, names in classes.items():
            batch[name] = [names[i] if i is not None and i >= 0 else None for i in batch[name]]
        for number, row in enumerate(zip(*batch.values(), strict=True), 1000 * start + 1):
            yield f"row {number}", dict(zip(batch, row, strict=True))


FORMATS: dict[str, Callable[[Path], Rows]] = {
    ".csv": comma_separated,
    ".tsv": tsv,
    ".jsonl": json_lines,
    ".json": json_lines,
    ".parquet": parquet_rows,
}


def _open(path: Path, newline: str):
    """With bytes that are not UTF-8 let through (`readable`), so that one of them is one bad row."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _named(records: Iterable[tuple[int, list[str] | ValueError]], columns: Sequence[str] | None, extra: bool) -> Rows:
    header = None
    for number, fields in records:
        if isinstance(fields, ValueError):
            yield f"line {number}", fields
            continue
        if fields in ([], [""]):
            continue
        if header is None:
            headless = columns and not set(columns) & set(fields)
            header = list(columns) if headless else fields
            if not headless:
                continue
        if len(fields) < len(header) or (len(fields) > len(header) and not extra):
            yield f"line {number}", ValueError(f"{len(fields)} field{'s' * (len(fields) != 1)} for {len(header)} columns")
        else:
            yield f"line {number}", dict(zip(header, fields, strict=False))
