"""DistilBERT (Sanh, Debut, Chaumond and Wolf 2019, arXiv 1910.01108).

A student of the teacher's width and half its layers, copied from the teacher (`student/transplant.py`), learns on a
corpus from three losses on the last layer; then it is fine-tuned on a task, with or without a second distillation from a
teacher fine-tuned on that task (section 3, "Additional distillation step").

The paper gives the soft loss without sign, T² and reduction; this follows the release: T² · KL averaged over positions.
"""

from functools import partial

from kd_lightning.distiller import Distiller
from kd_lightning.losses import cosine_distance, kl_divergence
from kd_lightning.terms import (
    HardTargets,
    HiddenMatch,
    SoftTargets,
    examples,
    labelled_examples,
    masked_positions,
    real_positions,
)


class DistilBERT(Distiller):
    """General stage: one pass over a corpus, three losses on the last layer.

        L = soft · T² KL(teacher ‖ student)  +  mlm · CE(labels, student)  +  cosine · (1 - cos(h_s, h_t))

    The KL is averaged over the real positions, special tokens included, or over the masked ones (masked_only); the
    cosine is always averaged over the real positions.
    """

    def __init__(self, *, temperature: float, soft: float, mlm: float, cosine: float, masked_only: bool, **engine) -> None:
        terms = {
            "soft": SoftTargets(
                soft,
                loss=partial(kl_divergence, temperature=temperature),
                rows=masked_positions if masked_only else real_positions,
            ),
            "mlm": HardTargets(mlm, rows=masked_positions),
            "cosine": HiddenMatch(cosine, layers="last", loss=cosine_distance, rows=real_positions),
        }
        super().__init__(terms=terms, **engine)


class DistilBERTTask(Distiller):
    """Task stage: fine-tuning with a second distillation; soft=0 is plain fine-tuning.

        L = gold · CE(labels, student)  +  soft · T² KL(teacher ‖ student)

    Deviation: the release has this for question answering only; here it is a sentence classifier's logits.
    """

    def __init__(self, *, temperature: float, soft: float, gold: float, **engine) -> None:
        terms = {
            "gold": HardTargets(gold, rows=labelled_examples),
            "soft": SoftTargets(soft, loss=partial(kl_divergence, temperature=temperature), rows=examples),
        }
        super().__init__(terms=terms, **engine)
