"""The rows of JSON files: an object a line, or one array of objects, which is never in memory as a whole."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from kd_lightning.data.files import Row, Rows, text

BLOCK = 1 << 16  # characters of an array that are read at once
TAIL = 16  # characters: a fault so close to the end of what has been read may only be that the rest is not there yet
BLANK = re.compile(r"[ \t\r\n]*")


def json_lines(path: str | Path) -> Rows:
    with text(path, "\n") as file:
        yield from _objects(file)


def json_file(path: str | Path) -> Rows:
    """One array of objects, indented or not, or JSON Lines."""
    with text(path, "\n") as file:
        start = []  # the blank lines before the first that is not, and the beginning of that one
        while line := file.readline(BLOCK):
            start.append(line)
            if line.strip():
                break
        if "".join(start).lstrip().startswith("["):
            yield from _array(path, "".join(start), file)
        else:
            first = start.pop() if start else ""
            rest = "" if first.endswith("\n") else file.readline()
            yield from _objects(itertools.chain(start, [first + rest], file))


def _objects(file: Iterable[str]) -> Rows:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line.rstrip())
        except ValueError as error:
            row = error
        array = line.startswith("[") and (isinstance(row, ValueError) or isinstance((*row, None)[0], dict))
        if array:
            row = ValueError("a JSON array and not an object; let the name of a file that is one array end in .json")
        elif not isinstance(row, dict | ValueError):
            row = ValueError("not a JSON object")
        yield f"line {number}", row


def _parsed(string: str) -> Any:
    try:
        return json.loads(string, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON ({error.msg}: {line}column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read (it is nested too deeply)") from error


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"'{name}' stands in it twice")
    return row


def _array(path: str | Path, start: str, file: TextIO) -> Rows:
    """The elements of the array that begins with start and goes on in file."""
    array, number = _Window(start, file), 0
    try:
        array.past("[")
        more = array.character() != "]"
        while more:
            row = array.value()
            number += 1
            yield f"row {number}", row if isinstance(row, dict) else ValueError("not a JSON object")
            more = array.character() != "]"
            if more:
                array.past(",")
        array.past("]")
        if array.character():
            raise array.fault("Extra data")
    except ValueError as error:
        where = f" after row {number:,}" if number else ""
        raise ValueError(f"{path} is no JSON array{where}: {error}.") from error


class _Window:
    """What has been read of an array and not yet parsed, and how to read on in it."""

    def __init__(self, start: str, file: TextIO) -> None:
        self.held, self.file, self.at = start, file, 0
        self.lines, self.column = 0, 0  # before what is held: ends of lines, and characters since the last one
        self.decoder = json.JSONDecoder(object_pairs_hook=_once)

    def character(self) -> str:
        """The next one that is no blank, where the window then is; empty at the end of the file."""
        self.at = BLANK.match(self.held, self.at).end()
        while self.at == len(self.held) and self._more(BLOCK):
            self.at = BLANK.match(self.held, self.at).end()
        return self.held[self.at : self.at + 1]

    def past(self, wanted: str) -> None:
        if self.character() != wanted:
            raise self.fault(f"Expecting '{wanted}'")
        self.at += 1

    def value(self) -> Any:
        """The value that begins here; more of the file is read only for one that does not end in what is held."""
        self.character()
        size = BLOCK
        while True:
            try:
                found, end = self.decoder.raw_decode(self.held, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self.held) - TAIL or error.msg.startswith("Unterminated")
                if not (cut and self._more(size)):
                    self.at = min(error.pos, len(self.held))
                    raise self.fault(error.msg) from error
            except RecursionError as error:
                raise ValueError("not JSON that can be read (it is nested too deeply)") from error
            else:
                if end < len(self.held) or not self._more(size):  # a number may go on
                    self.at = end
                    return found
            size *= 2

    def fault(self, what: str) -> ValueError:
        lines, last = self.held.count("\n", 0, self.at), self.held.rfind("\n", 0, self.at)
        column = self.at - last if lines else self.column + self.at + 1
        return ValueError(f"not JSON ({what}: line {self.lines + lines + 1}, column {column})")

    def _more(self, size: int) -> bool:
        """Let go of what is parsed and read on; whether there was more."""
        more = self.file.read(size)
        if more:
            gone = self.held[: self.at]
            self.column = len(gone) - gone.rfind("\n") - 1 if "\n" in gone else self.column + len(gone)
            self.lines += gone.count("\n")
            self.held, self.at = self.held[self.at :] + more, 0
        return bool(more)
