import math
from collections import Counter

import pytest
from datasets import Dataset

from kd_lightning.data.labelled import draw_labelled

ROWS = Dataset.from_dict({"sentence1": [f"text {n}" for n in range(200)], "label": [0] * 140 + [1] * 50 + [2] * 10})


def test_a_budget_draws_each_class_its_share_and_forgets_the_labels_of_the_others():
    kept, others = draw_labelled(ROWS, 40, seed=0)
    assert Counter(kept["label"]) == {0: 28, 1: 10, 2: 2}
    assert Counter(others["label"]) == {-100: 160}
    gold = dict(zip(ROWS["sentence1"], ROWS["label"], strict=True))
    assert all(gold[row["sentence1"]] == row["label"] for row in kept)
    assert set(kept["sentence1"]) | set(others["sentence1"]) == set(gold)
    assert len(kept) + len(others) == 200
    assert kept.features == others.features == ROWS.features


def test_a_budget_is_drawn_by_its_seed():
    def texts(seed):
        return draw_labelled(ROWS, 40, seed)[0]["sentence1"][:]

    assert texts(0) == texts(0) != texts(1)


def test_a_regressions_others_have_no_number():
    rows = Dataset.from_dict({"sentence1": [f"text {n}" for n in range(9)], "label": [n / 2 for n in range(9)]})
    kept, others = draw_labelled(rows, 4, seed=0)
    assert len(kept) == 4
    assert all(math.isnan(label) for label in others["label"])


@pytest.mark.parametrize(("count", "reason"), [(0, "below the 200"), (200, "below the 200"), (2, "each class must have")])
def test_a_budget_that_cannot_be_met_is_refused(count, reason):
    with pytest.raises(ValueError, match=f"task.label_budget={count}: .*{reason}"):
        draw_labelled(ROWS, count, seed=0)
