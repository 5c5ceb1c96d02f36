"""AdaBERT's operations and the cell made of them (Chen et al. 2020, arXiv 2001.04246; order ReLU, convolution, BatchNorm).

Between operations a batch is packed: [N, C], one row for each real position, so that padding is in no statistic and no
average. A convolution or pool lays the rows out as texts, [B, C, 1, S] with the channels last in memory, and packs its result.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lightning.student.adabert.architecture import EDGES, INNER, KERNELS

Step = Callable[[str, Tensor], Tensor]


class Places:
    """Where the real positions of a batch are: N of B · S. mask [B, S]; a text without a real position has its first one."""

    def __init__(self, mask: Tensor) -> None:
        real = _real(mask)
        self.shape = mask.shape
        self.index = real.flatten().nonzero().squeeze(-1)  # [N]
        self.text = self.index // mask.shape[1]  # [N], of which text
        self.lengths = real.sum(1)  # [B]
        ones = self.spread(mask.new_ones(len(self.index), 1, dtype=torch.float))
        self.neighbours = self.pack(F.avg_pool2d(ones, (1, 3), 1, (0, 1))) * 3  # [N, 1], itself included

    def spread(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """[N, C] -> [B, C, 1, S]"""
        return self.texts(x, fill).transpose(1, 2)[:, :, None]

    def texts(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """[N, C] -> [B, S, C]"""
        size, length = self.shape
        return x.new_full((size * length, x.shape[1]), fill).index_copy(0, self.index, x).view(size, length, -1)

    def pack(self, x: Tensor) -> Tensor:
        """[B, C, 1, S] -> [N, C]"""
        return x.squeeze(2).transpose(1, 2).reshape(-1, x.shape[1]).index_select(0, self.index)

    def mean(self, x: Tensor) -> Tensor:
        """[N, C] -> [B, C], the mean of each text."""
        x = x.to(torch.promote_types(x.dtype, torch.float))
        total = x.new_zeros(len(self.lengths), x.shape[1]).index_add(0, self.text, x)
        return total / self.lengths[:, None]


class Everywhere(Places):
    """The same for an exporter, which cannot follow a number of rows that depends on the data: every position is a row,
    N = B · S, and what lies outside a text is set to the fill wherever a convolution, a pool or a mean could see it.

    It is for BatchNorms with statistics of their own alone: the batch's would be taken over padding too.
    """

    def __init__(self, mask: Tensor) -> None:
        self.real, self.shape = _real(mask), mask.shape
        self.index = torch.arange(mask.shape[0] * mask.shape[1], device=mask.device)
        ones = self.real.float()[:, None, None]
        self.neighbours = self.pack(F.avg_pool2d(ones, (1, 3), 1, (0, 1)) * 3).clamp(min=1)

    def texts(self, x: Tensor, fill: float = 0.0) -> Tensor:
        return x.view(*self.shape, -1).masked_fill(~self.real[..., None], fill)

    def pack(self, x: Tensor) -> Tensor:
        return x.squeeze(2).transpose(1, 2).flatten(0, 1)

    def mean(self, x: Tensor) -> Tensor:
        return self.texts(x.float()).sum(1) / self.real.sum(1, keepdim=True)


def _real(mask: Tensor) -> Tensor:
    """[B, S]: a text without a real position has its first one."""
    return mask.bool() | (torch.arange(mask.shape[1], device=mask.device) < 1) & ~mask.any(1, keepdim=True)


class Convolution(nn.Module):
    """ReLU, convolution of the same length without bias, and `norm`."""

    def __init__(self, channels: int, taps: int, dilation: int, norm: nn.Module) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            channels, channels, (1, taps), padding=(0, dilation * (taps - 1) // 2), dilation=(1, dilation), bias=False
        )
        self.norm = norm

    def forward(self, x: Tensor, places: Places) -> Tensor:
        return self.norm(places.pack(self.convolution(places.spread(F.relu(x)))))


class MaxPool(nn.Module):
    """The largest of a position and its two neighbours in the text, and `norm`."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, places: Places) -> Tensor:
        return self.norm(places.pack(F.max_pool2d(places.spread(x, float("-inf")), (1, 3), 1, (0, 1))))


class AveragePool(MaxPool):
    """The mean of a position and its neighbours, where those outside the text do not count, and `norm`."""

    def forward(self, x: Tensor, places: Places) -> Tensor:
        third = places.pack(F.avg_pool2d(places.spread(x), (1, 3), 1, (0, 1)))
        return self.norm(third * (3 / places.neighbours).to(x.dtype))


class Identity(nn.Module):
    def forward(self, x: Tensor, places: Places) -> Tensor:
        return x


def operation(name: str, channels: int, norm: Callable[[], nn.Module]) -> nn.Module:
    """The module of any operation but zero. norm makes a BatchNorm over rows."""
    if name in KERNELS:
        return Convolution(channels, *KERNELS[name], norm())
    return Identity() if name == "identity" else {"max_pool": MaxPool, "average_pool": AveragePool}[name](norm())


class Cell(nn.Module):
    """Every node is the sum of its edges; the output is a learned average of the inner nodes."""

    def __init__(self, edges: Mapping[tuple[int, int], nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({f"{source}_{node}": module for (source, node), module in edges.items()})
        self.blend = nn.Parameter(0.01 * torch.randn(len(INNER)))

    def forward(self, first: Tensor, second: Tensor, step: Step) -> Tensor:
        """step(edge, source): what an edge gives for its source."""
        nodes = [first, second]
        for node in INNER:
            names = [f"{source}_{node}" for source, to in EDGES if to == node]
            incoming = [step(name, nodes[int(name[0])]) for name in names if name in self.edges]
            nodes.append(sum(incoming) if incoming else torch.zeros_like(first))
        weights = self.blend.softmax(0)
        return sum(weight * node for weight, node in zip(weights, nodes[2:], strict=True))


def run_cells(steps: list[Step], cells: nn.ModuleList, first: Tensor, second: Tensor) -> list[Tensor]:
    """States 0..K before they are averaged over a text: the mean of both inputs, and each cell's output, [N, C]."""
    states = [(first + second) / 2]
    for cell, step in zip(cells, steps, strict=True):
        first, second = second, cell(first, second, step)
        states.append(second)
    return states
