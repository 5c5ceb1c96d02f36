"""Two different teachers averaged against each alone: `python benchmarks/averaged_teachers.py --out <folder>`.

The task is docs_topic (embedded), with so many of its unlabelled rows. One teacher is the demo's BERT, the other a CNN of
words; both learn from the same labels. Each answers all rows (a CSV file of logits), and a bag of words learns the answers of
one file or of both (`teacher.answers`), under several seeds. The same student alone sees the labels. What is in the folder is
not run again.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from kd_lightning.compare import find
from kd_lightning.data.docs import build
from kd_lightning.predict import Classifier
from kd_lightning.run.report import show
from kd_lightning.run.results import mean_and_deviation

ROOT = Path(__file__).resolve().parents[1]
SPLITS = {"train": "train", "validation": "dev", "test": "test", "unlabelled": "unlabelled"}  # and their files' names
CNN = ["stages.baseline.trainer.max_steps=400", "stages.baseline.data.batch_size=64"]
TEACHERS = {"teacher": "BERT", "baseline": "CNN"}  # by the stage that leaves it


def run(out: Path, place: str, *words: str) -> None:
    """A run on the table of this folder; what it leaves lies in `place`."""
    files = [f"task.files.{split}={out / split}.tsv" for split in SPLITS]
    task = ["task=table", *files, "task.text=[sentence]", "task.label=label"]
    folders = [f"artifacts={out / place}", f"cache={out / 'cache'}", f"hydra.run.dir={out / 'runs'}"]
    subprocess.run([sys.executable, "train.py", *words, *task, *folders, "trainer.accelerator=cpu"], cwd=ROOT, check=True)


def write_answers(teacher: Path, texts: list[str], file: Path) -> None:
    """The teacher's logits for each text, in columns of the classes' names."""
    classifier = Classifier(teacher)
    logits = classifier.logits([(text,) for text in texts]).tolist()
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["sentence", *classifier.labels])
        writer.writerows([text, *(f"{value:.4f}" for value in row)] for text, row in zip(texts, logits, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows, the answers and the artifacts")
    parser.add_argument("--unlabelled", type=int, default=5000, help="unlabelled rows (5000)")
    parser.add_argument("--steps", type=int, default=1000, help="updates of each student (1000)")
    parser.add_argument("--seeds", type=int, default=3, help="of each student (3)")
    chosen = parser.parse_args()
    out, texts = chosen.out.resolve(), []
    out.mkdir(parents=True, exist_ok=True)
    docs = Path(build(out / "cache")) / "docs_topic"
    for split, name in SPLITS.items():
        lines = (docs / f"{name}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        lines = lines[: 1 + chosen.unlabelled] if split == "unlabelled" else lines
        (out / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        place = lines[0].rstrip("\n").split("\t").index("sentence")
        texts += [line.rstrip("\n").split("\t")[place] for line in lines[1:]]
    run(out, "teachers", "method=cnn", "stage=baseline", *CNN)
    teachers = {TEACHERS[result.record.stage]: result for result in find([str(out / "teachers")])}
    for name, result in teachers.items():
        if not (out / f"{name}.csv").is_file():
            write_answers(result.folders[0], texts, out / f"{name}.csv")
    taught = {name: f"teacher.answers={out / name}.csv" for name in teachers}
    taught["both, averaged"] = f"teacher.answers=[{','.join(f'{out / name}.csv' for name in teachers)}]"
    bow = ["method=bow", f"seeds={chosen.seeds}"]
    bow += [f"stages.{stage}.trainer.max_steps={chosen.steps}" for stage in ("task", "baseline")]
    for name, answers in taught.items():
        run(out, name.split(",")[0], *bow, "stage=task", answers)
    run(out, "alone", *bow, "stage=baseline", taught["BERT"])

    def row(name: str, folder: str, stage: str, who: str = "student") -> dict[str, str]:
        (result,) = (result for result in find([str(out / folder)]) if result.record.stage == stage)
        scores = {split: result.scores(f"{key}/{who}/accuracy") for split, key in (("validation", "val"), ("test", "test"))}
        scores = {split: values if who == "student" else values[:1] for split, values in scores.items()}
        return {"model": name} | {split: mean_and_deviation(values) for split, values in scores.items()}

    rows = [row(f"teacher: {name}", "teachers", stage) for stage, name in TEACHERS.items()]
    rows += [row("teacher: both, averaged", "both", "task", "teacher")]
    rows += [row("bag of words alone", "alone", "baseline")]
    rows += [row(f"bag of words taught by {name}", name.split(",")[0], "task") for name in taught]
    show(rows, f"accuracy; ±: standard deviation over {chosen.seeds} seeds of the student; {len(texts):,} rows were answered")


if __name__ == "__main__":
    main()
