"""Rows as columns of texts and labels; whatever is wrong with one is said with its file and its place there."""

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset

from kd_lightning.data.columns import Columns
from kd_lightning.data.files import Row, Rows, readable, unreadable
from kd_lightning.data.formats import say

UNLABELLED = -100
SHOWN = 5  # bad rows that a message quotes
KNOWN = 50  # classes that it names
ON_BAD_ROW, ON_EMPTY = ("error", "skip"), ("error", "skip", "keep")
ABSENT = ("nan", "null", "none")  # words with which other programs write that there is no value


class NoColumn(ValueError):
    """A file has not the columns that are wanted."""


class Empty(ValueError):
    """A row has no text."""


def cell(row: Row, column: str) -> Any:
    """What a row has in a column, or else where the dots of its name lead: that of labels.label is the label of the object in
    labels. Raises KeyError where it has neither."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    if inner and isinstance(row.get(outer), dict):
        return cell(row[outer], inner)
    raise KeyError(column)


def names(row: Row) -> Iterator[str]:
    """What a row's columns are called, those inside of objects with dots."""
    for name, value in row.items():
        yield from (f"{name}.{inner}" for inner in names(value)) if isinstance(value, dict) and value else (name,)


def closest(wanted: Iterable[str], columns: Iterable[str]) -> str:
    """A sentence that proposes the columns with the names nearest to those wanted; empty where none is near."""
    plain: dict[str, str] = {}
    for column in columns:
        plain.setdefault(column.strip().casefold(), column)
    near = [difflib.get_close_matches(name.strip().casefold(), plain, 1) for name in wanted]
    proposed = [f"'{plain[names[0]]}'" for names in near if names]
    return f" Did you mean {' and '.join(proposed)}?" if proposed else ""


def missing(value: Any) -> bool:
    """Whether there is no value: None, not a number, an empty text or one of blanks."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def class_name(value: Any) -> str:
    """How a class is written, whatever the format: 1, 1.0, "1" and "1.0" are "1"; True, true and "true" are "True"; blanks
    around a name are no part of it. Raises ValueError for what names no class, a list for one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | dict | tuple | bytes) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"is {str(value)[:60]}, and a class is a text, a whole number or true or false")
    name = unicodedata.normalize("NFC", str(value).strip())
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", name):
        name = name.rstrip("0").rstrip(".")
    if name.casefold() in ("true", "false"):
        name = name.capitalize()
    return "0" if name == "-0" else name


def collect(
    source: str,
    rows: Rows,
    *,
    text: Sequence[str],
    label: str | None,
    values: Sequence[str],
    on_bad_row: str,
    on_empty: str,
) -> Dataset:
    """The rows as columns `sentence1`, `sentence2` (pairs) and `label`.

    text: one column or two. label: the label's column (None: the rows have none). Dots in a name lead into objects (`cell`).
    values: how the classes are written, in the order of their numbers; one value makes the label a number. on_bad_row: error
    lists the first bad rows and how many there are, skip leaves them out and says how many. on_empty: a row with an empty text
    is a bad row (error), left out and counted (skip), or a row like any other (keep).
    """
    for name, given, possible in (("on_bad_row", on_bad_row, ON_BAD_ROW), ("on_empty", on_empty, ON_EMPTY)):
        if given not in possible:
            raise ValueError(f"task.{name}={given}: choose {', '.join(possible[:-1])} or {possible[-1]}.")
    numbers = class_numbers(values) if len(values) > 1 else {}
    columns = Columns([*("sentence1", "sentence2")[: len(text)], "label"])
    wanted, bad, bad_rows, foreign = [*text, *([label] if label else [])], [], 0, ""
    empty, first = 0, ""  # rows without a text, and the place of the first
    for place, row in rows:
        found: Row = {}
        try:
            if isinstance(row, ValueError):
                raise row
            absent = [column for column in wanted if not _has(row, column)]
            if absent and not columns:
                there = f"its columns are {', '.join(names(row))}.{closest(absent, names(row))}"
                raise NoColumn(f"{source} has no column {' and '.join(absent)}; {there}")
            if absent:
                raise ValueError(f"{' and '.join(absent)} is missing")
            found = {column: cell(row, column) for column in wanted}
            texts = [_text(found[column], column, on_empty) for column in text]
            number = _number(found[label] if label else None, label, numbers)
        except NoColumn:
            raise
        except ValueError as error:
            if isinstance(error, Empty):
                empty, first = empty + 1, first or place
                if on_empty == "skip":
                    continue
            bad_rows += 1
            if len(bad) < SHOWN:
                bad.append(f"{place}: {error}")
            for value in found.values():
                if isinstance(value, str) and not readable(value):
                    foreign = foreign or f" In {place} {unreadable(value)}"
            continue
        columns.append(*texts, number)
    quoted = "; ".join(bad) + (" ..." if bad_rows > SHOWN else "")
    count = f"{bad_rows:,} bad row{'s' if bad_rows > 1 else ''}"
    without = f"{empty:,} row{'s' if empty > 1 else ''} without a text"
    if bad and on_bad_row == "error":
        remedy = f"Correct them, or leave them out with task.on_bad_row=skip.{foreign}"
        if empty:
            remedy += f" task.on_empty=skip leaves out {without} alone (the first is {first})."
        raise ValueError(f"{source} has {count} ({quoted}). {remedy}")
    if not columns:
        raise ValueError(f"{source} has no rows{f' but {count} ({quoted})' if bad else ''}.")
    if bad:
        say(f"{source}: {count} left out ({quoted}).{foreign}")
    if empty and on_empty == "skip":
        say(f"{source}: {without} left out (the first is {first}).")
    return columns.dataset()


def _has(row: Row, column: str) -> bool:
    """Whether there is one value in it: an object has several, each with a name of its own."""
    try:
        return not isinstance(cell(row, column), dict)
    except KeyError:
        return False


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """The number of each class by its name, as it is given and as `class_name` writes it."""
    numbers: dict[str, int] = {}
    for number, label in enumerate(labels):
        for name in (str(label), class_name(label)):
            if numbers.setdefault(name, number) != number:
                raise ValueError(f"task.labels: {labels[numbers[name]]} and {label} are one class. Name it once.")
    return numbers


def _text(value: Any, column: str, on_empty: str) -> str:
    if not isinstance(value, str):
        raise Empty(f"{column} is missing") if missing(value) else ValueError(f"{column} is {str(value)[:60]}, not a text")
    if on_empty != "keep" and not value.strip():
        raise Empty(f"{column} is empty")
    if not readable(value):
        raise ValueError(f"{column} holds bytes that are not UTF-8")
    return value


def _number(value: Any, column: str | None, classes: dict[str, int]) -> int | float:
    """A label as a number: a class by its place, a score as it is (no classes); unlabelled is -100, or NaN among scores."""
    if column is None:
        return UNLABELLED if classes else math.nan
    if missing(value):
        raise ValueError(f"{column} is missing")
    if isinstance(value, str) and not readable(value):
        raise ValueError(f"{column} holds bytes that are not UTF-8")
    if classes:
        return _class(value, column, classes)
    try:
        score = float(value)
    except (ValueError, TypeError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{column} is '{str(value)[:60]}', not a number")
    return score


def _class(value: Any, column: str, classes: dict[str, int]) -> int:
    if str(value) in classes and isinstance(value, str):
        return classes[value]
    try:
        name = class_name(value)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from error
    if name in classes:
        return classes[name]
    if name.casefold() in ABSENT:
        raise ValueError(f"{column} is '{name}', which stands for a missing one; a class of this name is named in task.labels")
    known: dict[int, str] = {}  # as they are given
    for given, number in classes.items():
        known.setdefault(number, given)
        if len(known) > KNOWN:
            break
    shown = [*[known[number] for number in sorted(known)[:KNOWN]], *(["..."] if len(known) > KNOWN else [])]
    raise ValueError(f"{column} is '{name[:60]}'; known are {', '.join(shown)}")
