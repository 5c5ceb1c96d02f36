"""Artifacts read back."""

import json

import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from pyarrow import parquet

from kd_lightning.run.results import collect, differences


def test_models_of_a_table_with_learned_labels_are_compared(tmp_path):
    """run.yaml says how the labels are learned, in four entries; there are six classes, and one of six rows is wrong."""
    accuracy = {
        "_target_": "torchmetrics.classification.MulticlassAccuracy",
        "_partial_": True,
        "average": "micro",
    }
    learned = {"_target_": "kd_lightning.data.table.classes", "file": "mine.csv", "hub": None, "label": "stars"}
    task = {"name": "table", "labels": learned, "monitor": "accuracy", "metrics": {"accuracy": accuracy}}
    for name, last in (("ours", 5), ("theirs", 0)):
        folder = tmp_path / name
        folder.mkdir()
        cfg = {"artifact": str(folder), "metric": "val/student/accuracy", "task": task}
        OmegaConf.save(OmegaConf.create(cfg), folder / "run.yaml")
        (folder / "metrics.json").write_text(json.dumps({}))
        logits = [[float(c == said) for c in range(6)] for said in (0, 1, 2, 3, 4, last)]
        parquet.write_table(pa.table({"row": range(6), "label": range(6), "student": logits}), folder / "predictions.parquet")
    ((_, _, found),) = differences(collect([tmp_path / "ours", tmp_path / "theirs"]))
    assert abs(found.value - 1 / 6) < 1e-6


def test_the_majority_class_is_measured_as_a_model_that_knows_no_other_answer(tmp_path):
    """Labels 1 1 1 0: accuracy 3/4; F1 of the second label, precision 3/4 and recall 1: 6/7. A regression has none."""
    metrics = {
        "accuracy": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "_partial_": True, "average": "micro"},
        "f1": {"_target_": "torchmetrics.classification.BinaryF1Score", "_partial_": True},
        "pearson": {"_target_": "torchmetrics.PearsonCorrCoef", "_partial_": True},
    }
    found = {}
    for monitor, logits in (("accuracy", [[0.0, 1.0]]), ("f1", [[1.0, 0.0]]), ("pearson", [[0.3]])):
        folder = tmp_path / monitor
        folder.mkdir()
        cfg = {"artifact": str(folder), "metric": f"val/student/{monitor}", "task": {"monitor": monitor, "metrics": metrics}}
        OmegaConf.save(OmegaConf.create(cfg), folder / "run.yaml")
        rows = pa.table({"row": range(4), "label": [1, 1, 1, 0], "student": logits * 4})
        parquet.write_table(rows, folder / "predictions.parquet")
        (result,) = collect([folder])
        found[monitor] = result.majority
    assert found == {"accuracy": 0.75, "f1": pytest.approx(6 / 7), "pearson": None}
