"""Which of several students: those that none other beats in both score and time, and the best one within a budget of time."""

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """score: higher is better. ms: milliseconds for one sequence."""

    name: str
    score: float
    ms: float


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front, the fastest first: whoever is slower than another one has a higher score."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.ms, -c.score)):
        if not kept or candidate.score > kept[-1].score:
            kept.append(candidate)
    return kept


def answer(candidates: list[Candidate], budget: float) -> list[str]:
    """Sentences: the front, and the best student that takes no longer than budget milliseconds."""
    named = ", ".join(f"{c.name} ({c.score:.4f}, {c.ms:.2f} ms)" for c in front(candidates))
    within = [c for c in candidates if c.ms <= budget]
    if within:
        best = max(within, key=lambda c: (c.score, -c.ms))
        said = f"The best under {budget:g} ms is {best.name}: {best.score:.4f} in {best.ms:.2f} ms."
    else:
        fastest = min(candidates, key=lambda c: c.ms)
        said = f"None is under {budget:g} ms; the fastest, {fastest.name}, takes {fastest.ms:.2f} ms ({fastest.score:.4f})."
    return [f"None is beaten in both score and time: {named}.", said]
