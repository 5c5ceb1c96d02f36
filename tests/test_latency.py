"""The command that times: what it times, and at which length."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from kd_lightning import export_onnx, latency, manifest
from kd_lightning.exported import Exported
from kd_lightning.run.timing import Time
from kd_lightning.student.bow import BowConfig, BowForSequenceClassification


@pytest.fixture
def artifact(tmp_path, make_tokenizer, write_record):
    def make(name: str, labels: str = "ab", lengths: tuple[int, ...] = (3, 9, 7)):
        folder = tmp_path / name
        config = BowConfig(vocab_size=97, embedding_size=6, id2label=dict(enumerate(labels)))
        BowForSequenceClassification(config).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        write_record(folder)
        parquet.write_table(pa.table({"row": range(len(lengths)), "length": lengths}), folder / "predictions.parquet")
        manifest.write(folder)
        return folder

    return make


@pytest.fixture
def run(monkeypatch, capfd):
    """The tables, a dictionary a line, and how many calls were timed for each; the k-th takes k milliseconds."""
    shown, counts = [], []

    def clocked(calls):
        counts.append(len(calls))
        for call in calls:
            call()
        return [Time(float(place), 2.0 * place) for place, _ in enumerate(calls, start=1)]

    monkeypatch.setattr(latency, "times", clocked)
    monkeypatch.setattr(latency, "show", lambda lines, caption: shown.append((lines, caption)))
    threads = torch.get_num_threads()

    def call(*words):
        shown.clear(), counts.clear()
        monkeypatch.setattr(sys, "argv", ["latency", *map(str, words)])
        try:
            latency.main()
        finally:
            torch.set_num_threads(threads)
        return shown, counts

    return call


def test_equal_architectures_are_measured_once_at_the_length_of_the_task(artifact, run):
    folders = artifact("one"), artifact("two", labels="cd"), artifact("other length", lengths=(20, 20))
    shown, counts = run(*folders, "--batch", 1, 4)
    assert counts == [4, 4]  # ids and text, of 7 tokens and of 20
    (lines, caption), _ = shown
    assert [(line["model"], line["tokens"], line["ms"]) for line in lines] == [
        ("one", "7", "1.000"),
        ("two", "7", "1.000"),
        ("other length", "20", "3.000"),
    ]
    assert [line["with text"] for line in lines] == ["2.000", "2.000", "4.000"]
    assert lines[2]["speed"] == "0.3x"
    assert caption.startswith("batch 1; 1 threads")
    shown, counts = run(*folders, "--batch", 1, "--length", 5)
    assert counts == [2]
    assert {line["tokens"] for line in shown[0][0]} == {"5"}


def test_an_export_is_timed_beside_its_artifact_and_by_itself(artifact, run, make_tokenizer):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[export]'")
    pytest.importorskip("onnxscript", reason="pip install -e '.[export]'")
    folder = artifact("one")
    (folder / "onnx").mkdir()
    model = BowForSequenceClassification.from_pretrained(folder).eval()
    export_onnx.onnx(model, ["input_ids", "attention_mask"], folder / "onnx" / "model.onnx")
    made = make_tokenizer().backend_tokenizer
    made.enable_padding()
    made.save(str(folder / "onnx" / "tokenizer.json"))
    about = {"labels": ["a", "b"], "inputs": ["input_ids", "attention_mask"], "text": 1, "length": 7}
    (folder / "onnx" / "export.json").write_text(json.dumps(about))
    seen = {}
    original = Exported.__init__

    def watched(self, *words):
        original(self, *words)
        run_it = self.run
        self.run = lambda inputs: seen.setdefault(inputs["input_ids"].shape, run_it(inputs))

    Exported.__init__ = watched
    try:
        shown, _ = run(folder, folder / "onnx", "--batch", 3)
    finally:
        Exported.__init__ = original
    ((lines, _),) = shown
    assert [(line["model"], line["format"], line["tokens"]) for line in lines] == [
        ("one", "eager", "7"),
        ("one", "onnx", "7"),
        ("one/onnx", "onnx", "7"),
    ]
    assert list(seen) == [(3, 7)]  # the text has as many tokens
    with torch.no_grad():
        expected = model(input_ids=torch.full((3, 7), 5)).logits.numpy()
    np.testing.assert_allclose(seen[3, 7], expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_is_nowhere_is_said_and_so_is_nothing(run, tmp_path):
    with pytest.raises(SystemExit, match="latency: nothing is named: give artifacts, exports or hub names"):
        run()
    with pytest.raises(SystemExit, match=r"nowhere: no folder of this name, and no model that the hub has"):
        run(tmp_path / "nowhere")
