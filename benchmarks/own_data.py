"""One's own rows, by our command as it stands and by a script of the Trainer: `by_hand.py`, which fine-tunes, cuts and distils.

    python benchmarks/own_data.py cola mrpc --out <folder> --glue <folder> --pretrained <model of 6 layers or 12> [override ...]

The rows are GLUE's as tables of one's own: CoLA cut to 1,000 and SST-2 to 2,000 training rows, MRPC as pairs, STS-B as a
regression. Each command has the same rows, the same pre-trained model and the same threads; ours is `task=table scale=laptop
method=distilbert stage=task`, whose student has three of the teacher's layers. Scores are of GLUE's validation rows:
accuracy, or Pearson's correlation. Seconds are of the processor, for teacher and student together. What is in the folder
already is not run again; with no task the table of what is there is printed, and written to own_data.md.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from load import run

from kd_lightning.compare import find, markdown
from kd_lightning.run.report import show

TASKS = {  # folder, columns by their places, label, training rows
    "cola": ("CoLA", {"sentence": 3}, 1, 1000),
    "sst2": ("SST-2", {"sentence": 0}, 1, 2000),
    "mrpc": ("MRPC", {"first": 3, "second": 4}, 0, None),
    "stsb": ("STS-B", {"first": 7, "second": 8}, 9, None),
}
HEADERLESS = ("cola",)
MONITOR = {"stsb": "pearson"}


def tables(task: str, glue: Path, folder: Path) -> int:
    """Writes train.csv and dev.csv; returns how many rows there are to train on."""
    (name, columns, label, most), counts = TASKS[task], {}
    for split in ("train", "dev"):
        lines = (glue / name / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[task not in HEADERLESS :]
        rows = [line.split("\t") for line in lines][: most if split == "train" else None]
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "label"])
            writer.writerows([row[place] for place in (*columns.values(), label)] for row in rows)
        counts[split] = len(rows)
    return counts["train"]


def measure(task: str, glue: Path, pretrained: str, overrides: list[str], folder: Path) -> None:
    """Run both, and note what they took."""
    (folder / "by_hand").mkdir(parents=True, exist_ok=True)
    count, text = tables(task, glue, folder), list(TASKS[task][1])
    kind = "table_regression" if task in MONITOR else "table"
    ours = ["train.py", f"task={kind}", f"task.files.train={folder}/train.csv", f"task.files.validation={folder}/dev.csv"]
    ours += [f"task.text=[{','.join(text)}]", "task.label=label", "scale=laptop", "method=distilbert", "stage=task"]
    ours += [f"teacher.pretrained={pretrained}", "trainer.accelerator=cpu"]
    ours += [f"{name}={folder}/{name}" for name in ("artifacts", "cache", "hydra.run.dir")]
    script = ["benchmarks/by_hand.py", "--pretrained", pretrained, "--train", f"{folder}/train.csv", "--label", "label"]
    script += ["--validation", f"{folder}/dev.csv", "--text", *text, "--out", f"{folder}/by_hand"]
    used = {"ours": run("train.py", [*ours, *overrides], folder / "ours.log")[1]}
    used["script"] = run("by_hand.py", script, folder / "by_hand.log")[1]
    (folder / "used.json").write_text(json.dumps({"rows": count, **used}))


def line(folder: Path) -> dict[str, str]:
    task, used = folder.name, json.loads((folder / "used.json").read_text())
    monitor = MONITOR.get(task, "accuracy")
    results = {result.record.stage: result for result in find([f"{folder}/artifacts"])}
    ours = {
        who: results[stage].scores(f"val/student/{monitor}")[0] for who, stage in (("teacher", "teacher"), ("student", "task"))
    }
    script = json.loads((folder / "by_hand" / "scores.json").read_text())
    cells = {"rows": f"{TASKS[task][0]}, {used['rows']:,}", "metric": monitor}
    for whose, scores in (("ours", ours), ("script", script)):
        cells |= {f"{whose}: {who}": f"{score:.4f}" for who, score in scores.items()}
        cells |= {f"{whose}: share": f"{scores['student'] / scores['teacher']:.3f}", f"{whose}: s": f"{used[whose]:.0f}"}
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="task or override", help=f"of {', '.join(TASKS)}; settings of train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made, and of the table")
    parser.add_argument("--glue", type=Path, help="folder of the GLUE files")
    parser.add_argument("--pretrained", help="folder or hub name of a masked LM")
    asked = parser.parse_intermixed_args()
    out, tasks = asked.out.resolve(), [word for word in asked.words if "=" not in word]
    if unknown := set(tasks) - TASKS.keys():
        parser.error(f"unknown task {', '.join(sorted(unknown))}: choose from {', '.join(TASKS)}.")
    if tasks and not (asked.glue and asked.pretrained):
        parser.error("give --glue and --pretrained.")
    for task in tasks:
        if not (out / task / "used.json").exists():
            measure(task, asked.glue, asked.pretrained, [word for word in asked.words if "=" in word], out / task)
    rows = [line(file.parent) for file in sorted(out.glob("*/used.json"))]
    if not rows:
        sys.exit("nothing was measured yet: name a task.")
    show(rows, "validation data; s: seconds of the processor, teacher and student together")
    (out / "own_data.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
