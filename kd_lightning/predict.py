"""Classify text with an exported student: `python -m kd_lightning.predict <artifact> <file or ->`.

Read are lines (a text each; the two of a pair with a tab between them) or the rows of a CSV, TSV, JSONL or Parquet file.
Written is a line for each of them, in their order: its id, the label and its probability; for a regression its score. A
large file goes through in chunks, in each of which rows of like length share a batch.
"""

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from kd_lightning.data.formats import FORMATS, Row, Rows, lines, readable
from kd_lightning.data.tokens import encode, pad
from kd_lightning.keep import replace
from kd_lightning.run import reading
from kd_lightning.run.artifact import in_row_order
from kd_lightning.run.shown import printable

CHUNK, BATCH = 4096, 32


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

        return in_row_order((answer(rows) for rows in plan), plan)

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
    if absent := [column for column in wanted if row.get(column) is None]:
        raise ValueError(f"{place} has nothing in column {' and '.join(absent)}; its columns are {', '.join(row)}.")
    if unreadable := [column for column in wanted if not readable(str(row[column]))]:
        raise ValueError(f"{place}: {' and '.join(unreadable)} holds bytes that are not UTF-8.")
    return row


def _write(chunks: Iterator[list[Row]], jsonl: bool, file: TextIO) -> None:
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    for number, answers in enumerate(chunks):
        if jsonl:
            file.writelines(f"{json.dumps(answer, ensure_ascii=False)}\n" for answer in answers)
            continue
        table.writerows([*([] if number else [answers[0]]), *(answer.values() for answer in answers)])
        file.flush()


def main() -> None:
    forms = ["lines", *(suffix[1:] for suffix in FORMATS)]
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.predict", description="Classify text with a student.")
    parser.add_argument("artifact", type=Path, help="the folder that stage=task left")
    parser.add_argument("file", help="lines, .csv, .tsv (never quoted), .jsonl, .json or .parquet; - is standard input")
    parser.add_argument("--format", choices=forms, help="of the file; by default its ending says, and else it is lines")
    parser.add_argument("--text", nargs="+", metavar="COLUMN", help="of the text, or the two of a pair; by default the task's")
    parser.add_argument("--id", metavar="COLUMN", help="to name each row by; by default its number, from 1")
    parser.add_argument("--jsonl", action="store_true", help="write JSON Lines and not TSV with a header")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there and not to standard output")
    chosen = parser.parse_args()
    ending = Path(chosen.file).suffix[1:]
    form = chosen.format or (ending if ending in forms else "lines")
    disable_progress_bar()  # of loading, which takes no time
    try:
        classifier = Classifier(chosen.artifact)
        text = classifier.text if form == "lines" else chosen.text or classifier.text
        if len(text) != len(classifier.text):
            raise ValueError(f"--text {' '.join(text)}: this model reads {len(classifier.text)}, as {classifier.text}.")
    except ValueError as error:
        sys.exit(printable(f"predict: {error}"))
    try:
        rows = lines(chosen.file, text) if form == "lines" else FORMATS[f".{form}"](chosen.file)
        chunks = predict(classifier, rows, text, chosen.id)

        def write(out: Path | int) -> None:
            with open(out, "w", encoding="utf-8", newline="", closefd=out != 1) as file:
                _write(chunks, chosen.jsonl, file)

        if chosen.out is None:
            write(1)  # standard output
        else:
            replace(chosen.out, write)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"predict: {chosen.file}: {error}"))


if __name__ == "__main__":
    main()
