"""The floor of a step: its matrix products alone, at the shapes and in the precision that they have in it.

No step that computes the same can be faster, whatever else it saves. The products are recorded while the step runs once, and
then made again in the same order, with nothing between them. Operands lie row by row in memory, one pair for each shape: they
are warmer than a step's own. Fused attention counts as its products (two forward, four backward), which it makes inside.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FUSED = (aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention_for_cpu_backward)
Shape = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # of both operands, and of their elements


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Shape] = []

    def _note(self, a: tuple[int, ...], b: tuple[int, ...], dtype: torch.dtype) -> None:
        self.products.append((tuple(a), tuple(b), dtype))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        if packet in (aten.mm, aten.bmm):
            self._note(args[0].shape, args[1].shape, args[0].dtype)
        elif packet in (aten.addmm, aten.baddbmm):
            self._note(args[1].shape, args[2].shape, args[1].dtype)
        elif packet in FUSED:
            query, key = args[:2] if packet is FUSED[0] else args[1:3]
            batch, (length, width), keys = query.shape[:-2].numel(), query.shape[-2:], key.shape[-2]
            outward, inward = ((batch, length, width), (batch, width, keys)), ((batch, length, keys), (batch, keys, width))
            for shapes in (outward, inward) if packet is FUSED[0] else (outward, inward) * 2:
                self._note(*shapes, query.dtype)
        return function(*args, **kwargs or {})


def products(step: Callable[[], object]) -> list[Shape]:
    """The matrix products of a step, in order."""
    with _Recorder() as recorder:
        step()
    return recorder.products


class Floor:
    """`step` makes them all."""

    def __init__(self, shapes: list[Shape], device: str) -> None:
        generator = torch.Generator(device).manual_seed(3)

        def operand(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.randn(*shape, device=device, generator=generator).to(dtype)

        self.pairs = {s: (operand(s[0], s[2]), operand(s[1], s[2])) for s in set(shapes)}
        self.out = {s: a @ b for s, (a, b) in self.pairs.items()}
        self.shapes = shapes

    @torch.no_grad()
    def step(self) -> None:
        for shape in self.shapes:
            torch.matmul(*self.pairs[shape], out=self.out[shape])
