"""Progressive knowledge transfer (MobileBERT, Sun et al. 2020, section 3.4): one block after the other."""

import time
from bisect import bisect_right

import lightning as L
from lightning.pytorch.strategies import Strategy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from kd_lightning.reach import reached


class Progressive(L.Callback):
    """Gives every pair of the objective's layer map a phase of its own; all are equally long. The objective has one map, and
    the distiller's parameter groups hold the number of their block.

    A phase compares its own pair alone, so that neither network computes anything above it. The phase's block
    learns at the full rate, those below at `below` times it (0 freezes them), and those above not at all. Within a phase the
    rate rises over the first tenth and then sinks to 0.9 of it (the release):

        rate = min(0.9 + 0.1 · √(1 - s / S), 10 · s / S)        s = 0 .. S - 1, the update within the phase

    Everything follows from the number of updates, so an interrupted run goes on in the middle of a phase. Validation is over
    all pairs. The release multiplies its base rate of 1.5e-3 by a further 3, which is here in the rate that is configured.
    Deviation: at s = 0 the release leaves Adam's moments as they are, where here they see the gradient; the rate is 0.
    """

    def __init__(self, *, below: float) -> None:
        if not 0 <= below <= 1:
            raise ValueError(f"method.below={below}: give the share of the rate for the blocks below, 0 (frozen) to 1.")
        self.below = below
        self.pairs: list[tuple[int, int]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            (self.pairs,) = {tuple(sorted(term.pairs)) for term in pl_module.objective.terms.values()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        updates, phases = int(trainer.estimated_stepping_batches), len(self.pairs)
        if updates < phases:
            raise ValueError(f"{updates} updates are too few for {phases} phases: give trainer.max_epochs or max_steps more.")
        self.starts = [updates * phase // phases for phase in range(phases + 1)]
        self.phase, self.since = -1, (trainer.global_step, time.perf_counter())
        self.read = []  # of each phase
        for pair in self.pairs:
            _compare(pl_module, [pair])
            self.read.append(reached(pl_module.student, pl_module.student_needs))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        phase = bisect_right(self.starts, trainer.global_step) - 1
        changed = phase != self.phase
        if changed:
            self._report(trainer, self.phase)
            self.phase = phase
        _compare(pl_module, [self.pairs[phase]])
        if changed:
            self._enter(trainer.strategy, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        start, end = self.starts[self.phase : self.phase + 2]
        done = (trainer.global_step - start) / (end - start)
        rate = min(0.9 + 0.1 * (1 - done) ** 0.5, 10 * done)
        for group in optimizer.param_groups:
            group["lr"] *= rate * self._share(group["block"])  # the scheduler sets it anew for every update

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.pairs:
            _compare(pl_module, self.pairs)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, self.phase)

    def _enter(self, strategy: Strategy, module: L.LightningModule) -> None:
        """Let the phase's parameters learn and no others. Several processes that train together exchange the gradients of those
        parameters that required one when they were wrapped, and so each phase is wrapped anew."""
        for number, block in enumerate(module.student.blocks, start=1):
            for parameter in block.parameters():
                parameter.requires_grad_(self._share(number) > 0 and parameter in self.read[self.phase])
        if isinstance(strategy.model, DistributedDataParallel):
            strategy.model = module
            strategy.configure_ddp()

    def _share(self, block: int) -> float:
        """The share of the rate that a block gets. A phase's own blocks are those above the pair of the phase before."""
        top = self.pairs[self.phase][0]
        last = self.pairs[self.phase - 1][0] if self.phase else 0
        return 0.0 if block > top else 1.0 if block > last else self.below

    def _report(self, trainer: L.Trainer, phase: int) -> None:
        step, now = trainer.global_step, time.perf_counter()
        if phase >= 0:
            done, seconds = step - self.since[0], now - self.since[1]
            trainer.print(f"Phase {phase + 1} of {len(self.pairs)}: {done} updates in {seconds:.1f} s.")
        self.since = step, now


def _compare(module: L.LightningModule, pairs: list[tuple[int, int]]) -> None:
    """Cut the objective's layer map to these pairs."""
    for term in module.objective.terms.values():
        term.layers = [list(pair) for pair in pairs]
    module.student_needs, module.teacher_needs = module.objective.bind(module.student.spec, module.teacher.spec)
