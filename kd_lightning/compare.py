"""One table over tasks and models: `python -m kd_lightning.compare artifacts --markdown table.md`.

Each row is a model on a task, over the seeds it was trained with, below the answer that is right most often; then, for each
model of several tasks, their mean. Below the table stands what the digest in a name stands for, and for each two students
of a task whether they differ (`bootstrap.py`).
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from kd_lightning.run.artifact import latency, load, megaflops, parameters
from kd_lightning.run.report import console, filled, show, show_differences, write_csv
from kd_lightning.run.results import Result, collect, mean_and_deviation

PUBLISHED = Path(__file__).with_name("published.yaml")
Row = dict[str, str]


def find(paths: list[str]) -> list[Result]:
    """What is in these artifacts and in the folders below these paths, of the stages that measure a task's metric."""
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        below = [file.parent for file in sorted(path.rglob("metrics.json")) if not file.parent.name.endswith(".unfinished")]
        below = [folder for folder in below if (folder / "run.yaml").is_file()]
        if not below:
            raise ValueError(f"{path}: no artifact is there (a folder with metrics.json and run.yaml, which a stage leaves).")
        folders |= dict.fromkeys(folder.resolve() for folder in below)
    results = [result for result in collect(folders) if result.cfg.metric == f"val/student/{result.cfg.task.monitor}"]
    if not results:
        raise ValueError(f"{', '.join(paths)}: no stage there measures a task; run stage=task first, or stage=teacher.")
    return sorted(results, key=_place)


def _place(result: Result) -> tuple:
    """By task and scale; the teacher first, then those it taught."""
    cfg = result.cfg
    taught = cfg.networks.teacher is not None
    return cfg.task.name, cfg.scale.name, cfg.stage.name != "teacher", not taught, result.name


def compare(results: list[Result]) -> list[Row]:
    """The table, row by row; every row has the same columns, none of them empty. Our figures are shares, a paper's points
    of 100."""
    published = OmegaConf.to_container(OmegaConf.load(PUBLISHED))
    speeds = _speeds(results)
    rows: list[Row] = []
    for _, members in itertools.groupby(results, lambda result: (result.cfg.task.name, result.cfg.scale.name)):
        same = list(members)
        new = [_row(result, results, speeds[_architecture(result)], published["models"]) for result in same]
        majority = next((known for result in same if (known := result.majority) is not None), None)
        if majority is not None:
            known = {key: new[0][key] for key in ("task", "scale", "metric")}
            rows.append(dict.fromkeys(new[0], "") | known | {"model": "majority class", "value": f"{majority:.4f}"})
        rows += new
    return filled([*rows, *_averages(results, published["glue"], list(rows[0]))])


def _row(result: Result, results: list[Result], speed: tuple[int, float, float], published: list[dict]) -> Row:
    cfg, scores = result.cfg, result.scores(result.cfg.metric)
    model = AutoConfig.from_pretrained(result.folders[0])
    size, flops, milliseconds = speed
    papers = [
        f"{entry['scores'][cfg.task.name][cfg.task.monitor]} ({entry['source']}, {entry['split']})"
        for entry in published
        if all(cfg[group].name == name for group, name in entry["of"].items())
        and [entry["layers"], entry["hidden"]] == [getattr(model, name, None) for name in ("num_hidden_layers", "hidden_size")]
        and cfg.task.monitor in entry["scores"].get(cfg.task.name, ())
    ]
    return {
        "task": cfg.task.name,
        "scale": cfg.scale.name,
        "model": result.name,
        "metric": cfg.task.monitor,
        "value": mean_and_deviation(scores),
        "seeds": str(len(scores)),
        "retention": _retention(result, results),
        "parameters": f"{size / 1e6:.2f}M",
        "MFLOPs": f"{flops:,.1f}",
        "ms": f"{milliseconds:.2f}",
        "paper": ", ".join(papers),
    }


def _retention(result: Result, results: list[Result]) -> str:
    """The score over the teacher's; where the run had no teacher, over that of the other models of the task and the scale,
    if they had the same. A teacher retains nothing."""
    if result.cfg.stage.name == "teacher":
        return ""
    key = result.cfg.metric.replace("/student/", "/teacher/")
    scores, teachers = result.scores(result.cfg.metric), result.scores(key)
    if not teachers:
        same = (other for other in results if other.cfg.task.name == result.cfg.task.name)
        taught = [other for other in same if other.cfg.scale.name == result.cfg.scale.name and other.scores(key)]
        teachers = taught[0].scores(key) if len({other.cfg.teacher.path for other in taught}) == 1 else []
    return f"{statistics.fmean(scores) / statistics.fmean(teachers):.4f}" if any(teachers) else ""


def _averages(results: list[Result], glue: dict[str, list[str]], columns: list[str]) -> list[Row]:
    """A row for each model of several tasks: GLUE's average if it has all nine, else the mean over the tasks it has."""
    models: dict[tuple[str, str], dict[str, float]] = {}
    for result in results:
        task = result.cfg.task.name
        of_metrics = [result.scores(key) for key in glue.get(task, [result.cfg.metric])]
        if all(of_metrics):
            tasks = models.setdefault((result.cfg.scale.name, result.name), {})
            tasks[task] = statistics.fmean(map(statistics.fmean, of_metrics))
    rows = []
    for (scale, name), tasks in models.items():
        if len(tasks) > 1:
            title = "GLUE" if tasks.keys() == glue.keys() else f"mean of {', '.join(tasks)}"
            known = {"task": title, "scale": scale, "model": name, "metric": "average"}
            rows.append(dict.fromkeys(columns, "") | known | {"value": f"{statistics.fmean(tasks.values()):.4f}"})
    return rows


def _architecture(result: Result) -> str:
    """The model's settings but for its labels' names: models with the same are equally large and fast."""
    settings = json.loads((result.folders[0] / "config.json").read_text(encoding="utf-8"))
    settings |= {"id2label": len(settings["id2label"]), "label2id": None, "problem_type": None}
    return json.dumps(settings, sort_keys=True)


def _speeds(results: list[Result]) -> dict[str, tuple[int, float, float]]:
    """Parameters, megaflops and milliseconds of each architecture, all taking turns."""
    models = {_architecture(result): load(result.folders[0]) for result in reversed(results)}
    length = _length(results)
    times = latency(list(models.values()), length)
    return {
        name: (parameters(model), megaflops(model, length), time)
        for (name, model), time in zip(models.items(), times, strict=True)
    }


def _length(results: list[Result]) -> int:
    return min(64, *(result.cfg.task.max_length for result in results))


def legend(results: list[Result]) -> list[str]:
    """What the digests in the models' names stand for: the settings that all of these models have, and each one's further."""
    changes = {result.name: [c.replace("\\${", "${") for c in result.cfg.get("changes", [])] for result in results}
    told = {name: changed for name, changed in changes.items() if changed}
    common = set.intersection(*map(set, told.values())) if told else set()
    further = {name: [change for change in changed if change not in common] for name, changed in told.items()}
    known = {", ".join(told): sorted(common), **{name: changed for name, changed in further.items() if len(told) > 1}}
    return [f"{name}: {' '.join(changed)}" for name, changed in known.items() if changed]


def markdown(rows: list[Row]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.compare", description="One table over tasks and models.")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="an artifact, or a folder with artifacts below it")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too, as Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table here too, as CSV")
    chosen = parser.parse_args()
    disable_progress_bar()  # of loading, which takes no time
    try:
        results = find(chosen.paths)
    except ValueError as error:
        sys.exit(f"compare: {error}")
    rows = compare(results)
    machine = f"ms: one sequence of {_length(results)} tokens, {torch.get_num_threads()} threads, float32"
    show(rows, f"{machine}; ±: standard deviation over the seeds")
    known = legend(results)
    for line in known:
        console.print(line, highlight=False, soft_wrap=True)
    if chosen.markdown:
        below = "".join(f"- {line}\n" for line in known)
        chosen.markdown.write_text(markdown(rows) + (f"\n{below}" if below else ""), encoding="utf-8")
    if chosen.csv:
        write_csv(chosen.csv, rows)
    show_differences([result for result in results if result.cfg.stage.name != "teacher"])


if __name__ == "__main__":
    main()
