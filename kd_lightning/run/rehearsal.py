"""A chain before it runs: every stage is built and takes a few steps, so that mistakes and hours are known beforehand."""

import io
import math
import resource
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kd_lightning.run.artifact import export
from kd_lightning.run.chain import replaced
from kd_lightning.run.interrupt import launched
from kd_lightning.run.leftover import scratch
from kd_lightning.run.stage import build, precision, quiet, room, store
from kd_lightning.teacher.stored import StoredTeacher

STEPS = 4  # that are taken; the first only warms up
SHORT = 50  # updates; a stage of no more is not worth the measuring
ROWS = 256  # of each split in the sample
ASIDE = 2  # times that the validation rows are read beside training: before it, and at the most once after it


@dataclass(frozen=True)
class Estimate:
    """What a stage will take. rows, tokens: of an epoch. megabytes: the most that this process has held so far, on a GPU what
    the stage held there. seconds: None where it was not measured."""

    rows: int
    tokens: int
    updates: int
    seconds: float | None
    megabytes: float | None
    stored: tuple[float, float] | None = None


def rehearse(runs: list[DictConfig]) -> dict[str, Estimate]:
    """Build the stages of a chain untrained, each from what the earlier ones built, so that what does not fit in the last is
    said before the first trains. One seed speaks for all. Returns an estimate for each setting of `runs`."""
    quiet()
    first = {run.setting: run for run in reversed(runs)}
    built: dict[str, str] = {}
    found: dict[str, Estimate] = {}
    with scratch(Path(runs[-1].artifact).parent) as folder:
        for run in (run for run in runs if run is first[run.setting]):
            cfg = OmegaConf.create(replaced(OmegaConf.to_container(run), built))
            built[run.artifact] = f"{folder}/{len(built)}"
            distiller, data = build(cfg)
            export(distiller, Path(built[run.artifact]), torch.float32)
            found[run.setting] = estimate(cfg, distiller, data, folder)
    return found


def estimate(cfg: DictConfig, distiller: L.LightningModule, data: L.LightningDataModule, folder: Path) -> Estimate:
    """Take a few steps on a few rows, the longest among them, and count what there is. folder: for what is kept meanwhile."""
    variants = 1 + cfg.data.augment.variants if cfg.data.get("augment") else 1
    data.augment = None  # it takes long, and makes more rows of the same kind
    data.prepare_data()
    data.setup("fit")
    sizes = data.sizes()
    rows, tokens = (variants * number for number in sizes["train"])
    processes = launched()
    batches, share = variants * len(data.train_dataloader()) / processes, cfg.trainer.accumulate_grad_batches
    updates, validations = length(cfg, math.ceil(batches / share))
    sample, clock, stored = data.sample(ROWS), Clock(), None
    if cfg.stored:
        each = room(distiller, sample)
        stored = each * (sizes["all"][1] + tokens - sizes["train"][1]), each
    if updates <= SHORT or processes > 1:  # one of several cannot train alone
        return Estimate(rows, tokens, updates, None, None, stored)
    trainer = L.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        precision=precision(cfg.trainer.precision),
        max_steps=STEPS,
        limit_val_batches=STEPS,
        num_sanity_val_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
        default_root_dir=str(folder),
    )
    seconds = 0.0
    with redirect_stdout(io.StringIO()):
        if isinstance(distiller.teacher, StoredTeacher):
            begun = time.perf_counter()
            store(OmegaConf.merge(cfg, {"cache": str(folder)}), distiller, sample, trainer)
            seconds += (time.perf_counter() - begun) / sample.sizes()["all"][1] * sizes["all"][1]
        trainer.fit(distiller, Sample(sample))
    seconds += clock.rate("train") * tokens * updates * share / batches
    seconds += clock.rate("val") * sizes["val"][1] * (validations + ASIDE)
    return Estimate(rows, tokens, updates, seconds, held(trainer), stored)


def length(cfg: DictConfig, batches: int) -> tuple[int, float]:
    """Updates and validations of a stage. batches: updates of an epoch."""
    trainer = cfg.trainer
    budget = cfg.callback.get("budget")
    if (trainer.max_epochs, trainer.max_steps) == (-1, -1) and budget is not None:
        return instantiate(budget).planned(batches)[0], budget.validations
    limits = [trainer.max_steps] if trainer.max_steps != -1 else []
    limits += [trainer.max_epochs * batches] if trainer.max_epochs not in (None, -1) else []
    updates = min(limits, default=0)  # the stage itself refuses to have no end
    interval = trainer.val_check_interval
    every = interval if isinstance(interval, int) else max(1.0, interval * batches)
    return updates, updates / every


def held(trainer: L.Trainer) -> float:
    """Megabytes, at the most: of the GPU that trains, or of this process."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


class Clock(L.Callback):
    """Times the batches of training and validation."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, int]]] = {"train": [], "val": []}  # seconds and tokens of each batch

    def rate(self, split: str) -> float:
        """Seconds a token; the first batch only warms up."""
        times = self.times[split][1:] or self.times[split]
        return sum(seconds for seconds, _ in times) / max(1, sum(tokens for _, tokens in times))

    def on_train_batch_start(self, trainer: L.Trainer, *_) -> None:
        self.begun = self._now(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        self.times["train"].append((self._now(trainer) - self.begun, int(batch["attention_mask"].sum())))

    def on_validation_batch_start(self, trainer: L.Trainer, *_) -> None:
        self.begun = self._now(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, *_) -> None:
        self.times["val"].append((self._now(trainer) - self.begun, int(batch["attention_mask"].sum())))

    @staticmethod
    def _now(trainer: L.Trainer) -> float:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        return time.perf_counter()


class Sample(L.LightningDataModule):
    """Data that are set up already."""

    def __init__(self, data: L.LightningDataModule) -> None:
        super().__init__()
        self.train_dataloader, self.val_dataloader = data.train_dataloader, data.val_dataloader
