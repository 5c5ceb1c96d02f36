"""The spec's acceptance checks D to F, I, J and M on the method itself."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from kd_lightning.method.distilbert import DistilBERT, DistilBERTTask
from kd_lightning.method.finetune import FineTune, MaskedLM
from kd_lightning.views import Needs, Readout, Spec, View

RELEASED = {"temperature": 2.0, "soft": 5.0, "mlm": 2.0, "cosine": 1.0, "masked_only": False}
# check E: one sequence of four positions, the last one padded, three tokens
TEACHER = torch.tensor([[1.0, 2, 3], [0, 0, 4], [5, -5, 0], [9, 9, 9]])
STUDENT = torch.tensor([[3.0, 2, 1], [0, 1, 2], [1, 1, 1], [-7, 0, 7]])
# check F: last hidden states
TEACHER_STATES = torch.tensor([[[1.0, 1], [0, 3], [-2, 0], [5, 5]]])
STUDENT_STATES = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [-5, -5]]])
BATCH = {
    "input_ids": torch.tensor([[0, 1, 2, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 0]]),
    "rows": torch.tensor([1]),
    "labels": torch.tensor([2]),
}


def shown(states: torch.Tensor, logits: torch.Tensor, layer: int) -> View:
    """Its head is the identity, so that the vocabulary loss goes the way of a real head."""
    return View(hidden={layer: states}, readout=lambda rows: Readout(logits[rows], torch.eye(3), torch.zeros(3)))


@pytest.fixture
def make(fixed, engine):
    def build(student_logits=STUDENT, teacher_logits=TEACHER, **weights) -> DistilBERT:
        student = fixed(Spec(2, 2, 1, 3), shown(STUDENT_STATES, student_logits, 2))
        teacher = fixed(Spec(4, 2, 1, 3), shown(TEACHER_STATES, teacher_logits, 4))
        return DistilBERT(**RELEASED | weights, **engine(student, teacher))

    return build


def evaluate(distiller, batch=BATCH) -> tuple[float, dict[str, float]]:
    loss, parts = distiller.objective(*distiller.views(batch), batch)
    return loss.item(), {name: part.item() for name, part in parts.items()}


def test_the_released_weights_by_hand(make):
    loss, parts = evaluate(make())
    assert parts == pytest.approx({"soft": 1.718288, "mlm": 0.407606, "cosine": 1.097631}, abs=1e-6)
    assert loss == pytest.approx(10.504282, abs=1e-5)


def test_the_readmes_equal_weights_by_hand(make):
    assert evaluate(make(soft=0.33, mlm=0.33, cosine=0.33))[0] == pytest.approx(1.063763, abs=1e-6)


def test_the_soft_loss_can_be_restricted_to_masked_positions_and_the_cosine_is_not(make):
    _, parts = evaluate(make(masked_only=True))
    assert parts["soft"] == pytest.approx(0.697830, abs=1e-6)
    assert parts["cosine"] == pytest.approx(1.097631, abs=1e-6)
    two = BATCH | {"rows": torch.tensor([0, 1]), "labels": torch.tensor([0, 2])}
    assert evaluate(make(masked_only=True), two)[1]["soft"] == pytest.approx(0.989228, abs=1e-6)


def test_what_the_padded_position_shows_changes_nothing(make):
    other = STUDENT.clone()
    other[3] = torch.tensor([100.0, -3, 8])
    assert evaluate(make(student_logits=other)) == evaluate(make())


def test_the_gradient_of_the_soft_loss_keeps_its_scale(make):
    """Check D, two tokens instead of three: (T / N)(q_s - q_t)."""
    logits = torch.zeros(4, 3).index_fill(1, torch.tensor([2]), -1e9).requires_grad_()
    teacher = torch.tensor([[2 * math.log(3), 0, -1e9]] * 4)
    distiller = make(student_logits=logits, teacher_logits=teacher, mlm=0, cosine=0, soft=1, masked_only=True)
    loss, _ = distiller.objective(*distiller.views(BATCH), BATCH)
    loss.backward()
    assert loss.item() == pytest.approx(0.523248, abs=1e-6)
    assert_close(logits.grad[1], torch.tensor([-0.5, 0.5, 0]), atol=1e-6, rtol=0)
    assert_close(logits.grad[[0, 2, 3]], torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("off", "left"), [("soft", {"mlm", "cosine"}), ("mlm", {"soft", "cosine"}), ("cosine", {"soft", "mlm"})]
)
def test_each_row_of_the_ablation_is_one_weight(off, left, make):
    distiller = make(**{off: 0.0})
    loss, parts = evaluate(distiller)
    assert set(parts) == left
    assert loss == pytest.approx(sum(RELEASED[name] * part for name, part in parts.items()))
    assert distiller.student_needs.hidden == ({2} if "cosine" in left else set())
    assert distiller.teacher_needs == Needs(frozenset({4}) if "cosine" in left else frozenset(), logits="soft" in left)


@pytest.mark.parametrize("masked_only", [True, False])
def test_a_perfect_student_learns_only_from_the_labels(masked_only, make_encoder, engine, corpus_batch):
    teacher = make_encoder(layers=2, dropout=0.1)
    numbers = RELEASED | {"masked_only": masked_only}
    distiller = DistilBERT(**numbers, **engine(copy.deepcopy(teacher), teacher)).eval()
    _, parts = evaluate(distiller, corpus_batch())
    assert parts["soft"] == pytest.approx(0, abs=1e-6)
    assert parts["cosine"] == pytest.approx(0, abs=1e-6)
    assert parts["mlm"] > 1


def test_parts_are_within_their_bounds_on_real_networks(make_encoder, engine, corpus_batch):
    distiller = DistilBERT(**RELEASED, **engine(make_encoder("distilbert", layers=2, seed=1), make_encoder())).eval()
    _, parts = evaluate(distiller, corpus_batch())
    assert parts["soft"] > 0.01
    assert 0 < parts["cosine"] < 2


def test_frozen_positions_never_move(make_encoder, engine, fit, corpus_batch):
    """Check J."""
    student = make_encoder("distilbert", layers=2, seed=1)
    positions = student.model.distilbert.embeddings.position_embeddings.weight.requires_grad_(False)
    before = positions.clone()
    distiller = DistilBERT(**RELEASED, **engine(student, make_encoder(seed=0)))
    fit(distiller, [corpus_batch(seed=i) for i in range(2)])
    assert positions.grad is None
    assert_close(positions, before, rtol=0, atol=0)


def test_a_student_of_another_width_is_refused(make_encoder, engine):
    with pytest.raises(ValueError, match=r"hidden states: the student is 16 wide and the teacher 32"):
        DistilBERT(**RELEASED, **engine(make_encoder(hidden=16), make_encoder()))


def test_a_negative_weight_is_refused_by_its_name(make):
    with pytest.raises(ValueError, match=r"weight of 'cosine': -1\.0 is negative"):
        make(cosine=-1.0)


LABELS = ("yes", "no", "maybe")


def test_the_task_stage_is_gold_and_soft_targets_on_every_example(make_encoder, engine, task_batch):
    student, teacher = (make_encoder(kind, labels=LABELS, seed=i) for i, kind in enumerate(("distilbert", "bert")))
    distiller = DistilBERTTask(temperature=2.0, soft=0.5, gold=0.5, **engine(student, teacher)).eval()
    batch, rows = task_batch(), torch.arange(4)
    loss, parts = evaluate(distiller, batch)
    with torch.no_grad():
        ours, theirs = (network(batch, Needs(logits=True)).logits(rows) for network in (student, teacher))
    q_s, q_t = (logits / 2 for logits in (ours, theirs))
    soft = 4 * (q_t.softmax(-1) * (q_t.log_softmax(-1) - q_s.log_softmax(-1))).sum(-1).mean()
    gold = -ours.log_softmax(-1)[rows, batch["labels"]].mean()
    assert parts == pytest.approx({"gold": gold.item(), "soft": soft.item()}, rel=1e-4)
    assert loss == pytest.approx(0.5 * sum(parts.values()))


def test_an_unlabelled_example_has_soft_targets_and_no_gold(make_encoder, engine, task_batch):
    student, teacher = (make_encoder(labels=LABELS, seed=seed) for seed in (1, 2))
    distiller = DistilBERTTask(temperature=2.0, soft=1.0, gold=1.0, **engine(student, teacher)).eval()
    batch = task_batch()
    full, (first, second) = evaluate(distiller, batch)[1], ([0, 2], [1, 3])
    batch["labels"] = batch["labels"].index_fill(0, torch.tensor(second), -100)
    half = evaluate(distiller, batch)[1]
    assert half["soft"] == full["soft"]
    kept = {name: tensor[first] for name, tensor in batch.items()}
    assert half["gold"] == pytest.approx(evaluate(distiller, kept)[1]["gold"], rel=1e-5)


@pytest.mark.parametrize("labels", [("yes", "no"), ("no", "yes", "maybe")])
def test_a_teacher_of_other_labels_is_refused(labels, make_encoder, engine):
    student, teacher = make_encoder(labels=LABELS, layers=2), make_encoder(labels=labels, layers=2)
    with pytest.raises(ValueError, match=r"labels: the student's are .*fine-tune the teacher on this task"):
        DistilBERTTask(temperature=2.0, soft=0.5, gold=0.5, **engine(student, teacher))


def test_fine_tuning_is_cross_entropy_on_the_labels(make_encoder, engine, task_batch):
    student, batch = make_encoder(labels=LABELS, layers=2), task_batch()
    loss, parts = evaluate(FineTune(**engine(student, None)).eval(), batch)
    with torch.no_grad():
        logits = student(batch, Needs(logits=True)).logits(torch.arange(4))
    assert parts == {"gold": pytest.approx(-logits.log_softmax(-1)[range(4), batch["labels"]].mean().item(), rel=1e-5)}
    assert loss == parts["gold"]


def test_masked_language_modelling_leaves_its_teacher_unused(make_encoder, engine, corpus_batch):
    distiller = MaskedLM(**engine(make_encoder(layers=2, seed=1), make_encoder(layers=2))).eval()
    assert distiller.teacher is None
    loss, parts = evaluate(distiller, corpus_batch())
    assert parts == {"mlm": loss}
