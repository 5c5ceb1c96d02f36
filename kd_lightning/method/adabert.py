"""AdaBERT (Chen et al. 2020, arXiv 2001.04246): a student whose architecture is searched for the task.

`stage=search` learns the weights of all operations and which of them to take, under a loss that distils and one that prices
(`student/adabert/search.py`). `stage=task` trains the network that was found, or one written by hand, with the same
distillation.

The paper's text names the losses. Its numbers come from the authors' PyTorch code, EasyTransfer and PaddleSlim, as said below
together with where these differ. The teacher's answers and those of its probes are stored (`teacher/probes.py`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from kd_lightning.distiller import Distiller, decay_groups
from kd_lightning.losses import soft_cross_entropy
from kd_lightning.student.adabert.search import Draw, costs, efficiency
from kd_lightning.terms import HardTargets, SoftTargets, Term, examples, labelled_examples
from kd_lightning.together import processes, summed
from kd_lightning.views import Batch, Needs, Spec, View


def layer_table(depth: int, layers: int) -> list[int]:
    """The teacher's layer ⌈layers · i / depth⌉ for each student layer i = 0..depth.

    Deviation: EasyTransfer takes multiples of layers // (depth + 1), so that it never reaches the last; the PyTorch code
    mixes floor and ceiling.
    """
    return [-(-layers * i // depth) for i in range(depth + 1)]


class ProbeMatch(Term):
    """Probes on the student's layers against the teacher's, layer by layer: Σ_i w_i · CE(P_t,⌈J i / K⌉, P_s,i).

    A student's probe is a linear of tanh of the layer's mean over real positions; it is trained with the run and left
    behind at export. every_depth: the student may show fewer layers than it has, and each depth has linears of its own,
    since the targets of a layer are others at another depth. attentive: w = softmax(-CE of the teacher's probe on the
    batch's gold labels), so that better layers weigh more; else every w is 1 / (K + 1).
    """

    def __init__(self, weight: float, *, attentive: bool, temperature: float, every_depth: bool) -> None:
        super().__init__(weight)
        self.attentive, self.temperature, self.every_depth = attentive, temperature, every_depth
        self.linears = nn.ModuleDict()  # depth -> one for each layer 0..depth

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        self.layers = teacher.layers
        for depth in range(1 if self.every_depth else student.layers, student.layers + 1):
            linears = (nn.Linear(student.hidden, len(student.labels)) for _ in range(depth + 1))
            self.linears[str(depth)] = nn.ModuleList(linears)
        self.needs = (Needs(hidden=frozenset(range(student.layers + 1))), Needs(probes=True))

    def count(self, batch: Batch) -> int:
        return len(batch["input_ids"])

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        real, depth = batch["attention_mask"][..., None], max(student.hidden)
        theirs = teacher.probes[:, layer_table(depth, self.layers)].unbind(1)  # [B, C] of each layer
        weights = (
            self.weights(theirs, batch) if self.attentive else real.new_full((depth + 1,), 1, dtype=torch.float) / (depth + 1)
        )
        total, linears = 0.0, self.linears[str(depth)]
        for i, weight in enumerate(weights):
            hidden = student.hidden[i].to(linears[i].weight.dtype)  # of the weights, whatever autocast made of it
            mean = (hidden * real).sum(1) / real.sum(1)  # [B, D]
            total = total + weight * soft_cross_entropy(linears[i](mean.tanh()), theirs[i], self.temperature)
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

    def __init__(
        self,
        *,
        gold: float,
        soft: float,
        probes: float,
        attentive: bool,
        temperature: float,
        every_depth: bool = False,
        **engine,
    ) -> None:
        terms = {
            "gold": HardTargets(gold, rows=labelled_examples),
            "soft": SoftTargets(soft, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "probes": ProbeMatch(probes, attentive=attentive, temperature=temperature, every_depth=every_depth),
        }
        super().__init__(terms=terms, **engine)


class Search(AdaBERT):
    """Search stage: each step draws an operation for each edge and a number d of cells, by Gumbel-Softmax at `relaxation`.

        L = Σ_d y_d · L_d  +  efficiency · K / 8 · mean over edges of Σ_o y_o cost_o,      K = Σ_d d · y_d

    L_d is the task stage's loss of the first d cells. wait: the choice rests for this share of the updates, because shallow
    networks and operations without weights are good at once, and the others only when they have learnt. One loss moves
    weights and choice on the same rows, as in the PyTorch code. choice: the optimizer's settings for the choice (lr, betas,
    weight_decay). cost_length: see `search.costs`. settle: how many batches the BatchNorms of the network found so far read
    before it is measured or exported.

    Deviation: the depth learns from the gold and the soft part of L_d alone. The probes' part holds the entropy of its own
    targets, which differs between depths, so that each further cell would cost something even of a perfect student. The PyTorch
    code also lets no gradient of the probes reach the depth; EasyTransfer does.
    Deviation: the paper's choice learns from the first update on (wait=0).
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
        wait: float = 1 / 3,
        **method,
    ) -> None:
        super().__init__(every_depth=True, **method)
        if not 0 <= wait < 1:
            raise ValueError(f"wait={wait}: give the share of the updates in which the choice rests, from 0 to less than 1.")
        self.efficiency, self.choice, self.settle, self.wait = efficiency, dict(choice), settle, wait
        self.register_buffer("cost", costs(self.student.spec.hidden, cost_length), persistent=False)
        self.relaxation = 1.0  # an annealing callback changes it
        self.resting = False  # without a trainer; each batch says

    def read(self) -> set[nn.Parameter]:
        return set(self.student.parameters())  # any of them may be drawn

    def on_fit_start(self) -> None:
        """A step has gradients of what it has drawn, which DistributedDataParallel cannot know beforehand: it averages none
        here, and `on_after_backward` does."""
        super().on_fit_start()
        if isinstance(self.trainer.model, DistributedDataParallel):
            self.trainer.model.require_backward_grad_sync = False

    def on_after_backward(self) -> None:
        if processes() > 1:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad = summed(parameter.grad) / processes()

    def _draw(self) -> Draw:
        """The same in all processes that train together."""
        if processes() == 1:
            return self.student.choice.draw(self.relaxation)
        seed = summed(torch.randint(2**31, (), device=self.device))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            return self.student.choice.draw(self.relaxation)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        draw = self._draw()
        if self.resting:
            draw = draw.detach()
        price = efficiency(draw, self.cost)
        loss, parts = self._distil(batch, draw)
        loss = loss + self.efficiency * price
        self._log("train", loss, parts | {"efficiency": price.detach()}, batch)
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.resting = self.global_step < self.wait * self.trainer.estimated_stepping_batches

    def _distil(self, batch: Batch, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """The drawn depth's loss, with the gradient for the depth, and its parts."""
        with torch.no_grad():
            teacher = self.teacher(batch, self.teacher_needs)
        shown, drawn = self.student.body(batch, draw), draw.chosen[-1]
        loss, parts, weights = *self.objective(shown[drawn], teacher, batch), self.objective.weights(batch)
        if self.resting:
            return loss, parts
        compared = [(term, weights[name]) for name, term in self.objective.terms.items() if name in ("gold", "soft")]
        with torch.no_grad():
            by_depth = [sum(weight * term(student, teacher, batch) for term, weight in compared) for student in shown]
            losses = torch.stack([torch.as_tensor(found, device=loss.device) for found in by_depth])  # [K]
        return loss + (draw.depth * losses).sum() - losses[drawn], parts

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = decay_groups([self.student.body, self.objective], self.weight_decay)
        return [*groups, {"params": list(self.student.choice.parameters()), **self.choice}]

    def on_validation_start(self) -> None:
        """Make the network found so far, which is the one that is measured and exported."""
        batches = self.trainer.datamodule.train_dataloader().dataset
        self.student.derive([batches[i] for i in range(min(self.settle, len(batches)))])
        self.changed()

    def on_validation_end(self) -> None:
        """The next time that it is measured it is another one: it is made of other batches."""
