import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kd_lightning.chunks import mean_over_rows
from kd_lightning.losses import cross_entropy, kl_divergence, mean_squared_error
from kd_lightning.views import Readout

N, D, V = 13, 8, 17
LABELS = torch.arange(N) % V


def leaves(seed: int, rows: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, D), (V, D), (V,))
    return tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)


def results(loss: torch.Tensor, parameters) -> tuple[torch.Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("rows", [1, 5, 13, 256])
@pytest.mark.parametrize("loss", [kl_divergence, mean_squared_error])
def test_chunks_give_the_value_and_the_gradients_of_the_whole(loss, rows):
    student, teacher = leaves(1), [tensor.detach() for tensor in leaves(2)]
    chunked = results(3 * mean_over_rows(loss, Readout(*student), Readout(*teacher), rows), student)
    whole = results(3 * loss(F.linear(*student), F.linear(*teacher)), student)
    for ours, expected in zip(chunked, whole, strict=True):
        assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 256])
def test_chunks_of_labels_give_the_value_and_the_gradients_of_the_whole(rows):
    student = leaves(1)
    chunked = results(mean_over_rows(cross_entropy, Readout(*student), LABELS, rows), student)
    whole = results(cross_entropy(F.linear(*student), LABELS), student)
    for ours, expected in zip(chunked, whole, strict=True):
        assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_head_without_bias_is_served():
    features, weight, _ = leaves(1)
    chunked = results(mean_over_rows(cross_entropy, Readout(features, weight), LABELS, 5), (features, weight))
    whole = results(cross_entropy(F.linear(features, weight), LABELS), (features, weight))
    for ours, expected in zip(chunked, whole, strict=True):
        assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_teachers_head_without_bias_is_served():
    student = leaves(1)
    features, weight, _ = (tensor.detach() for tensor in leaves(2))
    value = mean_over_rows(kl_divergence, Readout(*student), Readout(features, weight), 5)
    assert_close(value, kl_divergence(F.linear(*student), F.linear(features, weight)))


def test_no_more_than_a_chunk_of_logits_exists_at_a_time():
    seen = []

    def loss(student, teacher):
        seen.append((len(student), len(teacher)))
        return kl_divergence(student, teacher)

    mean_over_rows(loss, Readout(*leaves(1)), Readout(*leaves(2)), 5)
    assert seen == [(5, 5), (5, 5), (3, 3)]


def test_logits_that_are_there_already_are_not_chunked():
    logits, teacher = leaves(1)[0], leaves(2)[0].detach()
    value, grad = results(mean_over_rows(kl_divergence, Readout(logits), Readout(teacher), 5), [logits])
    expected, expected_grad = results(kl_divergence(logits, teacher), [logits])
    assert_close(value, expected, rtol=0, atol=0)
    assert_close(grad, expected_grad, rtol=0, atol=0)


def test_no_rows_give_zero_and_gradients_of_zero():
    student = leaves(1, rows=0)
    value, *grads = results(mean_over_rows(cross_entropy, Readout(*student), LABELS[:0], 5), student)
    assert value.item() == 0
    assert len(grads) == 3
    assert all(bool((grad == 0).all()) for grad in grads)


def test_tied_embeddings_get_the_gradients_of_both_their_uses():
    def grads(chunked: bool):
        torch.manual_seed(0)
        table, middle = nn.Embedding(V, D), nn.Linear(D, D)
        features = middle(table(LABELS))
        readout = Readout(features, table.weight, torch.zeros(V))
        whole = cross_entropy(readout.logits(), LABELS)
        loss = mean_over_rows(cross_entropy, readout, LABELS, 5) if chunked else whole
        return torch.autograd.grad(loss, [table.weight, middle.weight])

    for ours, expected in zip(grads(True), grads(False), strict=True):
        assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_gradients_accumulate_over_two_losses_on_the_same_head():
    student, teacher = leaves(1), [tensor.detach() for tensor in leaves(2)]

    def both(mean):
        return results(5 * mean(kl_divergence, Readout(*teacher)) + 2 * mean(cross_entropy, LABELS), student)

    def whole(loss, target):
        return loss(F.linear(*student), target.logits() if isinstance(target, Readout) else target)

    chunked = both(lambda loss, target: mean_over_rows(loss, Readout(*student), target, 5))
    for ours, expected in zip(chunked, both(whole), strict=True):
        assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_stays_close_to_float32_and_keeps_the_dtypes():
    student, teacher = leaves(1), [tensor.detach() for tensor in leaves(2)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = mean_over_rows(kl_divergence, Readout(*student), Readout(*teacher), 5)
    value, *grads = results(loss, student)
    expected, *expected_grads = results(kl_divergence(F.linear(*student), F.linear(*teacher)), student)
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=0.03, atol=0)
    for ours, wanted in zip(grads, expected_grads, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("autocast", [True, False])
def test_a_bfloat16_teacher_is_read_in_bfloat16(autocast):
    student, teacher = leaves(1), [tensor.detach().bfloat16() for tensor in leaves(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = mean_over_rows(kl_divergence, Readout(*student), Readout(*teacher), 5)
    expected = kl_divergence(F.linear(*student), F.linear(*teacher))
    assert_close(value, expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_validation_without_a_graph_gives_the_same_value(mode):
    student, teacher = leaves(1), leaves(2)
    with mode():
        value = mean_over_rows(kl_divergence, Readout(*student), Readout(*teacher), 5)
        nothing = mean_over_rows(cross_entropy, Readout(*leaves(1, rows=0)), LABELS[:0], 5)
    assert value.item() == pytest.approx(kl_divergence(F.linear(*student), F.linear(*teacher)).item(), rel=1e-5)
    assert nothing.item() == 0
