"""How fast the training is."""

import time
from contextlib import ExitStack

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.callback.optimisation import due


class Speed(L.Callback):
    """Logs, where the loggers take down a step, `train/tokens_per_second`, padding not counted, of this process; and on a GPU
    whose peak is known `train/mfu`, the share of that peak which the floating-point operations of the models are.

    Of both the time between two such steps counts, without validations and what else is not training. The operations are those
    of the first batch, teacher and student, forward and backward, for each position of it.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        dtype = half.get(trainer.precision, torch.float32)
        self.peak = get_available_flops(device, dtype) if device.type == "cuda" else None
        self.operations, self.count = 0.0, ExitStack()
        self._begin(device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._begin(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer.strategy.root_device)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if self.peak and not self.operations:
            self.counter = self.count.enter_context(FlopCounterMode(display=False))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        positions = batch["input_ids"].numel()
        if self.peak and not self.operations:
            self.count.close()
            self.operations = self.counter.get_total_flops() / positions
            return self._begin(trainer.strategy.root_device)  # counting is slow
        self.tokens += batch["attention_mask"].sum()  # on the device, without waiting for it
        self.positions += positions
        if due(trainer):
            tokens, seconds = float(self.tokens), time.perf_counter() - self.since  # the first waits for the device
            pl_module.log("train/tokens_per_second", tokens / seconds)
            if self.peak:
                pl_module.log("train/mfu", self.operations * self.positions / seconds / self.peak)
            self._begin(trainer.strategy.root_device)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "count"):
            self.count.close()

    def _begin(self, device: torch.device) -> None:
        self.tokens, self.positions, self.since = torch.zeros((), dtype=torch.long, device=device), 0, time.perf_counter()
