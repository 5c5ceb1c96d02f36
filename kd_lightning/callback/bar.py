"""How far the training is: a bar in a terminal, and elsewhere a line now and then."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar


class Lines(ProgressBar):
    """Prints a line when the training begins, every so many seconds, and when it ends."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.since, self.enabled = seconds, 0.0, True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._say(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        if time.monotonic() - self.since >= self.seconds:
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._say(trainer, pl_module)

    def _say(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.since = time.monotonic()
        if not self.enabled:
            return
        figures: dict[str, Any] = {name: v for name, v in self.get_metrics(trainer, module).items() if name != "v_num"}
        said = [f"{name}={float(value):.3g}" for name, value in figures.items()]
        print(f"{trainer.global_step}/{trainer.estimated_stepping_batches} updates", *said, sep=", ", flush=True)


def bar(refresh_rate: int, seconds: float) -> ProgressBar:
    """refresh_rate: batches between two looks of the bar. seconds: between two lines where there is no terminal."""
    return TQDMProgressBar(refresh_rate) if sys.stdout.isatty() else Lines(seconds)
