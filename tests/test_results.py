"""Artifacts read back."""

import json

import pyarrow as pa
from omegaconf import OmegaConf
from pyarrow import parquet

from kd_lightning.results import collect, differences


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
