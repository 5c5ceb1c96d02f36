"""Artifacts read back."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.run.results import collect, differences


def test_models_of_a_table_with_learned_labels_are_compared(tmp_path, write_record):
    """There are six classes, and one of six rows is wrong."""
    for name, last in (("ours", 5), ("theirs", 0)):
        folder = tmp_path / name
        write_record(folder, name=name, setting=f"{last:016x}", task={"name": "table"})
        (folder / "metrics.json").write_text(json.dumps({}))
        logits = [[float(c == said) for c in range(6)] for said in (0, 1, 2, 3, 4, last)]
        parquet.write_table(pa.table({"row": range(6), "label": range(6), "student": logits}), folder / "predictions.parquet")
    ((_, _, found),) = differences(collect([tmp_path / "ours", tmp_path / "theirs"]))
    assert abs(found.value - 1 / 6) < 1e-6


def test_the_majority_class_is_measured_as_a_model_that_knows_no_other_answer(tmp_path, write_record):
    """Labels 1 1 1 0: accuracy 3/4; F1 of the second label, precision 3/4 and recall 1: 6/7. A regression has none."""
    found = {}
    for task, monitor, logits in (
        ("sst2", "accuracy", [[0.0, 1.0]]),
        ("mrpc", "f1", [[1.0, 0.0]]),
        ("stsb", "pearson", [[0.3]]),
    ):
        folder = tmp_path / monitor
        write_record(folder, metric=f"val/student/{monitor}", task={"name": task, "monitor": monitor})
        rows = pa.table({"row": range(4), "label": [1, 1, 1, 0], "student": logits * 4})
        parquet.write_table(rows, folder / "predictions.parquet")
        (result,) = collect([folder])
        found[monitor] = result.majority
    assert found == {"accuracy": 0.75, "f1": pytest.approx(6 / 7), "pearson": None}


def test_seeds_of_one_model_have_the_same_rows_and_classes(tmp_path, write_record):
    """The digest that puts them together is said by the artifacts themselves."""
    rows = {"row": [0, 1], "label": [0, 1], "student": [[0.0, 1.0], [0.0, 1.0]]}
    others = {"other rows": {"label": [1, 1]}, "other classes": {"student": [[0.0, 1.0, 0.0]] * 2}}
    for words, change in others.items():
        place = tmp_path / words
        for name, changed in (("a", {}), ("b", change)):
            write_record(place / name)
            parquet.write_table(pa.table(rows | changed), place / name / "predictions.parquet")
        (result,) = collect([place / "a", place / "b"])
        with pytest.raises(ValueError, match=f"b/predictions.parquet has {words} than .*a/predictions.parquet"):
            _ = result.predictions
