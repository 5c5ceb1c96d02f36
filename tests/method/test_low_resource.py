"""The objective on the numbers of specs/low-resource.md, section 9, derived by hand."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from kd_lightning.method.low_resource import LogitDistillation
from kd_lightning.student.bow import BowConfig
from kd_lightning.student.low_resource import LowResource
from kd_lightning.teacher.stored import StoredTeacher
from kd_lightning.views import Needs, Readout, Spec, View

STUDENT = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
TEACHER = torch.tensor([[2.0, -2.0], [0.0, 1.0]])
SPEC = {"layers": 0, "hidden": 4, "heads": 0, "vocabulary": 9, "labels": ("no", "yes")}
OFF = {"mse": 0.0, "kl": 0.0, "soft": 0.0, "gold": 0.0, "temperature": 1.0}


def view(logits: torch.Tensor) -> View:
    return View(readout=lambda rows: Readout(logits[rows]))


@pytest.fixture
def loss(fixed, engine):
    def loss(student=STUDENT, teacher=TEACHER, labels=(0, 1), **method) -> float:
        spec = Spec(**(SPEC | {"labels": tuple("abcdef"[: student.shape[1]])}))
        networks = (fixed(spec, view(logits)) for logits in (student, teacher))
        distiller = LogitDistillation(**(OFF | method), **engine(*networks))
        batch = {"input_ids": torch.zeros(len(student), 3, dtype=torch.long), "labels": torch.tensor(labels)}
        return float(distiller.objective(*distiller.views(batch), batch)[0])

    return loss


def test_mse_is_averaged_over_rows_and_classes_and_knows_a_shift(loss):
    assert loss(mse=1) == pytest.approx(0.75)
    assert loss(STUDENT + 5, mse=1) == pytest.approx(28.25)


def test_equal_logits_have_no_mse_and_no_kl(loss):
    """nlp-architect's mse compares log-probabilities with probabilities: 2.05 for three equal classes."""
    equal = torch.zeros(2, 3)
    assert loss(equal, equal, mse=1, kl=1) == pytest.approx(0, abs=1e-7)


def test_kl_does_not_know_a_shift(loss):
    assert loss(kl=1) == pytest.approx(0.077707, abs=1e-6)
    assert loss(STUDENT + 5, kl=1) == pytest.approx(0.077707, abs=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(1, 0.108690), (10, 0.087371), (100, 0.5 / 6)])
def test_kl_at_high_temperature_is_the_squared_error_of_centred_logits(loss, temperature, expected):
    """Over 2C. float32 keeps T² · 1e-7 of it."""
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.5, 0.5, -1.0]])
    assert loss(student, teacher, (0,), kl=1, temperature=temperature) == pytest.approx(
        expected, abs=1e-6 + 2e-7 * temperature**2
    )


def test_soft_cross_entropy_is_kl_and_the_teachers_entropy(loss):
    probabilities = TEACHER.softmax(-1)
    entropy = float(-(probabilities * probabilities.log()).sum(-1).mean())
    assert loss(soft=1) == pytest.approx(0.077707 + entropy, abs=1e-6)


def test_gold_counts_labelled_rows_alone_and_the_others_all(loss):
    own = float(nn.functional.cross_entropy(STUDENT[:1], torch.tensor([0])))
    assert loss(gold=1, labels=(0, -100)) == pytest.approx(own)
    assert loss(gold=1, labels=(-100, -100)) == 0
    assert loss(mse=2, gold=3, labels=(0, -100)) == pytest.approx(2 * 0.75 + 3 * own)


def test_a_regression_is_matched_by_squared_error_whatever_the_loss(loss):
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [5.0]])
    assert loss(student, teacher, (0.0, 0.0), kl=1) == loss(student, teacher, (0.0, 0.0), mse=1) == pytest.approx(2.5)


class Lexical(nn.Module):
    """A teacher of other tokens that answers by its own score of each word."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.spec = Spec(**(SPEC | {"vocabulary": 999, "vocabulary_id": "its own"}))

    def forward(self, batch, needs) -> View:
        score = (self.scores[batch["input_ids"]] * batch["attention_mask"]).sum(1)
        return view(torch.stack([-score, score], dim=1))


def test_a_stored_teacher_of_other_tokens_is_found_by_row_and_teaches_a_bag_of_words(engine, fit, tmp_path):
    """Words have scores, and a text is positive where they sum to more than 0. Of 2,000 texts 50 are labelled."""
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(300, generator=random)
    ids = torch.randint(1, 300, (2500, 8), generator=random)
    mask = torch.ones_like(ids)
    gold = (scores[ids].sum(1) > 0).long()
    teacher = StoredTeacher(Lexical(scores))
    index = torch.arange(2500)
    theirs = [{"input_ids": ids[part], "attention_mask": mask[part], "index": part} for part in index.split(500)]

    rows = SimpleNamespace(every_row=lambda: (theirs, pa.table({"input_ids": ids.tolist()})))
    teacher.store(Needs(logits=True), rows, str(tmp_path))
    renamed = torch.randperm(299, generator=random)  # the student's own token ids
    ours = torch.cat([torch.zeros(1, dtype=torch.long), renamed + 1])[ids]
    known = torch.where(index < 50, gold, torch.full_like(gold, -100))

    def batches(rows: torch.Tensor, epochs: int) -> list:
        chosen = torch.cat([rows[torch.randperm(len(rows), generator=random)] for _ in range(epochs)]).split(50)
        return [{"input_ids": ours[c], "attention_mask": mask[c], "labels": known[c], "index": c} for c in chosen]

    def accuracy(weights: dict, data: list) -> float:
        torch.manual_seed(0)
        config = BowConfig(vocab_size=300, embedding_size=16, dropout=0.0, id2label={0: "no", 1: "yes"})
        tokens = type("Tokens", (), {"get_vocab": staticmethod(dict)})
        student = LowResource(AutoModelForSequenceClassification.from_config(config), tokens)
        fit(LogitDistillation(**(OFF | weights), **engine(student, teacher, lr=1e-2)), data)
        test = slice(2000, 2500)
        logits = student.model(input_ids=ours[test], attention_mask=mask[test]).logits
        return float((logits.argmax(-1) == gold[test]).float().mean())

    alone = accuracy({"gold": 1.0}, batches(index[:50], 400))
    distilled = accuracy({"mse": 1.0}, batches(index[:2000], 10))
    assert distilled > alone + 0.05
    found = teacher({"index": index[2000:], "attention_mask": mask[2000:]}, Needs(logits=True)).logits(torch.arange(500))
    assert_close(found.argmax(-1), gold[2000:])
