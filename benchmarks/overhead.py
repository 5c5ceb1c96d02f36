"""What Lightning adds: a step of `Trainer.fit` with the real Distiller against the same step in a bare loop.

Two copies of the same modules take turns within one fit: after each step of the Trainer a callback makes a bare step of
the copy. The Trainer's time is all that passes between two bare steps: loading, hooks, logging to CSV, scheduler.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import BertForMaskedLM
from workloads import NARROW, bert, encoders, engine, text

from kd_lightning.distiller import Distiller
from kd_lightning.method.distilbert import DistilBERT
from kd_lightning.method.tinybert import TransformerDistillation
from kd_lightning.student import transplant
from kd_lightning.views import Batch

NAME = "trainer-overhead"
BAR = 5.0
WARM_UP = 3
AT_LEAST = 20


def distilbert_256() -> tuple[Distiller, dict[str, Tensor]]:
    student = partial(
        transplant.distilbert,
        path=None,
        num_hidden_layers=2,
        copy_layers="uniform",
        copy_head=True,
        fold_token_type=False,
        freeze_position_embeddings=False,
    )
    ours, theirs = encoders(BertForMaskedLM, bert(**NARROW), student)
    weights = {"temperature": 2.0, "soft": 5.0, "mlm": 2.0, "cosine": 1.0, "masked_only": False}
    return DistilBERT(**weights, student=ours, teacher=theirs, **engine(0.0)), text(16, 128)


def tinybert_demo() -> tuple[Distiller, dict[str, Tensor]]:
    shape = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
    student = partial(transplant.smaller, path=None, copy_layers=None, **shape)
    ours, theirs = encoders(BertForMaskedLM, bert(8000, **NARROW), student)
    weights = {"embedding": 1.0, "hidden": 1.0, "attention": 1.0}
    how = {"layers": "uniform", "projection": "shared", "valid_only": False}
    return TransformerDistillation(**weights, **how, student=ours, teacher=theirs, **engine(0.01)), text(32, 128, 8000)


SIZES = {"distilbert-256": distilbert_256, "tinybert, demo size": tinybert_demo}


class BareLoop(L.Callback):
    """After each step of the Trainer, the same step without it; both are timed."""

    def __init__(self, distiller: Distiller, batch: Batch, precision: str) -> None:
        self.distiller, self.batch, self.precision = distiller, batch, precision
        self.bare: list[float] = []
        self.fit: list[float] = []
        self.resumed: float | None = None

    def on_train_start(self, trainer: L.Trainer, _) -> None:
        self.distiller.trainer = trainer  # for the length of its schedule
        configured = self.distiller.configure_optimizers()
        self.optimizer = configured["optimizer"]
        self.scheduler: LRScheduler = configured["lr_scheduler"]["scheduler"]
        self.distiller.to(trainer.strategy.root_device).train()
        self.batch = {name: tensor.to(trainer.strategy.root_device) for name, tensor in self.batch.items()}

    def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
        start = self._now()
        if self.resumed is not None:
            self.fit.append(start - self.resumed)
        device = trainer.strategy.root_device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.distiller.objective(*self.distiller.views(self.batch), self.batch)[0]
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.resumed = self._now()
        self.bare.append(self.resumed - start)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(size: str, precision: str, rounds: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds a step, round by round: of Trainer.fit, of the bare loop."""
    distiller, batch = SIZES[size]()
    copy, _ = SIZES[size]()
    if precision == "bf16":
        distiller.teacher.to(torch.bfloat16)
        copy.teacher.to(torch.bfloat16)
    bare = BareLoop(copy, batch, precision)
    steps = rounds + WARM_UP + 1
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        L.Trainer(
            accelerator=device if device == "cpu" else "gpu",
            devices=1,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_steps=steps,
            gradient_clip_val=1.0,
            logger=CSVLogger(folder),
            callbacks=[bare],
            log_every_n_steps=20,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        ).fit(distiller, DataLoader([batch] * steps, batch_size=None))
    return bare.fit[WARM_UP:], bare.bare[WARM_UP + 1 :]


def show(precisions: Sequence[str], rounds: int, device: str, console: Console) -> None:
    table = Table(title="A step of Trainer.fit against the same step in a bare loop")
    for number, column in enumerate(["workload", "precision", "bare ms", "fit ms", "overhead \\[q1, q3]", "bar"]):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for size in SIZES:
        for precision in precisions:
            fit, bare = measure(size, precision, max(rounds, AT_LEAST), device)
            percent = [100 * (f / b - 1) for f, b in zip(fit, bare, strict=True)]
            low, middle, high = statistics.quantiles(percent, n=4, method="inclusive")
            colour = "green" if middle <= BAR else "red"
            table.add_row(
                size,
                precision,
                f"{1000 * statistics.median(bare):,.1f}",
                f"{1000 * statistics.median(fit):,.1f}",
                f"[{colour}]{middle:.1f} %[/] \\[{low:.1f}, {high:.1f}]",
                f"{BAR:g} %",
            )
    console.print(table)
