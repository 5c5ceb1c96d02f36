"""The front and the best within a budget, against the definition by brute force."""

import random

import pytest

from kd_lightning.run.choice import Candidate, answer, front


def test_the_front_are_those_that_none_beats_in_both():
    chance = random.Random(0)
    for _ in range(50):
        points = [Candidate(str(n), chance.randrange(6) / 10, chance.randrange(1, 7)) for n in range(8)]
        expected = [
            c
            for c in points
            if not any(d.score >= c.score and d.cost <= c.cost and (d.score, d.cost) != (c.score, c.cost) for d in points)
        ]
        found = front(points)
        assert sorted(found) == sorted(expected)
        assert [c.cost for c in found] == sorted(c.cost for c in found)


POINTS = [Candidate("big", 0.9, 20.0), Candidate("small", 0.85, 4.0), Candidate("odd", 0.8, 4.5), Candidate("tiny", 0.8, 0.5)]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (5, "The best under 5 ms is small: 0.8500 in 4.00 ms."),
        (0.6, "The best under 0.6 ms is tiny: 0.8000 in 0.50 ms."),
        (0.1, "None is under 0.1 ms; the fastest, tiny, takes 0.50 ms (0.8000)."),
    ],
)
def test_the_best_within_a_budget_is_named(budget, said):
    front_said, best = answer(POINTS, budget)
    assert best == said
    front = "tiny (0.8000, 0.50 ms), small (0.8500, 4.00 ms), big (0.9000, 20.00 ms)"
    assert front_said == f"None is beaten in both score and time: {front}."
