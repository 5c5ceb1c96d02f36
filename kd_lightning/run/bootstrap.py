"""Do two models differ? A paired bootstrap over the validation rows (Efron and Tibshirani 1993, chapters 13 and 16)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """The difference of two scores, the bounds of its 95 % interval and the p-value of there being none."""

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f}, p = {self.p:.3f})"


def resampled_scores(metric: Metric, logits: Tensor, labels: Tensor) -> Tensor:
    """[R, 1 + RESAMPLES]: for each of R seeds the metric on the N rows and then on resamples of them.

    logits: [R, N, C], C = 1 for a regression; labels: [N]. Row i of resample j is the same row for everything that is
    given the same N: this is what pairs two models.
    """
    predictions = logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)
    random, size = np.random.default_rng(0), len(labels)
    scores = torch.empty(len(logits), 1 + RESAMPLES, dtype=torch.float64)
    for column in range(1 + RESAMPLES):
        rows = random.integers(size, size=size) if column else np.arange(size)
        for seed, predicted in enumerate(predictions):
            metric.update(predicted[rows], labels[rows])
            scores[seed, column] = metric.compute()
            metric.reset()
    return scores


def difference(ours: Tensor, theirs: Tensor) -> Difference:
    """Our mean score over the seeds less theirs. ours, theirs: what `resampled_scores` gives, of the same rows.

    Several seeds are pooled by drawing them too: each resample has rows drawn anew and, with replacement, as many seeds as
    there are, so that the interval speaks of other rows and of other seeds. Where both have equally many they are
    drawn in pairs, in the order given; otherwise each for itself. One seed says nothing about others: the interval then is
    that of these two very models. Interval: percentiles 2.5 and 97.5. p: twice the share of resamples on the other side
    of zero or on it, at most 1, the data themselves counting as one resample.

    With several seeds this is conservative: of what belongs to a row under one seed alone, drawing both counts the spread up to
    three times (Owen 2007, the pigeonhole bootstrap). So p is rather too large, and of equal models fewer than 5 % have a p
    below 0.05.
    """
    random = np.random.default_rng(1)

    def draw(seeds: int) -> np.ndarray:
        return random.integers(seeds, size=(seeds, RESAMPLES))

    mine = draw(len(ours))
    other = mine if len(ours) == len(theirs) else draw(len(theirs))
    drawn = ours[:, 1:].numpy()[mine, np.arange(RESAMPLES)].mean(0) - theirs[:, 1:].numpy()[other, np.arange(RESAMPLES)].mean(0)
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = min(1.0, 2 * float(beyond + 1) / (RESAMPLES + 1))
    return Difference(float(ours[:, 0].mean() - theirs[:, 0].mean()), float(low), float(high), p)


def holm(p: list[float]) -> list[float]:
    """The p-values of m comparisons adjusted for all of them, in the order given (Holm 1979): the k-th smallest is multiplied
    by m - k + 1, none falls below a smaller one's, and none exceeds 1. What is below 0.05 then holds for the family."""
    adjusted, least = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = least
    return adjusted
