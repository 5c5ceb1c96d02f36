"""What networks show each other: `Spec` (static shape), `Needs` (what is read), `View` (what is shown for a batch).

Shape letters, everywhere in this package:

    B sequences   S positions   D hidden width   A attention heads   H width of a head
    L layers      V vocabulary  C classes        N rows (whatever a mask selected)

Layers are numbered as in the papers: 0 is the embedding output, k = 1..L the output of block k. Attention k belongs to
block k, so it starts at 1. The student always comes first in a signature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """A network's static shape.

    vocabulary is the number of token ids and vocabulary_id a digest of the tokenizer's token -> id table; labels are the class
    names in the order of the logits (empty: a masked LM, whose logits are over the vocabulary). trained_head is false where
    the weights that were loaded had no head of this kind, so that the logits mean nothing yet; shows_attention where its
    queries and keys cannot be had. stored is true where the network reads row numbers instead of tokens and shows what was
    kept for the row: layers at real positions only.
    """

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    vocabulary_id: str = ""
    labels: tuple[str, ...] = ()
    trained_head: bool = True
    shows_attention: bool = True
    stored: bool = False


@dataclass(frozen=True)
class Needs:
    """What an objective reads from one network: hidden layers 0..L, attention layers 1..L, the head's logits, and those of the
    probes, classifiers on each layer (AdaBERT)."""

    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    logits: bool = False
    probes: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.hidden | other.hidden,
            self.attention | other.attention,
            self.logits or other.logits,
            self.probes or other.probes,
        )


@dataclass(frozen=True)
class Readout:
    """The last linear of a head, not yet applied: logits = features @ weight.T + bias.

    features [N, D], weight [C, D], bias [C]; or features are the logits themselves [N, C] and weight is None. Losses
    over a vocabulary go through it in chunks of rows, so that [N, V] need not exist as a whole (`chunks.py`).
    """

    features: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def logits(self) -> Tensor:
        return self.features if self.weight is None else F.linear(self.features, self.weight, self.bias)


@dataclass(frozen=True)
class View:
    """What a network shows for a batch: only what `Needs` asked for.

    hidden[k]     [B, S, D], k = 0..L
    attention[k]  (query, key), each [B, A, S, H], the query already scaled, so that scores = query @ key.T; k = 1..L
    readout(rows) the head on selected rows. Masked LM: rows index the flattened [B * S] positions. Classifier: rows
                  index the B examples. None where no logits were asked for.
    probes        [B, L + 1, C], logits of a probe on each layer
    """

    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    readout: Callable[[Tensor], Readout] | None = None
    probes: Tensor | None = None

    def logits(self, rows: Tensor) -> Tensor:
        """[N, C] for N rows."""
        return self.readout(rows).logits()
