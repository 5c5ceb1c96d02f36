"""The GLUE leaderboard's zip: `python -m kd_lightning.submission artifacts/base/*/tinybert --glue <folder> --out <zip>`.

Each artifact predicts the official test files of its task: `<name>.tsv` with the header `index<TAB>prediction`, the rows in
the order of the test file, the labels as the benchmark writes them. Which files a task has is in its YAML (`submission`),
and the artifact's run.yaml holds that.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import torch
from hydra.utils import instantiate
from tqdm import tqdm

from kd_lightning.keep import replace
from kd_lightning.predict import CHUNK, Classifier
from kd_lightning.run.artifact import made_by

FILES = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX")


def predictions(folder: Path, glue: str | None) -> dict[str, str]:
    """The official files of an artifact's task, name -> content."""
    cfg = made_by(folder)
    cfg.data.reader.on_bad_row = "error"  # the leaderboard wants an answer to every row
    if glue is not None:
        cfg.data.reader.root = glue
    reader, classifier = instantiate(cfg.data.reader, _convert_="all"), Classifier(folder)
    files = {}
    for name, split in cfg.task.submission.items():
        rows = reader.read(split, labelled=False).remove_columns("label")
        starts = tqdm(range(0, len(rows), CHUNK), desc=f"Predicting {name}")
        chunks = (rows[start : start + CHUNK].values() for start in starts)
        logits = torch.cat([classifier.logits(list(zip(*columns, strict=True))) for columns in chunks])
        if len(cfg.task.labels) == 1:
            said = [f"{score:.3f}" for score in logits[:, 0].clamp(*cfg.task.score_range).tolist()]
        else:
            said = [reader.values[i] for i in logits.argmax(-1)]
        lines = ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(said))]
        files[f"{name}.tsv"] = "\n".join(lines) + "\n"
    return files


def write(folders: list[Path], glue: str | None, out: Path) -> list[str]:
    """Write the zip; returns the official files that are not in it."""
    for folder in folders:
        task = made_by(folder).task  # of all of them, before the first is run
        if not task.get("submission"):
            raise ValueError(f"{folder}: task {task.name} is none of GLUE's. Give artifacts of GLUE tasks.")
    made: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        for name, content in predictions(folder, glue).items():
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
    parser.add_argument("--glue", help="folder of the GLUE files (default: where the artifact's run had them)")
    parser.add_argument("--out", type=Path, default=Path("submission.zip"))
    given = parser.parse_args()
    try:
        missing = write(given.artifacts, given.glue, given.out)
    except ValueError as error:
        sys.exit(f"submission: {error}")
    print(f"{given.out}: {len(FILES) - len(missing)} of {len(FILES)} files.")
    if missing:
        print(f"The leaderboard wants these too: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
