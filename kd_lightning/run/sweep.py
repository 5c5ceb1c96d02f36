"""What the jobs of a multirun found, gathered from files: one table."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

FILE = "result.json"


def keep_result(cfg: DictConfig, value: float, error: str | None) -> None:
    """Write what a job overrode and what it found, or why it failed, into its folder of the run."""
    hydra = HydraConfig.get()
    overrides = dict(override.split("=", 1) for override in hydra.overrides.task if "=" in override)
    found = {"overrides": overrides, "value": None if math.isnan(value) else value, "error": error}
    Path(hydra.runtime.output_dir, FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def gather(folder: Path) -> list[dict[str, str]]:
    """A row for each job of the sweep in this folder that has ended: its overrides, its value and its error."""
    rows = []
    for file in sorted(folder.glob(f"*/{FILE}"), key=lambda file: (len(file.parent.name), file.parent.name)):
        found = json.loads(file.read_text(encoding="utf-8"))
        value = "failed" if found["value"] is None else f"{found['value']:.4f}"
        rows.append(found["overrides"] | {"value": value, "error": found["error"] or ""})
    return rows


class Summary(Callback):
    """At the end of a multirun: prints what the jobs overrode and found, and writes `summary.csv`. A job that failed makes the
    whole end with a status other than 0."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = gather(folder)
        columns = list(dict.fromkeys(name for row in rows for name in row if name not in ("value", "error")))
        columns += ["value", *(["error"] if any(row["error"] for row in rows) else [])]
        with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        shown = [c for c in columns if c in ("value", "error") or len({row.get(c) for row in rows}) > 1]
        table = Table()
        for column in shown:
            table.add_column(column)
        for row in rows:
            table.add_row(*(row.get(column, "") for column in shown))
        console = Console(markup=False)
        console.print(f"The deciding metric of each job, also in {folder / 'summary.csv'}", soft_wrap=True)
        console.print(table)
        if any(row["value"] == "failed" for row in rows):
            sys.exit(1)
