"""What a person reads: the plan before a chain, the table after it."""

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from kd_lightning.keep import replace
from kd_lightning.run.advice import advice, recalls
from kd_lightning.run.artifact import latency, load, megaflops, parameters
from kd_lightning.run.chain import Plan, finished
from kd_lightning.run.choice import Candidate, answer
from kd_lightning.run.record import FILE
from kd_lightning.run.rehearsal import SHORT, Estimate
from kd_lightning.run.results import Result, collect, differences, mean_and_deviation, teacher_scores
from kd_lightning.run.shown import csv_cell, printable
from kd_lightning.run.sweep import Found

KEPT = "table.json"  # in the artifact
console = Console(markup=False, width=None if Console().is_terminal else 110)


def show_plan(chain: Plan) -> None:
    """Which stages come, from where, and what stands for or needs none."""
    lines = [f"-. {stage}: {path} (given)" for stage, path in chain.given.items()]
    if chain.start:
        other = "teacher" if chain.start.startswith("corpus") else "corpus"
        lines.append(f"-. start={chain.start}; start={other} is the other way")
    lines += [f"-. {stage}: left out, nothing starts from it" for stage in chain.left_out]
    for number, run in enumerate(chain.runs, start=1):
        state = "there already" if finished(run) else "to do"
        lines.append(f"{number}. {run.method} {run.stage}: {run.artifact} ({state})")
    for line in lines:
        console.print(printable(line), highlight=False, soft_wrap=True)


def show_estimates(coming: list[DictConfig], found: dict[str, Estimate]) -> None:
    """How long the stages to come will take on this machine, and how much memory."""
    runs = Counter(run.setting for run in coming)  # one for each seed
    rows, seconds = [], 0.0
    for run in {run.setting: run for run in reversed(coming)}.values():
        expected, times = found[run.setting], runs[run.setting]
        seconds += times * (expected.seconds or 0.0)
        rows.append(
            {
                "stage": f"{run.method} {run.stage}" + (f" x {times}" if times > 1 else ""),
                "rows": f"{expected.rows:,}",
                "tokens": f"{expected.tokens:,}",
                "updates": f"{expected.updates:,}",
                "minutes": figure(expected.seconds and times * expected.seconds / 60, ".1f"),
                "GB": figure(expected.megabytes and expected.megabytes / 1e3, ".1f"),
            }
        )
    about = f"About {seconds / 60:.1f} minutes in all, measured on a few steps (not those of {SHORT} updates or fewer)"
    show(filled(rows[::-1]), f"{about}; rows and tokens of an epoch" if seconds else "rows and tokens of an epoch")
    for run in {run.setting: run for run in coming if found[run.setting].stored}.values():
        size, each = found[run.setting].stored
        kept = f"teacher.stored=true keeps about {size / 1e6:,.1f} MB under {run.cache}, {each:,.0f} bytes a token"
        console.print(printable(f"{run.method} {run.stage}: {kept}."), highlight=False, soft_wrap=True)


def show_table(chain: Plan) -> Found:
    """Print teacher, student and what it is compared with, and write it into the artifact (`table.csv`; `table.json` is what
    is shown again where all of it is there already); returns what the student scored.

    Of several seeds: the mean with the standard deviation, and the median. Below stands whether the students differ (paired
    bootstrap). Latency is measured once, all models taking turns in this process.
    """
    own = [run for run in chain.runs if run.setting == chain.setting]
    cfg = own[0]
    teacher = (cfg.networks.teacher or {}).get("path")
    others = [run for run in chain.runs if run.setting != chain.setting and run.metric == cfg.metric]
    others = [run for run in others if run.stage != "teacher" and run.artifact != teacher]
    results = collect(run.artifact for run in [*own, *others])
    file, made_of = Path(cfg.artifact) / KEPT, [run.identity for run in [*own, *others]]
    shown = kept(file, made_of, len(results))
    if shown is None:
        shown = measured(cfg, results, teacher)
        with suppress(OSError):  # an artifact that can only be read has its table shown and no more
            write_csv(file.with_name("table.csv"), shown.rows)
            replace(file, lambda path: path.write_text(json.dumps({"made_of": made_of} | asdict(shown), indent=1) + "\n"))
    console.print(cfg.artifact, highlight=False, soft_wrap=True)
    show(shown.rows, shown.caption)
    for line in shown.lines:
        console.print(printable(line), highlight=False, soft_wrap=True)
    students = shown.rows[-len(results) :]
    if cfg.budget_ms is not None:
        score = cfg.metric.rpartition("/")[2]
        timed = [row for row in students if row.get("ms") and row.get(score)]
        for line in answer(
            [Candidate(row["model"], float(row[score].split()[0]), float(row["ms"])) for row in timed], cfg.budget_ms
        ):
            console.print(printable(line), highlight=False, soft_wrap=True)
    row = students[0]
    retention, ms, size = (float(row[name]) if row.get(name) else None for name in ("retention", "ms", "MB"))
    return Found(cfg.metric, results[0].scores(cfg.metric), retention, ms, size, cfg.artifact)


@dataclass(frozen=True)
class Shown:
    """A chain's end table, what stands below it, and the lines after it."""

    rows: list[dict[str, str]]
    caption: str
    lines: list[str]


def kept(file: Path, made_of: list[str], students: int) -> Shown | None:
    """The table in the file, if it is one of these artifacts (their identities): so many students, and their teacher if any."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        shown = Shown(found["rows"], found["caption"], found["lines"])
        texts = [shown.caption, *shown.lines, *(text for row in shown.rows for cell in row.items() for text in cell)]
        figures = [float(row[name]) for row in shown.rows for name in ("retention", "ms", "MB") if row.get(name)]
        whole = (
            len(shown.rows) - students in (0, 1)
            and all(isinstance(text, str) for text in texts)
            and all(map(math.isfinite, figures))
        )
        return shown if whole and found["made_of"] == made_of and len({tuple(row) for row in shown.rows}) == 1 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # then it is measured again
        return None


def measured(cfg: DictConfig, results: list[Result], teacher: str | None) -> Shown:
    """cfg: of the student. results: it, and then what it is compared with. teacher: None where there is no network of one."""
    seeds = len(results[0].folders)
    keys, name = (cfg.metric, cfg.metric.replace("val/", "test/")), cfg.metric.rpartition("/")[2]
    rows = [(result.name, str(result.folders[0]), *map(result.scores, keys)) for result in results]
    known = [*results, *(collect([teacher]) if teacher and (Path(teacher) / FILE).is_file() else [])]
    scored = [teacher_scores(results[0], known, key)[:1] for key in keys]
    taught = cfg.networks.teacher is not None and (teacher is not None or any(scored))  # answers may be for other stages only
    if taught:
        rows.insert(0, ("teacher", teacher, *scored))
    length = min(64, cfg.data.max_length)
    models = {folder: load(folder) for _, folder, _, _ in rows if folder is not None}
    times = dict(zip(models, latency(list(models.values()), length), strict=True))
    slow = times.get(rows[0][1])
    nothing = not taught or name.endswith("loss")  # is retained of a loss, or without a teacher
    reference = 0.0 if nothing else statistics.fmean(rows[0][2] or [0.0])
    table = []
    for model_name, folder, scores, tests in rows:
        model, time = models.get(folder), times.get(folder)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6 if folder else None
        table.append(
            {
                "model": model_name,
                name: mean_and_deviation(scores),
                **({"median": f"{statistics.median(scores):.4f}" if scores else ""} if seeds > 1 else {}),
                f"{name} (test)": mean_and_deviation(tests),
                "retention": f"{statistics.fmean(scores) / reference:.4f}" if scores and reference else "",
                "parameters": f"{parameters(model) / 1e6:.2f}M" if model else "",
                "MB": figure(size, ".1f"),
                "MFLOPs": figure(model and megaflops(model, length), ",.1f"),
                "ms": figure(time, ".2f"),
                "speed-up": f"{slow / time:.1f}x" if time and slow else "",
            }
        )
    machine = f"ms: one sequence of {length} tokens, {torch.get_num_threads()} threads, float32, the fastest tenth"
    caption = machine + (f"; ±: standard deviation over {seeds} seeds" if seeds > 1 else "")
    beside = [line for other in results[1:] for line in lines_of_differences([results[0], other])]
    return Shown(filled(table), caption, [*beside, *recalls(known), *advice(known)])


def lines_of_differences(results: list[Result]) -> Iterator[str]:
    for ours, theirs, found in differences(results):
        yield f"{ours.name} less {theirs.name}, {ours.record.task.monitor} on {ours.record.task.name}: {found}"


def figure(value: float | None, form: str) -> str:
    """A cell of a table, empty where the figure could not be had."""
    return "" if value is None else format(value, form)


def filled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without the columns that all of them leave empty."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    return [{column: row[column] for column in columns} for row in rows]


def show(rows: list[dict[str, str]], caption: str) -> None:
    """A table on the console; the columns are those of the first row, of which the first is text."""
    table = Table(caption=caption, caption_justify="left")
    for number, column in enumerate(rows[0]):
        table.add_column(printable(column), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(printable, row.values()))
    console.print(table)


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """A cell that a spreadsheet would compute gets an apostrophe before it; numbers stay numbers."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([map(csv_cell, row) for row in (rows[0], *(row.values() for row in rows))])
