"""Several processes that train one student together, each on batches of its own."""

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def summed(tensor: Tensor) -> Tensor:
    """The sum over the processes. Each of them has to ask, with a tensor of the same shape."""
    total = tensor.clone()
    if processes() > 1:
        dist.all_reduce(total)
    return total
