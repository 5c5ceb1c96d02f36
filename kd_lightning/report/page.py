"""The page: what was collected and measured, put into `page.html`. Jinja escapes everything but our own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from kd_lightning.report import measure, picture
from kd_lightning.report.collect import Material, Stage, Sweep, numbers
from kd_lightning.report.layers import distances
from kd_lightning.report.texts import texts
from kd_lightning.run.choice import Candidate
from kd_lightning.run.reading import Curve
from kd_lightning.run.results import Result, teacher_of
from kd_lightning.run.shown import printable
from kd_lightning.run.sweep import lower_is_better

ROWS = 10  # that are shown of those where student and teacher differ most


def page(material: Material, settings: Sequence[str]) -> str:
    """The whole page as HTML. settings: where the tasks' data are, for the texts of the rows."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        stages=material.stages,
        curves=[(stage.record.name, _curves(stage)) for stage in material.stages],
        table=material.table,
        fronts=_fronts(material),
        answers=[_answers(result, material, settings) for result in material.results if result.predictions is not None],
        sweeps=[_sweep(sweep) for sweep in material.sweeps],
        pairs=measure.pairs(material.results),
    )


def _curves(stage: Stage) -> list[Markup]:
    """A picture for each term and each metric, train and validation or student and teacher in one."""
    panels: dict[str, dict[str, Curve]] = {}
    for name, points in stage.curves.items():
        split, *who, last = name.split("/")
        if split == "test":
            continue  # one point
        loss = "loss" in (*who, last)
        title = name.partition("/")[2] if loss else last
        panels.setdefault(title, {})[split if loss else " ".join((split, *who))] = points
    return [Markup(picture.curve(title, lines)) for title, lines in panels.items()]


def _fronts(material: Material) -> list[Markup]:
    """Score against latency and against size, for each task and scale; the figures are those of the table."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in material.table:
        if line["parameters"]:
            groups.setdefault((line["task"], line["scale"]), []).append(line)
    drawn = []
    for (task, _), lines in groups.items():
        costs = {"ms": "ms", "parameters": "million parameters"}
        for column, said in costs.items():
            there = [line for line in lines if line.get(column)]
            points = [
                Candidate(line["model"], float(line["value"].split()[0]), float(line[column].rstrip("M"))) for line in there
            ]
            if points:
                drawn.append(Markup(picture.pareto(points, said, f"{task} {there[0]['metric']}")))
    return drawn


def _answers(result: Result, material: Material, settings: Sequence[str]) -> dict[str, Any]:
    """Of one result's first seed: pictures, and the rows where student and teacher differ most."""
    label, student, teacher = result.predictions["label"], result.predictions["logits"][0], result.taught
    said = {"name": result.name, "task": result.record.task.name, "seeds": len(result.folders), "pictures": [], "rows": []}
    said |= {"errors": {}, "layers": [], "why": "", "teacher": teacher is not None}
    names, classes = result.record.task.labels, student.shape[-1]
    labels = names if len(names) == classes else [str(number) for number in range(classes)]
    networks = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    if classes > 1:
        bins = {who: measure.calibration(logits, label) for who, logits in networks.items()}
        said["errors"] = {who: f"{measure.calibration_error(found):.4f}" for who, found in bins.items()}
        said["pictures"] = [Markup(picture.calibration(bins))]
        if classes <= picture.MOST_CLASSES:
            counts = {who: measure.confusion(logits, label) for who, logits in networks.items()}
            said["pictures"] += [Markup(picture.confusion(f"confusion, {who}", c, labels)) for who, c in counts.items()]
        if teacher is not None:
            shares = dict(zip(labels, measure.agreement(student, teacher, label), strict=True))
            there = {name: share for name, share in shares.items() if share is not None}
            said["pictures"].append(Markup(picture.bars("agreement by class", there, 0)))
    if teacher is None:
        return said
    try:
        found = texts(result, settings)
    except (ValueError, OSError) as error:
        found, said["why"] = None, str(error)
    taught_by = teacher_of(result, material.results)
    if found and taught_by is not None:
        apart = distances(result.folders[0], taught_by.folders[0], found, result.record.task.max_length)
        if apart is not None:
            said["layers"].append(Markup(picture.layers("distance of layers (1 - CKA)", apart)))
    apart = measure.distance(student, teacher)
    for row in apart.argsort(descending=True, stable=True)[:ROWS].tolist():
        cells = {"row": str(int(result.predictions["row"][row])), "distance": f"{apart[row]:.4f}"}
        cells |= {"text": picture.short(" ⏐ ".join(found[row]), 300)} if found else {}
        right = label[row]
        cells["label"] = labels[int(right)] if classes > 1 else f"{right:.4f}"
        for who, logits in networks.items():
            probability = logits[row].softmax(-1)
            answer = f"{labels[int(probability.argmax())]} ({float(probability.max()):.2f})"
            cells[who] = answer if classes > 1 else f"{float(logits[row, 0]):.4f}"
        said["rows"].append(cells)
    return said


def _sweep(sweep: Sweep) -> dict[str, Any]:
    """Pictures of one sweep, and its best jobs: those of the best value, where all have the same metric."""
    values = numbers(sweep, "value") or []
    ranks = measure.importance(sweep)
    unranked = [name for name in sweep.settings if name not in ranks]
    said = {"name": sweep.folder.name, "jobs": sweep.jobs, "settings": sweep.settings, "pictures": [], "best": []}
    metrics = {job["metric"] for job in sweep.finished}
    best = None
    if len(metrics) == 1:
        best = (min if lower_is_better(*metrics) else max)(values)
    said |= {"value": "" if best is None else f"{next(iter(metrics))} {best:.4f}"}
    said |= {"unranked": unranked, "finished": len(values)}
    if best is not None and len(values) > 1 and sweep.settings:
        set_to = {name: [job.get(name, "default") for job in sweep.finished] for name in sweep.settings}
        said["pictures"].append(Markup(picture.parallel(set_to, values, values.index(best))))
        said["best"] = [job for job, value in zip(sweep.finished, values, strict=True) if value == best]
    if ranks:
        said["pictures"].append(Markup(picture.bars("rank correlation with the value", ranks, -1.15)))
    return said
