"""A loss that is not finite ends the run, in a sentence that says where it was."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

EVERY = 50  # steps between looks at a loss that is on an accelerator, where each look waits for it


class Finite:
    """Remembers losses where they are, and looks at them: at once on a CPU, every EVERY steps elsewhere."""

    def __init__(self) -> None:
        self.unseen: list[tuple[str, tuple[str, ...], Tensor]] = []

    def note(self, when: str, values: Mapping[str, Tensor]) -> str:
        """values: scalars by name, those that others are made of first. Returns what `look` does, or nothing yet."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self.unseen.append((when, tuple(values), stacked))
        return self.look() if stacked.device.type == "cpu" or len(self.unseen) >= EVERY else ""

    def look(self) -> str:
        """The first value not yet seen that is not finite, e.g. "train/loss/mlm is nan in epoch 0, step 7"; empty: all are."""
        unseen, self.unseen = self.unseen, []
        if not unseen:
            return ""
        values = iter(torch.cat([stacked for _, _, stacked in unseen]).tolist())
        found = [(name, value, when) for when, names, _ in unseen for name, value in zip(names, values, strict=False)]
        bad = next(((name, value, when) for name, value, when in found if not abs(value) < float("inf")), None)
        return f"{bad[0]} is {bad[1]} in {bad[2]}" if bad else ""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
