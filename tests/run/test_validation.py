"""The tables of the validation rows, against NumPy."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from kd_lightning.run import validation

CHANCE = np.random.default_rng(0)
STUDENT, TEACHER, LABEL = CHANCE.normal(0, 2, (40, 3)), CHANCE.normal(0, 2, (40, 3)), CHANCE.integers(0, 3, 40)
NAMES = ["no", "ye\x1bs", "maybe"]
TEXTS = [(f"text {n}",) for n in range(40)]


def table(label, **logits):
    return pa.table(
        {"row": range(len(label)), "label": label.tolist(), **{who: given.tolist() for who, given in logits.items()}}
    )


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_the_rows_of_the_largest_disagreement_come_first_with_both_networks_probabilities():
    columns, lines = validation.rows(table(label=LABEL, student=STUDENT, teacher=TEACHER), TEXTS, NAMES)
    p, q = softmax(STUDENT), softmax(TEACHER)
    apart = np.abs(p - q).sum(1) / 2
    assert columns == [
        *("row", "text", "label", "student", "teacher", "disagreement"),
        *(f"{who}: {name}" for who in ("student", "teacher") for name in ("no", r"ye\x1bs", "maybe")),
    ]
    assert [line[0] for line in lines] == np.argsort(-apart).tolist()
    names = ["no", r"ye\x1bs", "maybe"]
    for line in lines:
        n = line[0]
        assert line[1:5] == [f"text {n}", names[LABEL[n]], names[p[n].argmax()], names[q[n].argmax()]]
        assert line[5:] == pytest.approx([apart[n], *p[n], *q[n]])


def test_a_student_alone_is_held_against_the_label_and_a_regression_has_scores():
    _, lines = validation.rows(table(label=LABEL, student=STUDENT), TEXTS, NAMES)
    left = 1 - softmax(STUDENT)[range(40), LABEL]
    assert [line[0] for line in lines] == np.argsort(-left).tolist()
    scores, taught, gold = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.0], [1.0]]), np.array([0.0, 1.0, 2.0])
    columns, lines = validation.rows(table(label=gold, student=scores, teacher=taught), [("a", "b")] * 3, ["score"])
    assert columns == ["row", "text 1", "text 2", "label", "student", "teacher", "disagreement"]
    assert lines == [[2, "a", "b", 2, 4, 1, 3], [0, "a", "b", 0, 1, 1.5, 0.5], [1, "a", "b", 1, 2, 2, 0]]
    assert [line[-1] for line in validation.rows(table(label=gold, student=scores), [("a",)] * 3, ["score"])[1]] == [2, 1, 1]


def test_a_table_holds_so_many_rows_and_a_text_so_many_characters_and_many_classes_no_probabilities():
    many = CHANCE.normal(0, 1, (300, 21))
    texts, names = [("x" * 600,)] * 300, [str(n) for n in range(21)]
    columns, lines = validation.rows(table(label=np.zeros(300, int), student=many), texts, names)
    assert len(lines) == 200
    assert columns[-1] == "disagreement"
    assert {len(line[1]) for line in lines} == {500}
    assert {len(line) for line in lines} == {len(columns)}


def test_calibration_is_that_of_the_bins():
    p = softmax(STUDENT)
    confidence, right = p.max(1), p.argmax(1) == LABEL
    error, expected = 0.0, []
    for k in range(15):
        there = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if there.any():
            expected.append([k / 15, (k + 1) / 15, there.sum(), confidence[there].mean(), right[there].mean()])
            error += there.mean() * abs(confidence[there].mean() - right[there].mean())
    logits, labels = torch.tensor(STUDENT), torch.tensor(LABEL)
    columns, lines = validation.reliability(logits, labels)
    assert columns == ["from", "to", "rows", "confidence", "accuracy"]
    assert np.array(lines) == pytest.approx(np.array(expected), abs=1e-6)
    assert sum(line[2] for line in lines) == 40
    assert validation.calibration_error(logits, labels) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("pair", [False, True])
def test_the_texts_are_those_that_a_network_reads(pair):
    rows = Dataset.from_dict({"sentence1": ["a", "b"], **({"sentence2": ["c", "d"]} if pair else {}), "label": [0, 1]})
    assert validation.texts(rows) == ([("a", "c"), ("b", "d")] if pair else [("a",), ("b",)])
