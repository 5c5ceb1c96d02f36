"""Which of several students: those that none other beats in both score and cost, and the best one within a budget of time."""

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """score: higher is better. cost: lower is better, e.g. milliseconds for one sequence."""

    name: str
    score: float
    cost: float


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front, the cheapest first: nobody else is as cheap and as good, and better in one of them."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.score)):
        if not kept or candidate.score > kept[-1].score or candidate[1:] == kept[-1][1:]:
            kept.append(candidate)
    return kept


def answer(candidates: list[Candidate], budget: float) -> list[str]:
    """Sentences: the front, and the best student that takes no longer than budget milliseconds."""
    named = ", ".join(f"{c.name} ({c.score:.4f}, {c.cost:.2f} ms)" for c in front(candidates))
    within = [c for c in candidates if c.cost <= budget]
    if within:
        best = max(within, key=lambda c: (c.score, -c.cost))
        said = f"The best under {budget:g} ms is {best.name}: {best.score:.4f} in {best.cost:.2f} ms."
    else:
        fastest = min(candidates, key=lambda c: c.cost)
        said = f"None is under {budget:g} ms; the fastest, {fastest.name}, takes {fastest.cost:.2f} ms ({fastest.score:.4f})."
    return [f"None is beaten in both score and time: {named}.", said]
