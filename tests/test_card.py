"""A model card, as huggingface_hub reads it; its loading lines, run as they stand; and the hub, a server of the test's own."""

import base64
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import ModelCard
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification

from kd_lightning import card, manifest
from kd_lightning.run import bootstrap
from kd_lightning.run.card import without_paths
from kd_lightning.student.bow import BowConfig


@pytest.fixture
def artifact(tmp_path, make_encoder, make_tokenizer, write_record):
    """What a stage leaves. right: which share of ten validation rows, half of them of either class, it gets right."""

    def make(name: str = "mine", *, kind: str = "bow", text: tuple[str, ...] = ("sentence",), right: float = 0.8, **record):
        folder = tmp_path / name
        labels = ["no", "yes"]
        if kind == "bow":
            config = BowConfig(vocab_size=97, embedding_size=6, siamese=len(text) == 2, id2label=dict(enumerate(labels)))
            model = AutoModelForSequenceClassification.from_config(config)
        elif kind == "classifier":
            model = make_encoder(labels=labels, layers=1).model
        else:
            model = make_encoder(layers=1).model
            model = model.base_model if kind == "encoder" else model
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        headed = kind in ("bow", "classifier")
        task = {"name": "sst2", "text": list(text), "max_length": 20} if headed else None
        setting = name.encode().hex().zfill(16)
        given = {"task": task, "name": name, "setting": setting, "metric": "val/student/accuracy" if headed else "val/loss"}
        write_record(folder, **given | record)
        metrics = {"val/student/accuracy": right, "test/student/accuracy": 0.7} if headed else {"val/loss": 1.5}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        if headed:
            label = [row % 2 for row in range(10)]
            answers = [number if row < 10 * right else 1 - number for row, number in enumerate(label)]
            logits = [[1.0 - answer, float(answer)] for answer in answers]
            rows = pa.table({"row": range(10), "label": label, "length": [5] * 10, "student": logits})
            parquet.write_table(rows, folder / "predictions.parquet")
        manifest.write(folder)
        return folder

    return make


@pytest.fixture
def run(monkeypatch, capfd):
    def call(*words, resamples: int = 40):
        monkeypatch.setattr(bootstrap, "RESAMPLES", resamples)
        monkeypatch.setattr(card, "facts", lambda *_: {"parameters": 12345})
        monkeypatch.setattr(sys, "argv", ["card", *map(str, words)])
        card.main()
        return capfd.readouterr().out

    return call


def test_huggingface_hub_reads_what_it_is_and_how_good_with_baseline_and_interval(artifact, run, tmp_path):
    command = f"python train.py method=bow teacher.path={tmp_path}/teacher student=kim_cnn teacher.pretrained=google/bert"
    folder = artifact(command=command, teacher=f"{tmp_path}/teacher", starts_from={"teacher": "google/bert"})
    run(folder, resamples=400)
    found = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    data = found.data
    assert (data.pipeline_tag, data.library_name, data.model_name) == ("text-classification", "transformers", "mine")
    assert (data.datasets, data.metrics, data.base_model) == (["nyu-mll/glue"], ["accuracy"], ["google/bert"])
    validation, test = data.eval_results
    assert (validation.dataset_type, validation.dataset_split, validation.metric_value) == ("nyu-mll/glue", "validation", 0.8)
    assert (test.dataset_split, test.metric_value, test.metric_args) == ("test", 0.7, None)
    assert validation.metric_args["most_frequent_label"] == 0.5
    low, high = validation.metric_args["interval_95"]
    assert low == pytest.approx(0.5, abs=0.11)  # of ten rows, binomial: 0.8 less 1.96 * sqrt(0.8 * 0.2 / 10) is 0.55
    assert high == pytest.approx(1.0, abs=0.11)
    assert str(tmp_path) not in found.content
    assert "teacher.path=<teacher> student=kim_cnn teacher.pretrained=google/bert" in found.content
    assert "It reads 20 tokens at most" in found.content
    manifest.check(folder)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("bow", ("sentence",), r"\[\{'label': '(no|yes)', 'score': 0\.\d+\}\]"),
        ("bow", ("one", "two"), r"\[?\{'label': '(no|yes)', 'score': 0\.\d+\}\]?"),
        ("classifier", ("one", "two"), r"\[?\{'label': '(no|yes)', 'score': 0\.\d+\}\]?"),
        ("encoder", (), r"torch\.Size\(\[1, \d, 32\]\)"),
        ("masked", (), r"\[\{'score': .*'token_str': 'w\d+'"),
    ],
)
def test_the_loading_lines_run_as_they_stand(kind, text, expected, artifact, run, monkeypatch, capfd):
    folder = artifact(kind=kind, text=text)
    run(folder)
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(block, "README.md", "exec"), {})
    assert re.match(expected, capfd.readouterr().out.strip().splitlines()[-1])


def test_licence_and_language_are_those_of_the_teachers_card_or_of_ones_own_hand_and_exports_stay(artifact, run, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "README.md").write_text("---\nlicense: mit\nlanguage: ko\nbase_model: some/bert\n---\n# It\n")
    folder = artifact(teacher=str(teacher), starts_from={"teacher": str(teacher)})
    run(folder)
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.language, data.base_model) == ("mit", "ko", "some/bert")
    text = (folder / "README.md").read_text().replace("license: mit", "license: apache-2.0")
    (folder / "README.md").write_text(f"{text}\n<!-- export -->\n\nFIGURES\n\n<!-- /export -->\n")
    for _ in range(2):
        run(folder)
        assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"
        assert (folder / "README.md").read_text().count("FIGURES") == 1


def test_a_card_of_odd_metadata_gives_nothing(artifact, run):
    folder = artifact()
    for odd in (
        "license: !!python/object/apply:os.getcwd []",
        "license: ['a', {'b': 1}]",
        "license: 'a\x1b[31m'",
        "- a",
        ": :",
    ):
        (folder / "README.md").write_text(f"---\n{odd}\n---\n")
        run(folder)
        assert ModelCard.load(folder / "README.md").data.license is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python train.py stage=task", "python train.py stage=task"),
        ("python /home/me/kd/train.py a=~/b/c.tsv", "python <train.py> a=<c.tsv>"),
        (
            "corpus='[docs,a/b/c.txt.xz,../d]' student/vocabulary=words",
            "corpus='[docs,<c.txt.xz>,<d>]' student/vocabulary=words",
        ),
        ("teacher.path=google-bert/bert-base-uncased x={y:/z}", "teacher.path=google-bert/bert-base-uncased x={<z>}"),
    ],
)
def test_paths_become_names(command, expected):
    assert without_paths(command) == expected


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as takes files: each is committed in one request, in base64."""

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        answer: dict = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"{self.server.url}/me/mine"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(said)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            for line in map(json.loads, said.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.server.url}/me/mine/commit/0", "commitOid": "0" * 40, "success": True}
        self._answer(answer)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": [], "tags": []})

    def _answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None: ...


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.files, server.asked = f"http://127.0.0.1:{server.server_port}", {}, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(card, "HfApi", lambda: huggingface_hub.HfApi(endpoint=server.url, token="hf_of_the_test"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_push_sends_and_it_sends_the_best_of_a_sweep_without_what_tells_of_this_machine(artifact, run, hub, tmp_path):
    artifact("worse", right=0.6)
    folder = artifact("best", right=0.9)
    artifact("teacher", right=1.0, stage="teacher")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"an export")
    said = run(tmp_path)
    assert said == f"{folder / 'README.md'} is written.\n"
    assert hub.asked == []
    said = run(tmp_path, "--push", "me/mine")
    assert said.splitlines()[-1] == f"Uploaded: {hub.url}/me/mine"
    wanted = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "metrics.json"}
    assert hub.files.keys() == wanted | {"onnx/model.onnx"}
    for name, content in hub.files.items():
        assert content == (folder / name).read_bytes()
        assert str(tmp_path).encode() not in content


def test_a_hub_that_is_not_reached_is_said(artifact, run, hub):
    folder = artifact()
    with pytest.raises(SystemExit, match=r"card: --push not a name: the hub did not take it"):
        run(folder, "--push", "not a name")


def test_artifacts_of_several_tasks_have_no_best(artifact, run):
    one = artifact("one")
    two = artifact("two", task={"name": "cola"})
    with pytest.raises(SystemExit, match=r"these are of several tasks, cola \(demo\), sst2 \(demo\)\. Name those of one"):
        run(one, two)
