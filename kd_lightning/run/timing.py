"""How long a call takes, on a machine that does other things too."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS, WARM_UP = 5, 3
LEAST, MOST, ENOUGH = 4, 30, 0.1  # calls in a block, and the seconds after which LEAST are enough
LOW = 0.1


@dataclass(frozen=True)
class Time:
    """Milliseconds. low: the quantile LOW, which other work on the machine moves little; median: what it moves."""

    low: float
    median: float


def times(calls: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[Time]:
    """Of each call. The calls take turns, block by block, so that a busy minute falls on all of them; each is warmed up right
    before its own block, since what ran before it left the caches full of something else."""
    measured: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, mine in zip(calls, measured, strict=True):
            for _ in range(WARM_UP):
                call()
            begin, block = time.perf_counter(), []
            while len(block) < LEAST or (len(block) < MOST and time.perf_counter() - begin < ENOUGH):
                start = time.perf_counter()
                call()
                block.append(1e3 * (time.perf_counter() - start))
            mine += block
    return [Time(float(np.quantile(mine, LOW)), float(np.median(mine))) for mine in measured]
