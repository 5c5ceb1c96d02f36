"""Losses over a vocabulary, a chunk of rows at a time: no [N, V] tensor exists, forward or backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lightning.views import Readout

Loss = Callable[[Tensor, Tensor], Tensor]
ROWS = 256


class _Chunked(torch.autograd.Function):
    """The loss and, in the same pass, its gradient: a chunk's logits are used for both and forgotten."""

    @staticmethod
    def forward(ctx, loss: Loss, rows: int, features: Tensor, weight: Tensor, bias: Tensor | None, target) -> Tensor:
        device = features.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        x, w = features.to(dtype), weight.to(dtype)
        b = None if bias is None else bias.to(dtype)
        count = len(x)
        total = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_w = torch.zeros_like(weight)
        grad_b = torch.zeros(len(weight), device=x.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, count, rows):
                part = slice(start, start + rows)
                logits = F.linear(x[part], w, b).float().requires_grad_()  # [n, V]
                with torch.enable_grad():
                    value = loss(logits, target(part)) * (len(logits) / count)
                (grad,) = torch.autograd.grad(value, logits)  # [n, V]
                total += value.detach()
                grad_b += grad.sum(0)
                grad = grad.to(dtype)
                torch.mm(grad, w, out=grad_x[part])
                grad_w += grad.mT @ x[part]
        ctx.save_for_backward(grad_x, grad_w, grad_b.to(weight.dtype) if bias is not None else None)
        ctx.dtype = features.dtype
        return total

    @staticmethod
    def backward(ctx, scale: Tensor):
        grad_x, grad_w, grad_b = ctx.saved_tensors
        return (
            None,
            None,
            (grad_x * scale).to(ctx.dtype),
            grad_w * scale,
            None if grad_b is None else grad_b * scale,
            None,
        )


def mean_over_rows(loss: Loss, student: Readout, target: Readout | Tensor, rows: int = ROWS) -> Tensor:
    """loss(student's logits, target's logits or target itself), where loss averages over rows.

    Equal to one call on all rows, up to rounding. A student Readout without a weight holds its logits already (few
    classes), and nothing is chunked.
    Deviation: the releases form all [B, S, V] logits of both networks; the value and the gradient are the same.
    """
    if student.weight is None:
        return loss(student.features, target.logits() if isinstance(target, Readout) else target)
    if isinstance(target, Readout):
        dtype = target.features.dtype
        weight, bias = target.weight.to(dtype), None if target.bias is None else target.bias.to(dtype)
        slices = lambda part: F.linear(target.features[part], weight, bias).float()  # noqa: E731
    else:
        slices = target.__getitem__
    if torch.is_grad_enabled():
        return _Chunked.apply(loss, rows, student.features, student.weight, student.bias, slices)
    parts = [slice(start, start + rows) for start in range(0, len(student.features), rows)]
    total = torch.zeros((), device=student.features.device)
    for part in parts:
        logits = F.linear(student.features[part], student.weight, student.bias).float()
        total += loss(logits, slices(part)) * (len(logits) / len(student.features))
    return total
