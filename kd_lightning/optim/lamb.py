"""LAMB (You et al. 2019, arXiv 1904.00962): Adam's step, made as long for each matrix as the matrix itself is."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Algorithm 2 with φ(z) = z. For a matrix x (anything of two dimensions or more) with the gradient g, at the rate η:

        m = β1 m + (1 - β1) g        v = β2 v + (1 - β2) g²        r = m / (√v + ε)
        x = x - η ‖x‖ / ‖r + λ x‖ · (r + λ x)

    λ is the group's weight_decay. Where one of the norms is 0 their ratio is 1, so that a matrix of zeros can learn.

    Deviation: m and v are not divided by 1 - β^t, which appendix E calls the same as a warm-up of the rate; so do the releases.
    Deviation: vectors and scalars (biases, norms) have the ratio 1, as in MobileBERT's release, which goes by names.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for x in (x for x in group["params"] if x.grad is not None):
                self._update(x, self.state[x], group)
        return loss

    def _update(self, x: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if not state:
            state["mean"], state["square"] = torch.zeros_like(x), torch.zeros_like(x)
        first, second = group["betas"]
        mean = state["mean"].lerp_(x.grad, 1 - first)
        square = state["square"].mul_(second).addcmul_(x.grad, x.grad, value=1 - second)
        update = (mean / square.sqrt().add_(group["eps"])).add_(x, alpha=group["weight_decay"])
        if x.ndim > 1:
            ours, theirs = x.norm(), update.norm()
            update *= torch.where((ours > 0) & (theirs > 0), ours / theirs, 1.0)  # without waiting for the GPU
        x.sub_(update, alpha=group["lr"])
