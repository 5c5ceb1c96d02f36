"""What brings a student's hidden states to the teacher's width."""

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.views import Spec


class Projection(nn.Module):
    """Linears from the student's width to the teacher's; trained with the run and left behind at export.

    mode: "shared" is one linear with bias for all layers (TinyBERT's release), "per_layer" one for each layer (its v2
    checkpoints), "paper" one for the embeddings and one for the hidden layers, without bias (equations 8 and 9).
    """

    KEYS = {
        "shared": lambda layer: "all",
        "per_layer": lambda layer: f"layer_{layer}",
        "paper": lambda layer: "hidden" if layer else "embedding",
    }

    def __init__(self, mode: str) -> None:
        super().__init__()
        if mode not in self.KEYS:
            raise ValueError(f"projection '{mode}' is unknown: choose one of {', '.join(self.KEYS)}.")
        self.key, self.bias = self.KEYS[mode], mode != "paper"
        self.linears = nn.ModuleDict()

    def bind(self, layers: Sequence[int], student: Spec, teacher: Spec) -> None:
        for layer in layers:
            if self.key(layer) not in self.linears:
                self.linears[self.key(layer)] = nn.Linear(student.hidden, teacher.hidden, bias=self.bias)

    def forward(self, layer: int, hidden: Tensor) -> Tensor:
        return self.linears[self.key(layer)](hidden)
