"""Rows of files, one at a time: a bad one is given with its place and what is wrong with it, and the next one follows."""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features
from pyarrow.parquet import ParquetFile

BLOCK = 1000  # rows of a Parquet file or a data set that are in memory at once

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row | ValueError]]  # (place in its file, the row by column or what is wrong with it)


def readable(text: str) -> bool:
    """Whether all of it was UTF-8: a byte that is not has become a lone surrogate."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def lines(path: str | Path, columns: Sequence[str]) -> Rows:
    """A line is a text, or the two of a pair with a tab between them."""
    with _open(path, "\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\r\n").split("\t", len(columns) - 1)
            pair = ValueError(f"no pair: a tab must stand between {' and '.join(columns)}")
            yield f"line {number}", pair if len(fields) < len(columns) else dict(zip(columns, fields, strict=True))


def tsv(path: str | Path, columns: Sequence[str] | None = None, *, extra: bool = False) -> Rows:
    """Tab-separated values, in which nothing is ever quoted.

    columns: the names of the columns where the first line holds none of them and so is no header. extra: fields after
    the last column are ignored; else they make a bad row.
    """
    with _open(path, "\n") as file:
        yield from _named(((n, line.rstrip("\r\n").split("\t")) for n, line in enumerate(file, 1)), columns, extra)


def comma_separated(path: str | Path) -> Rows:
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


def json_lines(path: str | Path) -> Rows:
    with _open(path, "\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                row = ValueError(f"not JSON ({error.msg}: column {error.colno})")
            if not isinstance(row, dict | ValueError):
                row = ValueError("not a JSON object")
            yield f"line {number}", row


def parquet_rows(path: str | Path) -> Rows:
    try:
        file = ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file ({error}).") from error
    yield from _blocks(Features.from_arrow_schema(file.schema_arrow), file.iter_batches(BLOCK))


def dataset_rows(data: Dataset) -> Rows:
    yield from _blocks(data.features, data.with_format("arrow").iter(BLOCK))


def _blocks(features: Features, blocks: Iterable[pa.RecordBatch | pa.Table]) -> Rows:
    """Classes by their names; the label -1, with which the hub withholds one, is None."""
    classes = {column: feature.names for column, feature in features.items() if hasattr(feature, "names")}
    numbers = itertools.count(1)
    for block in blocks:
        columns = block.to_pydict()
        for name, names in classes.items():
            columns[name] = [names[i] if i is not None and i >= 0 else None for i in columns[name]]
        for row in zip(*columns.values(), strict=True):
            yield f"row {next(numbers)}", dict(zip(columns, row, strict=True))


FORMATS: dict[str, Callable[[str | Path], Rows]] = {
    ".csv": comma_separated,
    ".tsv": tsv,
    ".jsonl": json_lines,
    ".json": json_lines,
    ".parquet": parquet_rows,
}


def _open(path: str | Path, newline: str):
    """A file, or standard input for "-", with bytes that are not UTF-8 let through (`readable`): one of them is one bad row."""
    source = 0 if path == "-" else path
    return open(source, encoding="utf-8-sig", errors="surrogateescape", newline=newline, closefd=path != "-")


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
            found, wanted = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(fields), "field"), (len(header), "column")))
            yield f"line {number}", ValueError(f"{found} for {wanted}")
        else:
            yield f"line {number}", dict(zip(header, fields, strict=False))
