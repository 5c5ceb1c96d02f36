"""Whether a task is about words or about their order: `python -m kd_lightning.word_order <artifact>`.

Its word order sensitivity follows from what a model still gets right when the words of each validation text are shuffled. A
rule of thumb (Wasserblat et al. 2020, their later articles): a bag of words or a BiLSTM suffices
below 0.3, and the student should be a Transformer near 1. Published are Emotion 0.14, IMDB 0.28, SST-2 0.34, CoLA 0.99.

An artifact names its task, `conf/task` says how the task's examples are read, and `--set` says where they lie.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers.utils.logging import disable_progress_bar

from kd_lightning.predict import Classifier
from kd_lightning.run.reading import made_by
from kd_lightning.run.report import show
from kd_lightning.run.shown import printable
from kd_lightning.run.task import reader

SHUFFLES = 5
SETTING = (
    "where the task's data are, as for train.py: glue=<folder>, or of a task of your own "
    "task.files.train=mine.csv task.files.validation=more.csv task.text=[review] task.label=stars"
)


def sensitivity(accuracy: float) -> float:
    """accuracy: on shuffled texts, 0 to 1. The sensitivity is 1 where it is that of a coin, 0 where everything is right."""
    return (1 - accuracy) / 0.5


def shuffled(text: str, generator: random.Random) -> str:
    words = text.split()
    generator.shuffle(words)
    return " ".join(words)


def accuracy(classifier: Classifier, examples: Dataset, labels: list[str], generator: random.Random | None) -> float:
    """The share of right answers; an example's `label` is a place in labels. generator: of the shuffle; None: no shuffle."""
    columns = [list(examples[name]) for name in ("sentence1", "sentence2") if name in examples.column_names]
    if generator is not None:
        columns = [[shuffled(text, generator) for text in column] for column in columns]
    answers = classifier(list(zip(*columns, strict=True)))
    return statistics.fmean(answer["label"] == labels[gold] for answer, gold in zip(answers, examples["label"], strict=True))


def figures(folder: Path, settings: Sequence[str]) -> dict[str, str]:
    """A line of the table. settings: of the task's data."""
    record = made_by(folder)
    if len(record.task.labels) == 1:
        raise ValueError(f"{folder}: its task has numbers to predict, and only classes have an accuracy.")
    try:
        source = reader(record.task.name, settings)
        examples = source.splits(False)["validation"]
    except ValueError as error:
        raise ValueError(f"{folder}: {error}" + ("" if settings else " Say with --set where its rows are.")) from error
    classifier = Classifier(folder)
    if sorted(classifier.labels) != sorted(source.labels):
        raise ValueError(f"{folder}: it knows other classes than these rows, {', '.join(classifier.labels[:20])}.")
    plain = accuracy(classifier, examples, source.labels, None)
    mixed = statistics.fmean(accuracy(classifier, examples, source.labels, random.Random(seed)) for seed in range(SHUFFLES))
    found = {"accuracy": plain, "shuffled": mixed, "sensitivity": sensitivity(mixed)}
    return {"artifact": str(folder), **{name: f"{value:.4f}" for name, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.word_order", description="Words or their order?")
    parser.add_argument("artifacts", type=Path, nargs="+", metavar="artifact", help="a folder that stage=teacher or task left")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help=SETTING)
    given = parser.parse_args()
    disable_progress_bar()
    try:
        table = [figures(folder, given.set) for folder in given.artifacts]
    except (ValueError, OSError) as error:
        sys.exit(printable(f"word_order: {error}"))
    show(table, f"Validation rows; shuffled: mean of {SHUFFLES} shuffles")


if __name__ == "__main__":
    main()
