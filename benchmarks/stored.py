"""When `teacher.stored=true` pays: seconds of an epoch with the teacher and with its stored outputs, and of storing.

    python benchmarks/stored.py                               # some minutes on two cores

TinyBERT's two task stages on 1,000 random rows about as long as RTE's (68 tokens on average, 128 at most), in batches of
32 by length, on the CPU; a teacher of 6 layers of 384, a student of 3 of 312. Both kinds of epoch take turns; a figure is
the median. What was stored is read from the system's file cache, as in training while it fits into memory.
"""

import itertools
import math
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification
from workloads import TINYBERT_4, Side, bert, encoders, engine

from kd_lightning.data.batches import by_length
from kd_lightning.distiller import decay_groups
from kd_lightning.encoder import Encoder
from kd_lightning.method.tinybert import PredictionDistillation, TransformerDistillation
from kd_lightning.run.stage import precision as resolved
from kd_lightning.teacher.stored import StoredTeacher
from kd_lightning.views import Needs

ROWS, ROUNDS = 1000, 2
TEACHER = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
STUDENT = TINYBERT_4 | {"num_hidden_layers": 3}
LAYERS = {"layers": "uniform", "projection": "shared", "valid_only": True}
STAGES = {
    "intermediate": partial(TransformerDistillation, embedding=1.0, hidden=1.0, attention=1.0, **LAYERS),
    "prediction": partial(PredictionDistillation, prediction=1.0, gold=0.0, temperature=1.0),
}


def data() -> tuple[list[dict[str, Tensor]], pa.Table]:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 30522, n) for n in np.clip(20 + random.exponential(55, ROWS), 20, 128).astype(int)]
    batches = []
    for index in by_length(np.array([len(row) for row in rows]), np.arange(ROWS), 32):
        ids = pad_sequence([torch.from_numpy(rows[i]) for i in index], batch_first=True)
        batches.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "index": torch.from_numpy(index)})
    return batches, pa.table({"input_ids": rows})


def measure(stage: str, precision: str) -> list[str]:
    """A line of the table."""
    small = partial(Encoder, BertForSequenceClassification(bert(**STUDENT)))
    student, teacher = encoders(BertForSequenceClassification, bert(**TEACHER), lambda large: small(large.tokenizer))
    distiller = STAGES[stage](student=student, teacher=teacher, **engine(0.01)).train()
    teacher.to(torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    (batches, tokens), needs = data(), distiller.teacher_needs | Needs(logits=True)
    turn = itertools.cycle(batches)
    side = Side(
        loss=lambda: distiller.objective(*distiller.views(batch := next(turn)), batch)[0],
        parameters=[*student.parameters(), *distiller.objective.parameters()],
        optimizer=distiller.make_optimizer(decay_groups([student, distiller.objective], 0.01)),
        clip=1.0,
        modules=[student],
        autocast="cpu" if precision == "bf16-mixed" else None,
    )

    def epoch() -> float:
        start = time.perf_counter()
        for _ in batches:
            side.step()
        return time.perf_counter() - start

    side.step()
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        stored = StoredTeacher(teacher)
        stored.store(needs, SimpleNamespace(every_row=lambda: (DataLoader(batches, batch_size=None), tokens)), cache)
        storing = time.perf_counter() - start
        megabytes = sum(file.stat().st_size for file in Path(cache).rglob("*.npy")) / 1e6
        times: dict[nn.Module, list[float]] = {teacher: [], stored: []}
        for distiller.teacher, measured in [*times.items()] * ROUNDS:
            measured.append(epoch())
    asked, kept = map(statistics.median, times.values())
    pays = math.ceil(storing / (asked - kept)) if asked > kept else "never"
    return [stage, f"{asked:.1f}", f"{kept:.1f}", f"{storing:.1f}", f"{megabytes:,.1f}", str(pays)]


if __name__ == "__main__":
    precision = resolved("auto")
    table = Table("stage", "s/epoch", "stored", "storing s", "MB", "pays from epoch", title=f"{ROWS:,} rows, {precision}")
    for stage in STAGES:
        table.add_row(*measure(stage, precision))
    Console().print(table)
