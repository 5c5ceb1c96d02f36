"""Which parameters can learn: those that what is read of a network follows from."""

import torch
from torch import nn

from kd_lightning.views import Needs


def reached(network: nn.Module, needs: Needs) -> set[nn.Parameter]:
    """Those of the network's parameters that require a gradient and get one, where this is read of it.

    Asked with a text of two tokens, in eval mode: no random number is drawn, and no statistics move.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(network.parameters()).device)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with torch.enable_grad():
        view = network({"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": ids}, needs)
        shown = [*view.hidden.values(), *(t for pair in view.attention.values() for t in pair)]
        if needs.logits:
            shown.append(view.logits(ids[0, :1]))
        total = sum(tensor.float().sum() for tensor in shown)
    for module, training in modes.items():
        module.training = training
    if not parameters or not torch.is_tensor(total) or not total.requires_grad:
        return set()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
