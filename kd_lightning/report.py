"""What a person reads: the plan before a chain, the table after it."""

import csv
import json
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from kd_lightning.artifact import latency, parameters
from kd_lightning.chain import finished

console = Console(markup=False, width=None if Console().is_terminal else 110)


def show_plan(runs: list[DictConfig]) -> None:
    for number, run in enumerate(runs, start=1):
        state = "there already" if finished(run) else "to do"
        line = f"{number}. {run.method.name} {run.stage.name}: {run.artifact} ({state})"
        console.print(line, highlight=False, soft_wrap=True)


def show_table(cfg: DictConfig, runs: list[DictConfig]) -> float:
    """Print and write (`table.csv` in the artifact) teacher, student and baseline; returns the student's deciding metric.

    The baseline is the same student without a teacher (method=finetune), where its artifact is there or part of the runs.
    Latency is measured here, all models taking turns in this process.
    """
    rows = _rows(cfg, runs)
    length = min(64, cfg.data.max_length)
    models = [_load(folder) for _, folder, _ in rows]
    times = latency(models, length)
    reference = rows[0][2].get(cfg.metric)
    name = cfg.metric.removeprefix("val/").removeprefix("student/")
    table = []
    for (who, folder, metrics), model, time in zip(rows, models, times, strict=True):
        score = metrics.get(cfg.metric)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6
        table.append(
            {
                "model": who,
                name: _number(score),
                f"{name} (test)": _number(metrics.get(cfg.metric.replace("val/", "test/"))),
                "retention": _number(score / reference if score is not None and reference else None),
                "parameters": f"{parameters(model) / 1e6:.2f}M",
                "MB": f"{size:.1f}",
                "ms": f"{time:.2f}",
                "speed-up": f"{times[0] / time:.1f}x",
            }
        )
    with (Path(cfg.artifact) / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    machine = f"ms: one sequence of {length} tokens, {torch.get_num_threads()} threads, float32"
    console.print(cfg.artifact, highlight=False, soft_wrap=True)
    shown = Table(caption=machine, caption_justify="left")
    for column in table[0]:
        shown.add_column(column, justify="left" if column == "model" else "right")
    for row in table:
        shown.add_row(*row.values())
    console.print(shown)
    return rows[-1 if len(rows) == 1 else 1][2][cfg.metric]


def _rows(cfg: DictConfig, runs: list[DictConfig]) -> list[tuple[str, str, dict[str, float]]]:
    """(name, folder, metrics) of the teacher, if there is one, of this run and of the runs it is compared with."""
    own = _metrics(cfg.artifact)
    rows = [(f"{cfg.method.name} {cfg.stage.name}", cfg.artifact, own)]
    for run in runs:
        if run is not cfg and run.metric == cfg.metric and run.stage.name != "teacher":
            rows.append((f"{run.method.name} {run.stage.name}", run.artifact, _metrics(run.artifact)))
    if cfg.networks.teacher is not None:
        seen = {name.replace("/teacher/", "/student/"): value for name, value in own.items() if "/teacher/" in name}
        rows.insert(0, ("teacher", cfg.networks.teacher.path, seen))
    return rows


def _metrics(folder: str) -> dict[str, float]:
    return json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))


def _load(folder: str) -> PreTrainedModel:
    names = AutoConfig.from_pretrained(folder).architectures or ["BertModel"]
    heads = {"SequenceClassification": AutoModelForSequenceClassification, "MaskedLM": AutoModelForMaskedLM}
    auto_class = next((found for head, found in heads.items() if names[0].endswith(head)), AutoModel)
    return auto_class.from_pretrained(folder, dtype=torch.float32).eval()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
