"""What an expert gets on GLUE in an hour a task: several students of one teacher beside their baselines, as one table.

    python benchmarks/glue.py mrpc stsb cola --out glue teacher.pretrained=<model> glue=<folder> seeds=3

For each task it runs `train.py` with `start=teacher` at scale laptop: TinyBERT from the teacher's layers and the same student
without a teacher, DistilBERT of three of its layers, and a BiLSTM of 1,500 updates. What is in the folder `--out` already is
not run again; a task that is run later, or with other seeds, joins the table. The table has the task's metric on its
validation data, ±: the standard deviation over the seeds; below it the mean share of the teacher's score with a bootstrap
interval over the tasks, and the mean rank. With no task it prints what is there.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from kd_lightning.compare import find, markdown
from kd_lightning.run.report import show
from kd_lightning.run.results import Result, mean_and_deviation

ROOT = Path(__file__).resolve().parents[1]
UPDATES = ["'stages.task.trainer.max_steps=1500'", "'stages.task.trainer.val_check_interval=100'"]
BILSTM = f"{{method: bilstm, stage: task, overrides: [{', '.join(UPDATES)}]}}"
STUDENTS = ["method=tinybert", "baseline=true", f"compare=[{{method: distilbert, stage: task}}, {BILSTM}]"]
COLUMNS = {  # method and stage -> its column
    ("finetune", "teacher"): "teacher",
    ("finetune", "baseline"): "baseline",
    ("bilstm", "task"): "BiLSTM",
    ("distilbert", "task"): "DistilBERT",
    ("tinybert", "prediction"): "TinyBERT",
}
RESAMPLES = 10_000


def run(task: str, overrides: list[str], out: Path) -> None:
    command = [sys.executable, "train.py", "scale=laptop", "stage=task", *STUDENTS, f"task={task}", "start=teacher"]
    if status := subprocess.run([*command, f"artifacts={out.resolve()}", *overrides], cwd=ROOT).returncode:
        sys.exit(status)


def summaries(scores: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """scores: task -> column -> mean score. Two lines: mean retention with its interval, mean rank (1: the best)."""
    names = [name for name in COLUMNS.values() if all(name in found for found in scores.values())]
    shares = {name: np.array([found[name] / found["teacher"] for found in scores.values()]) for name in names}
    draws = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
    retention, rank = {"task": "mean retention"}, {"task": "mean rank"}
    for name in names:
        low, high = np.quantile(shares[name][draws].mean(1), [0.025, 0.975])
        retention[name] = f"{shares[name].mean():.3f} ({low:.3f} to {high:.3f})"
        places = [1 + sum(found[other] > found[name] for other in names) for found in scores.values()]
        rank[name] = f"{statistics.fmean(places):.2f}"
    return [retention, rank]


def table(results: list[Result]) -> list[dict[str, str]]:
    columns = ["task", "metric", "majority", *COLUMNS.values()]
    rows: dict[str, dict[str, str]] = {}
    scores: dict[str, dict[str, float]] = {}
    for result in results:
        column = COLUMNS.get((result.record.method, result.record.stage))
        if column is None:
            continue
        task = result.record.task.name
        row = rows.setdefault(task, dict.fromkeys(columns, "") | {"task": task, "metric": result.record.task.monitor})
        if result.majority is not None:
            row["majority"] = f"{result.majority:.4f}"
        found = result.scores(result.record.metric)
        row[column] = mean_and_deviation(found)
        scores.setdefault(task, {})[column] = statistics.fmean(found)
    most = max((len(found) for found in scores.values() if "teacher" in found), default=0)
    whole = {task: found for task, found in scores.items() if "teacher" in found and len(found) == most}
    return [*rows.values(), *(dict.fromkeys(columns, "") | line for line in summaries(whole))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="task or override", help="tasks of conf/task; settings of train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifacts and the table")
    chosen = parser.parse_intermixed_args()
    for task in (word for word in chosen.words if "=" not in word):
        run(task, [word for word in chosen.words if "=" in word], chosen.out)
    rows = table(find([str(chosen.out)]))
    show(rows, "validation data; ±: standard deviation over the seeds")
    (chosen.out / "glue.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
