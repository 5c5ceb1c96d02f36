"""How often a stage runs its networks over the validation rows."""

from collections import Counter

import torch

from kd_lightning import distiller

BATCHES = 5  # 20 rows, four a batch


def counting(file):
    """Note each pass of a network outside training, and what the trainer does there."""

    def before() -> None:
        make = distiller.Distiller.__init__

        def made(self, **named) -> None:
            make(self, **named)

            def note(who):
                def passed(*_) -> None:
                    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
                    if (state := self.trainer.state).stage != "train":
                        with file.open("a") as out:
                            out.write(f"{type(self).__name__} {state.fn.value} {state.stage.value} {who}\n")

                return passed

            self.student.register_forward_hook(note("student"))
            if self.teacher is not None:
                self.teacher.register_forward_hook(note("teacher"))

        distiller.Distiller.__init__ = made

    return before


def test_a_student_passes_over_validation_once_each_time_and_a_classifying_teacher_once_a_stage(start, material, tmp_path):
    """Two epochs. The first validation is the best of equal ones (lr=0): after training the rows are measured once more.

    The layers of a teacher are not kept; the student of that stage is the last one, which needs no further measuring.
    """
    words = ("trainer.max_epochs=2", "trainer.precision=32-true", "stages.teacher.optim.lr=0", "stages.prediction.optim.lr=0")
    words += (f"student.path={material}/teacher",)
    done = start("stage=task", *words, before=counting(tmp_path / "passes")).wait(120)
    assert done.status == 0, done
    found = Counter((tmp_path / "passes").read_text().splitlines())
    assert found == {
        "FineTune fit sanity_check student": BATCHES,
        "FineTune fit validate student": 2 * BATCHES,
        "FineTune validate validate student": BATCHES,
        "TransformerDistillation fit sanity_check student": BATCHES,
        "TransformerDistillation fit sanity_check teacher": BATCHES,
        "TransformerDistillation fit validate student": 2 * BATCHES,
        "TransformerDistillation fit validate teacher": 2 * BATCHES,
        "PredictionDistillation fit sanity_check student": BATCHES,
        "PredictionDistillation fit sanity_check teacher": BATCHES,
        "PredictionDistillation fit validate student": 2 * BATCHES,
        "PredictionDistillation validate validate student": BATCHES,
    }
