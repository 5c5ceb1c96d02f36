"""MobileBERT (Sun et al. 2020, arXiv 2004.02984).

A deep and thin student learns, block by block, the feature maps and the attention of an IB-BERT of the same depth and the
same width between the blocks (`stage=progressive`: one block after the other, see `callback/progressive.py`; `stage=joint`:
all at once), and then its predictions of hidden words (`stage=general`); then it is fine-tuned (`stage=task`).
method.strategy is the paper's comparison: progressive, joint, auxiliary (the layers' terms beside those of `general`, and
no earlier stage) or none.

Deviation: there is no loss on next sentences: a sequence of the corpus is one segment, so there are no pairs to tell apart.
Deviation: the release's terms on mean and variance compare with the maps of all the teacher's layers at once, a slip of a
variable's name; here, as in the second release, with the map of the same layer.
Deviation: what the last word's right neighbour is to the embedding: [PAD]'s vector in a padded sequence, which the masked
LM's head trains, and nothing in the longest of a batch, as in transformers; the release pads all to one length.
Deviation: the release multiplies the teacher's last hidden state by a "temperature", which is 1 there and absent here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from kd_lightning.distiller import Distiller, decay_groups
from kd_lightning.losses import (
    feature_variance_error,
    mean_feature_error,
    mean_squared_error,
    normalised_squared_error,
    soft_cross_entropy,
)
from kd_lightning.terms import (
    AttentionTransfer,
    HardTargets,
    HiddenMatch,
    SoftTargets,
    Term,
    all_positions,
    examples,
    labelled_examples,
    masked_positions,
    real_positions,
)

Layers = str | Sequence[Sequence[int]]
Transfer = Callable[[float], dict[str, Term]]


def layer_terms(
    share: float,
    *,
    feature: float,
    normalised: float,
    mean: float,
    variance: float,
    attention: float,
    layers: Layers,
    valid_only: bool,
) -> dict[str, Term]:
    """Feature map transfer and attention transfer over the layer map, each weight times share.

    feature: the plain squared error of the paper. normalised, mean, variance: the three terms that the release has in its
    place. valid_only: padding does not count; else it does, as in the release, whose batches have next to none.
    """
    maps = partial(HiddenMatch, layers=layers, rows=real_positions if valid_only else all_positions)
    return {
        "feature": maps(share * feature, loss=mean_squared_error),
        "normalised": maps(share * normalised, loss=normalised_squared_error),
        "mean": maps(share * mean, loss=mean_feature_error),
        "variance": maps(share * variance, loss=feature_variance_error),
        "attention": AttentionTransfer(share * attention, layers=layers, valid_only=valid_only),
    }


class LayerTransfer(Distiller):
    """Layer-wise knowledge transfer, averaged over the student's blocks:

        L = mean_l (feature · MSE_l + normalised · F_l + mean · M_l + variance · V_l + attention · KL_l)

    transfer: `layer_terms` with everything but the share. The blocks learn; embeddings and heads stay as they are.
    """

    def __init__(self, *, transfer: Transfer, student: nn.Module, **engine) -> None:
        student.requires_grad_(False)
        student.blocks.requires_grad_(True)
        super().__init__(terms=transfer(1 / student.spec.layers), student=student, **engine)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each group holds the number of its block."""
        blocks = enumerate(self.student.blocks, start=1)
        return [group | {"block": k} for k, block in blocks for group in decay_groups([block], self.weight_decay)]


class PreTrainingDistillation(Distiller):
    """Pre-training distillation at the masked positions, with the layers' terms beside it where auxiliary > 0:

        L = mlm · CE(labels, student)  +  soft · CE(softmax(z_t), softmax(z_s))  +  auxiliary · L_layers

    With mlm + soft = 1 this is one cross-entropy with the release's mixed targets.
    """

    def __init__(self, *, mlm: float, soft: float, auxiliary: float, transfer: Transfer, student: nn.Module, **engine) -> None:
        terms = {
            "mlm": HardTargets(mlm, rows=masked_positions),
            "soft": SoftTargets(soft, loss=soft_cross_entropy, rows=masked_positions),
        }
        terms |= transfer(auxiliary / student.spec.layers)
        super().__init__(terms=terms, student=student, **engine)


class MobileBERTTask(Distiller):
    """Task stage: fine-tuning, which is all that the paper does, or a second distillation:

        L = gold · CE(labels, student)  +  soft · CE(softmax(z_t / t), softmax(z_s / t))  +  feature · MSE  +  attention · KL

    soft takes any teacher of the task; feature needs one as wide as the student, and attention one with as many heads.
    """

    def __init__(
        self, *, gold: float, soft: float, temperature: float, feature: float, attention: float, layers: Layers, **engine
    ) -> None:
        terms = {
            "gold": HardTargets(gold, rows=labelled_examples),
            "soft": SoftTargets(soft, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "feature": HiddenMatch(feature, layers=layers),
            "attention": AttentionTransfer(attention, layers=layers, valid_only=True),
        }
        super().__init__(terms=terms, **engine)
