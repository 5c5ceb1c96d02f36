"""Student beside teacher, on the same batches, under the same names."""

import inspect
from collections.abc import Callable, Mapping

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef
from torchmetrics.aggregation import BaseAggregator

from kd_lightning.terms import Rows
from kd_lightning.together import summed
from kd_lightning.views import Needs

CONSTANT = 1e-5  # numbers that differ by no more than this share of themselves are one number


class CrossEntropy(MeanMetric):
    """-log softmax(logits)[label], averaged over all rows of all batches. logits: [N, C], labels: [N]."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        if len(labels):
            super().update(F.cross_entropy(logits.float(), labels), weight=len(labels))


class Matthews(Metric):
    """Matthews correlation of C classes (Gorodkin 2004). It is 0 where all answers or all labels are of one class, as in
    scikit-learn, which GLUE scores with. Kept are counts [C]: a C x C table of ten thousand classes would fill a gigabyte."""

    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name, size in (("answers", num_classes), ("labels", num_classes), ("right", 1)):
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """answers, labels: [N] classes."""
        self.answers += torch.bincount(answers, minlength=len(self.answers))
        self.labels += torch.bincount(labels, minlength=len(self.labels))
        self.right += (answers == labels).sum()

    def compute(self) -> Tensor:
        def spread(ours: Tensor, theirs: Tensor) -> Tensor:
            return (ours.sum() * theirs.sum() - (ours * theirs).sum()).double()

        covariance = self.right.squeeze() * self.labels.sum() - (self.answers * self.labels).sum()
        both = spread(self.answers, self.answers) * spread(self.labels, self.labels)
        return (covariance / both.sqrt() if both else both).float()


class Pearson(PearsonCorrCoef):
    """Pearson correlation. It is 0 where all answers or all labels are one number, up to rounding: they tell the rows apart no
    better than chance. torchmetrics has no number there, which would end an early stopping, or whatever rounding makes of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_state("low", torch.full((2,), torch.inf), "min")  # of answers and labels
        self.add_state("high", torch.full((2,), -torch.inf), "max")

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target)
        both = torch.stack([preds.float(), target.float()])  # [2, N]
        self.low, self.high = torch.minimum(self.low, both.amin(1)), torch.maximum(self.high, both.amax(1))

    def compute(self) -> Tensor:
        constant = self.high - self.low <= CONSTANT * torch.maximum(self.high.abs(), self.low.abs())
        return torch.zeros((), device=constant.device) if constant.any() else super().compute()


class TeacherAndStudent(L.Callback):
    """Logs `val/student/<metric>`, `val/teacher/<metric>`, `val/retention` and `val/agreement`. Trainer.test takes
    a further split under its name, {"mismatched": loader}, and logs the same as `mismatched/student/<metric>` and so on.

    metrics: name -> factory of a torchmetrics Metric, the first one being the one that counts (retention, model choice);
    a factory that takes num_classes gets it from the student's spec. rows: which rows of a batch carry labels.
    Several processes measure their own batches, and the metrics are those of all rows.
    retention: student over teacher in the first metric. agreement: share of rows where both choose the same class.

    The teacher runs once: its predictions are kept for the agreement of later epochs. A teacher that is no better than
    always saying the most frequent class is reported before the student is trained. Where the Trainer first validates on all
    batches (num_sanity_val_steps=-1), the loggers take that down as step 0: it is the student before its first step.
    """

    def __init__(self, metrics: Mapping[str, Callable[..., Metric]], rows: Rows) -> None:
        self.factories, self.rows = dict(metrics), rows
        self.teacher: dict[str, dict[str, float]] = {}  # split -> metric -> value
        self.predictions: dict[tuple[str, int], Tensor] = {}  # (split, batch) -> classes [N]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        classes = len(pl_module.student.spec.labels) or pl_module.student.spec.vocabulary
        self.regression = len(pl_module.student.spec.labels) == 1

        def collection() -> MetricCollection:
            made = {}
            for name, factory in self.factories.items():
                wanted = "num_classes" in inspect.signature(factory).parameters
                made[name] = factory(num_classes=classes) if wanted else factory()
            return MetricCollection(made, compute_groups=False)

        self.measured = {"student": collection(), "teacher": collection()}
        self.agreement = MeanMetric()
        self.counts = torch.zeros(classes, dtype=torch.long)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._update(pl_module, batch, batch_idx, "val")

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._update(pl_module, batch, batch_idx, *trainer.test_dataloaders)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer, pl_module, *trainer.test_dataloaders)

    @torch.no_grad()
    def _update(self, module: L.LightningModule, batch: Mapping[str, Tensor], index: int, split: str) -> None:
        rows = self.rows(batch)
        labels = batch["labels"] if "rows" in batch else batch["labels"][rows]
        ours = module.once(module.student, batch, Needs(logits=True)).logits(rows).float()
        self._measure("student", ours, labels)
        if module.teacher is None:
            return
        if split not in self.teacher:
            theirs = module.once(module.teacher, batch, Needs(logits=True)).logits(rows).float()
            self._measure("teacher", theirs, labels)
            self.predictions[split, index] = theirs.argmax(-1)
            if not self.regression:
                self.counts += torch.bincount(labels.cpu(), minlength=len(self.counts))
        if not self.regression and len(rows):
            self.agreement.to(ours.device).update((ours.argmax(-1) == self.predictions[split, index]).float())

    def _measure(self, who: str, logits: Tensor, labels: Tensor) -> None:
        for metric in self.measured[who].to(logits.device).values():
            if isinstance(metric, BaseAggregator):
                metric.update(logits, labels)
            else:
                metric.update(logits.squeeze(-1) if self.regression else logits.argmax(-1), labels)

    def _finish(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):  # a few batches are no measurement
            self.counts.zero_()
            self.predictions.clear()
            for measure in (*self.measured.values(), self.agreement):
                measure.reset()
            return
        main = next(iter(self.factories))
        logged = {f"{split}/student/{name}": value for name, value in self._compute("student").items()}
        if module.teacher is not None:
            if split not in self.teacher:
                self.teacher[split] = self._compute("teacher")
                self._report(trainer, split)
            logged |= {f"{split}/teacher/{name}": value for name, value in self.teacher[split].items()}
            if self.teacher[split][main]:
                logged[f"{split}/retention"] = logged[f"{split}/student/{main}"] / self.teacher[split][main]
            if not self.regression:
                logged[f"{split}/agreement"] = float(self.agreement.compute())
        self.measured["teacher"].reset()
        self.agreement.reset()
        if trainer.sanity_checking:  # of which Lightning logs nothing: it is the student before its first step
            for logger in trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in logged.items()}, step=0)
        else:
            module.log_dict(logged, sync_dist=True)

    def _compute(self, who: str) -> dict[str, float]:
        values = {name: float(value) for name, value in self.measured[who].compute().items()}
        self.measured[who].reset()
        return values

    def _report(self, trainer: L.Trainer, split: str) -> None:
        values = self.teacher[split]
        trainer.print(f"The teacher's {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        counts = summed(self.counts.to(trainer.strategy.root_device))
        total = int(counts.sum())
        if "accuracy" in values and total and values["accuracy"] <= (majority := int(counts.max()) / total) + 1e-6:
            rank_zero_warn(
                f"The teacher's accuracy on {split} is {values['accuracy']:.3f}, no better than always saying the most "
                f"frequent class ({majority:.3f}). It has nothing to teach here: was it fine-tuned on this task?"
            )
        self.counts.zero_()
