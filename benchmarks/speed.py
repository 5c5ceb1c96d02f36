"""How fast a training step is, against a straightforward implementation of the same step.

    python benchmarks/speed.py                                  # everything, about half an hour on two cores
    python benchmarks/speed.py distilbert-256 --rounds 15 --precision bf16

A step is forward, loss, backward, clipping and the optimizer's update. Both sides start from the same weights and see the
same batch; the peer computes in fp32, ours in fp32 and in bf16 (the teacher's weights in bfloat16, the student's in
float32 under autocast). First both are checked to compute the same: the loss, and the gradient of the whole student (L2),
must agree to 1e-5 in fp32 and to 1e-2 in bf16. A comparison that fails shows its errors and no ratio. The check is
without dropout; the clock runs with BERT's dropout in the students, and in a teacher that its release leaves in train mode.

All sides take turns within one process: two warm-up rounds, then at least seven measured ones, the order reversed at each.
A ratio is the median of the rounds' ratios, with quartiles. The floor (`floor.py`) takes its turn too: the matrix products of
our step alone; its share is the median of floor over step. All sides keep the memory that they free, as `train.py` does. Peak
memory is the largest resident set (on a GPU: allocated memory) of a process of its own that makes two steps. `peers.py` says
what each peer does, `overhead.py` measures what `Trainer.fit` adds.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import overhead
import torch
from floor import Floor, products
from held import MB, most_held
from rich.console import Console
from rich.table import Table
from torch import Tensor
from workloads import WORKLOADS, Side, Workload

from kd_lightning.heap import keep_freed_memory

LIMITS = {"fp32": 1e-5, "bf16": 1e-2}
WARM_UP = 2
WIDTH = 130  # of the table


@dataclass
class Row:
    """A line of the table. Times in seconds, memory in MiB."""

    workload: str
    precision: str
    bar: float
    loss_error: float
    gradient_error: float
    peer: list[float]
    ours: list[float]
    floor: list[float]
    memory: tuple[float, float]

    @property
    def same(self) -> bool:
        return max(self.loss_error, self.gradient_error) <= LIMITS[self.precision]

    def cells(self) -> list[str]:
        errors = [f"{self.loss_error:.1e}", f"{self.gradient_error:.1e}"]
        if not self.same:
            return [self.workload, self.precision, "-", "-", "not the same", f"{self.bar:g}x", "-", "-", *errors]
        share = statistics.median(floor / ours for floor, ours in zip(self.floor, self.ours, strict=True))
        ratios = [peer / ours for peer, ours in zip(self.peer, self.ours, strict=True)]
        low, middle, high = quartiles(ratios)
        colour = "green" if middle >= self.bar else "red"
        memory = " / ".join(f"{mib:,.0f}" if mib else "-" for mib in self.memory)
        return [
            self.workload,
            self.precision,
            f"{1000 * statistics.median(self.peer):,.0f}",
            f"{1000 * statistics.median(self.ours):,.0f}",
            f"[{colour}]{middle:.2f}x[/] \\[{low:.2f}, {high:.2f}]",
            f"{self.bar:g}x",
            f"{share:.0%}",
            memory,
            *errors,
        ]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def relative(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """‖ours - theirs‖ / ‖theirs‖ over all tensors together."""

    def norm(tensors: Iterable[Tensor]) -> float:
        return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5

    return norm(a - b for a, b in zip(ours, theirs, strict=True)) / norm(theirs)


def seconds(step: Callable[[], None], device: str) -> float:
    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    synchronise()
    start = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - start


def gigaflops(dtype: torch.dtype, device: str) -> float:
    """GFLOP/s of a feed-forward layer's product, [1024, 768] x [768, 3072]: no bf16 ratio can much exceed bf16's rate
    over fp32's times what the rewriting gains in fp32."""
    x, w = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((1024, 768), (768, 3072)))
    x @ w
    times = [seconds(lambda: x @ w, device) for _ in range(15)]
    return 2 * 1024 * 768 * 3072 / statistics.median(times) / 1e9


def interleave(sides: dict[str, Side | Floor], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds a step by side and round, all sides in every round, the order reversed from one round to the next."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-WARM_UP, rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            taken = seconds(sides[name].step, device)
            if number >= 0:
                times[name].append(taken)
    return times


def compare(workload: Workload, precisions: Sequence[str], rounds: int, device: str, dropout: float) -> list[Row]:
    """The rows of a workload, memory left out."""
    sides = {name: workload.build(name, device) for name in ("peer", *precisions)}
    loss, gradient = sides["peer"].gradient()
    errors = {}
    for precision in precisions:
        our_loss, our_gradient = sides[precision].gradient()
        errors[precision] = abs(our_loss - loss) / abs(loss), relative(our_gradient, gradient)
    del gradient, our_gradient
    alike = [p for p in precisions if max(errors[p]) <= LIMITS[p]]
    for side in sides.values():
        side.set_dropout(dropout)
    timed = {name: side for name, side in sides.items() if name == "peer" or name in alike}
    for p in alike:
        timed[f"floor of {p}"] = Floor(products(sides[p].step), device)
    times = defaultdict(list, interleave(timed, rounds, device) if alike else {})
    return [
        Row(workload.name, p, workload.bars[p], *errors[p], times["peer"], times[p], times[f"floor of {p}"], (0.0, 0.0))
        for p in precisions
    ]


def peak(workload: Workload, side: str, device: str, dropout: float) -> float:
    """Peak memory in MiB of this process after two steps."""
    built = workload.build(side, device)
    built.set_dropout(dropout)
    built.step()
    built.step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return most_held() * MB / 2**20


def peak_elsewhere(workload: str, side: str, device: str, dropout: float) -> float:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, workload, "--peak-of", side, "--device", device, "--dropout", str(dropout)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def show(rows: Sequence[Row], console: Console) -> None:
    columns = ["workload", "precision", "peer ms", "ours ms", "ratio \\[q1, q3]", "bar", "floor", "MiB peer / ours"]
    columns += ["loss error", "gradient error"]
    table = Table(title="A training step against its peer")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def arguments() -> argparse.Namespace:
    names = [*WORKLOADS, overhead.NAME]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(names)}; none: all")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--precision", nargs="+", choices=LIMITS, default=list(LIMITS), help="of ours (default both)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dropout", type=float, default=0.1, help="while the clock runs; the check is without (default 0.1)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure peak memory")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    unknown = set(chosen.workloads) - set(names)
    if unknown:
        parser.error(f"unknown workload {', '.join(sorted(unknown))}: choose from {', '.join(names)}.")
    chosen.workloads = chosen.workloads or names
    return chosen


def main() -> None:
    asked = arguments()
    keep_freed_memory()
    if asked.peak_of:
        print(peak(WORKLOADS[asked.workloads[0]], asked.peak_of, asked.device, asked.dropout))
        return
    console, rows = Console(), []
    console.width = max(console.width, WIDTH)
    slow, fast = (gigaflops(dtype, asked.device) for dtype in (torch.float32, torch.bfloat16))
    console.print(
        f"torch {torch.__version__}, {asked.device}, {torch.get_num_threads()} threads; matrix products: "
        f"fp32 {slow:,.0f} GFLOP/s, bf16 {fast:,.0f} ({fast / slow:.1f} times)"
    )
    for name in asked.workloads:
        console.print(f"{name} ...", style="dim")
        if name == overhead.NAME:
            overhead.show(asked.precision, asked.rounds, asked.device, console)
            continue
        try:
            measured = compare(WORKLOADS[name], asked.precision, asked.rounds, asked.device, asked.dropout)
        except ImportError as error:
            console.print(f"{name}: left out, {error}.")
            continue
        gc.collect()
        if asked.memory:
            peer = peak_elsewhere(name, "peer", asked.device, asked.dropout)
            for row in measured:
                row.memory = peer, peak_elsewhere(name, row.precision, asked.device, asked.dropout)
        rows += measured
        show(measured, console)
    if len(rows) > 2:
        show(rows, console)


if __name__ == "__main__":
    main()
