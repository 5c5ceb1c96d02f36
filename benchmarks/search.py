"""A step of AdaBERT's search: ours against the plain sum over all operations on all edges, cells and depths, with autograd.

`python benchmarks/search.py [--channels 64] [--cells 4] [--batch 64] [--length 48] [--precision bf16]` checks that loss and
gradients agree (float32), then prints CPU seconds a step, the mean over the same draws for both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lightning.student.adabert.architecture import EDGES, OPERATIONS
from kd_lightning.student.adabert.cell import Places, run_cells
from kd_lightning.student.adabert.network import AdaBertConfig, represent
from kd_lightning.student.adabert.search import LARGEST, Draw, SearchNetwork
from kd_lightning.views import Batch

Loss = Callable[[SearchNetwork, Batch, Draw], Tensor]


def ours(network: SearchNetwork, batch: Batch, draw: Draw) -> Tensor:
    rows = torch.arange(len(batch["labels"]))
    losses = [F.cross_entropy(view.logits(rows).float(), batch["labels"]) for view in network.body(batch, draw)]
    return (draw.depth * torch.stack(losses)).sum()


def plain(network: SearchNetwork, batch: Batch, draw: Draw) -> Tensor:
    body, places = network.body, Places(batch["attention_mask"])
    weights = {f"{source}_{node}": draw.edges[i] for i, (source, node) in enumerate(EDGES)}

    def step(cell):
        return lambda name, x: sum(
            weight * cell.edges[name][o](x, places) for o, weight in zip(OPERATIONS[:-1], weights[name], strict=False)
        )

    inputs = body.embeddings(batch["input_ids"], torch.zeros_like(batch["input_ids"]), places)
    means = [places.mean(x) for x in run_cells([step(cell) for cell in body.cells], body.cells, *inputs)]
    logits = [body.classifier(represent(means[: depth + 2], blend)) for depth, blend in enumerate(body.blends)]
    return (draw.depth * torch.stack([F.cross_entropy(x.float(), batch["labels"]) for x in logits])).sum()


def run(loss: Loss, network: SearchNetwork, batch: Batch, seed: int, bf16: bool) -> tuple[float, Tensor, list[Tensor]]:
    """CPU seconds of forward and backward; the loss and all gradients."""
    torch.manual_seed(seed)
    network.zero_grad()
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = loss(network, batch, network.choice.draw(1.0))
    found.backward()
    seconds = time.process_time() - start
    return seconds, found.detach(), [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("channels", 64), ("cells", 4), ("batch", 64), ("length", 48), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = AdaBertConfig(
        vocab_size=8000, channels=options.channels, dropout=0.0, num_labels=10, architecture=LARGEST.as_dict()
    )
    network = SearchNetwork(config, options.cells, SimpleNamespace(get_vocab=dict))
    shape = (options.batch, options.length)
    lengths = torch.randint(options.length - 4, options.length + 1, (options.batch, 1))
    batch = {
        "input_ids": torch.randint(5, 8000, shape),
        "attention_mask": (torch.arange(options.length) < lengths).long(),
        "labels": torch.randint(0, 10, (options.batch,)),
    }
    (_, loss, found), (_, expected, wanted) = (run(side, network, batch, 1, False) for side in (ours, plain))
    scale = max(float(g.abs().max()) for g in wanted)
    worst = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) / scale
    print(f"loss {float(loss):.6f} and {float(expected):.6f}; gradients differ by {worst:.1e} of the largest")
    if worst > 1e-5 or abs(loss - expected) > 1e-5:
        raise SystemExit("ours is not the plain sum")
    times = {
        side.__name__: [run(side, network, batch, seed, options.precision == "bf16")[0] for seed in range(options.steps)]
        for side in (ours, plain)
    }
    seconds = {name: statistics.fmean(measured[1:]) for name, measured in times.items()}
    print(f"CPU seconds a step, mean of {options.steps - 1} draws, {options.precision}: ", end="")
    print(f"ours {seconds['ours']:.3f}, plain {seconds['plain']:.3f}, {seconds['plain'] / seconds['ours']:.1f}x")


if __name__ == "__main__":
    main()
