"""No teacher at all: the honest baseline, and how teachers are made.

General stage: masked language modelling. Task stage and teacher stage: the labels.
"""

from torch import nn

from kd_lightning.distiller import Distiller
from kd_lightning.terms import HardTargets, labelled_examples, masked_positions


class MaskedLM(Distiller):
    """L = CE(labels, student), averaged over the masked positions.

    A teacher may be given, and is left unused: it was the pattern for the student's vocabulary and architecture.
    """

    def __init__(self, *, teacher: nn.Module | None, **engine) -> None:
        super().__init__(terms={"mlm": HardTargets(1.0, rows=masked_positions)}, teacher=None, **engine)


class FineTune(Distiller):
    """L = CE(labels, student), averaged over the labelled examples; squared error for a regression.

    A teacher may be given, and is left unused, as above.
    """

    def __init__(self, *, teacher: nn.Module | None, **engine) -> None:
        super().__init__(terms={"gold": HardTargets(1.0, rows=labelled_examples)}, teacher=None, **engine)
