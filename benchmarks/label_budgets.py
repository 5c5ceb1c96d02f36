"""How good teacher, student alone and distilled student are with few labels.

    python benchmarks/label_budgets.py 100 300 1000 3000 10000 all --out curve method=bilstm task=sst2 scale=laptop seeds=3 ...

For each number of labels it runs `train.py stage=task` with `task.label_budget`, the student's baseline beside it; what is in
the folder `--out` already is not run again. The teacher is fine-tuned on the same labels, the student without a teacher sees
the same, and the distilled one also the other training texts, without their labels. Then it prints the table, with means and
standard deviations over the seeds, of all numbers that are in the folder, and writes `label_budgets.md` and
`label_budgets.png` there. Numbers that want other settings are given one after the other, the same folder each time.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from kd_lightning.compare import find, markdown
from kd_lightning.run.report import show
from kd_lightning.run.results import Result, mean_and_deviation

ROOT = Path(__file__).resolve().parents[1]
LINES = {"teacher": "teacher", "baseline": "student alone", "task": "student distilled"}  # stage -> its name here


def run(budget: str, overrides: list[str], out: Path) -> None:
    command = [sys.executable, "train.py", "stage=task", "baseline=true", *overrides]
    command += [f"task.label_budget={'null' if budget == 'all' else budget}", f"artifacts={out.resolve() / budget}"]
    subprocess.run(command, cwd=ROOT, check=True)


def picture(scores: dict[str, dict[str, list[float]]], result: Result, path: Path) -> None:
    """scores: line -> budget -> metric of each seed."""
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, of_budget in scores.items():
        places = range(len(of_budget))
        means = [statistics.fmean(values) for values in of_budget.values()]
        deviations = [statistics.stdev(values) if len(values) > 1 else 0 for values in of_budget.values()]
        axes.errorbar(places, means, yerr=deviations, label=name, marker="o", capsize=3)
        axes.set_xticks(places, of_budget)
    axes.set_xlabel("labelled training rows")
    axes.set_ylabel(f"{result.record.task.monitor} on {result.record.task.name}")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="budget or override", help="numbers of labels or all; settings of train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifacts, the table and the picture")
    chosen = parser.parse_intermixed_args()
    budgets = [word for word in chosen.words if "=" not in word]
    overrides = [word for word in chosen.words if "=" in word]
    if budgets and not any(override.startswith("method=") for override in overrides):
        parser.error("give method=bilstm, cnn or bow.")
    for budget in budgets:
        run(budget, overrides, chosen.out)
    place = chosen.out.resolve()
    results = {
        (LINES[result.record.stage], result.folders[0].resolve().relative_to(place).parts[0]): result
        for result in find([str(place)])
    }
    whole = {budget for _, budget in results if all((line, budget) in results for line in LINES.values())}
    budgets = sorted(whole, key=lambda budget: float("inf") if budget == "all" else int(budget))
    some = next(iter(results.values()))
    scores = {line: {budget: results[line, budget].scores(some.record.metric) for budget in budgets} for line in LINES.values()}
    rows = [
        {"labels": budget, **{line: mean_and_deviation(of_budget[budget]) for line, of_budget in scores.items()}}
        for budget in budgets
    ]
    show(
        rows,
        f"{some.record.task.monitor} on the validation data of {some.record.task.name}; ±: standard deviation over the seeds",
    )
    (chosen.out / "label_budgets.md").write_text(markdown(rows), encoding="utf-8")
    picture(scores, some, chosen.out / "label_budgets.png")


if __name__ == "__main__":
    main()
