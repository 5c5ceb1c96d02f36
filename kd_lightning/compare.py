"""One table over tasks and models: `python -m kd_lightning.compare artifacts --markdown table.md`.

Each line is a model on a task, over the seeds it was trained with, below the answer that is right most often; then, for each
model of several tasks, their mean. Below the table the command says of every two students of a task whether they differ
(`run/bootstrap.py`). An artifact may be a stranger's: what it says of itself is data, and its metric is that of our own task.
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers.utils.logging import disable_progress_bar

from kd_lightning.run import reading
from kd_lightning.run.advice import advice, recalls
from kd_lightning.run.artifact import latency, megaflops, parameters
from kd_lightning.run.report import console, figure, filled, lines_of_differences, show, write_csv
from kd_lightning.run.results import Result, collect, differences, mean_and_deviation, teacher_scores
from kd_lightning.run.shown import markdown_cell, printable

PUBLISHED = Path(__file__).with_name("published.yaml")
CSV = "write the table here too, as CSV; a cell that a spreadsheet would compute (= + - @ first, and no number) begins with '"
Line = dict[str, str]


def find(paths: list[str]) -> list[Result]:
    """What is in these artifacts and in the folders below these paths, of the stages that measure a task's metric."""
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        below = sorted({file.parent for name in ("run.yaml", "metrics.json") for file in path.rglob(name)})
        below = [folder for folder in below if ".unfinished" not in folder.name and _is_artifact(folder)]
        if not below:
            raise ValueError(f"{path}: no artifact is there (a folder with metrics.json and run.yaml, which a stage leaves).")
        folders |= dict.fromkeys(folder.resolve() for folder in below)
    results = [result for result in collect(folders) if result.measures_a_task]
    if not results:
        raise ValueError(f"{', '.join(paths)}: no stage there measures a task; run stage=task first, or stage=teacher.")
    for result in results:
        for folder, metrics in zip(result.folders, result.metrics, strict=True):
            if result.record.metric not in metrics:
                raise ValueError(f"{folder / 'metrics.json'} has no {result.record.metric}, which decides for this stage.")
    return sorted(results, key=_place)


def _is_artifact(folder: Path) -> bool:
    """Whether a stage has left this folder, even if it is damaged now."""
    return (folder / "run.yaml").is_file() or (folder / "manifest.json").is_file()


def _place(result: Result) -> tuple:
    """By task and scale; the teacher first, then those it taught."""
    record = result.record
    return record.task.name, record.scale, record.stage != "teacher", record.teacher is None, result.name


def compare(results: list[Result]) -> list[Line]:
    """The table, line by line; every line has the same columns, and no column is empty. Our figures are shares, a paper's are
    points of 100."""
    published = OmegaConf.to_container(OmegaConf.load(PUBLISHED))
    speeds = _speeds(results)
    lines: list[Line] = []
    for _, members in itertools.groupby(results, lambda result: (result.record.task.name, result.record.scale)):
        same = list(members)
        new = [_line(result, results, speeds[_architecture(result)], published["models"]) for result in same]
        majority = next((known for result in same if (known := result.majority) is not None), None)
        if majority is not None:
            known = {key: new[0][key] for key in ("task", "scale", "metric")}
            lines.append(dict.fromkeys(new[0], "") | known | {"model": "majority class", "value": f"{majority:.4f}"})
        lines += new
    return filled([*lines, *_averages(results, published["glue"], list(lines[0]))])


def _line(result: Result, results: list[Result], speed: tuple[int, float | None, float | None], published: list[dict]) -> Line:
    record, scores = result.record, result.scores(result.record.metric)
    task, model = record.task, reading.config(result.folders[0])
    size, flops, milliseconds = speed
    papers = [
        f"{entry['scores'][task.name][task.monitor]} ({entry['source']}, {entry['split']})"
        for entry in published
        if entry["of"].items() <= {"method": record.method, "stage": record.stage}.items()
        and [entry["layers"], entry["hidden"]] == [getattr(model, name, None) for name in ("num_hidden_layers", "hidden_size")]
        and task.monitor in entry["scores"].get(task.name, ())
    ]
    return {
        "task": task.name,
        "scale": record.scale,
        "model": result.name,
        "metric": task.monitor,
        "value": mean_and_deviation(scores),
        "test": mean_and_deviation(result.scores(record.metric.replace("val/", "test/"))),
        "macro F1": mean_and_deviation(result.macro_f1) if result.uneven else "",
        "seeds": str(len(scores)),
        "retention": _retention(result, results),
        "parameters": f"{size / 1e6:.2f}M",
        "MFLOPs": figure(flops, ",.1f"),
        "ms": figure(milliseconds, ".2f"),
        "paper": ", ".join(papers),
    }


def _retention(result: Result, results: list[Result]) -> str:
    """The score over the teacher's; where the run had no teacher, over that of the other models of the task and the scale,
    if they had the same. A teacher retains nothing."""
    if result.record.stage == "teacher":
        return ""
    own = result.record
    scores, teachers = result.scores(own.metric), teacher_scores(result, results, own.metric)
    if own.teacher is None:
        same = [other for other in results if (other.record.task.name, other.record.scale) == (own.task.name, own.scale)]
        taught = [other for other in same if other.record.teacher is not None]
        one = len({other.record.teacher for other in taught}) == 1
        teachers = teacher_scores(taught[0], results, own.metric) if one else []
    return f"{statistics.fmean(scores) / statistics.fmean(teachers):.4f}" if any(teachers) else ""


def _averages(results: list[Result], glue: dict[str, list[str]], columns: list[str]) -> list[Line]:
    """A line for each model of several tasks: GLUE's average if it has all nine, else the mean over the tasks it has."""
    models: dict[tuple[str, str], dict[str, float]] = {}
    for result in results:
        task = result.record.task.name
        of_metrics = [result.scores(key) for key in glue.get(task, [result.record.metric])]
        if all(of_metrics):
            tasks = models.setdefault((result.record.scale, result.name), {})
            tasks[task] = statistics.fmean(map(statistics.fmean, of_metrics))
    lines = []
    for (scale, name), tasks in models.items():
        if len(tasks) > 1:
            title = "GLUE" if tasks.keys() == glue.keys() else f"mean of {', '.join(tasks)}"
            known = {"task": title, "scale": scale, "model": name, "metric": "average"}
            lines.append(dict.fromkeys(columns, "") | known | {"value": f"{statistics.fmean(tasks.values()):.4f}"})
    return lines


def _architecture(result: Result) -> str:
    """The model's settings but for its labels' names: models with the same are equally large and fast."""
    settings = reading.settings(result.folders[0])
    settings |= {"id2label": len(settings.get("id2label") or ()), "label2id": None, "problem_type": None}
    return json.dumps(settings, sort_keys=True)


def _speeds(results: list[Result]) -> dict[str, tuple[int, float | None, float | None]]:
    """Parameters, megaflops and milliseconds of each architecture, all taking turns."""
    models = {_architecture(result): reading.model(result.folders[0]) for result in reversed(results)}
    length = _length(results)
    times = latency(list(models.values()), length)
    return {
        name: (parameters(model), megaflops(model, length), time)
        for (name, model), time in zip(models.items(), times, strict=True)
    }


def _length(results: list[Result]) -> int:
    return min(64, *(result.record.task.max_length for result in results))


def markdown(table: list[Line]) -> str:
    header, *lines = [[markdown_cell(cell) for cell in cells] for cells in (table[0], *(line.values() for line in table))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *lines))


def pairs(results: list[Result]) -> list[Line]:
    """Of every two students of a task a line: how much better the one is, and whether that is chance."""
    return [
        {
            "task": ours.record.task.name,
            "metric": ours.record.task.monitor,
            "model": ours.name,
            "less": theirs.name,
            "difference": f"{found.value:+.4f}",
            "95 % interval": f"{found.low:+.4f} to {found.high:+.4f}",
            "p": f"{found.p:.3f}",
        }
        for ours, theirs, found in differences(results)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.compare", description="One table over tasks and models.")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="an artifact, or a folder with artifacts below it")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too, and one of the differences")
    parser.add_argument("--csv", type=Path, metavar="FILE", help=CSV)
    chosen = parser.parse_args()
    disable_progress_bar()  # loading takes no time
    try:
        results = find(chosen.paths)
        table = compare(results)
        machine = (
            f"ms: one sequence of {_length(results)} tokens, {torch.get_num_threads()} threads, float32, the fastest tenth"
        )
        show(table, f"{machine}; ±: standard deviation over the seeds")
        students = [result for result in results if result.record.stage != "teacher"]
        if chosen.markdown:
            chosen.markdown.write_text("\n".join(map(markdown, filter(None, [table, pairs(students)]))), encoding="utf-8")
        if chosen.csv:
            write_csv(chosen.csv, table)
        for line in (*lines_of_differences(students), *recalls(results), *advice(results)):
            console.print(line, highlight=False, soft_wrap=True)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"compare: {error}"))


if __name__ == "__main__":
    main()
