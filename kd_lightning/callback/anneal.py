"""The temperature of a search: soft choices first, hard ones in the end."""

import math
from collections.abc import Callable

import lightning as L


def exponential(epoch: int, *, epochs: int, fall: float, floor: float) -> float:
    """max(exp(-fall · epoch / epochs), floor). AdaBERT's PyTorch code: exp(-0.02 · epoch) and 0.2, at 80 epochs and 1.6.

    Deviation: EasyTransfer's falls in stairs, every 100 steps, to 0.2 at the end.
    """
    return max(math.exp(-fall * epoch / epochs), floor)


class Anneal(L.Callback):
    """Sets the module's `relaxation` before each batch. schedule: epoch -> temperature."""

    def __init__(self, schedule: Callable[[int], float]) -> None:
        self.schedule = schedule

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        pl_module.relaxation = self.schedule(trainer.current_epoch)
