"""What a GPU makes of a training step, in one table: `python benchmarks/gpu.py [workload ...] [--batch 32 128 256]`.

    distilbert-all, distilbert-masked   DistilBERT's general stage, soft targets on all positions or on the masked ones
    tinybert                            TinyBERT's general stage, BERT-base to 4 x 312
    torchdistill                        logits on a task, BERT-large to BERT-base

The steps are those of `workloads.py`: ours in bf16 (the teacher's weights in bfloat16, the student's in float32 under
autocast), the peer's as its release has it, in float32, and the same under autocast. Tokens a second are real ones, without
padding. One side is on the device at a time: its gradient is taken without dropout, then the clock runs with it, over blocks of
steps with one wait at the end of each; the median of the blocks counts. Memory is the most that was allocated meanwhile.

MFU is the share of the device's peak that the matrix products are which a step cannot do without, whatever else it computes:
the teacher's forward once, the student's three times (forward and backward), of the layers that are read, padding included, and
of the head only the rows that are read. A loss and its projections are not counted. A peer's is of the same products.

Ours must have the peer's loss and its gradient of the whole student (L2) to 1e-2; else there is no ratio. Bars: 45 % MFU and
ten times the tokens a second of the release, in float32, for DistilBERT from a batch of 128 on, on one H200.

`--device cpu --shape small --batch 2 --length 16 --rounds 2 --steps 1` runs the same code where there is no GPU.
"""

import argparse
import dataclasses
import gc
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from speed import LIMITS, WARM_UP, relative, seconds
from torch import Tensor, nn
from workloads import BERT_LARGE, NARROW, TINYBERT_4, Side, Workload, bert, distilbert, tinybert, torchdistill

from kd_lightning.callback.speed import peak_of
from kd_lightning.compare import markdown
from kd_lightning.distiller import Distiller
from kd_lightning.encoder import Encoder
from kd_lightning.run.report import show
from kd_lightning.views import Batch, Needs

SIDES = ("peer", "peer bf16", "ours")
MFU_BAR, RATIO_BAR, BAR_FROM = 0.45, 10.0, 128


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one side. tokens: real ones a second; operations: those that a real token needs, 0 for a peer, which needs as many;
    gibibytes: 0 where the device does not count them."""

    loss: float
    gradient: list[Tensor]
    tokens: float
    operations: float
    gibibytes: float


def workload(name: str, shape: str, size: int, length: int) -> Workload:
    """shape: base, the papers' networks, or small, for a try on a processor."""
    small = shape == "small"
    config, layers = (bert(**NARROW), 2) if small else (bert(), 6)
    where = {"size": size, "length": length}
    if name == "tinybert":
        student = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
        return tinybert(name, {}, config=config, shape=student if small else TINYBERT_4, **where)
    if name == "torchdistill":
        ours = bert(**NARROW | {"num_hidden_layers": 2}) if small else bert()
        return torchdistill(name, {}, teacher=config if small else bert(**BERT_LARGE), config=ours, **where)
    return distilbert(name, {}, masked_only=name == "distilbert-masked", config=config, layers=layers, **where)


NAMES = ("distilbert-all", "distilbert-masked", "tinybert", "torchdistill")


def linears(module: nn.Module) -> int:
    """Floating-point operations of the linear layers in there, for one row."""
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def forward_operations(network: Encoder, needs: Needs, batch: Batch, rows: int) -> int:
    """Of a forward that gives what is needed. rows: those of the head."""
    size, length = batch["input_ids"].shape
    read = network.spec.layers if needs.logits else max(needs.hidden | needs.attention)
    attention = 4 * length * network.spec.hidden  # scores and weighted sum, for one position
    layers = sum(linears(block) + attention for block in network.blocks[:read])
    return size * length * layers + rows * (linears(network.model) - linears(network.blocks))


def step_operations(distiller: Distiller, batch: Batch) -> int:
    """Of a step: the teacher's forward once, the student's three times."""

    def of(who: int, network: Encoder, needs: Needs) -> int:
        rows = [term.rows(batch) for term in distiller.objective.terms.values() if term.needs[who].logits]
        return forward_operations(network, needs, batch, len(torch.cat(rows).unique()) if rows else 0)

    student, teacher = distiller.student, distiller.teacher
    return 3 * of(0, student, distiller.student_needs) + of(1, teacher, distiller.teacher_needs)


def build(work: Workload, side: str, device: str) -> Side:
    if side == "ours":
        return work.build("bf16", device)
    peer = work.build("peer", device)
    return dataclasses.replace(peer, autocast=device) if side == "peer bf16" else peer


def measure(work: Workload, side: str, device: str, dropout: float, rounds: int, steps: int) -> Figures | None:
    """None: the device has not memory enough."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        built = build(work, side, device)
        loss, gradient = built.gradient()
        gradient = [tensor.cpu() for tensor in gradient]
        built.set_dropout(dropout)
        for _ in range(WARM_UP):
            built.step()
        times = [seconds(lambda: [built.step() for _ in range(steps)], device) / steps for _ in range(rounds)]
    except torch.OutOfMemoryError:
        return None
    taken = statistics.median(times)
    tokens = int(built.batch["attention_mask"].sum())
    operations = 0 if built.distiller is None else step_operations(built.distiller, built.batch)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return Figures(loss, gradient, tokens / taken, operations / tokens, memory)


def lines(name: str, size: int, found: dict[str, Figures | None], peak: float | None) -> list[dict[str, str]]:
    """Of a workload in the table, one for each side. peak: in TFLOP/s."""
    ours, peer = found["ours"], found["peer"]
    apart, same = ("-", "-"), False
    if ours and peer:
        errors = abs(ours.loss - peer.loss) / abs(peer.loss), relative(ours.gradient, peer.gradient)
        apart, same = tuple(f"{error:.1e}" for error in errors), max(errors) <= LIMITS["bf16"]
    barred = name.startswith("distilbert") and size >= BAR_FROM
    bars = {"peer": f"{RATIO_BAR:g}x", "ours": f"MFU {MFU_BAR:.0%}"} if barred else {}
    table = []
    for side, figures in found.items():
        line = {
            "workload": name,
            "batch": str(size),
            "step": side,
            "tokens/s": "no memory",
            "MFU": "-",
            "GiB": "-",
            "ours": "-",
        }
        if figures:
            line["tokens/s"] = f"{figures.tokens:,.0f}"
            line["GiB"] = f"{figures.gibibytes:.1f}" if figures.gibibytes else "-"
        if figures and ours and peak:
            line["MFU"] = f"{ours.operations * figures.tokens / peak / 1e12:.1%}"
        if figures and side != "ours" and apart != ("-", "-"):
            line["ours"] = f"{ours.tokens / figures.tokens:.2f}x" if same else "not the same"
        errors = apart if side == "ours" else ("-", "-")
        table.append(line | {"bar": bars.get(side, "-")} | dict(zip(("loss error", "gradient error"), errors, strict=True)))
    return table


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 128, 256], help="sequences (default 32 128 256)")
    parser.add_argument("--length", type=int, default=128, help="positions (default 128)")
    parser.add_argument("--shape", choices=["base", "small"], default="base", help="of the networks (default base)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of steps (default 7)")
    parser.add_argument("--steps", type=int, default=5, help="in a block (default 5)")
    parser.add_argument("--dropout", type=float, default=0.1, help="while the clock runs (default 0.1)")
    parser.add_argument("--peak", type=float, metavar="TFLOP/s", help="of the device in bfloat16, dense (default: by its name)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too, as Markdown")
    chosen = parser.parse_args(words)
    if unknown := set(chosen.workloads) - set(NAMES):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}.")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: --device cpu --shape small tries the code without one.")
    return chosen


def main(words: Sequence[str] | None = None) -> None:
    asked = arguments(words)
    device, rows = asked.device, []
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peak = asked.peak or peak_of(card)
    about = f"{card}, torch {torch.__version__}, length {asked.length}, networks {asked.shape}; "
    about += f"peak {peak:g} TFLOP/s" if peak else "peak unknown, so no MFU: give it as --peak"
    for name in asked.workloads or NAMES:
        for size in asked.batch:
            print(f"{name}, {size} ...", file=sys.stderr, flush=True)
            work = workload(name, asked.shape, size, asked.length)
            found = {side: measure(work, side, device, asked.dropout, asked.rounds, asked.steps) for side in SIDES}
            rows += lines(name, size, found, peak)
    show(rows, about)
    if asked.markdown:
        asked.markdown.write_text(f"{about}.\n\n{markdown(rows)}", encoding="utf-8")


if __name__ == "__main__":
    main()
