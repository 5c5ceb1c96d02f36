"""What the jobs of a multirun or the trials of a search found, gathered from files: one table, also while they run or after a
kill."""

import csv
import json
import math
import os
import statistics
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from kd_lightning.run.mistake import MISTAKES, sentence
from kd_lightning.run.shown import csv_cell, printable
from kd_lightning.run.typed import program

FILE, SUMMARY = "result.json", "summary.csv"
OVERRIDES = ".hydra/overrides.yaml"  # which Hydra writes when a job begins
UNFINISHED = "not finished"
FOUND = ("value", "retention", "ms", "MB", "seconds")  # the figures of a row
ABOUT = ("metric", "artifact", "error")  # and what else it says


@dataclass(frozen=True)
class Found:
    """What a job found of its student: the deciding metric under each seed, its share of the teacher's, milliseconds for one
    sequence and megabytes (None where there is none of it), and the folder of the first seed."""

    metric: str
    scores: list[float]
    retention: float | None
    ms: float | None
    MB: float | None
    artifact: str

    @property
    def value(self) -> float:
        """NaN where there was nothing to measure."""
        return statistics.fmean(self.scores) if self.scores else math.nan


def keep_result(folder: Path, overrides: list[str], seconds: float, found: Found | None, error: str | None = None) -> None:
    """Write, whole or not at all, what a job overrode and what it found, or why it failed, into its folder of the run. Neither:
    a search has pruned it."""
    said = dict(override.split("=", 1) for override in overrides if "=" in override)
    content = {"overrides": said, "seconds": round(seconds, 1), "error": error} | (asdict(found) if found else {})
    content |= {"state": "finished" if found else "failed" if error else "pruned"}
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{FILE}.unfinished"
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / FILE)


def gather(folder: Path) -> list[dict[str, str]]:
    """A row for each job in this folder that has begun, in their order: what it overrode, and then `value`, the other figures,
    `metric`, `artifact` and `error`. The value of a job that raised is "failed", of one that a search stopped "pruned", and of
    one that runs or was killed "not finished".

    Raises ValueError for a file that says something else.
    """
    begun = {file.parents[depth] for depth, name in enumerate((FILE, OVERRIDES)) for file in folder.glob(f"*/{name}")}
    return [_row(job) for job in sorted(begun, key=lambda job: (len(job.name), job.name))]


def _row(job: Path) -> dict[str, str]:
    file = job / FILE if (job / FILE).is_file() else job / OVERRIDES
    try:
        found = (json.loads if file.name == FILE else yaml.safe_load)(file.read_text(encoding="utf-8"))
        if file.name != FILE:
            found = {"overrides": dict(word.split("=", 1) for word in found if "=" in word)}
        row = {str(name): str(value) for name, value in found["overrides"].items()}
        scores = [float(score) for score in found.get("scores", [])]
        figures = {name: found.get(name) for name in FOUND[1:]}
        row |= {"value": _spread(scores) or str(found.get("state", UNFINISHED))}
        row |= {
            name: "" if value is None else f"{float(value):.{4 if name == 'retention' else 2}f}"
            for name, value in figures.items()
        }
        return row | {name: str(found.get(name) or "") for name in ABOUT}
    except (ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is damaged: it does not say what a job overrode and found. Remove {job}.") from error


def _spread(scores: list[float]) -> str:
    """The mean, of several with the deviation of a sample (n - 1); empty where there are none."""
    deviation = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4f}{deviation}" if scores else ""


def lower_is_better(metric: str) -> bool:
    """Of a deciding metric: a loss, or what the task calls good."""
    return metric.endswith("loss")


def summarise(folder: Path) -> bool:
    """Print the jobs of a folder as a table and write all of it as `summary.csv` there; returns whether all have ended well."""
    rows = gather(folder)
    if not rows:
        raise ValueError(f"{folder}: no job has begun there. Give the folder of a sweep (hydra.sweep.dir) or of a search.")
    overrides = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in (*FOUND, *ABOUT)]
    used = [name for name in (*FOUND, *ABOUT) if name == "value" or any(row[name] for row in rows)]
    with (folder / SUMMARY).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [[csv_cell(row.get(name, "")) for name in (*overrides, *used)] for row in [_head(overrides, used), *rows]]
        )
    differ = [name for name in overrides if len({row.get(name) for row in rows}) > 1]
    table = Table()
    metrics = sorted({row["metric"] for row in rows} - {""})
    hidden = ("artifact", *(["metric"] if len(metrics) < 2 else []))
    shown = [*differ, *(name for name in used if name not in hidden)]
    for name in shown:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        table.add_row(*(printable(row.get(name, "")) for name in shown))
    console = Console(markup=False, width=None if Console().is_terminal else 140)
    what = ", ".join(map(printable, metrics)) or "none yet"
    about = f"The deciding metric of each job ({what}), also in {folder / SUMMARY} with the artifacts"
    console.print(about, soft_wrap=True)
    console.print(table)
    return all(row["value"] not in ("failed", UNFINISHED) for row in rows)


def _head(*names: list[str]) -> dict[str, str]:
    return {name: name for part in names for name in part}


class Summary(Callback):
    """Notes a job that raises while the others go on, and at the end of a multirun prints what all of them found. One job that
    failed makes the whole end with a status other than 0."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher, choice = config.hydra.launcher._target_, config.hydra.runtime.choices["hydra/launcher"]
        if launcher not in Plugins.instance().class_name_to_class:
            how = f"its plugin is not installed. pip install -e '.[{choice}]' does it."
            sys.exit(f"{program()[-1]}: hydra/launcher={choice}: {how}")

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self.began = time.monotonic()
        Path(config.hydra.runtime.output_dir, FILE).unlink(missing_ok=True)  # of an earlier multirun into the same folder

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """In the process of the job, which may be another than the multirun's."""
        if job_return.status != JobStatus.FAILED or HydraConfig.get().mode == RunMode.RUN:
            return
        error = job_return._return_value  # its property raises it, with which Hydra would end the multirun
        if isinstance(error, MISTAKES):
            said = sentence(error)
        else:
            traceback.print_exception(error)
            said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        print(f"{program()[-1]}: {said}", file=sys.stderr)
        folder, seconds = Path(config.hydra.runtime.output_dir), time.monotonic() - self.began
        keep_result(folder, list(config.hydra.overrides.task), seconds, None, said)
        job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not summarise(Path(config.hydra.sweep.dir)):
            sys.exit(1)
