import math

import numpy as np
import pytest
import torch
from oracles import losses as oracle
from torch.testing import assert_close

from kd_lightning.losses import (
    attention_score_error,
    cosine_distance,
    cross_entropy,
    kl_divergence,
    mean_squared_error,
    regression_error,
    soft_cross_entropy,
)


def rows(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention(seed: int, width: int, length: int = 7, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return rows(seed, 3, 2, length, width).to(dtype), rows(seed + 1, 3, 2, length, width).to(dtype)


def numpy(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in tensors]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_is_the_equation_with_the_temperature_squared(temperature):
    student, teacher = rows(1, 6, 9), rows(2, 6, 9)
    expected = oracle.kl_divergence(*numpy(student, teacher), temperature)
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_is_the_equation_without_temperature_squared(temperature):
    student, teacher = rows(1, 6, 9), rows(2, 6, 9)
    expected = oracle.soft_cross_entropy(*numpy(student, teacher), temperature)
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_cosine_are_the_equations():
    student, teacher, labels = rows(1, 6, 9), rows(2, 6, 9), torch.tensor([0, 8, 3, 3, 1, 5])
    assert cross_entropy(student, labels).item() == pytest.approx(
        oracle.cross_entropy(student.double().numpy(), labels.numpy()), rel=1e-5
    )
    assert cosine_distance(student, teacher).item() == pytest.approx(oracle.cosine_distance(*numpy(student, teacher)), rel=1e-5)


def test_kl_of_no_rows_is_nothing_and_teaches_nothing():
    student = torch.zeros(0, 9, requires_grad=True)
    loss = kl_divergence(student, torch.zeros(0, 9), 2.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.shape == (0, 9)


def test_kl_of_the_spec_by_hand():
    """Check D: q_t = (3/4, 1/4), q_s = (1/2, 1/2), T = 2."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.zeros(1, 2, requires_grad=True)
    loss = kl_divergence(student, teacher, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.523248, abs=1e-6)
    assert_close(student.grad, torch.tensor([[-0.5, 0.5]]))
    both = kl_divergence(torch.cat([student, teacher]), torch.cat([teacher, teacher]), 2.0)
    assert both.item() == pytest.approx(0.261624, abs=1e-6)


def test_kl_of_no_row_is_nothing():
    student = torch.zeros(0, 3, requires_grad=True)
    loss = kl_divergence(student, torch.zeros(0, 3), 2.0)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad.shape == (0, 3)


def test_kl_averages_over_rows_and_not_over_classes():
    """Check E: three positions of three classes."""
    teacher = torch.tensor([[1.0, 2, 3], [0, 0, 4], [5, -5, 0]])
    student = torch.tensor([[3.0, 2, 1], [0, 1, 2], [1, 1, 1]])
    each = [kl_divergence(s[None], t[None], 2.0).item() for s, t in zip(student, teacher, strict=True)]
    assert each == pytest.approx([1.280627, 0.697830, 3.176407], abs=1e-5)
    assert kl_divergence(student, teacher, 2.0).item() == pytest.approx(1.718288, abs=1e-6)
    assert kl_divergence(student[:2], teacher[:2], 2.0).item() == pytest.approx(0.989228, abs=1e-6)
    assert mean_squared_error(student, teacher).item() == pytest.approx(22 / 3)
    assert cross_entropy(student[1:2], torch.tensor([2])).item() == pytest.approx(0.407606, abs=1e-6)


def test_soft_cross_entropy_of_the_spec_by_hand():
    """TinyBERT, check F, in the paper's form."""
    teacher = torch.tensor([[math.log(3), 0.0]])
    student = torch.zeros(1, 2, requires_grad=True)
    loss = soft_cross_entropy(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert_close(student.grad, torch.tensor([[-0.25, 0.25]]))
    two = soft_cross_entropy(torch.tensor([[1.0, 1, 0], [-1, 0, 2]]), torch.tensor([[2.0, 0, -1], [0, 1, 0]]))
    assert two.item() == pytest.approx(1.430955, abs=1e-6)


def test_soft_cross_entropy_at_equality_is_the_entropy_and_pulls_nowhere():
    teacher = torch.tensor([[math.log(3), 0.0]])
    student = teacher.clone().requires_grad_()
    loss = soft_cross_entropy(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.562335, abs=1e-6)
    assert_close(student.grad, torch.zeros(1, 2))


def test_regression_error_by_hand():
    student, target = torch.tensor([[1.0], [3.0], [4.5]]), torch.tensor([2.0, 3.0, 4.0])
    assert regression_error(student, target).item() == pytest.approx(1.25 / 3)


def test_cosine_distance_by_hand_and_blind_to_length():
    student = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    teacher = torch.tensor([[1.0, 1], [0, 3], [-2, 0]])
    assert cosine_distance(student, teacher).item() == pytest.approx(1.097631, abs=1e-6)
    scale = torch.tensor([[7.0], [0.1], [3.0]])
    assert_close(cosine_distance(student * scale, teacher), cosine_distance(student, teacher))


@pytest.mark.parametrize("loss", [kl_divergence, mean_squared_error, cosine_distance])
def test_a_divergence_is_zero_at_equality_and_positive_elsewhere(loss):
    one, other = rows(1, 5, 8), rows(2, 5, 8)
    assert loss(one, one.clone()).item() == pytest.approx(0, abs=1e-6)
    assert loss(one, other).item() > 0.1


@pytest.mark.parametrize("loss", [kl_divergence, soft_cross_entropy])
def test_a_constant_added_to_all_logits_of_a_row_changes_nothing(loss):
    student, teacher, constant = rows(1, 5, 8), rows(2, 5, 8), rows(3, 5, 1)
    assert_close(loss(student + constant, teacher - constant), loss(student, teacher))


@pytest.mark.parametrize("loss", [kl_divergence, soft_cross_entropy, mean_squared_error, cosine_distance])
def test_a_loss_computes_in_float32_whatever_comes_in(loss):
    student, teacher = rows(1, 5, 8).bfloat16(), rows(2, 5, 8).bfloat16()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert_close(value, loss(student.float(), teacher.float()), rtol=0, atol=0)


@pytest.mark.parametrize("by_gram", [True, False])
def test_attention_error_is_the_equation(by_gram):
    student, teacher = attention(1, 5), attention(11, 8)
    mask = np.ones((3, 7))
    expected = oracle.attention_official(numpy(*student), numpy(*teacher), mask)
    assert attention_score_error(student, teacher, by_gram).item() == pytest.approx(expected, rel=1e-5)


def test_both_forms_of_the_attention_error_have_the_same_gradients():
    results = []
    for by_gram in (True, False):
        student, teacher = attention(1, 5), attention(11, 8)
        leaves = [tensor.requires_grad_() for tensor in student]
        loss = attention_score_error(student, teacher, by_gram)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for gram, scores in zip(*results, strict=True):
        assert_close(gram, scores, rtol=1e-5, atol=1e-5 * scores.abs().max().item())


@pytest.mark.parametrize("by_gram", [True, False])
def test_attention_gradients_are_those_of_the_equation_in_float64(by_gram):
    """Finite differences of the NumPy equation, in a random direction."""
    student, teacher = attention(1, 5), attention(11, 8)
    leaves = [tensor.requires_grad_() for tensor in student]
    grads = torch.autograd.grad(attention_score_error(student, teacher, by_gram), leaves)
    directions = [rows(30 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    slope = sum((g.double() * d.double()).sum().item() for g, d in zip(grads, directions, strict=True))
    step, mask = 1e-5, np.ones((3, 7))
    sides = []
    for sign in (1, -1):
        moved = [
            leaf.detach().double().numpy() + sign * step * d.double().numpy()
            for leaf, d in zip(leaves, directions, strict=True)
        ]
        sides.append(oracle.attention_official(moved, numpy(*teacher), mask))
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("by_gram", [True, False])
def test_equal_attention_has_no_error_and_swapped_heads_have_one(by_gram):
    student = attention(1, 5)
    assert attention_score_error(student, student, by_gram).item() == pytest.approx(0, abs=1e-4)
    swapped = tuple(tensor.flip(1) for tensor in student)
    assert attention_score_error(swapped, student, by_gram).item() > 1


def test_attention_takes_the_form_with_fewer_operations_by_itself():
    """Long sequences by Gram matrices, short ones by scores: bit for bit the form named."""
    for length, by_gram in ((33, True), (7, False)):
        student, teacher = attention(1, 8, length), attention(11, 8, length)
        chosen = attention_score_error(student, teacher)
        assert_close(chosen, attention_score_error(student, teacher, by_gram), rtol=0, atol=0)


@pytest.mark.parametrize("by_gram", [True, False])
def test_attention_of_a_bfloat16_teacher_is_compared_with_a_float32_student(by_gram):
    student, teacher = attention(1, 5), attention(11, 8, dtype=torch.bfloat16)
    exact = oracle.attention_official(numpy(*student), numpy(*teacher), np.ones((3, 7)))
    assert attention_score_error(student, teacher, by_gram).item() == pytest.approx(exact, rel=1e-5)
