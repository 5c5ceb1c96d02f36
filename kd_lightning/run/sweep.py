"""One table for a multirun."""

import csv
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table


class Summary(Callback):
    """At the end of a multirun: prints what each job overrode and its deciding metric, and writes `summary.csv`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        done = job_return.status == JobStatus.COMPLETED
        row = dict(override.split("=", 1) for override in job_return.overrides)
        metric = str(config.get("metric", "metric")) if done else "metric"
        self.rows.append(row | {"metric": metric, "value": f"{job_return.return_value:.4f}" if done else "failed"})

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        folder = Path(config.hydra.sweep.dir)
        with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(self.rows)
        shown = [c for c in columns if c == "value" or len({row.get(c) for row in self.rows}) > 1]
        table = Table()
        for column in shown:
            table.add_column(column)
        for row in self.rows:
            table.add_row(*(row.get(column, "") for column in shown))
        console = Console(markup=False)
        console.print(f"{self.rows[0]['metric']} of each job, also in {folder / 'summary.csv'}", soft_wrap=True)
        console.print(table)
