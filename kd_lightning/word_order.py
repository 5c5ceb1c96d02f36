"""Whether a task is about words or about their order: `python -m kd_lightning.word_order <artifact>`.

What a model of the task still gets right when the words of each validation text are shuffled is its word order
sensitivity. Rule of thumb (Wasserblat et al. 2020, their later articles): below 0.3 a bag of words or a BiLSTM suffices,
near 1 the student should be a Transformer. Emotion 0.14, IMDB 0.28, SST-2 0.34, CoLA 0.99 are published.
"""

import argparse
import random
import statistics
import sys
from pathlib import Path

from datasets import Dataset
from hydra.utils import instantiate
from transformers.utils.logging import disable_progress_bar

from kd_lightning.predict import Classifier
from kd_lightning.run.artifact import made_by
from kd_lightning.run.report import show

SHUFFLES = 5


def sensitivity(accuracy: float) -> float:
    """accuracy: on shuffled texts, 0 to 1. 1 where it is that of a coin, 0 where everything is right."""
    return (1 - accuracy) / 0.5


def shuffled(text: str, generator: random.Random) -> str:
    words = text.split()
    generator.shuffle(words)
    return " ".join(words)


def accuracy(classifier: Classifier, rows: Dataset, labels: list[str], generator: random.Random | None) -> float:
    """Share of right answers on rows, whose `label` counts in labels; generator: of the shuffles, None leaves the texts."""
    columns = [list(rows[name]) for name in ("sentence1", "sentence2") if name in rows.column_names]
    if generator is not None:
        columns = [[shuffled(text, generator) for text in column] for column in columns]
    answers = classifier(list(zip(*columns, strict=True)))
    return statistics.fmean(answer["label"] == labels[gold] for answer, gold in zip(answers, rows["label"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.word_order", description="Words or their order?")
    parser.add_argument("artifacts", type=Path, nargs="+", metavar="artifact", help="a folder that stage=teacher or task left")
    disable_progress_bar()
    table = []
    for folder in parser.parse_args().artifacts:
        try:
            reader = instantiate(made_by(folder).data.reader, _convert_="all")
            classifier, rows = Classifier(folder), reader.splits(False)["validation"]
            if len(reader.labels) == 1:
                raise ValueError(f"{folder}: its task has numbers to predict, and only classes have an accuracy.")
        except ValueError as error:
            sys.exit(f"word_order: {error}")
        plain = accuracy(classifier, rows, reader.labels, None)
        mixed = [accuracy(classifier, rows, reader.labels, random.Random(seed)) for seed in range(SHUFFLES)]
        figures = {"accuracy": plain, "shuffled": statistics.fmean(mixed), "sensitivity": sensitivity(statistics.fmean(mixed))}
        table.append({"artifact": str(folder), **{name: f"{value:.4f}" for name, value in figures.items()}})
    show(table, f"Validation rows; shuffled: mean of {SHUFFLES} shuffles")


if __name__ == "__main__":
    main()
