"""The paired bootstrap against all resamples there are, and against what must hold of it."""

from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics import PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from kd_lightning.run.bootstrap import RESAMPLES, difference, resampled_scores


def said(*classes: list[int]) -> torch.Tensor:
    """The logits [R, N, 2] of models that say these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), 2).float()


def scores(*classes: list[int], truth: list[int]) -> torch.Tensor:
    return resampled_scores(MulticlassAccuracy(num_classes=2, average="micro"), said(*classes), torch.tensor(truth))


def test_it_agrees_with_every_resample_of_a_few_rows():
    """Five rows, of which ours has the first four right and theirs the last three: the row differences are 1, 1, 0, 0, -1."""
    found = difference(scores([0, 0, 0, 0, 1], truth=[0] * 5), scores([1, 1, 0, 0, 0], truth=[0] * 5))
    exact = np.sort([sum(rows) / 5 for rows in product([1, 1, 0, 0, -1], repeat=5)])
    share = 2 * min((exact <= 0).mean(), (exact >= 0).mean())
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(exact, [0.025, 0.975])))
    assert found.p == pytest.approx(share, abs=4 * 2 * np.sqrt(0.25 / RESAMPLES))
    assert 0.1 < share < 0.9


def test_a_difference_on_every_row_is_certain():
    found = difference(scores([0] * 30, truth=[0] * 30), scores([1] * 30, truth=[0] * 30))
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.p == pytest.approx(2 / (RESAMPLES + 1))


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_predictions_do_not_differ(seeds):
    mine = [[int(n % (seed + 2) == 0) for n in range(20)] for seed in range(seeds)]
    found = difference(scores(*mine, truth=[0, 1] * 10), scores(*mine, truth=[0, 1] * 10))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_models_that_change_places_change_the_sign():
    ours, theirs = scores([0, 0, 0, 1, 1, 0], truth=[0] * 6), scores([1, 0, 1, 0, 1, 1], truth=[0] * 6)
    there, back = difference(ours, theirs), difference(theirs, ours)
    assert there.value == -back.value > 0
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p


def test_both_models_have_the_same_rows_in_a_resample():
    """Scores on another scale have the same correlation on any rows, but not on other rows."""
    random = np.random.default_rng(5)
    truth = torch.tensor(random.normal(size=25))
    mine = truth + torch.tensor(random.normal(size=25))
    first, second = (resampled_scores(PearsonCorrCoef(), scores[None, :, None], truth) for scores in (mine, 3 * mine + 2))
    found = difference(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-5)
    assert first[0, 1:].std() > 0.05
    assert first[0, 0].item() == pytest.approx(np.corrcoef(truth, mine)[0, 1], abs=1e-5)


def test_seeds_are_drawn_too():
    """Ours is all right under one seed and all wrong under the other: drawing two of them gives -1, -0.5, -0.5 or 0."""
    right, wrong = [0] * 8, [1] * 8
    found = difference(scores(right, wrong, truth=right), scores(right, truth=right))
    assert (found.value, found.low, found.high) == (-0.5, -1, 0)
    assert found.p == pytest.approx(0.5, abs=0.12)


def test_equally_many_seeds_are_drawn_in_pairs():
    right, wrong = [0] * 8, [1] * 8
    found = difference(scores(right, wrong, truth=right), scores(right, wrong, truth=right))
    assert (found.low, found.high) == (0, 0)
