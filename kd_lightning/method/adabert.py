"""AdaBERT (Chen et al. 2020, arXiv 2001.04246): a student whose architecture is searched for the task.

`stage=search` learns the weights of all operations and which of them to take, under a loss that distils and one that prices
(`student/adabert/search.py`). `stage=task` trains the network that was found, or one written by hand, with the same
distillation.

The paper's text names the losses. Its numbers come from the authors' PyTorch code, EasyTransfer and PaddleSlim, as said below
together with where these differ. The teacher's answers and those of its probes are stored (`teacher/probes.py`).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lightning.distiller import Distiller, decay_groups
from kd_lightning.losses import soft_cross_entropy
from kd_lightning.student.adabert.search import Draw, costs, efficiency
from kd_lightning.terms import HardTargets, SoftTargets, Term, examples, labelled_examples
from kd_lightning.views import Batch, Needs, Spec, View


def layer_table(depth: int, layers: int) -> list[int]:
    """The teacher's layer ⌈layers · i / depth⌉ for each student layer i = 0..depth.

    Deviation: EasyTransfer takes multiples of layers // (depth + 1), so that it never reaches the last; the PyTorch code
    mixes floor and ceiling.
    """
    return [-(-layers * i // depth) for i in range(depth + 1)]


class ProbeMatch(Term):
    """Probes on the student's layers against the teacher's, layer by layer: Σ_i w_i · CE(P_t,⌈J i / K⌉, P_s,i).

    A student's probe is a linear of tanh of the layer's mean over real positions; it is trained with the run and left behind at
    export. attentive: w = softmax(-CE of the teacher's probe on the batch's gold labels), so that better layers weigh more;
    else every w is 1 / (K + 1).
    """

    def __init__(self, weight: float, *, attentive: bool, temperature: float) -> None:
        super().__init__(weight)
        self.attentive, self.temperature = attentive, temperature
        self.linears = nn.ModuleList()

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        self.layers = teacher.layers
        self.linears = nn.ModuleList(nn.Linear(student.hidden, len(student.labels)) for _ in range(student.layers + 1))
        self.needs = (Needs(hidden=frozenset(range(student.layers + 1))), Needs(probes=True))

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        real, depth = batch["attention_mask"][..., None], max(student.hidden)
        theirs = teacher.probes[:, layer_table(depth, self.layers)].unbind(1)  # [B, C] of each layer
        weights = (
            self.weights(theirs, batch) if self.attentive else real.new_full((depth + 1,), 1, dtype=torch.float) / (depth + 1)
        )
        total = 0.0
        for i, weight in enumerate(weights):
            mean = (student.hidden[i].float() * real).sum(1) / real.sum(1)  # [B, D]
            total = total + weight * soft_cross_entropy(self.linears[i](mean.tanh()), theirs[i], self.temperature)
        return total

    @staticmethod
    def weights(probes: list[Tensor], batch: Batch) -> Tensor:
        """The weights [K + 1], from the logits [B, C] of each probe."""
        rows = labelled_examples(batch)
        if not len(rows):
            return torch.full((len(probes),), 1 / len(probes), device=rows.device)
        return torch.stack([-F.cross_entropy(logits[rows], batch["labels"][rows]) for logits in probes]).softmax(0)


class AdaBERT(Distiller):
    """Task stage, at a fixed architecture.

        L = gold · CE(labels, student)  +  soft · CE(teacher, student)  +  probes · Σ_i w_i CE(P_t,⌈J i / K⌉, P_s,i)

    This is the paper's (1 - γ) CE + γ KD with γ = 0.8; the PyTorch code says how γ is split between the last layer and the
    probes.
    Deviation: EasyTransfer goes on from the search with gold labels alone; here the network learns anew with all terms
    (student.inherit=true goes on).
    """

    def __init__(self, *, gold: float, soft: float, probes: float, attentive: bool, temperature: float, **engine) -> None:
        terms = {
            "gold": HardTargets(gold, rows=labelled_examples),
            "soft": SoftTargets(soft, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "probes": ProbeMatch(probes, attentive=attentive, temperature=temperature),
        }
        super().__init__(terms=terms, **engine)


class Search(AdaBERT):
    """Search stage: each step draws an operation for each edge and a number d of cells, by Gumbel-Softmax at `relaxation`.

        L = Σ_d y_d · L_d  +  efficiency · K / Kmax · mean over edges of Σ_o y_o cost_o,      K = Σ_d d · y_d

    L_d is the task stage's loss of the first d cells. One loss moves weights and choice on the same rows, as in the PyTorch
    code. choice: the optimizer's settings for the choice (lr, betas, weight_decay). cost_length: see `search.costs`.
    settle: how many batches the BatchNorms of the network found so far read before it is measured or exported.

    Deviation: one optimizer, with one schedule and one clip, for weights and choice, each at its own rate; the PyTorch code
    has SGD for the weights, EasyTransfer two Adams. Weights of operations that were not drawn rest: no decay, no momentum.
    """

    def __init__(
        self,
        *,
        efficiency: float,
        cost_length: int,
        choice: Mapping[str, Any],
        settle: int,
        **method,
    ) -> None:
        super().__init__(**method)
        self.efficiency, self.choice, self.settle = efficiency, dict(choice), settle
        self.register_buffer("cost", costs(self.student.spec.hidden, cost_length), persistent=False)
        self.relaxation = 1.0  # an annealing callback changes it

    def training_step(self, batch: Batch, _: int) -> Tensor:
        draw = self.student.choice.draw(self.relaxation)
        price = efficiency(draw, self.cost)
        loss, parts = self._distil(batch, draw)
        loss = loss + self.efficiency * price
        self._log("train", loss, parts | {"efficiency": price.detach()}, batch)
        return loss

    def _distil(self, batch: Batch, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Σ_d y_d · L_d, and the parts of the drawn depth."""
        with torch.no_grad():
            teacher = self.teacher(batch, self.teacher_needs)
        drawn, losses, parts = int(draw.depth.argmax()), [], {}
        for number, student in enumerate(self.student.body(batch, draw)):
            with nullcontext() if number == drawn else torch.no_grad():
                loss, found = self.objective(student, teacher, batch)
            losses.append(loss)
            parts = found if number == drawn else parts
        return (draw.depth * torch.stack(losses)).sum(), parts

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = decay_groups([self.student.body, self.objective], self.weight_decay)
        return [*groups, {"params": list(self.student.choice.parameters()), **self.choice}]

    def on_validation_start(self) -> None:
        """Make the network found so far, which is the one that is measured and exported."""
        batches = self.trainer.datamodule.train_dataloader().dataset
        self.student.derive([batches[i] for i in range(min(self.settle, len(batches)))])
