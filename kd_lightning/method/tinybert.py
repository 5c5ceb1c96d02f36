"""TinyBERT (Jiao et al. 2020, arXiv 1909.10351).

A narrow student that starts at random learns the teacher's embeddings, hidden states and attention scores, first on a corpus
(general stage, from the pre-trained teacher), then on the task's texts (intermediate stage, from the teacher fine-tuned
on the task); then it learns that teacher's predictions (prediction stage). `stage=task` is the last two in a row.

Deviation: the release keeps the teacher in train mode, its dropout on; here the teacher is in eval mode.
Deviation: the release's BertAdam corrects no bias, so that its first updates are (1 - 0.9^t) / √(1 - 0.999^t) times AdamW's,
6.6 at most, near t = 12; and it clips the gradient of each tensor alone. Here AdamW and the norm of all are the default.
Deviation: the release leaves out the last batch of an epoch where it is not full; here every row is learned from.
Deviation: the release's classifiers read ReLU(tanh(pooled)); these are transformers' own, which read tanh(pooled), so
that the student is a plain BERT classifier.
"""

from collections.abc import Sequence
from functools import partial

from kd_lightning.distiller import Distiller
from kd_lightning.losses import soft_cross_entropy
from kd_lightning.terms import (
    AttentionMatch,
    HardTargets,
    HiddenMatch,
    Projection,
    SoftTargets,
    all_positions,
    examples,
    labelled_examples,
    real_positions,
)


class TransformerDistillation(Distiller):
    """General and intermediate stage: equations 7 to 9 over the layer map g, summed and not averaged over layers.

        L = embedding · MSE(E_s W_e, E_t)  +  hidden · Σ_m MSE(H_m W_h, H_g(m))  +  attention · Σ_m MSE(A_m, A_g(m))

    A are the scores before the softmax. valid_only: leave padding out of all three; else it counts as it does in the release
    (padded rows in full, masked keys as zeros). projection: see `projection.Projection`.

    Deviation: the release pads every batch to one length, 64 or 128; here a batch is as long as its longest row, and rows of
    like length are together, so that there is little padding to count and valid_only=false is not far from true. In the
    release padding makes the attention's term smaller beside the others, by about the share of real tokens.
    """

    def __init__(
        self,
        *,
        embedding: float,
        hidden: float,
        attention: float,
        layers: str | Sequence[Sequence[int]],
        projection: str,
        valid_only: bool,
        **engine,
    ) -> None:
        fit = Projection(projection)
        rows = real_positions if valid_only else all_positions
        terms = {
            "embedding": HiddenMatch(embedding, layers=[[0, 0]], rows=rows, projection=fit),
            "hidden": HiddenMatch(hidden, layers=layers, rows=rows, projection=fit),
            "attention": AttentionMatch(attention, layers=layers, valid_only=valid_only),
        }
        super().__init__(terms=terms, **engine)


class PredictionDistillation(Distiller):
    """Prediction stage: equation 10, soft cross-entropy at temperature t on both sides.

        L = prediction · CE(softmax(z_t / t), softmax(z_s / t))  +  gold · CE(labels, student)

    A regression's teacher scores are matched by squared error. gold is 0 in the paper; prediction=0 gold=1 is its
    ablation without the prediction term.
    Deviation: the release divides the loss by the number of classes, and takes gold labels for STS-B.
    """

    def __init__(self, *, prediction: float, gold: float, temperature: float, **engine) -> None:
        terms = {
            "prediction": SoftTargets(prediction, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "gold": HardTargets(gold, rows=labelled_examples),
        }
        super().__init__(terms=terms, **engine)
