"""Which parameters can learn: those that what is read of a network follows from."""

import torch
from torch import Tensor, nn

from kd_lightning.views import Needs


def reached(network: nn.Module, needs: Needs) -> set[nn.Parameter]:
    """Those of the network's parameters that require a gradient and get one, where this is read of it.

    Asked with a text of two tokens, in eval mode: no random number is drawn, and no statistics move. Of a network that wants
    more of a batch than tokens they are all that require one.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        shown = _shown(network, needs)
    except KeyError:
        return set(parameters)
    finally:
        for module, training in modes.items():
            module.training = training
    leaves = [tensor.float().sum() for tensor in shown if tensor.requires_grad]
    if not parameters or not leaves:
        return set()
    gradients = torch.autograd.grad(leaves, parameters, allow_unused=True)
    return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


@torch.enable_grad()
def _shown(network: nn.Module, needs: Needs) -> list[Tensor]:
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(network.parameters()).device)
    view = network({"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": ids}, needs)
    layers = [*view.hidden.values(), *(tensor for pair in view.attention.values() for tensor in pair)]
    return [*layers, *([view.logits(ids[0, :1])] if needs.logits else [])]
