import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from kd_lightning.data.formats import say
from kd_lightning.data.labelled import LabelledText, draw_labelled

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
    assert (len(kept), len(others)) == (4, 5)
    assert all(math.isnan(label) for label in others["label"])


@pytest.mark.parametrize(("count", "reason"), [(0, "below the 200"), (200, "below the 200"), (2, "each class must have")])
def test_a_budget_that_cannot_be_met_is_refused(count, reason):
    with pytest.raises(ValueError, match=f"task.label_budget={count}: .*{reason}"):
        draw_labelled(ROWS, count, seed=0)


@pytest.fixture
def read_once(tokenizer):
    """Ten labelled rows of which an augmentation makes twenty, and a count of how often it was asked."""
    split = Dataset.from_dict({"sentence1": [f"w{20 + n} w{30 + n}" for n in range(10)], "label": [0, 1] * 5})
    asked = []

    def augment(rows):
        asked.append(len(rows))
        return concatenate_datasets([rows, rows.map(lambda row: {"sentence1": f"{row['sentence1']} w40"})])

    reader = SimpleNamespace(labels=["a", "b"], splits=lambda _: {"train": split, "validation": split})
    options = {"max_length": 8, "batch_size": 4, "unlabelled": False, "label_budget": None, "label_seed": 0, "workers": 0}
    return LabelledText(tokenizer=tokenizer, reader=reader, augment=augment, seed=1, **options), asked


def test_another_tokenizer_reads_the_same_rows_by_the_same_numbers(read_once, make_tokenizer):
    data, asked = read_once
    data.prepare_data()
    other = data.read_with(make_tokenizer(vocabulary=35))  # does not know the later words
    assert asked == [10]
    assert {name: rows.tolist() for name, rows in other.numbers().items()} == {
        "train": list(range(20)),
        "validation": list(range(20, 30)),
    }
    assert np.array_equal(other.gold(), data.gold())
    ours, theirs = (dict(_rows(module)) for module in (data, other))
    assert ours.keys() == theirs.keys() == set(range(30))
    assert all(ours[number].shape == theirs[number].shape for number in ours)
    changed = [number for number in ours if not torch.equal(ours[number], theirs[number])]
    assert len(changed) > 10
    with pytest.raises(ValueError, match=r"task\.max_length=8: this model reads 4 tokens"):
        data.read_with(make_tokenizer(max_length=4))


def _rows(data):
    for batch in data.every_row()[0]:
        for ids, mask, number in zip(batch["input_ids"], batch["attention_mask"], batch["index"], strict=True):
            yield int(number), ids[mask.bool()]


def test_training_texts_that_a_tokenizer_hardly_knows_are_said(tokenizer, capsys):
    def read(text):
        say.cache_clear()
        split = Dataset.from_dict({"sentence1": [text] * 4, "label": [0, 1] * 2})
        reader = SimpleNamespace(labels=["a", "b"], splits=lambda _: {"train": split, "validation": split})
        options = {"max_length": 16, "batch_size": 4, "unlabelled": False, "label_budget": None, "label_seed": 0, "workers": 0}
        LabelledText(tokenizer=tokenizer, reader=reader, augment=None, seed=1, **options).prepare_data()
        return capsys.readouterr().out

    assert "Of the training texts' tokens 43% are [UNK], the same to a network: is this tokenizer made" in read(
        "영화 좋다 w5 w6 참"
    )
    assert read("영화 w5 w6 w7 w8 w9 w10 w11 w12 w13") == ""
