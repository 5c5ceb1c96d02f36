"""Low-resource students (Tang et al. 2019, arXiv 1903.12136; Wasserblat et al. 2020, SustaiNLP): BiLSTM, CNN, bag of words.

The student (`student/bilstm.py` and its neighbours) reads tokens of its own, so the teacher's logits are computed once for
every example (`teacher/stored.py`) and found by the example's number. The student learns from them on labelled and unlabelled
examples in one pool.
"""

from functools import partial

from kd_lightning.distiller import Distiller
from kd_lightning.losses import kl_divergence, mean_squared_error, soft_cross_entropy
from kd_lightning.terms import HardTargets, SoftTargets, examples, labelled_examples


class LogitDistillation(Distiller):
    """Task stage: every example counts, but for gold, which counts the labelled ones.

        L = mse · MSE(z_s, z_t)  +  kl · T² KL(teacher ‖ student)  +  soft · CE(softmax(z_t / T), softmax(z_s / T))
            +  gold · CE(labels, student)

    MSE is averaged over rows and classes, as in Tang's code; the paper's is the sum over classes. A regression's scores are
    matched by squared error in each of the first three, so one of them is enough.
    """

    def __init__(self, *, mse: float, kl: float, soft: float, gold: float, temperature: float, **engine) -> None:
        terms = {
            "mse": SoftTargets(mse, loss=mean_squared_error, rows=examples),
            "kl": SoftTargets(kl, loss=partial(kl_divergence, temperature=temperature), rows=examples),
            "soft": SoftTargets(soft, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "gold": HardTargets(gold, rows=labelled_examples),
        }
        super().__init__(terms=terms, **engine)
