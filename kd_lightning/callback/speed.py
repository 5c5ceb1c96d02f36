"""How fast the training is."""

import re
import time
from contextlib import ExitStack

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.callback.optimisation import due

# Dense TFLOP/s in bfloat16 with sums in float32, by what the driver calls a card. Source: NVIDIA's data sheets of the H100, the
# H200, the A100 and the L4 (half of what they give with sparsity), and its paper on the Ada architecture for the RTX 4090.
PEAKS = {
    r"H200": 989.0,
    r"H100 80GB HBM3": 989.0,
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": 312.0,
    r"L4": 121.0,
    r"GeForce RTX 4090": 165.0,
}


def peak_of(card: str) -> float | None:
    """TFLOP/s by a card's name; None: it is not known here."""
    return next((peak for name, peak in PEAKS.items() if re.fullmatch(f"(NVIDIA )?({name})", card)), None)


def _peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s in products of this type. Lightning's own table has cards that are not here, and no H200."""
    if device.type != "cuda":
        return None
    known = None if dtype == torch.float32 else peak_of(torch.cuda.get_device_name(device))
    return known * 1e12 if known else get_available_flops(device, dtype)


class Speed(L.Callback):
    """Logs, where the loggers take down a step, `train/tokens_per_second`, padding not counted, of this process; and on a GPU
    whose peak is known `train/mfu`, the share of that peak which the floating-point operations of the models are.

    Of both the time between two such steps counts, without validations and what else is not training. The operations are those
    of the first batch, teacher and student, forward and backward, for each position of it.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        self.peak = _peak(device, half.get(trainer.precision, torch.float32))
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
