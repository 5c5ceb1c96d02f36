"""What a stage shows in W&B when it has ended: how large and fast its networks are, on which rows they disagree, what they
confuse, how they are calibrated, and from which artifacts this one came."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from kd_lightning.manifest import FOR_PEOPLE
from kd_lightning.run import validation
from kd_lightning.run.artifact import latency, load, parameters
from kd_lightning.run.shown import printable

CLASSES = 50  # that a confusion matrix is drawn for: it has as many lines as classes squared


def show(
    loggers: Sequence[Logger],
    cfg: DictConfig,
    metrics: Mapping[str, float],
    predictions: pa.Table | None,
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
) -> None:
    """metrics: as in metrics.json. predictions, texts: of the validation rows, in order; labels: the names of the classes. The
    artifact is in its place."""
    boards = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if not boards:
        return
    sizes, table = _end(cfg, metrics)
    tables, shown = {"end/table": table}, {}
    if predictions is not None:
        tables["val/rows"] = validation.rows(predictions, texts, labels)
        if len(labels) > 1:
            gold = torch.tensor(predictions["label"].to_pylist())
            for who, logits in validation.logits(predictions).items():
                sizes[f"val/{who}/ece"] = validation.calibration_error(logits, gold)
                tables[f"val/{who}/reliability"] = validation.reliability(logits, gold)
                shown[f"val/{who}/confusion"] = (logits.argmax(1).tolist(), gold.tolist())
    for board in boards:
        _log(board.experiment, sizes, tables, shown if len(labels) <= CLASSES else {}, labels)
        lineage(board.experiment, cfg)


def _log(run: Any, sizes: dict, tables: dict, answers: dict, labels: Sequence[str]) -> None:
    import wandb

    names = [printable(label) for label in labels]
    pictures = {
        name: wandb.plot.confusion_matrix(preds=said, y_true=gold, class_names=names, title=name)
        for name, (said, gold) in answers.items()
    }
    run.log(sizes | {name: wandb.Table(columns=c, data=d) for name, (c, d) in tables.items()} | pictures)


def _end(cfg: DictConfig, metrics: Mapping[str, float]) -> tuple[dict[str, float], validation.Table]:
    """Parameters, megabytes and milliseconds of the student; and a table of both networks, with their scores too."""
    teacher = (cfg.networks.teacher or {}).get("path")  # of answers there is no network
    folders = {"student": cfg.artifact} | ({"teacher": teacher} if teacher else {})
    models = {who: load(folder) for who, folder in folders.items()}
    times = dict(zip(models, latency(list(models.values()), min(64, cfg.data.max_length)), strict=True))
    keys = sorted({key.replace("/student/", "/") for key in metrics if "/student/" in key})
    columns, lines = ["network", "name", *keys, "parameters", "megabytes", "milliseconds"], []
    for who, model in models.items():
        scores = [metrics.get(f"/{who}/".join(key.split("/", 1))) for key in keys]
        size = sum(file.stat().st_size for file in Path(folders[who]).glob("*.safetensors")) / 1e6
        lines.append([who, Path(folders[who]).name, *scores, parameters(model), size or None, times[who]])
    known = dict(zip(columns[-3:], lines[0][-3:], strict=True))
    return {f"end/{name}": value for name, value in known.items() if value is not None}, (columns, lines)


def lineage(run: Any, cfg: DictConfig) -> None:
    """Tell W&B which artifacts this stage started from and which it left: by reference to their files, or with them where
    `log_model` is true."""
    upload = any(one.get("log_model") for one in cfg.logger.values())
    for folder in cfg.starts_from.values():
        if Path(folder).is_dir():
            used = _named(Path(folder), upload)
            if run.offline:  # use_artifact refuses, though what it sends can be sent later
                run._log_artifact(used, aliases=[], is_user_created=True, use_after_commit=True)
            else:
                run.use_artifact(used)
    run.log_artifact(_named(Path(cfg.artifact), upload, {"identity": cfg.identity}))


def _named(folder: Path, upload: bool, about: dict[str, str] | None = None) -> Any:
    """The artifact in a folder as W&B names it: alike wherever it is read. What a person may edit is no part of it."""
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", "-".join(folder.resolve().parts[-2:]))[:128], "model", metadata=about)
    for file in sorted(file for file in folder.resolve().iterdir() if file.is_file() and file.name not in FOR_PEOPLE):
        if upload:
            artifact.add_file(str(file), file.name)
        else:
            artifact.add_reference(file.as_uri(), file.name)
    return artifact
