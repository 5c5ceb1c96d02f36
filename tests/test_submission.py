"""The zip that the leaderboard takes, read back with nothing of ours."""

import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning.submission import write

CONF = Path(__file__).parent.parent / "conf"
SENTENCES = [f"w{10 + i} w20" + " w30" * (7 * i % 11) for i in range(40)]  # of lengths that come in no order
OFFICIAL = {  # name in the zip -> the words that the benchmark wants there
    "MNLI-m.tsv": {"entailment", "neutral", "contradiction"},
    "MNLI-mm.tsv": {"entailment", "neutral", "contradiction"},
    "AX.tsv": {"entailment", "neutral", "contradiction"},
    "RTE.tsv": {"entailment", "not_entailment"},
    "CoLA.tsv": {"0", "1"},
    "WNLI.tsv": {"0", "1"},
    "STS-B.tsv": None,
}


@pytest.fixture
def glue(tmp_path):
    """Test files in the official layout."""
    headers = {
        "MNLI/test_matched": "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2",
        "MNLI/test_mismatched": "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2",
        "diagnostic/diagnostic": "index\tsentence1\tsentence2",
        "RTE/test": "index\tsentence1\tsentence2",
        "CoLA/test": "index\tsentence",
        "WNLI/test": "index\tsentence1\tsentence2",
        "STS-B/test": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    }
    for name, header in headers.items():
        path = tmp_path / "glue" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = header.split("\t")
        rows = [[str(i), *["x"] * (len(columns) - 3), f"w{5 + i}", text][-len(columns) :] for i, text in enumerate(SENTENCES)]
        path.write_text("\n".join([header, *map("\t".join, rows)]) + "\n")
    return str(tmp_path / "glue")


@pytest.fixture
def artifact(tmp_path, make_encoder, write_record):
    """What a task stage leaves, with a random classifier."""

    def make(task: str) -> Path:
        chosen = OmegaConf.load(CONF / "task" / f"{task}.yaml")
        encoder = make_encoder(labels=tuple(chosen.labels))
        pooled = encoder.model(**encoder.tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits
        with torch.no_grad():  # so that no class is said throughout
            encoder.model.classifier.bias -= pooled.mean(0)
        folder = tmp_path / "artifacts" / task
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        about = {name: OmegaConf.to_container(chosen)[name] for name in ("name", "monitor", "labels", "text")}
        write_record(folder, method="finetune", metric=f"val/student/{chosen.monitor}", task=about)
        return folder

    return make


def test_the_zip_has_the_official_names_headers_words_and_order(glue, artifact, tmp_path):
    folders = {task: artifact(task) for task in ("mnli", "rte", "cola", "wnli", "stsb")}
    out = tmp_path / "submission.zip"
    missing = write(list(folders.values()), glue, out)
    assert missing == ["SST-2.tsv", "MRPC.tsv", "QQP.tsv", "QNLI.tsv"]
    assert [path.name for path in tmp_path.glob("*.zip*")] == ["submission.zip"]
    with zipfile.ZipFile(out) as archive:
        assert set(archive.namelist()) == set(OFFICIAL)
        files = {name: archive.read(name).decode() for name in OFFICIAL}
    for name, words in OFFICIAL.items():
        header, *rows = list(csv.reader(io.StringIO(files[name]), delimiter="\t"))
        assert header == ["index", "prediction"]
        assert [int(row[0]) for row in rows] == list(range(40))
        said = [row[1] for row in rows]
        assert len(set(said)) > 1, f"{name}: all predictions are alike, so their order would not show"
        assert set(said) <= words if words else all(0 <= float(score) <= 5 for score in said)
    model = AutoModelForSequenceClassification.from_pretrained(folders["cola"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["cola"])
    with torch.no_grad():
        classes = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in SENTENCES]
    assert [int(line.split("\t")[1]) for line in files["CoLA.tsv"].splitlines()[1:]] == classes


def test_two_artifacts_of_a_task_are_refused_and_leave_nothing(glue, artifact, tmp_path):
    folder = artifact("rte")
    with pytest.raises(ValueError, match=r"RTE\.tsv: .*rte and .*rte are of the same task\. Give one artifact a task"):
        write([folder, folder], glue, tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_an_interrupted_zip_leaves_the_one_before_as_it_was(glue, artifact, tmp_path, monkeypatch):
    (tmp_path / "submission.zip").write_text("the one before")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", stop)
    with pytest.raises(KeyboardInterrupt):
        write([artifact("rte")], glue, tmp_path / "submission.zip")
    assert [path.read_text() for path in tmp_path.glob("submission*")] == ["the one before"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "run.yaml").unlink(), r"rte: no artifact is there"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}'),
            r"no head that classifies \(method finetune, stage task\)",
        ),
        (
            lambda folder: (folder / "run.yaml").write_text((folder / "run.yaml").read_text().replace("rte", "docs_pair")),
            r"task docs_pair is none of GLUE",
        ),
        (lambda folder: (folder.parents[1] / "glue/RTE/test.tsv").unlink(), r"task rte: .*RTE/test.tsv cannot be found"),
        (
            lambda folder: (folder.parents[1] / "glue/RTE/test.tsv").write_text("sentence1\tsentence2\nw5\tw6\nw7\n"),
            r"test\.tsv has 1 bad row \(line 3: 1 field for 2 columns\)",
        ),
    ],
)
def test_what_cannot_be_submitted_is_refused_and_leaves_nothing(damage, words, glue, artifact, tmp_path):
    folder = artifact("rte")
    damage(folder)
    with pytest.raises(ValueError, match=words):
        write([folder], glue, tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_every_row_wants_an_answer_where_training_leaves_bad_ones_out_too(artifact, tmp_path):
    """QQP's own files have such rows, and conf/task/qqp.yaml skips them."""
    assert OmegaConf.load(CONF / "task" / "qqp.yaml").on_bad_row == "skip"
    (tmp_path / "glue" / "QQP").mkdir(parents=True)
    (tmp_path / "glue" / "QQP" / "test.tsv").write_text("id\tquestion1\tquestion2\n0\tw5\tw6\n1\tw7\n")
    with pytest.raises(ValueError, match=r"test\.tsv has 1 bad row \(line 3: 2 fields for 3 columns\)"):
        write([artifact("qqp")], str(tmp_path / "glue"), tmp_path / "submission.zip")


def test_the_command_says_a_mistake_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "kd_lightning.submission", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONF.parent)
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"submission: {tmp_path}/nothing: no artifact is there")
