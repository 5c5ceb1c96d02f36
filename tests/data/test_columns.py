"""Rows as columns, against plain lists; and how many of them are objects at a time."""

import itertools
from collections.abc import Iterator

import pytest
from datasets import Dataset

from kd_lightning.data import columns
from kd_lightning.data.columns import Columns, held_out, text_numbers
from kd_lightning.data.rows import collect


class Text(str):
    """Counts those that are there."""

    there = most = 0

    def __init__(self, _: str) -> None:
        Text.there += 1
        Text.most = max(Text.most, Text.there)

    def __del__(self) -> None:
        Text.there -= 1


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(columns, "ROWS", 10)
    monkeypatch.setattr(Text, "most", 0)


def texts(count: int, size: int) -> Iterator[Text]:
    return (Text(f"w{number} ".ljust(size, "x")) for number in range(count))


def test_rows_come_back_as_they_were_given():
    rows = [(f"w{n}", f"w{n % 7}", n / 2) for n in range(95)]
    found = Columns(["sentence1", "sentence2", "label"])
    assert not found
    for number, row in enumerate(rows):
        assert len(found) == number
        found.append(*row)
    expected = dict(zip(["sentence1", "sentence2", "label"], map(list, zip(*rows, strict=True)), strict=True))
    assert found.dataset().to_dict() == expected


@pytest.mark.parametrize(("size", "limit"), [(10, 1 << 24), (1000, 5000)])
def test_of_a_long_file_few_rows_are_objects_at_a_time(size, limit, monkeypatch):
    """Ten of them, or as many as have 5,000 characters."""
    monkeypatch.setattr(columns, "CHARACTERS", limit)
    rows = ((f"line {n}", {"text": text, "label": str(n % 2)}) for n, text in enumerate(texts(500, size)))
    how = {"on_bad_row": "error", "on_empty": "error"}
    found = collect("a file", rows, text=["text"], label="label", values=["0", "1"], **how)
    assert found["sentence1"][499].startswith("w499 ")
    assert list(found["label"][:4]) == [0, 1, 0, 1]
    assert 5 <= Text.most <= 13


def test_of_many_bad_rows_few_are_kept_and_all_are_counted():
    rows = ((f"line {n}", {"text": text, "label": "?" if n else "0"}) for n, text in enumerate(texts(500, 10)))
    how = {"on_bad_row": "error", "on_empty": "error"}
    with pytest.raises(ValueError, match=r"499 bad rows \(line 1: .*; line 5: label is '\?'; known are 0, 1 \.\.\.\)"):
        collect("a file", rows, text=["text"], label="label", values=["0", "1"], **how)


def test_a_label_that_no_class_has_is_answered_with_some_of_very_many():
    rows = iter([("line 1", {"text": "w5", "label": "?"})])
    how = {"on_bad_row": "error", "on_empty": "error"}
    with pytest.raises(ValueError, match=r"known are 0, 1, .*, 49, \.\.\.\)"):
        collect("a file", rows, text=["text"], label="label", values=[str(n) for n in range(10_000)], **how)


def test_equal_numbers_are_equal_texts_in_all_parts():
    pairs = [("ab", "c"), ("a", "bc"), ("ab", "c"), ("", "abc"), ("a", "c"), *((f"w{n % 11}", f"w{n % 4}") for n in range(60))]
    sets = [Dataset.from_dict({"sentence1": [a for a, _ in some], "sentence2": [b for _, b in some], "label": [0] * len(some)})
            for some in (pairs[:33], pairs[33:])]  # fmt: skip
    sets[0] = sets[0].select(range(32, -1, -1))
    numbers = [number for part in text_numbers(*sets) for number in part]
    shown = [pair for part in sets for pair in zip(part["sentence1"], part["sentence2"], strict=True)]
    compared = list(itertools.combinations(range(len(shown)), 2))
    assert len(compared) == 65 * 64 / 2
    for i, j in compared:
        assert (numbers[i] == numbers[j]) == (shown[i] == shown[j])


def test_a_share_of_every_class_is_held_out_and_never_a_text_that_is_trained_on():
    rows = Dataset.from_dict(
        {"sentence1": [f"w{n % 70}" for n in range(100)], "label": [int(n % 70 >= 40) for n in range(100)]}
    )
    train, held = held_out(rows, 0.2, 0, stratified=True)
    assert len(train) + len(held) == 100
    assert not set(train["sentence1"]) & set(held["sentence1"])
    distinct = dict(zip(held["sentence1"], held["label"], strict=True))
    assert [list(distinct.values()).count(label) for label in (0, 1)] == [8, 6]
    assert held_out(rows, 0.2, 0, stratified=True)[1].to_dict() == held.to_dict()
    assert held_out(rows, 0.2, 1, stratified=True)[1].to_dict() != held.to_dict()
