"""The GLUE leaderboard's zip: `python -m kd_lightning.submission artifacts/base/*/tinybert --glue <folder> --out <zip>`.

Each artifact predicts the official test files of its task: `<name>.tsv` with the header `index<TAB>prediction`, the rows in
the order of the test file, the labels as the benchmark writes them. Which files a task has is in its YAML (`submission`),
and the artifact's run.yaml holds that.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from kd_lightning.encoder import Encoder, classifier
from kd_lightning.views import Needs

FILES = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX")


@torch.inference_mode()
def predict(student: Encoder, batches: DataLoader) -> Tensor:
    """[N, C] logits of all rows, in the order of the rows."""
    found = []
    for batch in tqdm(batches, desc="Predicting"):
        found.append(student(batch, Needs(logits=True)).logits(torch.arange(len(batch["input_ids"]))))
    places = torch.from_numpy(np.concatenate(batches.dataset.plan))
    return torch.cat(found)[places.argsort()]


def predictions(folder: str, glue: str | None) -> dict[str, str]:
    """The official files of an artifact's task, name -> content; those whose test file is not there are left out."""
    task = _run(folder).task
    if not task.get("submission"):
        raise ValueError(f"{folder}: task {task.name} is none of GLUE's. Give artifacts of GLUE tasks.")
    data_config = _run(folder).data
    if glue is not None:
        data_config.reader.root = glue
    student = classifier(folder, task.labels).eval()
    data = instantiate(data_config, tokenizer=student.tokenizer, _convert_="all")
    files = {}
    for name, split in task.submission.items():
        rows = data.reader.read(split, labelled=False)
        if rows is not None:
            logits = predict(student, data.loader(rows, name))
            if len(task.labels) == 1:
                said = [f"{score:.3f}" for score in logits[:, 0].clamp(*task.score_range).tolist()]
            else:
                said = [data.reader.values[i] for i in logits.argmax(-1)]
            lines = ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(said))]
            files[f"{name}.tsv"] = "\n".join(lines) + "\n"
    return files


def write(folders: list[str], glue: str | None, out: Path) -> list[str]:
    """Write the zip, beside its place and then moved there; returns the official files that are not in it."""
    for folder in folders:
        _run(folder)  # all of them, before the first is run
    made: dict[str, tuple[str, str]] = {}
    for folder in folders:
        for name, content in predictions(folder, glue).items():
            if name in made:
                raise ValueError(f"{name}: {made[name][0]} and {folder} are of the same task. Give one artifact a task.")
            made[name] = folder, content
    if not made:
        raise ValueError("none of these tasks has its test file. Say where they are with --glue <folder>.")
    unfinished = out.with_name(f"{out.name}.unfinished")
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (_, content) in made.items():
            archive.writestr(name, content)
    os.replace(unfinished, out)
    return [f"{name}.tsv" for name in FILES if f"{name}.tsv" not in made]


def _run(folder: str) -> DictConfig:
    """The configuration that made an artifact with a classifier."""
    path = Path(folder)
    if not (path / "run.yaml").is_file():
        raise ValueError(f"{folder}: no artifact is there. Give the folders of task stages, e.g. artifacts/base/*/tinybert.")
    architecture = json.loads((path / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    if not architecture.endswith("ForSequenceClassification"):
        raise ValueError(f"{folder}: this is a {architecture} and classifies nothing. Give the artifact of a task stage.")
    return OmegaConf.load(path / "run.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.submission", description="Write the GLUE leaderboard's zip.")
    parser.add_argument("artifacts", nargs="+", help="folders that task stages have left, one a task")
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
