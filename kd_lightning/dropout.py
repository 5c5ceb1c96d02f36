"""Dropout that draws 16 random bits an element on a processor, where a Bernoulli draw takes seven times as long."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """x with each element set to 0 with this probability, and else divided by the probability that it stays.

    Deviation: on a CPU the probability is the nearest multiple of 2^-16 (0.1000061 for 0.1), and that of staying with it.
    """
    dropped = round(probability * LEVELS)
    if x.device.type != "cpu" or not 0 < dropped < LEVELS:
        return F.dropout(x, probability)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)  # all 64 bits of each
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    first = dropped - LEVELS // 2  # of the numbers that stay
    stays = bits.clamp_(first - 1, first).sub_(first - 1).to(x.dtype)  # 0 or 1: a product with it costs a third of a mask
    return _Dropped.apply(x, stays, LEVELS / (LEVELS - dropped))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, stays: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(stays)
        ctx.scale = scale
        return (x * scale).mul_(stays)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return (grad * ctx.scale).mul_(ctx.saved_tensors[0]), None, None


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def replace_dropout(model: nn.Module) -> None:
    """Puts `Dropout` where the model has torch's."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
