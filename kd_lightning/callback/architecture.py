"""What a search has found so far."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn


class ReportArchitecture(L.Callback):
    """Logs `search/...` after each epoch (see `Choice.summary`) and prints the present architecture. Searches have been seen to
    collapse to an architecture that has nothing to learn but its word vectors: it warns at the end if this one has.

    length: tokens of a text, for the expected multiply-adds.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        choice = pl_module.student.choice
        summary = choice.summary(pl_module.student.spec.hidden, self.length)
        pl_module.log_dict({f"search/{name}": value for name, value in summary.items()})
        trainer.print(f"Epoch {trainer.current_epoch + 1}: {choice.architecture()}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        architecture = pl_module.student.choice.architecture()
        if not architecture.taps:
            rank_zero_warn(
                f"The search has collapsed to operations without weights ({architecture}): a bag of word vectors. Lower "
                "method.efficiency, search longer, or let the weights learn faster than the choice (method.choice.lr)."
            )
