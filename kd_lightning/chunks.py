"""Losses over a vocabulary, a chunk of rows at a time: no [N, V] tensor exists, forward or backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kd_lightning.views import Readout

Loss = Callable[[Tensor, Tensor], Tensor]
ROWS = {"cpu": 512}  # a chunk, by device: enough rows for matrix products at full speed
ELSEWHERE = 2048  # a GPU starts some dozens of kernels for each chunk
BLOCK = 16  # on a CPU a loss walks over this many rows at a time: their logits stay in its cache
PANEL = 2048  # and the weight's gradient grows by so many rows at a time, for the same reason
ALIGNED = 64  # a row of logits starts at a multiple of this: products into rows of odd length are up to 1.8 times slower


def _buffer(rows: int, width: int, like: Tensor) -> Tensor:
    """[rows, width] of like's dtype and device, each row aligned."""
    return like.new_empty(rows, -(-width // ALIGNED) * ALIGNED)[:, :width]


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, buffer: Tensor) -> Tensor:
    """x @ weightᵀ + bias, written into the buffer's first rows."""
    out = buffer[: len(x)]
    return torch.mm(x, weight.mT, out=out) if bias is None else torch.addmm(bias, x, weight.mT, out=out)


class _Chunked(torch.autograd.Function):
    """The loss and, in the same pass, its gradient: a chunk's logits are used for both and overwritten by the next."""

    @staticmethod
    def forward(ctx, loss: Loss, rows: int, features: Tensor, weight: Tensor, bias: Tensor | None, target) -> Tensor:
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        x, w = features.to(dtype), weight.to(dtype)
        b = None if bias is None else bias.to(dtype)
        count = len(x)
        block, panel = (BLOCK, PANEL) if device == "cpu" else (rows, len(w))
        total = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_w = torch.empty_like(weight) if count else torch.zeros_like(weight)
        grad_b = torch.zeros(len(weight), device=x.device)
        buffer = _buffer(min(rows, count), len(w), x)
        with torch.autocast(device, enabled=False):
            for start in range(0, count, rows):
                part = slice(start, start + rows)
                logits = _project(x[part], w, b, buffer)  # [n, V]
                targets = target(part)
                for first in range(0, len(logits), block):
                    piece = slice(first, first + block)
                    own = logits[piece].float().requires_grad_()
                    with torch.enable_grad():
                        value = loss(own, targets[piece]) * (len(own) / count)
                    (grad,) = torch.autograd.grad(value, own)
                    total += value.detach()
                    grad_b += grad.sum(0)
                    logits[piece] = grad  # the logits have served
                torch.mm(logits, w, out=grad_x[part])
                for first in range(0, len(w), panel):
                    words = slice(first, first + panel)
                    grown = logits[:, words].mT @ x[part]
                    grad_w[words].add_(grown) if start else grad_w[words].copy_(grown)
        ctx.save_for_backward(grad_x, grad_w, None if bias is None else grad_b.to(bias.dtype))
        ctx.dtype = features.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor):
        grad_x, grad_w, grad_b = ctx.saved_tensors
        grad_x, grad_w = (grad_x * scale).to(ctx.dtype), grad_w.mul_(scale)
        return None, None, grad_x, grad_w, None if grad_b is None else grad_b * scale, None


def mean_over_rows(loss: Loss, student: Readout, target: Readout | Tensor, rows: int | None = None) -> Tensor:
    """loss(student's logits, target's logits or target itself), where loss averages over rows.

    Equal to one call on all rows, up to rounding. A student Readout without a weight holds its logits already (few
    classes), and nothing is chunked.
    Deviation: the releases form all [B, S, V] logits of both networks; the value and the gradient are the same.
    """
    if student.weight is None:
        return loss(student.features, target.logits() if isinstance(target, Readout) else target)
    rows = rows or ROWS.get(student.features.device.type, ELSEWHERE)
    if isinstance(target, Readout):
        x = target.features
        weight, bias = target.weight.to(x.dtype), None if target.bias is None else target.bias.to(x.dtype)
        buffer = _buffer(min(rows, len(x)), len(weight), x)
        slices = lambda part: _project(x[part], weight, bias, buffer)  # noqa: E731
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
