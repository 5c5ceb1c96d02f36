"""Metrics with their true values, over two epochs of which the second is wrong."""

import csv
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy

from kd_lightning.callback.metrics import CrossEntropy, Matthews, Pearson, TeacherAndStudent
from kd_lightning.method.distilbert import DistilBERTTask
from kd_lightning.method.finetune import FineTune, MaskedLM
from kd_lightning.terms import labelled_examples, masked_positions
from kd_lightning.views import Readout, Spec, View

ACCURACY = {"accuracy": partial(MulticlassAccuracy, average="micro")}
LABELS = ("a", "b", "c")


class Answers(nn.Module):
    """Says what the batch tells it to say, shifted by `shift` classes."""

    def __init__(self, key: str, labels=LABELS) -> None:
        super().__init__()
        self.key, self.shift = key, 0
        self.spec = Spec(layers=2, hidden=4, heads=2, vocabulary=7, labels=labels)
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, batch, needs) -> View:
        classes = len(self.spec.labels) or self.spec.vocabulary
        chosen = batch[self.key]
        if classes == 1:
            logits = (self.scale / 5 * chosen)[:, None]
        else:
            logits = self.scale * nn.functional.one_hot((chosen + self.shift) % classes, classes).float()
        return View(readout=lambda rows: Readout(logits[rows]))


class Watch(L.Callback):
    """What was logged at the end of each validation; then the student turns wrong."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.seen.append({name: round(float(v), 6) for name, v in trainer.callback_metrics.items() if "loss" not in name})
            module.student.shift = 1


def batch(labels: list, teacher: list) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.zeros(len(labels), 2).long(),
        "labels": torch.tensor(labels),
        "truth": torch.tensor(labels),
        "taught": torch.tensor(teacher),
    }


def distil(engine, labels=LABELS) -> DistilBERTTask:
    networks = Answers("truth", labels), Answers("taught", labels)
    return DistilBERTTask(temperature=1.0, soft=1.0, gold=1.0, **engine(*networks, lr=0.0))


@pytest.mark.parametrize("sanity", [0, 1, -1])
def test_each_epoch_is_measured_for_itself(sanity, engine, fit):
    """Eight examples in batches of 5 and 3; the teacher is wrong, by one class, on two of them."""
    batches = [batch([0, 1, 2, 0, 1], [0, 1, 2, 1, 1]), batch([2, 0, 0], [2, 0, 1])]
    watch = Watch()
    callbacks = [TeacherAndStudent(ACCURACY, labelled_examples), watch]
    fit(distil(engine), batches, validation=batches, max_epochs=2, callbacks=callbacks, num_sanity_val_steps=sanity)
    right, wrong = watch.seen
    assert right == {
        "val/student/accuracy": 1.0,
        "val/teacher/accuracy": 0.75,
        "val/retention": pytest.approx(1 / 0.75, abs=1e-5),
        "val/agreement": 0.75,
    }
    assert wrong == {
        "val/student/accuracy": 0.0,
        "val/teacher/accuracy": 0.75,
        "val/retention": 0.0,
        "val/agreement": 0.25,
    }


def test_the_loggers_take_down_both_before_the_first_step(engine, fit, tmp_path):
    """Step 0, and then the end of each epoch of two batches; of a few batches nothing is taken down."""
    rows = [batch([0, 1, 2, 0], [0, 1, 2, 1]), batch([1], [1])]
    found = {}
    for sanity in (-1, 1):
        callbacks = [TeacherAndStudent(ACCURACY, labelled_examples), Watch()]
        given = {"callbacks": callbacks, "num_sanity_val_steps": sanity, "max_epochs": 2, "log_every_n_steps": 1}
        fit(distil(engine), rows, validation=rows, logger=CSVLogger(tmp_path, name=str(sanity), version=""), **given)
        lines = list(csv.DictReader((tmp_path / str(sanity) / "metrics.csv").read_text().splitlines()))
        lines = [line for line in lines if line["val/student/accuracy"]]
        names = ("step", "val/student/accuracy", "val/teacher/accuracy", "val/retention", "val/agreement")
        found[sanity] = [tuple(round(float(line[name]), 4) for name in names) for line in lines]
    epochs = [(1, 1.0, 0.8, 1.25, 0.8), (3, 0.0, 0.8, 0.0, 0.2)]
    assert found == {-1: [(0, 1.0, 0.8, 1.25, 0.8), *epochs], 1: epochs}


def test_unlabelled_examples_are_not_measured(engine, fit):
    rows = batch([0, 1, -100, -100, 2, 0], [0, 1, 0, 0, 1, 0]) | {"truth": torch.tensor([0, 1, 1, 1, 2, 1])}
    watch = Watch()
    callbacks = [TeacherAndStudent(ACCURACY, labelled_examples), watch]
    fit(distil(engine), [rows], validation=[rows], callbacks=callbacks)
    assert watch.seen[0]["val/student/accuracy"] == 0.75
    assert watch.seen[0]["val/teacher/accuracy"] == 0.75
    assert watch.seen[0]["val/agreement"] == 0.5


def test_a_student_alone_is_measured_alone(engine, fit):
    rows = batch([0, 1, 2, 0], [0, 0, 0, 0])
    watch = Watch()
    distiller = FineTune(**engine(Answers("truth"), None, lr=0.0))
    fit(distiller, [rows], validation=[rows], max_epochs=2, callbacks=[TeacherAndStudent(ACCURACY, labelled_examples), watch])
    assert watch.seen == [{"val/student/accuracy": 1.0}, {"val/student/accuracy": 0.0}]


def test_a_regression_has_a_correlation_and_no_agreement(engine, fit):
    rows = batch([0.0, 1.0, 2.0, 4.0], [0.0, 2.0, 1.0, 3.0]) | {"truth": torch.tensor([1.0, 3.0, 5.0, 9.0])}
    watch = Watch()
    callbacks = [TeacherAndStudent({"pearson": Pearson}, labelled_examples), watch]
    fit(distil(engine, ("score",)), [rows], validation=[rows], callbacks=callbacks)
    teacher = torch.corrcoef(torch.stack([rows["labels"], rows["taught"]]))[0, 1].item()
    assert watch.seen == [
        {
            "val/student/pearson": pytest.approx(1.0, abs=1e-5),
            "val/teacher/pearson": pytest.approx(teacher, abs=1e-5),
            "val/retention": pytest.approx(1 / teacher, abs=1e-5),
        }
    ]


@pytest.mark.parametrize("answers", [[2.5] * 4, [0.1, 0.1 + 1e-8, 0.1, 0.1], [0.0] * 4])
def test_answers_that_are_one_number_correlate_with_nothing_and_choose_no_checkpoint(answers, recwarn):
    metric, labels = Pearson(), torch.tensor([0.0, 1.0, 2.0, 4.0])
    for part in (slice(0, 1), slice(1, 4)):
        metric.update(torch.tensor(answers)[part], labels[part])
    assert float(metric.compute()) == 0.0
    metric.reset()
    metric.update(labels, torch.full((4,), 3.0))
    assert float(metric.compute()) == 0.0
    metric.reset()
    metric.update(1000 + 0.1 * labels, labels**2)
    assert float(metric.compute()) == pytest.approx(np.corrcoef(labels, labels**2)[0, 1], abs=1e-3)
    assert not recwarn.list


def test_a_masked_lm_is_measured_over_rows_and_not_over_batches(make_encoder, engine, fit, corpus_batch):
    """Batches of four rows and of one."""
    batches = [corpus_batch(seed=0), corpus_batch(seed=1)]
    batches[1] = batches[1] | {"rows": batches[1]["rows"][:1], "labels": batches[1]["labels"][:1]}
    student = make_encoder(layers=2)
    seen = []

    class Note(L.Callback):
        def on_validation_end(self, trainer, module):
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    metrics = ACCURACY | {"mlm_loss": CrossEntropy}
    callbacks = [TeacherAndStudent(metrics, masked_positions), Note()]
    distiller = MaskedLM(**engine(student, None, lr=0.0))
    fit(distiller, batches, validation=batches, callbacks=callbacks)
    inputs = [{name: b[name] for name in ("input_ids", "attention_mask")} for b in batches]
    logits = [student.model(**i).logits.flatten(0, 1)[b["rows"]] for i, b in zip(inputs, batches, strict=True)]
    logits = torch.cat(logits)
    labels = torch.cat([b["labels"] for b in batches])
    expected = -logits.log_softmax(-1)[range(5), labels].mean().item()
    assert seen[0]["val/student/mlm_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("teacher", "useless"), [([0, 0, 0, 0, 0], True), ([0, 0, 0, 1, 1], False)])
def test_a_teacher_no_better_than_the_most_frequent_class_is_reported(teacher, useless, engine, fit, recwarn):
    rows = batch([0, 0, 0, 1, 2], teacher)
    fit_it = partial(fit, distil(engine), [rows], validation=[rows])
    callbacks = [TeacherAndStudent(ACCURACY, labelled_examples)]
    if useless:
        with pytest.warns(UserWarning, match=r"accuracy on val is 0\.600, no better than .* most frequent class \(0\.600\)"):
            fit_it(callbacks=callbacks, num_sanity_val_steps=-1)
    else:
        fit_it(callbacks=callbacks, num_sanity_val_steps=-1)


def test_further_splits_are_measured_under_their_own_names(engine, tmp_path):
    """F1 of the second class: the teacher has 2 hits, 1 miss and no false alarm, 2 * 2 / (2 * 2 + 1)."""
    splits = {"test": batch([0, 1], [0, 1]), "mismatched": batch([0, 0, 1, 1, 1], [0, 0, 1, 1, 0])}
    metrics = ACCURACY | {"f1": BinaryF1Score}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    trainer = L.Trainer(accelerator="cpu", callbacks=[TeacherAndStudent(metrics, labelled_examples)], **quiet)
    distiller, found = distil(engine, ("no", "yes")), {}
    for split, rows in splits.items():
        trainer.test(distiller, {split: DataLoader([rows], batch_size=None)}, verbose=False)
        found |= {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
    assert found == {
        "mismatched/student/accuracy": 1.0,
        "mismatched/student/f1": 1.0,
        "mismatched/teacher/accuracy": 0.8,
        "mismatched/teacher/f1": 0.8,
        "mismatched/retention": 1.25,
        "mismatched/agreement": 0.8,
        "test/student/accuracy": 1.0,
        "test/student/f1": 1.0,
        "test/teacher/accuracy": 1.0,
        "test/teacher/f1": 1.0,
        "test/retention": 1.0,
        "test/agreement": 1.0,
    }


@pytest.mark.parametrize(
    ("answers", "labels", "expected"),
    [
        ([1, 1, 0, 0, 1], [1, 0, 0, 1, 1], (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5),  # (tp tn - fp fn) / sqrt of the four sums
        ([1, 1, 1, 1, 1], [1, 0, 0, 1, 1], 0.0),
        ([0, 1, 1], [1, 1, 1], 0.0),
        ([1, 1, 1], [1, 1, 1], 0.0),
    ],
)
def test_matthews_correlation_is_nothing_where_one_class_stands_alone(answers, labels, expected):
    measure = Matthews(num_classes=2)
    measure.update(torch.tensor(answers), torch.tensor(labels))
    assert float(measure.compute()) == pytest.approx(expected, abs=1e-6)


def test_matthews_correlation_of_many_classes_is_that_of_the_whole_table_and_keeps_counts_alone():
    random = np.random.default_rng(0)
    labels = random.integers(0, 9, 500)
    answers = np.where(random.random(500) < 0.4, labels, random.integers(0, 9, 500))
    measure = Matthews(num_classes=10)
    for some in (slice(0, 200), slice(200, 500)):
        measure.update(torch.from_numpy(answers[some]), torch.from_numpy(labels[some]))
    ours, theirs = (np.eye(10)[classes] - np.eye(10)[classes].mean(0) for classes in (answers, labels))
    expected = (ours * theirs).sum() / np.sqrt((ours**2).sum() * (theirs**2).sum())
    assert 0.1 < expected < 0.9
    assert float(measure.compute()) == pytest.approx(expected, abs=1e-6)
    assert sum(state.numel() for state in measure.metric_state.values()) <= 3 * 10
