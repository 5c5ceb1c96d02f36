"""The texts of a corpus: of files, each read by its own suffix, or of a data set of the hub."""

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError

from kd_lightning.data import docs
from kd_lightning.data.files import Row, Rows, endings, format_of, readable, stamp, unreadable
from kd_lightning.data.formats import FORMATS, TEXT, lines, say
from kd_lightning.data.long_text import pieces
from kd_lightning.data.rows import closest, missing

READERS: dict[str, Callable[[str], Rows]] = {TEXT: partial(lines, columns=["text"]), **FORMATS}
BLOCK = 1 << 24  # characters that are written at once


def locate(source: str | list[str], cache: str) -> list[str]:
    """source as a list, in which "docs" has become the file of the embedded documentation of Python."""
    if Path(cache).exists() and not Path(cache).is_dir():
        raise ValueError(f"cache={cache} is a file, and a folder is wanted. Name one, there or not.")
    names = [source] if isinstance(source, str) else list(source)
    return [str(docs.build(Path(cache)) / "corpus.txt") if name == "docs" else name for name in names]


def from_hub(source: list[str]) -> bool:
    """Whether it is a name of the hub: a single one, which is no file and ends in no suffix of one."""
    if len(source) != 1 or Path(source[0]).exists():
        return False
    name = source[0].partition(":")[0]
    owner, _, rest = name.partition("/")
    return endings(name) == ("", "") or bool(owner.strip(".") and rest and "/" not in rest and not _is_file_name(name))


def check(source: list[str]) -> None:
    """Refuse in a sentence what is wrong with a corpus: every line of its files is read, once in a process; of a data set of
    the hub what it says of itself."""
    if not source:
        raise ValueError("corpus=[]: name files, e.g. corpus=[a.txt,b.jsonl], or a data set of the hub.")
    if from_hub(source):
        with tempfile.TemporaryDirectory() as scratch:
            about = _of_hub(load_dataset_builder, source[0], cache_dir=scratch).info
        if about.features is not None:
            _wants_text(source[0], about.features)
        if about.splits and "train" not in about.splits:
            raise ValueError(f"data.source: {source[0]} has no split train; it has {', '.join(about.splits)}.")
        return
    absent = [name for name in source if not Path(name).exists()]
    if absent:
        raise ValueError(
            f"data.source: {', '.join(absent)} cannot be found. Give text files or a hub name. (Files end in "
            f"{', '.join(READERS)}.)"
        )
    for name in source:
        if Path(name).is_dir():
            raise ValueError(f"data.source: {name} is a folder, and files are wanted. Name the files in it.")
        format_of(name, "data.source", list(READERS))
    for name in source:
        _read_through(name, *stamp(name))


def read(source: list[str], scratch: str) -> Dataset:
    """The column `text`, memory-mapped in scratch. An empty text ends a document."""
    if from_hub(source):
        data = _of_hub(load_dataset, source[0], split="train", cache_dir=scratch)
        _wants_text(source[0], data.column_names)
        return data.select_columns("text")
    schema = pa.schema({"text": pa.large_string()})
    with pa.OSFile(f"{scratch}/text.arrow", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for block in _blocks(text for name in source for text in texts(name)):
            writer.write_batch(pa.record_batch([pa.array(block, pa.large_string())], schema=schema))
    return Dataset.from_file(f"{scratch}/text.arrow")


def texts(file: str) -> Iterator[str]:
    """The texts of a file, empty for a row that has none; raises ValueError with the line of whatever is wrong in it."""
    without = 0
    for place, row in READERS[format_of(file, "data.source", list(READERS))](file):
        if isinstance(row, ValueError):
            raise ValueError(f"data.source: {file}, {place}: {row}. Correct it, or leave it out.")
        _wants_text(f"{file}, {place}", row)
        text = row["text"]
        if missing(text):
            without += text is None or text != text
            yield ""
            continue
        if not isinstance(text, str):
            raise ValueError(f"data.source: {file}, {place}: text is {str(text)[:60]}, not a text. Correct it.")
        if not readable(text):
            raise ValueError(f"data.source: {file}, {place}: {unreadable(text)}")
        yield text
    if without:
        say(f"{file}: {without:,} rows have no text and are left out.")


def all_texts(source: str | list[str] | None, cache: str) -> Iterator[str]:
    """The texts of a corpus one after the other, a long one in pieces; nothing is kept of them. None or []: there is none."""
    names = locate(source, cache) if source else []
    if names:
        check(names)
    if from_hub(names):
        found = (row["text"] or "" for row in _of_hub(load_dataset, names[0], split="train", streaming=True))
    else:
        found = (text for name in names for text in texts(name))
    return (piece for text in found for piece in pieces(text))


@functools.cache
def _read_through(file: str, *stamp: int) -> None:
    for _ in texts(file):
        pass


def _is_file_name(name: str) -> bool:
    return endings(name)[0] in READERS or endings(name)[1] != ""


def _wants_text(place: str, columns: Iterable[str] | Row) -> None:
    if "text" not in columns:
        names = ", ".join(columns)
        raise ValueError(
            f"data.source: a column 'text' is wanted, and the columns are {names} ({place}). Rename one."
            f"{closest(['text'], columns)}"
        )


def _of_hub(load: Callable, source: str, **options):
    name, _, configuration = source.partition(":")
    try:
        return load(name, configuration or None, **options)
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"data.source: {source} is no file here, and as a data set of the hub it cannot be loaded ({error}). Give text "
            f"files ({', '.join(READERS)}) or a hub name, data set or data set:configuration."
        ) from error


def _blocks(found: Iterator[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in found:
        block.append(text)
        size += len(text) + 10
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block
