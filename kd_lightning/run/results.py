"""Artifacts read back: what a model scored on a task, over the seeds it was trained with."""

import inspect
import itertools
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pyarrow import parquet
from torch import Tensor
from torchmetrics import Metric

from kd_lightning.run.bootstrap import Difference, difference, resampled_scores


@dataclass(frozen=True)
class Result:
    """One model on one task: an artifact for each seed, and the configuration of the first."""

    folders: list[Path]
    cfg: DictConfig

    @property
    def name(self) -> str:
        """The artifact's, without its seed: "tinybert", or "tinybert-1f0c9a2b" where other settings were changed."""
        return Path(self.cfg.get("setting", self.cfg.artifact)).name

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        return [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in self.folders]

    def scores(self, key: str) -> list[float]:
        """A metric under each seed that has it."""
        return [metrics[key] for metrics in self.metrics if key in metrics]

    @cached_property
    def predictions(self) -> dict[str, Tensor] | None:
        """Of the validation data: `row` and `label` [N], and the `logits` [R, N, C] of R seeds. None if one kept none."""
        files = [folder / "predictions.parquet" for folder in self.folders]
        if not all(file.is_file() for file in files):
            return None
        tables = [parquet.read_table(file).to_pydict() for file in files]
        first = {name: torch.tensor(tables[0][name]) for name in ("row", "label")}
        return first | {"logits": torch.tensor([table["student"] for table in tables])}

    @property
    def majority(self) -> float | None:
        """The deciding metric of one answer for all rows, their most frequent label. None where the task has no classes."""
        if self.predictions is None or self.predictions["logits"].shape[-1] == 1:
            return None
        labels = self.predictions["label"]
        return float(self._metric()(labels.mode().values.expand_as(labels), labels))

    @cached_property
    def resampled(self) -> Tensor:
        return resampled_scores(self._metric(), self.predictions["logits"], self.predictions["label"])

    def _metric(self) -> Metric:
        """The task's deciding metric, empty."""
        factory = instantiate(self.cfg.task.metrics[self.cfg.task.monitor])
        wanted = "num_classes" in inspect.signature(factory).parameters
        return factory(num_classes=self.predictions["logits"].shape[-1]) if wanted else factory()


def collect(folders: Iterable[str | Path]) -> list[Result]:
    """The artifacts in these folders, those together that differ in their seed alone."""
    found: dict[tuple[Path, str], Result] = {}
    for folder in map(Path, folders):
        cfg = OmegaConf.load(folder / "run.yaml")
        new = Result([], cfg)
        found.setdefault((folder.resolve().parent, new.name), new).folders.append(folder)
    return list(found.values())


def differences(results: Iterable[Result]) -> list[tuple[Result, Result, Difference]]:
    """The paired bootstrap of every two results that have predictions of the same rows of the same task."""
    found = []
    for ours, theirs in itertools.combinations(results, 2):
        if ours.predictions is None or theirs.predictions is None or ours.cfg.metric != theirs.cfg.metric:
            continue
        if all(torch.equal(ours.predictions[name], theirs.predictions[name]) for name in ("row", "label")):
            found.append((ours, theirs, difference(ours.resampled, theirs.resampled)))
    return found


def mean_and_deviation(scores: list[float]) -> str:
    """ "0.8123", or "0.8123 ± 0.0045" of several: their mean and the deviation of a sample (n - 1)."""
    if not scores:
        return ""
    deviation = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4f}{deviation}"
