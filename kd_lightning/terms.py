"""Terms: select (mask to rows), align (layer map, projection), compare (one loss). A term knows its weight and its needs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kd_lightning.chunks import mean_over_rows
from kd_lightning.layer_maps import Pairs, resolve
from kd_lightning.losses import attention_score_error, cross_entropy, kl_divergence, mean_squared_error, regression_error
from kd_lightning.projection import Projection
from kd_lightning.views import Batch, Needs, Spec, View

Loss = Callable[[Tensor, Tensor], Tensor]
Rows = Callable[[Batch], Tensor]


def real_positions(batch: Batch) -> Tensor:
    """[N] indices into the flattened [B * S]: every position that is not padding, special tokens included."""
    return batch["real"] if "real" in batch else batch["attention_mask"].flatten().nonzero().squeeze(-1)


def masked_positions(batch: Batch) -> Tensor:
    """[N] indices into the flattened [B * S]: the positions to predict."""
    return batch["rows"]


def all_positions(batch: Batch) -> Tensor:
    """[B * S]: padding counts too, as in TinyBERT's release."""
    return torch.arange(batch["input_ids"].numel(), device=batch["input_ids"].device)


def examples(batch: Batch) -> Tensor:
    """[B]: every example of a task batch."""
    return torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)


def labelled_examples(batch: Batch) -> Tensor:
    """[N]: the examples that carry a gold label (an unlabelled one carries -100, or NaN where scores are wanted)."""
    if "labelled" in batch:
        return batch["labelled"]
    labels = batch["labels"]
    return (~labels.isnan() if labels.is_floating_point() else labels != -100).nonzero().squeeze(-1)


class Term(nn.Module):
    """One part of an objective. `bind` checks the pairing and fixes `needs`; `forward` gives the unweighted part."""

    needs: tuple[Needs, Needs]
    rows: Rows

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = float(weight)

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        raise NotImplementedError

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        raise NotImplementedError

    def count(self, batch: Batch) -> Tensor | int:
        """Over how many rows the part is averaged."""
        return len(self.rows(batch))


class SoftTargets(Term):
    """The student's logits against the teacher's, on the rows that `rows` selects. Scores of a regression (one label)
    are compared by their mean squared error, whatever the loss."""

    def __init__(self, weight: float, *, loss: Loss, rows: Rows) -> None:
        super().__init__(weight)
        self.loss, self.rows = loss, rows

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        if student.labels != teacher.labels:
            raise ValueError(
                f"labels: the student's are {list(student.labels)} and the teacher's {list(teacher.labels)}. Soft targets "
                "need the same names in the same order: fine-tune the teacher on this task (stage=teacher)."
            )
        if not teacher.trained_head:
            raise ValueError(
                "soft targets: the teacher was loaded without a trained head, so its logits are noise. Choose a teacher "
                f"with {'a classifier for this task (stage=teacher)' if teacher.labels else 'a masked-LM head'}, or set "
                "the weight of this term to 0."
            )
        if len(student.labels) == 1:
            self.loss = mean_squared_error
        self.needs = (Needs(logits=True), Needs(logits=True))

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        rows = self.rows(batch)
        return mean_over_rows(self.loss, student.readout(rows), teacher.readout(rows))


class HardTargets(Term):
    """The student's logits against labels, on the rows that `rows` selects: cross-entropy, or squared error where there
    is one label (a regression)."""

    def __init__(self, weight: float, *, rows: Rows) -> None:
        super().__init__(weight)
        self.rows, self.loss = rows, cross_entropy

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        if len(student.labels) == 1:
            self.loss = regression_error
        self.needs = (Needs(logits=True), Needs())

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        rows = self.rows(batch)
        labels = batch["labels"] if "rows" in batch else batch["labels"][rows]  # a corpus batch has one label a row
        readout = student.readout(rows)
        if not len(rows):
            return readout.logits().sum()  # nothing is labelled here: 0, with a gradient of 0
        return mean_over_rows(self.loss, readout, labels)


def refuse_stored(teacher: Spec) -> None:
    """For terms that read padding, where a stored teacher has nothing to show."""
    if teacher.stored:
        raise ValueError(
            "teacher.stored=true keeps layers at real positions only, and this objective reads padding too. Set "
            "method.valid_only=true, or leave teacher.stored=false."
        )


class HiddenMatch(Term):
    """Hidden states, pair by pair of the layer map; summed over pairs, each averaged as the loss says."""

    def __init__(
        self,
        weight: float,
        *,
        layers: str | Sequence[Sequence[int]],
        loss: Loss = mean_squared_error,
        rows: Rows = real_positions,
        projection: Projection | None = None,
    ) -> None:
        super().__init__(weight)
        self.layers, self.loss, self.rows, self.projection = layers, loss, rows, projection
        self.pairs: Pairs = []

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        self.pairs = resolve(self.layers, student.layers, teacher.layers, lowest=0)
        if self.projection is not None:
            self.projection.bind([s for s, _ in self.pairs], student, teacher)
        elif student.hidden != teacher.hidden:
            raise ValueError(
                f"hidden states: the student is {student.hidden} wide and the teacher {teacher.hidden}. Give the student "
                "the teacher's width, or use a method with a projection (tinybert)."
            )
        if self.rows is all_positions:
            refuse_stored(teacher)
        ours, theirs = zip(*self.pairs, strict=True)
        self.needs = (Needs(hidden=frozenset(ours)), Needs(hidden=frozenset(theirs)))

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        rows, total = self.rows(batch), 0.0
        for s, t in self.pairs:
            ours = student.hidden[s].flatten(0, 1).index_select(0, rows)  # [N, D_student]
            theirs = teacher.hidden[t].flatten(0, 1).index_select(0, rows)  # [N, D_teacher]
            total = total + self.loss(ours if self.projection is None else self.projection(s, ours), theirs)
        return total


class AttentionMatch(Term):
    """Attention scores before the softmax, head by head; summed over pairs of the layer map (TinyBERT, equation 7).

    valid_only true: only real queries and real keys count; the sum is divided by A · Σ_b n_b². False, as in the release: masked
    keys count as zeros and padded query rows count in full; the mean is over all B · A · S · S.
    Deviation: the release takes every score of -100 or less for a masked key's; here a real one counts, however low.
    """

    def __init__(self, weight: float, *, layers: str | Sequence[Sequence[int]], valid_only: bool) -> None:
        super().__init__(weight)
        self.layers, self.valid_only = layers, valid_only
        self.pairs: Pairs = []

    def bind(self, student: Spec, teacher: Spec | None) -> None:
        if hidden := [who for who, spec in (("student", student), ("teacher", teacher)) if not spec.shows_attention]:
            raise ValueError(
                f"attention: the {' and the '.join(hidden)} cannot show queries and keys, as the architecture does not use the "
                "attention interface of transformers. Choose another, e.g. a BERT or RoBERTa, or set this term's weight to 0."
            )
        if student.heads != teacher.heads:
            raise ValueError(
                f"attention heads: the student has {student.heads} and the teacher {teacher.heads}, but attention is "
                f"compared head by head. Set student.num_attention_heads={teacher.heads}, or the weight of this term to 0."
            )
        self.pairs = resolve(self.layers, student.layers, teacher.layers)
        if not self.valid_only:
            refuse_stored(teacher)
        ours, theirs = zip(*self.pairs, strict=True)
        self.needs = (Needs(attention=frozenset(ours)), Needs(attention=frozenset(theirs)))

    def count(self, batch: Batch) -> Tensor | int:
        mask = batch["attention_mask"]
        return mask.sum(1).square().sum() if self.valid_only else mask.numel() * mask.shape[1]

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        mask = batch["attention_mask"]
        real = mask[:, None, :, None]  # [B, 1, S, 1]
        scale = mask.numel() * mask.shape[1] / self.count(batch)

        def masked(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            query, key = pair
            return query * real.to(query.dtype) if self.valid_only else query, key * real.to(key.dtype)

        total = 0.0
        for s, t in self.pairs:
            total = total + attention_score_error(masked(student.attention[s]), masked(teacher.attention[t]))
        return total * scale


class AttentionTransfer(AttentionMatch):
    """KL(teacher ‖ student) of what each query attends to, head by head, averaged over queries and heads; summed over pairs
    of the layer map (MobileBERT, section 3.3). No query attends to a key that is padding.

    valid_only true: only real queries count. False: padded queries count too, as in the release.
    Deviation: the release minimises the cross-entropy, which is this plus the teacher's entropy: the gradient is the same,
    and this is 0 where student and teacher agree.
    """

    def rows(self, batch: Batch) -> Tensor:
        return real_positions(batch) if self.valid_only else all_positions(batch)

    count = Term.count

    def forward(self, student: View, teacher: View, batch: Batch) -> Tensor:
        rows = self.rows(batch)
        hidden = batch["attention_mask"][:, None, None] == 0  # [B, 1, 1, S]

        def scores(pair: tuple[Tensor, Tensor]) -> Tensor:
            query, key = pair
            found = (query @ key.mT).float().masked_fill(hidden, -1e4)  # [B, A, S, S]
            return found.transpose(1, 2).flatten(0, 1).index_select(0, rows).flatten(0, 1)  # [N * A, S]

        pairs = ((scores(student.attention[s]), scores(teacher.attention[t])) for s, t in self.pairs)
        return sum(kl_divergence(ours, theirs) for ours, theirs in pairs)
