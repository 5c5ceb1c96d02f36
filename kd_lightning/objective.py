"""The objective: a named, weighted sum of terms."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_lightning.terms import AttentionMatch, HiddenMatch, Term
from kd_lightning.together import processes, summed
from kd_lightning.views import Batch, Needs, Spec, View


class Objective(nn.Module):
    """Σ weight · part. A term of weight 0 is left out, and with it what it alone would have needed.

    Deviation: DistilBERT's release computes and logs its soft loss even at weight 0.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        for name, term in terms.items():
            if term.weight < 0:
                raise ValueError(f"weight of '{name}': {term.weight} is negative; weights are 0 (off) or more.")
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term.weight > 0})
        if not self.terms:
            raise ValueError(f"weights: all of {', '.join(terms)} are 0, so nothing is left to train on. Set one above 0.")

    def bind(self, student: Spec, teacher: Spec | None) -> tuple[Needs, Needs]:
        """Check the pairing, create projections, and return what is read of the student and of the teacher."""
        stored = teacher is not None and teacher.stored
        reads_tokens = teacher is not None and not stored
        if reads_tokens and (student.vocabulary, student.vocabulary_id) != (teacher.vocabulary, teacher.vocabulary_id):
            raise ValueError(
                f"vocabulary: the student's {student.vocabulary} tokens are not the teacher's {teacher.vocabulary}. Both must "
                "read the same token ids: build the student from this teacher, or choose the teacher it came from."
            )
        comparing = [name for name, term in self.terms.items() if isinstance(term, HiddenMatch | AttentionMatch)]
        if teacher is not None and not teacher.layers and comparing:
            raise ValueError(
                f"{', '.join(comparing)}: these terms compare layers, and of this teacher only answers are known. Set their "
                "weights to 0, or let a student that is there already stand for the stage (stages.<stage>.path=<student>)."
            )
        needs = (Needs(), Needs())
        for term in self.terms.values():
            term.bind(student, teacher)
            needs = (needs[0] | term.needs[0], needs[1] | term.needs[1])
        reads_layers = needs[1].hidden or needs[1].attention
        if stored and reads_layers and student.vocabulary_id != teacher.vocabulary_id:
            raise ValueError(
                "teacher.stored=true: layers are compared token by token, and student and teacher read other tokens. Build the "
                "student from this teacher, or set the weights of the terms that compare layers to 0."
            )
        return needs

    def forward(self, student: View, teacher: View, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum (a scalar) and the unweighted parts by name, without a graph."""
        parts, weights = {name: term(student, teacher, batch) for name, term in self.terms.items()}, self.weights(batch)
        loss = torch.stack([weights[name] * part.float() for name, part in parts.items()]).sum()
        return loss, {name: part.detach() for name, part in parts.items()}

    def weights(self, batch: Batch) -> dict[str, float | Tensor]:
        """What multiplies each part. Processes that train together average their gradients, and their batches have not equally
        many rows: a part counts by its rows, so that the average is that over all rows of all of them."""
        weights = {name: term.weight for name, term in self.terms.items()}
        if processes() == 1 or not torch.is_grad_enabled():
            return weights
        device = batch["input_ids"].device
        counts = torch.stack(
            [torch.as_tensor(term.count(batch), dtype=torch.float, device=device) for term in self.terms.values()]
        )
        shares = processes() * counts / summed(counts).clamp(min=1)
        return {name: weight * share for (name, weight), share in zip(weights.items(), shares, strict=True)}
