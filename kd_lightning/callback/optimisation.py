"""What each update is made of."""

import lightning as L
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


def due(trainer: L.Trainer) -> bool:
    """Whether the loggers take down this batch."""
    return trainer._logger_connector.should_update_logs


class Optimisation(L.Callback):
    """Logs, where the loggers take down a step: `train/share/<term>`, a term's weighted part over the sum of them all;
    `train/lr`, the highest rate of a group of parameters; and `train/gradient_norm`, before it is clipped."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if not due(trainer):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):  # it divides by the scale itself
            norm = norm / scaler.get_scale()
        pl_module.log("train/gradient_norm", norm)
        pl_module.log("train/lr", max(group["lr"] for group in optimizer.param_groups))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        if not due(trainer):
            return
        parts = {name: trainer.callback_metrics.get(f"train/loss/{name}") for name in pl_module.objective.terms}
        weighted = {n: pl_module.objective.terms[n].weight * part for n, part in parts.items() if part is not None}
        total = sum(weighted.values())
        pl_module.log_dict({f"train/share/{name}": part / total for name, part in weighted.items()})
