"""The GLUE leaderboard's zip: `python -m kd_lightning.submission artifacts/base/*/tinybert --glue <folder> --out <zip>`.

Each artifact predicts the official test files of its task: `<name>.tsv` with the header `index<TAB>prediction`, the rows in
the order of the test file, the labels as the benchmark writes them. Which files a task has is in its YAML in `conf/task`
(`submission`), where it is found by its name: an artifact says no more than that.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from kd_lightning.keep import replace
from kd_lightning.predict import CHUNK, Classifier
from kd_lightning.run.reading import made_by
from kd_lightning.run.shown import printable
from kd_lightning.run.task import reader, task

FILES = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX")


def predictions(folder: Path, settings: Sequence[str]) -> dict[str, str]:
    """The official files of an artifact's task, name -> content. settings: of the task's data, as train.py takes them."""
    record = made_by(folder)
    settings = [*settings, "task.on_bad_row=error"]  # the leaderboard wants an answer to every row
    official, source, classifier = task(record.task.name, settings), reader(record.task.name, settings), Classifier(folder)
    if classifier.labels != source.labels:
        raise ValueError(
            f"{folder}: config.json names the classes {', '.join(classifier.labels[:20])}; those of task {official.name} are "
            f"{', '.join(source.labels)}, in this order."
        )
    files = {}
    for name, split in official.submission.items():
        if name not in FILES:
            raise ValueError(f"task {official.name}: submission names {name}; the leaderboard takes {', '.join(FILES)}.")
        examples = source.read(split, labelled=False).remove_columns("label")
        starts = tqdm(range(0, len(examples), CHUNK), desc=f"Predicting {name}")
        chunks = (examples[start : start + CHUNK].values() for start in starts)
        logits = torch.cat([classifier.logits(list(zip(*columns, strict=True))) for columns in chunks])
        if len(source.labels) == 1:
            said = [f"{score:.3f}" for score in logits[:, 0].clamp(*official.score_range).tolist()]
        else:
            said = [source.values[i] for i in logits.argmax(-1)]
        lines = ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(said))]
        files[f"{name}.tsv"] = "\n".join(lines) + "\n"
    return files


def write(folders: list[Path], glue: str | None, out: Path, settings: Sequence[str] = ()) -> list[str]:
    """Write the zip; returns the official files that are not in it."""
    settings = [*([f"glue={json.dumps(glue, ensure_ascii=False)}"] if glue else []), *settings]
    for folder in folders:
        name = made_by(folder).task.name  # every artifact is checked before the first is run
        if not task(name).get("submission"):
            raise ValueError(f"{folder}: task {name} is none of GLUE's. Give artifacts of GLUE tasks.")
    made: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        for name, content in predictions(folder, settings).items():
            if name in made:
                raise ValueError(f"{name}: {made[name][0]} and {folder} are of the same task. Give one artifact a task.")
            made[name] = folder, content

    def zipped(scratch: Path) -> None:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (_, content) in made.items():
                archive.writestr(name, content)

    replace(out, zipped)
    return [f"{name}.tsv" for name in FILES if f"{name}.tsv" not in made]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.submission", description="Write the GLUE leaderboard's zip.")
    parser.add_argument("artifacts", nargs="+", type=Path, help="folders that task stages have left, one a task")
    parser.add_argument("--glue", metavar="FOLDER", help="of the official GLUE files (default: the hub)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SETTING", help="of a task, as for train.py: task.root=<folder>"
    )
    parser.add_argument("--out", type=Path, default=Path("submission.zip"))
    given = parser.parse_args()
    try:
        missing = write(given.artifacts, given.glue, given.out, given.set)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"submission: {error}"))
    print(f"{given.out}: {len(FILES) - len(missing)} of {len(FILES)} files.")
    if missing:
        print(f"The leaderboard wants these too: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
