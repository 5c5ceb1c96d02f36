"""Classify text with an exported student: `python -m kd_lightning.predict <artifact> <file or ->`.

Read are lines (a text each; the two of a pair with a tab between them) or the rows of a CSV, TSV, JSONL or Parquet file.
Written is a line for each of them, in their order: its id, the label and its probability; for a regression its score. What
is written is read back equal by `data/formats.py`. A large file goes through in chunks, in each of which rows of like length
share a batch.
"""

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from kd_lightning.data.files import Row, Rows, endings, format_of, readable, unreadable
from kd_lightning.data.formats import FORMATS, NAMES, TEXT, lines
from kd_lightning.data.rows import cell, closest, missing, names
from kd_lightning.data.tokens import encode, pad
from kd_lightning.keep import replace
from kd_lightning.run import reading
from kd_lightning.run.artifact import in_row_order
from kd_lightning.run.shown import printable

CHUNK, BATCH = 4096, 32
ANSWER = ("label", "probability", "score")  # the columns of an answer
ABOUT = """what is written, and how to read it elsewhere:
  .tsv    UTF-8, a header line, and nothing is ever quoted: read it with csv.QUOTE_NONE. An id or a label with a tab or a
          line end in it is refused, for no TSV can hold it: write .csv or .jsonl.
  .csv    UTF-8, a header line, quoted as in RFC 4180.
  .jsonl  a JSON object a line; numbers stay numbers.
Ids and labels are written as they are, those that begin with = + - @ too (numbers must stay numbers), and a spreadsheet takes
such a cell for a formula: import the column as text there."""


class Classifier:
    """An artifact with a trained head. `text` names the one or two columns that it was trained to read."""

    def __init__(self, folder: Path) -> None:
        task = reading.made_by(folder).task
        self.model = reading.model(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = reading.tokenizer(folder)
        self.text, self.max_length, self.labels = task.text, task.max_length, reading.labels(self.model.config, folder)

    @torch.inference_mode()
    def logits(self, texts: list[tuple[str, ...]]) -> Tensor:
        """[N, C] of N texts or pairs; rows of like length share a batch."""
        encoded = encode(self.tokenizer, list(zip(*texts, strict=True)), self.max_length)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        order = lengths.argsort(kind="stable")
        plan = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

        def answer(rows: np.ndarray) -> Tensor:
            tokens = {name: np.concatenate([column[row] for row in rows]) for name, column in encoded.items()}
            batch = pad(tokens, lengths[rows], self.tokenizer.pad_token_id)
            return self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()}).logits.float().cpu()

        logits = in_row_order((answer(rows) for rows in plan), plan, len(texts))
        if not logits.isfinite().all():
            raise ValueError("this model's answers are not finite, so its weights are damaged. Train or copy it anew.")
        return logits

    def __call__(self, texts: list[tuple[str, ...]]) -> list[Row]:
        """`label` and `probability` of each text or pair, or its `score`."""
        logits = self.logits(texts)
        if logits.shape[1] == 1:
            return [{"score": round(score, 6)} for score in logits[:, 0].tolist()]
        probabilities, chosen = logits.softmax(-1).max(-1)
        labels = (self.labels[number] for number in chosen.tolist())
        pairs = zip(labels, probabilities.tolist(), strict=True)
        return [{"label": label, "probability": round(probability, 6)} for label, probability in pairs]


def predict(classifier: Classifier, rows: Rows, text: list[str], key: str | None) -> Iterator[list[Row]]:
    """The answers for chunk after chunk of rows. key: the column with a row's id; None: its number, from 1."""
    number, wanted = 0, [*text, *([key] if key else [])]
    while chunk := [_whole(place, row, wanted) for place, row in itertools.islice(rows, CHUNK)]:
        answers = classifier([tuple(str(row[column]) for column in text) for row in chunk])
        ids = [{key: row[key]} if key else {"row": place} for place, row in enumerate(chunk, start=number + 1)]
        yield [known | answer for known, answer in zip(ids, answers, strict=True)]
        number += len(chunk)
    if not number:
        raise ValueError("there are no rows in it.")


def _whole(place: str, row: Row | ValueError, wanted: list[str]) -> Row:
    if isinstance(row, ValueError):
        raise ValueError(f"{place}: {row}.")
    found: Row = {}
    for column in wanted:
        with suppress(KeyError):
            found[column] = cell(row, column)
    if absent := [column for column in wanted if _nothing(found.get(column))]:
        there = list(names(row))
        near = closest([column for column in absent if column not in found], there)
        raise ValueError(f"{place} has nothing in column {' and '.join(absent)}; its columns are {', '.join(there)}.{near}")
    if unread := [column for column in wanted if not readable(str(found[column]))]:
        what = unreadable(str(found[unread[0]]))
        raise ValueError(f"{place}: {' and '.join(unread)} holds bytes that are not UTF-8: {what}")
    return found


def _nothing(value: object) -> bool:
    """An empty text is one, and has an answer too."""
    return missing(value) and not isinstance(value, str)


def reader(file: str, form: str | None, text: list[str]) -> Rows:
    """The rows of a file in a form, or in that which its suffix names; a name without one, and standard input, is lines."""
    if form is None:
        suffix = "" if file == "-" or endings(file) == ("", "") else format_of(file, "its name", [TEXT, *FORMATS])
        form = suffix[1:]
    return NAMES[form](file) if form in NAMES else lines(file, text)


def tab_separated(answers: Iterable[Iterable[object]]) -> Iterator[str]:
    for answer in answers:
        fields = [str(field) for field in answer]
        if unwritten := next((field for field in fields if set(field) & set("\t\n\r")), None):
            raise ValueError(
                f"{unwritten!r} has a tab or a line end in it, which no TSV holds. Write --jsonl, or --out <name>.csv."
            )
        yield "\t".join(fields) + "\n"


def writer(out: Path | None, jsonl: bool) -> Callable[[TextIO, list[Row], bool], None]:
    """What writes answers to an open file, and before the first of them a header; by the ending of out, or as TSV."""

    def table(file: TextIO, answers: list[Row], first: bool) -> None:
        file.write(
            "".join(tab_separated([*([answers[0]] if first else []), *(answer.values() for answer in answers)]))
        )  # all of them or none

    def quoted(file: TextIO, answers: list[Row], first: bool) -> None:
        csv.writer(file).writerows([*([answers[0]] if first else []), *(answer.values() for answer in answers)])

    def objects(file: TextIO, answers: list[Row], first: bool) -> None:
        file.writelines(f"{json.dumps(answer, ensure_ascii=False, default=str)}\n" for answer in answers)

    forms = {".tsv": table, ".csv": quoted, ".jsonl": objects, ".ndjson": objects}
    ending = out.suffix.lower() if out else ""
    if ending and ending not in forms:
        raise ValueError(f"--out {out}: written are {', '.join(forms)}. Let its name end in one of them.")
    if jsonl and forms.get(ending, objects) is not objects:
        raise ValueError(f"--jsonl --out {out}: these name two formats. Leave --jsonl out, or let the name end in .jsonl.")
    return objects if jsonl else forms.get(ending, table)


def main() -> None:
    forms = ["lines", *NAMES]
    parser = argparse.ArgumentParser(
        prog="python -m kd_lightning.predict",
        description="Classify text with a student.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path, help="the folder that stage=task left")
    parser.add_argument(
        "file",
        help=f"lines ({TEXT}), {', '.join(FORMATS)} (.tsv is never quoted), or one of these before .gz, .xz or .bz2; - is "
        "standard input",
    )
    parser.add_argument("--format", choices=forms, help="of the file; by default its ending says, without one it is lines")
    parser.add_argument("--text", nargs="+", metavar="COLUMN", help="of the text, or the two of a pair; by default the task's")
    parser.add_argument("--id", metavar="COLUMN", help="to name each row by; by default its number, from 1")
    parser.add_argument("--jsonl", action="store_true", help="write JSON Lines and not TSV with a header")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there (.tsv, .csv or .jsonl) and not to standard output"
    )
    chosen = parser.parse_args()
    disable_progress_bar()  # of loading, which takes no time
    try:
        write = writer(chosen.out, chosen.jsonl)
        if chosen.id in ANSWER:
            raise ValueError(f"--id {chosen.id}: the answers have a column of this name. Rename the one in the file.")
        classifier = Classifier(chosen.artifact)
        text = chosen.text or classifier.text
        if len(text) != len(classifier.text):
            raise ValueError(f"--text {' '.join(text)}: this model reads {len(classifier.text)}, as {classifier.text}.")
    except ValueError as error:
        sys.exit(printable(f"predict: {error}"))
    try:
        chunks = predict(classifier, reader(chosen.file, chosen.format, text), text, chosen.id)

        def made(out: Path | int) -> None:
            with open(out, "w", encoding="utf-8", newline="", closefd=out != 1) as file:
                for number, answers in enumerate(chunks):
                    write(file, answers, number == 0)
                    file.flush()

        if chosen.out is None:
            made(1)  # standard output
        else:
            replace(chosen.out, made)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, OSError) as error:
        known = str(error).startswith(chosen.file) or "No such file" in str(error)
        sys.exit(printable(f"predict: {error}" if known else f"predict: {chosen.file}: {error}"))


if __name__ == "__main__":
    main()
