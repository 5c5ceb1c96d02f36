"""Rows of files, one at a time: a bad one is given with its place and what is wrong with it, and the next one follows."""

import csv
import functools
import itertools
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from datasets import Dataset, Features
from pyarrow.parquet import ParquetFile

from kd_lightning.data.files import Rows, binary, format_of, readable, text, unreadable
from kd_lightning.data.json_rows import json_file, json_lines

BLOCK = 1000  # rows of a Parquet file or a data set that are in memory at once
csv.field_size_limit(1 << 27)  # characters of a cell; the module's own limit is an eighth of a megabyte


@functools.cache
def say(sentence: str, to: TextIO | None = None) -> None:
    """Print a sentence, once, however many stages read the same rows. to: standard output, if it is None."""
    print(sentence, file=to, flush=True)


def lines(path: str | Path, columns: Sequence[str]) -> Rows:
    """A line is a text, or the two of a pair with a tab between them."""
    with text(path, "\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\r\n").split("\t", len(columns) - 1)
            pair = ValueError(f"no pair: a tab must stand between {' and '.join(columns)}")
            yield f"line {number}", pair if len(fields) < len(columns) else dict(zip(columns, fields, strict=True))


def tsv(path: str | Path, columns: Sequence[str] | None = None, *, extra: bool = False) -> Rows:
    """Tab-separated values, in which nothing is ever quoted.

    columns: the names of the columns where the first line holds none of them and so is no header. extra: fields after
    the last column are ignored; else they make a bad row.
    """
    with text(path, "\n") as file:
        records = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(file, 1))
        yield from _named(path, records, columns, extra)


def quoted(path: str | Path, delimiter: str = ",") -> Rows:
    """Values between delimiters, quoted as in RFC 4180.

    Where a quoted field does not end as it should, its first line is a bad row and reading goes on with the next line. Where
    it does, but the lines that it runs over are rows by themselves, a quote too many is more likely: a bad row too. How many
    rows run over several lines is said.
    """
    with text(path, "") as file:
        yield from _named(path, _quoted(path, file, delimiter), None, extra=False)


def parquet_rows(path: str | Path) -> Rows:
    with binary(path) as source:
        try:
            file = ParquetFile(source)
            _refuse_twice(path, file.schema_arrow.names)
            yield from _blocks(Features.from_arrow_schema(file.schema_arrow), file.iter_batches(BLOCK))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no Parquet file, or a damaged one ({error}).") from error


def dataset_rows(data: Dataset) -> Rows:
    yield from _blocks(data.features, data.with_format("arrow").iter(BLOCK))


FORMATS: dict[str, Callable[[str | Path], Rows]] = {  # tables
    ".csv": quoted,
    ".tsv": tsv,
    ".jsonl": json_lines,
    ".json": json_file,
    ".parquet": parquet_rows,
    ".ndjson": json_lines,
}
NAMES = {suffix[1:]: rows for suffix, rows in FORMATS.items()} | {"quoted_tsv": functools.partial(quoted, delimiter="\t")}
TEXT = ".txt"  # `lines`


def reader_of(path: str | Path, form: str | None) -> Callable[[str | Path], Rows]:
    """What reads a task's file: by the name of a format (NAMES), or null: by the file's ending."""
    if form is None:
        also = "Rename it, or say what it is, e.g. task.format=tsv for a .txt of tab-separated columns."
        return FORMATS[format_of(path, "task.files", list(FORMATS), also)]
    if form not in NAMES:
        raise ValueError(f"task.format={form}: choose {', '.join(NAMES)}, or null, and the file's ending says it.")
    return NAMES[form]


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


def _quoted(path: str | Path, file: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | ValueError]]:
    """The records of quoted values, each with the number of its first line."""
    again: deque[str] = deque()  # lines that a record took and that are read once more
    taken: list[str] = []
    first, width, several, longest = 1, None, 0, (0, 0)

    def feed() -> Iterator[str]:
        while (line := again.popleft() if again else next(file, None)) is not None:
            taken.append(line)
            yield line

    while True:
        taken.clear()
        try:
            record = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            record = ValueError(str(error))
            if "end of data" in str(error):
                record = ValueError("a quote opens a field here and none closes it")
            elif len(taken) > 1:
                record = ValueError(f"a quote opens a field here that runs on to line {first + len(taken) - 1} ({error})")
        if record is None:
            break
        width = width or (len(record) if isinstance(record, list) else None)
        if isinstance(record, list) and len(taken) > 1 and _are_rows(taken, width, delimiter):
            last = first + len(taken) - 1
            record = ValueError(f"a quote opens a field here that swallows the rows to line {last}; close it, or double it")
        if isinstance(record, ValueError):
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
        elif len(taken) > 1:
            several, longest = several + 1, max(longest, (len(taken), first))
        yield first, record
        first += len(taken)
    if several:
        what = "rows run" if several > 1 else "row runs"
        place = f"lines {longest[1]} to {sum(longest) - 1}"
        say(f"{path}: {several:,} {what} over several lines, in quotes; the longest is {place}.", sys.stderr)


def _are_rows(taken: Sequence[str], width: int | None, delimiter: str) -> bool:
    """Whether the lines inside a record of several are rows of width fields by themselves. Commas of prose have a blank after
    them."""
    if width is None or width < 2:
        return False
    first = [taken[0].split(delimiter)] if len(taken) == 2 else []  # its quote is the one in question
    rows = [*first, *(next(csv.reader([line], delimiter=delimiter), []) for line in taken[1:-1] or taken[1:])]
    return all(len(row) == width and not any(field[:1].isspace() for field in row) for row in rows)


def _refuse_twice(path: str | Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{path}: the column {' and '.join(twice)} stands twice in its header. Rename one of the two.")


def _named(
    path: str | Path, records: Iterable[tuple[int, list[str] | ValueError]], columns: Sequence[str] | None, extra: bool
) -> Rows:
    header = None
    for number, fields in records:
        if isinstance(fields, ValueError):
            yield f"line {number}", fields
            continue
        if fields in ([], [""]):
            continue
        if header is None:
            names = [field.strip() for field in fields]
            headless = columns and not set(columns) & set(names)
            header = list(columns) if headless else names
            if unread := next((name for name in header if not readable(name)), None):
                raise ValueError(f"{path}, line {number}, its header: {unreadable(unread)}")
            _refuse_twice(path, header)
            if not headless:
                continue
        if len(fields) < len(header) or (len(fields) > len(header) and not extra):
            found, wanted = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(fields), "field"), (len(header), "column")))
            yield f"line {number}", ValueError(f"{found} for {wanted}")
        else:
            yield f"line {number}", dict(zip(header, fields, strict=False))
