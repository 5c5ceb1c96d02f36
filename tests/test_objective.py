from dataclasses import replace

import pytest
import torch

from kd_lightning.objective import Objective
from kd_lightning.terms import Term
from kd_lightning.views import Needs, Spec, View

SPEC = Spec(layers=2, hidden=4, heads=2, vocabulary=11, vocabulary_id="x")


class Constant(Term):
    """A part that is always the same and reads one hidden layer of each network."""

    def __init__(self, weight: float, value: float, layer: int = 1) -> None:
        super().__init__(weight)
        self.value, self.layer = torch.nn.Parameter(torch.tensor(value)), layer

    def bind(self, student, teacher) -> None:
        self.needs = (Needs(hidden=frozenset({self.layer})), Needs(attention=frozenset({self.layer})))

    def forward(self, student, teacher, batch):
        return self.value * 1.0


def test_the_loss_is_the_weighted_sum_and_the_parts_are_unweighted():
    objective = Objective({"soft": Constant(5, 1.718288), "mlm": Constant(2, 0.407606), "cosine": Constant(1, 1.097631)})
    loss, parts = objective(View(), View(), {})
    assert loss.item() == pytest.approx(10.504282, abs=1e-5)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"soft": 1.718288, "mlm": 0.407606, "cosine": 1.097631}
    )


def test_the_gradient_of_a_part_is_its_weight_and_the_parts_carry_no_graph():
    objective = Objective({"one": Constant(0.25, 3.0), "two": Constant(4.0, 1.0)})
    loss, parts = objective(View(), View(), {})
    loss.backward()
    assert [term.value.grad.item() for term in objective.terms.values()] == [0.25, 4.0]
    assert not any(part.requires_grad for part in parts.values())


def test_weight_zero_removes_the_term_and_what_it_alone_needed():
    objective = Objective({"on": Constant(1, 3.0, layer=1), "off": Constant(0, 100.0, layer=2)})
    student, teacher = objective.bind(SPEC, SPEC)
    assert student == Needs(hidden=frozenset({1}))
    assert teacher == Needs(attention=frozenset({1}))
    loss, parts = objective(View(), View(), {})
    assert loss.item() == 3.0
    assert list(parts) == ["on"]
    assert len(list(objective.parameters())) == 1


def test_the_needs_are_the_union_over_the_terms():
    objective = Objective({"one": Constant(1, 3.0, layer=1), "two": Constant(1, 3.0, layer=2)})
    student, teacher = objective.bind(SPEC, SPEC)
    assert student == Needs(hidden=frozenset({1, 2}))
    assert teacher == Needs(attention=frozenset({1, 2}))
    assert Needs(logits=True) | student == Needs(hidden=frozenset({1, 2}), logits=True)


def test_a_negative_weight_is_refused_by_name():
    with pytest.raises(ValueError, match=r"weight of 'soft': -0\.5 is negative; weights are 0 \(off\) or more"):
        Objective({"mlm": Constant(1, 1.0), "soft": Constant(-0.5, 1.0)})


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match=r"weights: all of soft, mlm are 0, so nothing is left to train on"):
        Objective({"soft": Constant(0, 1.0), "mlm": Constant(0, 1.0)})


@pytest.mark.parametrize(
    "teacher",
    [
        Spec(layers=2, hidden=4, heads=2, vocabulary=12, vocabulary_id="x"),
        Spec(layers=2, hidden=4, heads=2, vocabulary=11, vocabulary_id="y"),
    ],
)
def test_networks_that_read_other_token_ids_are_refused(teacher):
    objective = Objective({"soft": Constant(1, 1.0)})
    with pytest.raises(ValueError, match=r"vocabulary: the student's 11 tokens are not the teacher's 1"):
        objective.bind(SPEC, teacher)


STORED = Spec(layers=4, hidden=4, heads=2, vocabulary=12, vocabulary_id="y", stored=True)


class Scores(Constant):
    """A part that reads the logits of the teacher."""

    def bind(self, student, teacher) -> None:
        self.needs = (Needs(logits=True), Needs(logits=True))


def test_a_stored_teacher_of_other_tokens_teaches_logits_and_no_layers():
    assert Objective({"soft": Scores(1, 1.0)}).bind(SPEC, STORED)[1] == Needs(logits=True)
    objective = Objective({"soft": Scores(1, 1.0), "hidden": Constant(1, 1.0)})
    with pytest.raises(ValueError, match=r"teacher\.stored=true: layers are compared token by token, .* Build the student"):
        objective.bind(SPEC, STORED)
    assert objective.bind(SPEC, replace(STORED, vocabulary_id="x"))[1] == Needs(attention=frozenset({1}), logits=True)


def test_without_a_teacher_no_vocabulary_is_compared():
    assert Objective({"mlm": Constant(1, 1.0)}).bind(SPEC, None)[0] == Needs(hidden=frozenset({1}))
