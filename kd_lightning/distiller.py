"""The one training loop."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import get_scheduler

from kd_lightning.finite import Finite, all_finite
from kd_lightning.objective import Objective
from kd_lightning.once import Once
from kd_lightning.reach import reached
from kd_lightning.terms import Term
from kd_lightning.views import Batch, Needs, View


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices decay; biases and the weights of normalisation layers do not.

    The shape decides: every vector and scalar is exempt, which is BERT's rule without its list of names.
    """
    parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values()
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")
NUMBERS = ("32", "64", "16", "bf16")  # Lightning's short forms, of which 16 and bf16 mean the mixed ones


def check_precision(precision: str | int) -> None:
    """Raises ValueError for a precision in which a student would not learn."""
    if str(precision) not in (*PRECISIONS, *NUMBERS):
        raise ValueError(
            f"trainer.precision={precision}: weights in 16 bits or fewer lose the small updates of fine-tuning and "
            f"distillation. Choose one of {', '.join(PRECISIONS)}."
        )


class Distiller(L.LightningModule):
    """Trains a student on an objective; the teacher only watches.

    student, teacher: networks with `spec` and `forward(batch, needs) -> View` (teacher None: no teacher at all).
    optimizer: parameter groups -> Optimizer. schedule: a name of `transformers.get_scheduler`. warmup: share of the
    updates. Logs `train/loss`, `train/loss/<term>` and the same under `val/`.

    The teacher is in eval mode and without a graph whatever `train()` says, never in the optimizer, never in a checkpoint.
    What no term reads of the student is frozen and no part of the optimizer: several processes that train together wait for
    the gradient of every parameter that requires one.
    A loss that is not finite ends the run, and neither it nor weights that are not finite come into a checkpoint.
    """

    def __init__(
        self,
        *,
        terms: Mapping[str, Term],
        student: nn.Module,
        teacher: nn.Module | None,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        weight_decay: float,
        schedule: str,
        warmup: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.objective = Objective(terms)
        self.student_needs, self.teacher_needs = self.objective.bind(student.spec, teacher.spec if teacher else None)
        read = self.read()
        for parameter in student.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter in read)
        self.make_optimizer, self.weight_decay, self.schedule, self.warmup = optimizer, weight_decay, schedule, warmup
        self.finite, self.once = Finite(), Once()
        self.measured = False  # whether these very weights were validated

    def read(self) -> set[nn.Parameter]:
        """Those of the student's parameters that the objective reads, at any time."""
        return reached(self.student, self.student_needs)

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)
        if stage == "fit":
            self.once, self.measured = Once(), False

    def on_fit_start(self) -> None:
        self.train()  # from_pretrained leaves networks in eval mode, and Lightning leaves them as they are

    def views(self, batch: Batch) -> tuple[View, View]:
        teacher = View()
        if self.teacher_needs != Needs():
            with torch.no_grad():
                teacher = self.teacher(batch, self.teacher_needs)
        return self.student(batch, self.student_needs), teacher

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss, parts = self.objective(*self.views(batch), batch)
        self._log("train", loss, parts, batch)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.changed()

    def changed(self) -> None:
        """The student's weights are others than before."""
        self.measured = False
        self.once.forget(self.student)

    def validation_step(self, batch: Batch, _: int) -> None:
        taught = self.teacher_needs != Needs()
        teacher = self.once(self.teacher, batch, self.teacher_needs) if taught else View()
        loss, parts = self.objective(self.once(self.student, batch, self.student_needs), teacher, batch)
        self._log("val", loss, parts, batch)

    def on_validation_end(self) -> None:
        self.measured = not self.trainer.sanity_checking

    def test_step(self, batch: Batch, _: int) -> None:
        """This does nothing: the metrics callback measures student and teacher on the batch."""

    def predict_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        """The logits [B, C] of student and, if there is one, teacher, both classifiers, and the labels and lengths [B]."""
        rows = torch.arange(len(batch["labels"]), device=self.device)
        networks = {"student": self.student} | ({} if self.teacher is None else {"teacher": self.teacher})
        logits = {who: self.once(network, batch, Needs(logits=True)).logits(rows).float() for who, network in networks.items()}
        return {"label": batch["labels"], "length": batch["attention_mask"].sum(1), **logits}

    def _log(self, split: str, loss: Tensor, parts: Mapping[str, Tensor], batch: Batch) -> None:
        size, named = len(batch["input_ids"]), {f"{split}/loss/{name}": part for name, part in parts.items()}
        told = {"prog_bar": True, "batch_size": size, "sync_dist": split == "val"}  # in training the first process's own
        self.log(f"{split}/loss", loss.detach(), **told)
        self.log_dict(named, **told)
        self.latest = batch
        self._stop(self.finite.note(f"epoch {self.current_epoch}, step {self.global_step}", named | {f"{split}/loss": loss}))

    def _stop(self, found: str) -> None:
        """End the run if this says that a value is not finite; whose it is, the batch at hand tells."""
        if found:
            whose = "the student's" if self._teacher_is_finite() else "the teacher's"
            raise ValueError(
                f"{found}, as {whose} outputs are not finite or too large there. Lower optim.lr, set trainer.gradient_clip_val "
                "or choose trainer.precision=32-true; checkpoints from before are kept."
            )

    @torch.no_grad()
    def _teacher_is_finite(self) -> bool:
        if self.teacher_needs == Needs():
            return True
        view = self.teacher(self.latest, self.teacher_needs)
        shown = [*view.hidden.values(), *(t for pair in view.attention.values() for t in pair)]
        if self.teacher_needs.logits:
            whole = torch.arange(len(self.latest["input_ids"]), device=self.device)
            shown.append(view.logits(self.latest.get("rows", whole)))
        return all_finite([*shown, *([] if view.probes is None else [view.probes])])

    def on_train_epoch_end(self) -> None:
        self._stop(self.finite.look())

    def on_validation_epoch_end(self) -> None:
        self._stop(self.finite.look())

    def on_train_end(self) -> None:
        self._check_weights()

    def _check_weights(self) -> None:
        self._stop(self.finite.look())
        bad = [name for name, weight in self.student.named_parameters() if not all_finite([weight])]
        if bad:
            raise ValueError(
                f"{len(bad)} of the student's weights are not finite after step {self.global_step} ({bad[0]} ...). Lower "
                "optim.lr, set trainer.gradient_clip_val or choose trainer.precision=32-true; checkpoints from before are kept."
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return decay_groups([self.student, self.objective], self.weight_decay)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer(self.parameter_groups())
        none = 0 in (self.trainer.max_epochs, self.trainer.max_steps)
        updates = 0 if none else self.trainer.estimated_stepping_batches
        if not 1 <= updates < float("inf"):
            raise ValueError(
                f"trainer.max_epochs={self.trainer.max_epochs} trainer.max_steps={self.trainer.max_steps}: these are "
                f"{updates} updates. Give 1 or more, and an end."
            )
        updates = int(updates)
        scheduler = get_scheduler(self.schedule, optimizer, round(self.warmup * updates), updates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, but that it refuses fused optimizers, which divide out a gradient's scale (16-mixed) themselves:
        theirs is divided out here, before gradients are measured, and PyTorch's scaler does not do it again."""
        plugin = self.trainer.precision_plugin
        if not isinstance(plugin, MixedPrecision) or not getattr(optimizer, "_step_supports_amp_scaling", False):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            if plugin.scaler is not None:
                plugin.scaler.unscale_(optimizer)
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def train(self, mode: bool = True) -> "Distiller":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_weights()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("teacher.")}
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        every = {kind: self.all_gather(state).reshape(-1, len(state)).cpu() for kind, state in states.items()}
        checkpoint["random"] = every  # each process's, a row each, and its card's, from which dropout draws there

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith("teacher.")}
        ours, theirs = ({name: w.shape for name, w in state.items()} for state in (self.state_dict(), checkpoint["state_dict"]))
        if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
            raise ValueError(
                f"The checkpoint is of another network or stage than this one: {different[0]} is missing in one of both or has "
                "another shape. Give a checkpoint of this very stage."
            )
        states, (rank, world) = checkpoint["random"], (self.trainer.global_rank, self.trainer.world_size)
        if len(states["cpu"]) != world:
            raise ValueError(
                f"The checkpoint is of a run with {len(states['cpu'])} processes, and this one has {world}: go on with as "
                "many, or start anew without ckpt_path."
            )
        torch.set_rng_state(states["cpu"][rank].clone())  # torch reads a row of a larger tensor from a wrong address
        if "cuda" in states and self.trainer.strategy.root_device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"][rank].clone(), self.trainer.strategy.root_device)
