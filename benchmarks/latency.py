"""How long MobileBERT takes for one sequence beside BERT-base, and what its operational optimization buys.

    python benchmarks/latency.py                                # 128 tokens, one thread
    python benchmarks/latency.py --length 64 --threads 2

Encoders at the paper's dimensions with random weights, batch 1, float32, on the CPU; they take turns, the time is the median.
Eager is the model as transformers runs it; exported is its graph from `torch.export`; compiled is that graph through
`torch.compile`, which wants a C++ compiler.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import BertConfig, BertModel, MobileBertConfig, MobileBertModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kd_lightning.artifact import latency, parameters

TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False, "num_feedforward_networks": 2}


class Encoder(nn.Module):
    """Ids [1, S] -> hidden states [1, S, D], and nothing else to export."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).last_hidden_state


def mobilebert(norm: str = "no_norm", act: str = "relu", **flags: bool | int) -> Encoder:
    config = MobileBertConfig(normalization_type=norm, hidden_act=act, classifier_activation=False, **flags)
    return Encoder(MobileBertModel(config, add_pooling_layer=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = {
        "BERT-base": Encoder(BertModel(BertConfig(), add_pooling_layer=False)),
        "MobileBERT (NoNorm, ReLU)": mobilebert(),
        "NoNorm, GELU": mobilebert(act="gelu"),
        "LayerNorm, ReLU": mobilebert(norm="layer_norm"),
        "LayerNorm, GELU": mobilebert(norm="layer_norm", act="gelu"),
        "MobileBERT-tiny": mobilebert(**TINY),
    }
    ids = torch.full((1, given.length), 5)
    ways = {"eager": list(models.values())}
    ways["exported"] = [torch.export.export(model, (), {"input_ids": ids}).module() for model in models.values()]
    if not given.no_compile:
        ways["compiled"] = [torch.compile(model) for model in ways["exported"]]
    times = {way: latency(made, given.length, given.repeats) for way, made in ways.items()}
    table = Table(title=f"milliseconds for {given.length} tokens, {given.threads} threads (and BERT-base's over it)")
    for column in ("encoder", "parameters", *times):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for number, (name, model) in enumerate(models.items()):
        cells = [f"{t[number]:.1f} ({t[0] / t[number]:.2f}x)" for t in times.values()]
        table.add_row(name, f"{parameters(model) / 1e6:.1f}M", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
